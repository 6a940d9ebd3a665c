"""`prepare`: a partner's tables into the matrices that training reads."""

from __future__ import annotations

import csv
import errno
import json
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pharma_fl.config import LongTables, Partner, TunerTables
from pharma_fl.data.agreement import agreement
from pharma_fl.data.compound_tables import read_long_tables, read_wide_tables
from pharma_fl.data.compounds import (
    REASONS,
    Compounds,
    Progress,
    ScaffoldFolds,
    TemporalFolds,
    as_bytes,
    compounds,
    looked_up,
)
from pharma_fl.data.exclusive import exclusive, lock_of
from pharma_fl.data.fingerprints import bit_permutation
from pharma_fl.data.keys import Keys, read_secret
from pharma_fl.data.labelling import save_targets, targets
from pharma_fl.data.layout import AGREEMENT, AMBIGUOUS_LABELS, FAILED_ACTIVITIES, FAILED_STRUCTURES
from pharma_fl.data.manifest import describe
from pharma_fl.data.measurements import aggregated
from pharma_fl.data.molecules import Recipe
from pharma_fl.data.probe import probe_molecules, probe_results
from pharma_fl.data.replacement import leftovers, replacement
from pharma_fl.data.rules import Rules
from pharma_fl.data.spool import Spool, pieces
from pharma_fl.data.structure_cache import StructureCache
from pharma_fl.data.tables import Tables, read_tuner_tables
from pharma_fl.data.tasks import write_tasks
from pharma_fl.data.writing import check_replaceable, save_array, seal
from pharma_fl.errors import DataError

_PIECE = 20_000
_SHOWN_SMILES = 1_000
_NOT_WRITTEN = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EEXIST, errno.ENOTDIR}
)
_SQLITE_NOT_WRITTEN = frozenset(
    {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN}
)


