"""`prepare`: a partner's tables into the matrices that training reads."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.sparse import csr_array

from pharma_fl.config import Partner, StructureSettings
from pharma_fl.data.activities import Activities, aggregate
from pharma_fl.data.fingerprints import Positions, bit_permutation
from pharma_fl.data.folds import fold_of
from pharma_fl.data.keys import read_secret
from pharma_fl.data.layout import AMBIGUOUS_LABELS, FAILED_ACTIVITIES, FAILED_STRUCTURES
from pharma_fl.data.manifest import describe, reasons
from pharma_fl.data.molecules import Molecule, Progress, molecules
from pharma_fl.data.tables import Tables, read_tables
from pharma_fl.data.targets import targets
from pharma_fl.data.writing import check_replaceable, write_prepared
from pharma_fl.errors import DataError


def prepare(partner: Partner, *, workers: int = 1, progress: Progress | None = None) -> dict[str, Any]:
    """Read a partner's tables and write its folder ``data/``.

    One row is one compound: one standardised structure with all its measurements, however many input ids it
    has. Rows are ordered by compound id, so the order of the input leaves no trace. A structure or measurement
    that cannot be used goes to a side file with its reason and never stops the run.

    Parameters
    ----------
    partner : Partner
        Its tables, key file, settings and data folder.
    workers : int
        Processes that standardise structures.
    progress : callable, optional
        Called with the number of structures done and their total.

    Returns
    -------
    dict
        The manifest as written: versions, settings, the key's id, counts, sizes, file hashes, a digest a step.

    Raises
    ------
    DataError
        ``PFL-D01`` and ``PFL-D02`` the tables, ``PFL-D03`` the key file, ``PFL-D05`` nothing is left,
        ``PFL-D07`` a worker died, ``PFL-D08`` the data folder holds other files. In each case an existing
        folder stays as it was.
    """
    folder = partner.path(partner.data)
    check_replaceable(folder)
    secret = read_secret(partner.path(partner.key_file))
    tables = read_tables(
        [partner.path(name) for name in partner.tables.assays],
        [partner.path(name) for name in partner.tables.activities],
        [partner.path(name) for name in partner.tables.structures],
    )
    structures, distinct = _standardised(tables, partner.structures, workers, progress)
    record_of_id = pd.Series(structures["record"].to_numpy(), index=structures["input_compound_id"])
    activities = aggregate(
        tables.assays,
        tables.activities,
        record_of_id.loc[tables.activities["input_compound_id"]].to_numpy(dtype=np.int64),
    )
    kept, structures, values = _rows(distinct, structures, activities)
    if not kept:
        raise DataError(
            "PFL-D05",
            "No compound is left to train on. "
            f"Structures: {_listed(structures['reason'])}. Activities: {_listed(activities.dropped['reason'])}. "
            "Correct the tables; docs/errors.md explains the reasons.",
        )
    compounds = _compounds(kept, structures)
    folds = np.array([fold_of(mol.scaffold, secret, partner.folds.count) for mol in kept], dtype=np.int8)
    target = targets(tables.assays, values, folds, partner.folds.count)
    lost = structures.loc[structures["reason"] != "", ["input_compound_id", "smiles", "reason"]]
    ambiguous = target.ambiguous.assign(
        compound_id=compounds["compound_id"].to_numpy(dtype=object)[target.ambiguous["record"].to_numpy(np.int64)]
    )
    return write_prepared(
        folder,
        x=_bits(kept, bit_permutation(secret, partner.structures.bits)),
        y_class=target.y_class,
        y_regr=target.y_regr,
        y_censor=target.y_censor,
        folds=folds,
        compounds=compounds,
        tasks=target.tasks,
        manifest=describe(
            partner, secret=secret, tables=tables, structures=structures, activities=activities, target=target
        ),
        side_files={
            FAILED_STRUCTURES: lost,
            FAILED_ACTIVITIES: activities.dropped,
            AMBIGUOUS_LABELS: ambiguous[["compound_id", "input_assay_id", "threshold", "value", "censor"]],
        },
    )


def compound_id(smiles: str) -> str:
    """Return the id of a standardised structure: 32 hexadecimal digits of its SHA-256."""
    return hashlib.sha256(smiles.encode()).hexdigest()[:32]


def _standardised(
    tables: Tables, settings: StructureSettings, workers: int, progress: Progress | None
) -> tuple[pd.DataFrame, list[Molecule]]:
    """Return T2 with ``record`` (-1 = none) and ``reason``, and the distinct structures by record."""
    table = tables.structures
    measured = table["input_compound_id"].isin(tables.activities["input_compound_id"]).to_numpy()
    texts = list(dict.fromkeys(table.loc[measured, "smiles"]))
    by_text = dict(zip(texts, molecules(texts, settings, workers=workers, progress=progress), strict=True))
    distinct: dict[str, Molecule] = {}
    for mol in by_text.values():
        if mol.reason is None:
            distinct.setdefault(mol.smiles, mol)
    number = {smiles: index for index, smiles in enumerate(distinct)}
    found = [by_text[text] if there else None for text, there in zip(table["smiles"], measured, strict=True)]
    return table.assign(
        record=np.array([number.get(mol.smiles, -1) if mol else -1 for mol in found], dtype=np.int64),
        reason=np.array([(mol.reason or "") if mol else "not_measured" for mol in found], dtype=object),
    ), list(distinct.values())


def _rows(
    distinct: list[Molecule], structures: pd.DataFrame, activities: Activities
) -> tuple[list[Molecule], pd.DataFrame, pd.DataFrame]:
    """Keep the structures that have a value, number them by compound id, and renumber both tables."""
    used = sorted(set(activities.table["record"].tolist()), key=lambda number: compound_id(distinct[number].smiles))
    row = np.full(len(distinct) + 1, -1, dtype=np.int64)  # the last entry answers for record -1
    row[used] = np.arange(len(used))
    record = row[structures["record"].to_numpy()]
    unused = (record < 0) & (structures["reason"] == "").to_numpy()
    reason = structures["reason"].to_numpy(dtype=object, copy=True)
    reason[unused] = "no_usable_activity"
    values = activities.table.assign(record=row[activities.table["record"].to_numpy()])
    return [distinct[number] for number in used], structures.assign(record=record, reason=reason), values


def _compounds(kept: list[Molecule], structures: pd.DataFrame) -> pd.DataFrame:
    present = structures[structures["record"] >= 0].sort_values(["record", "input_compound_id"])
    inputs = present.groupby("record")["input_compound_id"].agg(lambda ids: "|".join(str(one) for one in ids))
    return pd.DataFrame(
        {
            "row": np.arange(len(kept)),
            "compound_id": [compound_id(mol.smiles) for mol in kept],
            "input_compound_ids": inputs.to_numpy(dtype=object),
            "smiles": [mol.smiles for mol in kept],
        }
    )


def _bits(kept: list[Molecule], permutation: Positions) -> csr_array:
    rows = [np.sort(permutation[mol.raw_bits]) for mol in kept]
    indptr = np.zeros(len(rows) + 1, dtype=np.int64)
    np.cumsum([len(row) for row in rows], out=indptr[1:])
    indices: npt.NDArray[np.int32] = np.concatenate(rows)
    return csr_array((np.ones(len(indices), dtype=np.int8), indices, indptr), shape=(len(rows), len(permutation)))


def _listed(column: pd.Series[str]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in reasons(column).items()) or "none dropped"
