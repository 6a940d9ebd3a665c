"""The partner's own tables, T0 assays, T1 activities and T2 structures, checked once and typed.

The columns are those of MELLODDY-TUNER 3; columns that are not listed here are ignored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from pharma_fl.data.csv_files import read_raw
from pharma_fl.data.problems import Problems

EXPERT_THRESHOLDS = tuple(f"expert_threshold_{number}" for number in range(1, 6))
ASSAY_TYPES = ("ADME", "OTHER", "NON-CATALOG-PANEL")
QUALIFIERS = {"": 0, "=": 0, "~": 0, "<": -1, "<=": -1, "<<": -1, ">": 1, ">=": 1, ">>": 1}
"""Censor code of each qualifier: the true value is -1 below, 0 at, +1 above what is written."""

_LATER_TYPES = ("CATALOG-PANEL", "AUX_HTS", "AUX_PL")
_T0 = ("input_assay_id", "assay_type", "use_in_regression", "is_binary", *EXPERT_THRESHOLDS, "direction")
_T1 = ("input_compound_id", "input_assay_id", "standard_qualifier", "standard_value")
_T2 = ("input_compound_id", "smiles")
_WHOLE = r"[+-]?[0-9]{1,18}(?:\.0+)?"
_NUMBER = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
# Stands for an id that is already reported as no whole number, so that it is not reported twice.
_UNREAD = np.iinfo(np.int64).min
_BOOLEANS = {"true": True, "false": False, "1": True, "0": False}


@dataclass(frozen=True, eq=False)
class Tables:
    """Checked tables; each id of T1 is in T0 and T2, and no id is there twice.

    Attributes
    ----------
    assays : DataFrame
        ``input_assay_id`` int64, ``assay_type`` str, ``use_in_regression`` bool, ``is_binary`` bool,
        ``expert_threshold_1`` to ``_5`` float64 (NaN = none), ``direction`` str (``high``, ``low`` or empty).
    activities : DataFrame
        ``input_compound_id`` int64, ``input_assay_id`` int64, ``standard_qualifier`` str (as written),
        ``standard_value`` float64, finite.
    structures : DataFrame
        ``input_compound_id`` int64, ``smiles`` str, not checked.
    """

    assays: pd.DataFrame
    activities: pd.DataFrame
    structures: pd.DataFrame


def read_tables(assays: Sequence[Path], activities: Sequence[Path], structures: Sequence[Path]) -> Tables:
    """Read and check the three kinds of tables.

    Parameters
    ----------
    assays, activities, structures : sequence of Path
        Files of T0, T1 and T2; several of a kind are read as one table.

    Raises
    ------
    DataError
        ``PFL-D01`` a file is missing, unreadable or empty; ``PFL-D02`` columns or rows are wrong: the first
        100 problems by file, line and column.
    """
    problems = Problems()
    raw = [
        read_raw(paths, columns, problems) for paths, columns in ((assays, _T0), (activities, _T1), (structures, _T2))
    ]
    problems.raise_if_any()
    t0, t1, t2 = (frame for frame in raw if frame is not None)
    tables = Tables(
        assays=_assays(t0, problems),
        activities=_activities(t1, problems),
        structures=pd.DataFrame(
            {"input_compound_id": _whole(t2, "input_compound_id", problems), "smiles": t2["smiles"].astype("str")}
        ),
    )
    _unique(t0, tables.assays, "input_assay_id", problems)
    _unique(t2, tables.structures, "input_compound_id", problems)
    _known(t1, tables.activities["input_assay_id"], tables.assays["input_assay_id"], "T0 (assays)", problems)
    compounds = tables.structures["input_compound_id"]
    _known(t1, tables.activities["input_compound_id"], compounds, "T2 (structures)", problems)
    problems.raise_if_any()
    return tables


def _assays(raw: pd.DataFrame, problems: Problems) -> pd.DataFrame:
    kind = raw["assay_type"]
    later = kind.isin(_LATER_TYPES).to_numpy()
    supported = ", ".join(ASSAY_TYPES)
    problems.add_rows(
        raw, later, "assay_type", lambda v: f"assay type {v} is not supported yet (supported: {supported})"
    )
    unknown = ~kind.isin(ASSAY_TYPES).to_numpy() & ~later
    problems.add_rows(raw, unknown, "assay_type", lambda v: f"expected one of {supported}, got {v}")
    direction = raw["direction"].str.lower()
    problems.add_rows(
        raw,
        ~direction.isin(("high", "low", "")).to_numpy(),
        "direction",
        lambda v: f"expected high, low or nothing, got {v}",
    )
    table = pd.DataFrame(
        {
            "input_assay_id": _whole(raw, "input_assay_id", problems),
            "assay_type": kind.astype("str"),
            "use_in_regression": _boolean(raw, "use_in_regression", problems),
            "is_binary": _boolean(raw, "is_binary", problems),
            **{name: _number(raw, name, problems, optional=True) for name in EXPERT_THRESHOLDS},
            "direction": direction.astype("str"),
        }
    )
    binary = table["is_binary"].to_numpy()
    problems.add_rows(
        raw,
        binary & table["use_in_regression"].to_numpy(),
        "use_in_regression",
        lambda _: "expected false for a binary assay, whose values are +1 and -1",
    )
    for name in EXPERT_THRESHOLDS:
        given = binary & table[name].notna().to_numpy()
        problems.add_rows(raw, given, name, lambda v: f"expected nothing for a binary assay, got {v}")
    return table


def _activities(raw: pd.DataFrame, problems: Problems) -> pd.DataFrame:
    known = raw["standard_qualifier"].isin(list(QUALIFIERS)).to_numpy()
    allowed = " ".join(name for name in QUALIFIERS if name)
    problems.add_rows(raw, ~known, "standard_qualifier", lambda v: f"expected one of {allowed} or nothing, got {v}")
    return pd.DataFrame(
        {
            "input_compound_id": _whole(raw, "input_compound_id", problems),
            "input_assay_id": _whole(raw, "input_assay_id", problems),
            "standard_qualifier": raw["standard_qualifier"].astype("str"),
            "standard_value": _number(raw, "standard_value", problems, optional=False),
        }
    )


def _whole(raw: pd.DataFrame, column: str, problems: Problems) -> npt.NDArray[np.int64]:
    text = raw[column]
    good = text.str.fullmatch(_WHOLE).to_numpy(dtype=bool)
    problems.add_rows(raw, ~good, column, lambda v: f"expected a whole number, got {v}")
    # Spreadsheets write 12.0 for 12.
    values = [int(v.split(".")[0]) if ok else _UNREAD for v, ok in zip(text, good, strict=True)]
    return np.array(values, dtype=np.int64)


def _number(raw: pd.DataFrame, column: str, problems: Problems, *, optional: bool) -> npt.NDArray[np.float64]:
    text = raw[column]
    written = text.str.fullmatch(_NUMBER).to_numpy(dtype=bool)
    # Python's own reading of a decimal is the nearest double; pandas' fast one may miss it by one place.
    values = np.array([float(v) if ok else np.nan for v, ok in zip(text, written, strict=True)], dtype=np.float64)
    missing = (text == "").to_numpy(dtype=bool) if optional else np.zeros(len(text), dtype=bool)
    problems.add_rows(raw, ~np.isfinite(values) & ~missing, column, lambda v: f"expected a finite number, got {v}")
    return values


def _boolean(raw: pd.DataFrame, column: str, problems: Problems) -> npt.NDArray[np.bool_]:
    text = raw[column].str.lower()
    problems.add_rows(raw, ~text.isin(list(_BOOLEANS)).to_numpy(), column, lambda v: f"expected true or false, got {v}")
    return np.array([_BOOLEANS.get(v, False) for v in text], dtype=np.bool_)


def _unique(raw: pd.DataFrame, table: pd.DataFrame, column: str, problems: Problems) -> None:
    again = (table[column].duplicated() & (table[column] != _UNREAD)).to_numpy()
    problems.add_rows(raw, again, column, lambda v: f"id {v} is there a second time")


def _known(raw: pd.DataFrame, ids: pd.Series[int], others: pd.Series[int], where: str, problems: Problems) -> None:
    unknown = (~ids.isin(others) & (ids != _UNREAD)).to_numpy()
    problems.add_rows(raw, unknown, str(ids.name), lambda v: f"id {v} is not in {where}")