def prepare(partner: Partner, *, workers: int = 1, progress: Progress | None = None) -> dict[str, Any]:
    """Read a partner's tables and write its folder ``data/``.

    One row is one compound: one standardised structure with all its measurements, however many ids it has. Rows
    are ordered by compound id, so the order of the input leaves no trace. A structure or measurement that cannot
    be used goes to a side file with its reason and never stops the run.

    Structures that were worked out are kept in the folder ``cache/`` as they come. Interrupted, even by a kill, the
    same call goes on where it was, and its result is the same to the byte. Memory is bounded: tables, values and
    matrices are read and written piece by piece; what grows with the number of structures is some 60 bytes each.

    Parameters
    ----------
    partner : Partner
        Its tables, key file, settings and data folder.
    workers : int
        Processes that standardise structures.
    progress : callable, optional
        Called with the number of structures done and the number there are to do; what the cache knows is neither.

    Returns
    -------
    dict
        The manifest as written: versions, settings, the key's id, counts, sizes, file hashes.

    Raises
    ------
    DataError
        ``PFL-D01`` and ``PFL-D02`` the tables, ``PFL-D03`` the key file, ``PFL-D05`` nothing is left,
        ``PFL-D07`` processes died, ``PFL-D08`` the data folder holds other files, ``PFL-D10`` the disk is full,
        ``PFL-D11`` another process prepares here, ``PFL-D12`` the cache is damaged. In each case an existing
        folder stays as it was.
    """
    folder, cache_folder = partner.path(partner.data).resolve(), partner.path(partner.cache)
    check_replaceable(folder)
    keys = Keys.derive(read_secret(partner.path(partner.key_file)), partner.key_scheme)
    rules = Rules.load(partner.path(partner.rules)) if partner.rules else Rules.built_in()
    recipe = Recipe(structures=partner.structures, fingerprint=partner.fingerprint, fold_method=partner.folds.method)
    with (
        _writing(folder),
        exclusive(lock_of(folder)),
        exclusive(cache_folder / "lock"),
        _spool(cache_folder, folder) as spool,
        StructureCache(cache_folder, recipe) as cache,
    ):
        tables = _read(partner, spool)
        probe = _probe(cache, recipe, keys, partner, workers)
        measured = _measured(tables)
        folding = (
            TemporalFolds(partner.folds.cutoffs)
            if partner.folds.method == "temporal"
            else ScaffoldFolds(keys.folds, partner.folds.count)
        )
        smiles, days = tables.structures.texts["smiles"], tables.structures["day"]
        known = compounds(smiles, measured, cache, recipe, folding, days, workers=workers, progress=progress)
        with replacement(folder) as part:
            values = aggregated(tables, known.of_row, rules, spool, part / FAILED_ACTIVITIES)
            row = _rows(known, values.columns["record"])
            used = np.flatnonzero(row >= 0)
            reason = _reasons(known, row)
            if not len(used):
                raise _nothing_left(reason, values.dropped)
            target = targets(
                tables,
                values,
                row,
                known.folds,
                partner.folds.count,
                rules,
                spool=spool,
                ambiguous_file=part / AMBIGUOUS_LABELS,
                compound_id=lambda record: as_bytes(known.ids[record : record + 1])[0].hex(),
            )
            save_targets(part, target, len(used), spool)
            save_array(part, "folds", known.folds[used])
            series = np.unique(known.families[used], return_inverse=True)[1]
            facts = {
                "series": np.empty(0) if partner.folds.method == "lsh" else series,
                "days": known.days[used] if partner.tables.date else np.empty(0),
            }
            for name, array in facts.items():
                save_array(part, name, array)
            entries = _save_bits(part, known.ids[used], cache, keys, partner, spool)
            _write_compounds(part / "compounds.csv", tables, known, row, cache)
            _write_failed_structures(part / FAILED_STRUCTURES, tables, reason)
            write_tasks(part / "tasks.csv", target.tasks)
            shared = agreement(partner=partner, keys=keys, rules=rules, catalogue=tables.catalogue, probe=probe)
            (part / AGREEMENT).write_text(json.dumps(shared, indent=1, sort_keys=True) + "\n", encoding="utf-8")
            manifest = describe(
                partner, keys=keys, tables=tables, reason=reason, values=values, target=target, rules=rules
            )
            sizes = {
                "compounds": len(used),
                "bits": partner.fingerprint.bits,
                "x_entries": entries,
                "x_counts": entries if partner.fingerprint.counts else 0,
                "classification_tasks": sum(task.kind == "classification" for task in target.tasks),
                "class_labels": len(target.labels),
                "regression_tasks": sum(task.kind == "regression" for task in target.tasks),
                "regression_values": len(target.numbers),
                **{name: len(array) for name, array in facts.items()},
            }
            return seal(part, manifest, sizes)


def _read(partner: Partner, spool: Path) -> Tables:
    settings = partner.tables
    if isinstance(settings, TunerTables):
        return read_tuner_tables(settings, partner.path, spool)
    if isinstance(settings, LongTables):
        return read_long_tables(settings, partner.path, spool)
    return read_wide_tables(settings, partner.path, spool)


def _probe(
    cache: StructureCache, recipe: Recipe, keys: Keys, partner: Partner, workers: int
) -> dict[str, dict[str, str]]:
    outcomes = looked_up([one.smiles for one in probe_molecules()], cache, recipe, workers)
    if partner.folds.method == "temporal":
        # Folds follow dates there, and how a partner's series are made concerns nobody else.
        outcomes = [replace(one, family="") for one in outcomes]
    return probe_results(outcomes, keys, bits=partner.fingerprint.bits, folds=partner.folds.count)


def _measured(tables: Tables) -> npt.NDArray[np.bool_]:
    measured = np.zeros(len(tables.structures), dtype=bool)
    for piece in pieces(len(tables.activities)):
        measured[tables.activities["structure"][piece]] = True
    return measured


