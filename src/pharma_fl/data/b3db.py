"""The demo's data: B3DB, blood-brain barrier permeability, split over simulated partners.

7,982 compounds with a class (crosses the barrier or not), 1,058 of them with logBB, the logarithm of the
concentration in brain over that in blood. It comes with the package qc-B3DB (CC0), whose files are read without
importing it.

References
----------
Meng et al., "A curated diverse molecular database of blood-brain barrier permeability with chemical
descriptors", Scientific Data 8, 289 (2021).
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from pharma_fl.data.folds import ACYCLIC, murcko_scaffold
from pharma_fl.data.keys import Keys, family_hash
from pharma_fl.data.structures import StructureFailure
from pharma_fl.errors import DataError

BBB, LOGBB = 1, 2
"""Assay ids."""

_DISTRIBUTION = "qc-B3DB"
_FILES = ("B3DB/B3DB_classification.tsv", "B3DB/B3DB_classification_external.tsv")


@dataclass(frozen=True, kw_only=True)
class PartnerCounts:
    """How much one simulated partner got: compounds, those that cross the barrier, those with logBB."""

    name: str
    compounds: int
    crossing: int
    not_crossing: int
    logbb: int


def read_b3db() -> pd.DataFrame:
    """Read B3DB's labelled compounds.

    Returns
    -------
    DataFrame
        ``input_compound_id`` int64 from 1, ``smiles`` str, ``bbb`` int64 (+1 crosses, -1 does not),
        ``logbb`` float64 (NaN = not measured).

    Raises
    ------
    DataError
        ``PFL-D06`` the package qc-B3DB is not installed, or its files are not those expected.
    """
    parts = [
        pd.read_csv(
            path,
            sep="\t",
            usecols=["SMILES", "BBB+/BBB-", "logBB"],
            dtype={"SMILES": "str", "BBB+/BBB-": "str", "logBB": "float64"},
            encoding="utf-8-sig",
        )
        for path in _files()
    ]
    whole = pd.concat(parts, ignore_index=True)
    return pd.DataFrame(
        {
            "input_compound_id": np.arange(1, len(whole) + 1, dtype=np.int64),
            "smiles": whole["SMILES"],
            "bbb": whole["BBB+/BBB-"].map({"BBB+": 1, "BBB-": -1}).to_numpy(dtype=np.int64),
            "logbb": whole["logBB"],
        }
    )


def write_partner_tables(folder: Path, names: Sequence[str], secret: bytes, *, every: int = 1) -> list[PartnerCounts]:
    """Write T0, T1 and T2 of each simulated partner.

    Compounds of one Murcko scaffold go to one partner, as a chemical series belongs to one company; all acyclic
    ones are one family. Which partner gets a family is a keyed hash that is independent of the folds, so that
    every partner holds every fold.

    Parameters
    ----------
    folder : Path
        Receives ``NAME/T0.csv``, ``T1.csv`` and ``T2.csv``.
    names : sequence of str
        The partners.
    secret : bytes
        The consortium secret.
    every : int
        Use every so many compounds only, for a quick look.

    Returns
    -------
    list of PartnerCounts
        In the order of `names`.

    Raises
    ------
    DataError
        ``PFL-D06`` as `read_b3db`.
    """
    data = read_b3db().iloc[::every]
    key = Keys.derive(secret, "hkdf").families
    owner = np.array([family_hash(key, _family(smiles), len(names)) for smiles in data["smiles"]])
    return [_write(folder / name, name, data[owner == number]) for number, name in enumerate(names)]


def _files() -> list[Path]:
    remedy = 'Run: pip install "pharma-fl[demo]"'
    try:
        distribution = importlib.metadata.distribution(_DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError as error:
        raise DataError("PFL-D06", f"The package {_DISTRIBUTION} is not installed. {remedy}") from error
    paths = [Path(str(distribution.locate_file(name))) for name in _FILES]
    for path in paths:
        if not path.is_file():
            raise DataError("PFL-D06", f"The package {_DISTRIBUTION} lacks {path.name}. {remedy}")
    return paths


def _family(smiles: str) -> str:
    try:
        return murcko_scaffold(smiles, stereo=False) or ACYCLIC
    except StructureFailure as failure:
        # `prepare` will refuse it too; until then it needs a place.
        return failure.reason


def _write(folder: Path, name: str, data: pd.DataFrame) -> PartnerCounts:
    folder.mkdir(parents=True, exist_ok=True)
    nothing = dict.fromkeys([f"expert_threshold_{number}" for number in range(1, 6)], "")
    experts = nothing | {"expert_threshold_1": "-1.0", "expert_threshold_2": "0.0"}
    assays = pd.DataFrame(
        [
            {
                "input_assay_id": BBB,
                "assay_type": "ADME",
                "use_in_regression": "false",
                "is_binary": "true",
                **nothing,
                "direction": "high",
            },
            {
                "input_assay_id": LOGBB,
                "assay_type": "ADME",
                "use_in_regression": "true",
                "is_binary": "false",
                **experts,
                "direction": "high",
            },
        ]
    )
    measured = data[data["logbb"].notna()]
    activities = pd.DataFrame(
        {
            "input_compound_id": [*data["input_compound_id"], *measured["input_compound_id"]],
            "input_assay_id": [BBB] * len(data) + [LOGBB] * len(measured),
            "standard_qualifier": "=",
            "standard_value": [*data["bbb"].astype(np.float64), *measured["logbb"]],
        }
    )
    for file, table in (("T0", assays), ("T1", activities), ("T2", data[["input_compound_id", "smiles"]])):
        table.to_csv(folder / f"{file}.csv", index=False, lineterminator="\n")
    return PartnerCounts(
        name=name,
        compounds=len(data),
        crossing=int((data["bbb"] == 1).sum()),
        not_crossing=int((data["bbb"] == -1).sum()),
        logbb=len(measured),
    )