def _rows(known: Compounds, record: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Return the row of each compound that has a value; -1 for the others."""
    used = np.zeros(len(known.ids), dtype=bool)
    for piece in pieces(len(record)):
        used[record[piece]] = True
    return np.where(used, np.cumsum(used) - 1, -1).astype(np.int32)


def _reasons(known: Compounds, row: npt.NDArray[np.int32]) -> npt.NDArray[np.int8]:
    """Return why each row of the structure table is not in the data; 0 where it is."""
    reason = known.reason.copy()
    there = np.flatnonzero(known.of_row >= 0)
    reason[there[row[known.of_row[there]] < 0]] = REASONS.index("no_usable_activity")
    return reason


def _save_bits(
    part: Path, ids: npt.NDArray[np.bytes_], cache: StructureCache, keys: Keys, partner: Partner, spool: Path
) -> int:
    permutation = bit_permutation(keys.permutation, partner.fingerprint.bits)
    out = Spool(spool / "bits", {"position": np.int32, "count": np.uint16})
    lengths = np.zeros(len(ids) + 1, dtype=np.int64)
    for piece in pieces(len(ids), _PIECE):
        for number, (bits, counts) in enumerate(cache.fingerprints(as_bytes(ids[piece])), piece.start + 1):
            moved = permutation[bits]
            order = np.argsort(moved)
            out.append(position=moved[order], count=counts[order])
            lengths[number] = len(bits)
    entries = out.finish()
    save_array(part, "x_indptr", np.cumsum(lengths))
    save_array(part, "x_indices", entries["position"])
    save_array(part, "x_counts", entries["count"] if partner.fingerprint.counts else np.empty(0, np.uint16))
    return len(entries)


def _write_compounds(
    path: Path, tables: Tables, known: Compounds, row: npt.NDArray[np.int32], cache: StructureCache
) -> None:
    there = np.flatnonzero(known.of_row >= 0)
    there = there[np.argsort(known.of_row[there], kind="stable")]
    begin = np.searchsorted(known.of_row[there], np.arange(len(known.ids) + 1))
    label = tables.structures.texts["compound"]
    used = np.flatnonzero(row >= 0)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["row", "compound_id", "input_compound_ids", "smiles"])
        for piece in pieces(len(used), _PIECE):
            ids = as_bytes(known.ids[used[piece]])
            for number, identity, smiles in zip(used[piece], ids, cache.smiles(ids), strict=True):
                labels = {label[int(one)] for one in there[begin[number] : begin[number + 1]]}
                # Whole numbers come in their own order, and any order of the input gives this one.
                listed = "|".join(sorted(labels, key=lambda text: (len(text), text)))
                writer.writerow([row[number], identity.hex(), listed, smiles])


def _write_failed_structures(path: Path, tables: Tables, reason: npt.NDArray[np.int8]) -> None:
    label, smiles = tables.structures.texts["compound"], tables.structures.texts["smiles"]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["compound", "smiles", "reason"])
        for number in np.flatnonzero(reason):
            text = smiles[int(number)]
            shown = text if len(text) <= _SHOWN_SMILES else text[:_SHOWN_SMILES] + "..."
            writer.writerow([label[int(number)], shown, REASONS[reason[number]]])


def _nothing_left(reason: npt.NDArray[np.int8], activities: dict[str, int]) -> DataError:
    counts = np.bincount(reason, minlength=len(REASONS))
    structures = {name: int(counts[code]) for code, name in enumerate(REASONS) if name and counts[code]}
    listed = [
        ", ".join(f"{count} {name}" for name, count in some.items()) or "none dropped"
        for some in (structures, activities)
    ]
    return DataError(
        "PFL-D05",
        f"No compound is left to train on. Structures: {listed[0]}. Activities: {listed[1]}. "
        "Correct the tables; docs/errors.md explains the reasons.",
    )


@contextmanager
def _spool(cache_folder: Path, folder: Path) -> Iterator[Path]:
    """Yield a folder for what does not fit into memory; remove it, and what a killed process left."""
    for left in (*cache_folder.glob("spool-*"), *leftovers(folder)):
        shutil.rmtree(left, ignore_errors=True)
    spool = Path(tempfile.mkdtemp(prefix="spool-", dir=cache_folder))
    try:
        yield spool
    finally:
        shutil.rmtree(spool, ignore_errors=True)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, sqlite3.OperationalError) as error:
        if isinstance(error, OSError):
            refused = error.errno in _NOT_WRITTEN
        else:
            refused = getattr(error, "sqlite_errorcode", 0) & 0xFF in _SQLITE_NOT_WRITTEN
        if not refused:
            raise
        raise DataError(
            "PFL-D10",
            f"Cannot write while preparing {folder}: {error}. What was there before is as it was, and finished "
            "structures are kept. Free some space, or correct the path or its rights, then prepare again.",
        ) from error
