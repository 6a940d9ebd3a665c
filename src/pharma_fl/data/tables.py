"""A partner's tables, checked once and typed: assays in memory, measurements and structures on disk.

Here: MELLODDY-TUNER's T0 assays, T1 activities, T2 structures and T_cat catalogue, whose other columns are ignored.
`compound_tables` reads the wide and the long form into the same `Tables`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import numpy.typing as npt
import pandas as pd

from pharma_fl.config import TunerTables
from pharma_fl.config.tables import AssayType
from pharma_fl.data.activities import QUALIFIERS
from pharma_fl.data.cells import NO_DATE, UNREAD, boolean, day, number, whole
from pharma_fl.data.problems import Problems
from pharma_fl.data.spool import Columns, Spool
from pharma_fl.data.table_files import read_pieces
from pharma_fl.data.thresholds import EXPERT_THRESHOLDS

QUALIFIER_TEXTS = tuple(QUALIFIERS)
"""Qualifiers as they are written; activities hold the position in this list."""

ACTIVITY_COLUMNS = {"assay": np.int32, "structure": np.int32, "qualifier": np.int8, "value": np.float64}

_T0 = ("input_assay_id", "assay_type", "use_in_regression", "is_binary", *EXPERT_THRESHOLDS, "direction")
_T1 = ("input_compound_id", "input_assay_id", "standard_qualifier", "standard_value")
_T2 = ("input_compound_id", "smiles")
_T_CAT = ("catalog_assay_id", "catalog_task_id", "threshold", "threshold_method", *EXPERT_THRESHOLDS)
_CATALOGUE = "CATALOG-PANEL"


@dataclass(frozen=True, eq=False)
class Tables:
    """Checked tables.

    Attributes
    ----------
    assays : DataFrame
        ``assay`` str, ``assay_type`` str, ``use_in_regression`` bool, ``is_binary`` bool,
        ``expert_threshold_1`` to ``_5`` float64 (NaN = none), ``direction`` str (``high``, ``low`` or empty),
        ``catalog_assay_id`` float64 (NaN = none); an assay's number is its row.
    activities : Columns
        ``assay`` int32 and ``structure`` int32 (rows of the other two), ``qualifier`` int8 (in
        `QUALIFIER_TEXTS`), ``value`` float64, finite.
    structures : Columns
        Texts ``compound`` (the partner's own id) and ``smiles``, not checked; ``day`` int32 since 1970-01-01,
        or `NO_DATE`.
    catalogue : DataFrame or None
        ``catalog_assay_id`` and ``catalog_task_id`` int64, ``threshold`` float64, ``threshold_method`` str, and the
        expert thresholds, equal in every row.
    listed : bool
        The list of assays is the partner's and not taken from measurements, so that it tells of no compound.
    """

    assays: pd.DataFrame
    activities: Columns
    structures: Columns
    catalogue: pd.DataFrame | None = None
    listed: bool = True


def read_tuner_tables(settings: TunerTables, path: Callable[[str], Path], spool: Path) -> Tables:
    """Read and check T0, T1, T2 and T_cat.

    Parameters
    ----------
    settings : TunerTables
        The files of each kind; several are read as one table.
    path : callable
        Resolves a file name.
    spool : Path
        A folder for what does not fit into memory.

    Raises
    ------
    DataError
        ``PFL-D01`` a file is missing, unreadable or empty; ``PFL-D02`` columns or rows are wrong: the first
        100 problems by file, line and column.
    """
    problems = Problems()
    catalogue = _catalogue([path(name) for name in settings.catalogue], problems) if settings.catalogue else None
    assays, assay_ids = _assays([path(name) for name in settings.assays], problems, has_catalogue=catalogue is not None)
    structures, ids = _structures([path(name) for name in settings.structures], settings.date, spool / "t2", problems)
    activities = _activities([path(name) for name in settings.activities], assay_ids, ids, spool / "t1", problems)
    problems.raise_if_any()
    return Tables(assays, activities, structures, catalogue)


def structure_spool(folder: Path) -> Spool:
    """Return a spool for `Tables.structures`."""
    return Spool(folder, {"day": np.int32}, ["compound", "smiles"])


def _assays(
    paths: Sequence[Path], problems: Problems, *, has_catalogue: bool
) -> tuple[pd.DataFrame, npt.NDArray[np.int64]]:
    raw = _whole_table(paths, _T0, problems, optional=("catalog_assay_id",))
    types = get_args(AssayType)
    kind = raw["assay_type"]
    problems.add_rows(
        raw, ~kind.isin(types).to_numpy(), "assay_type", lambda v: f"expected one of {', '.join(types)}, got {v}"
    )
    direction = raw["direction"].str.lower()
    problems.add_rows(
        raw,
        ~direction.isin(("high", "low", "")).to_numpy(),
        "direction",
        lambda v: f"expected high, low or nothing, got {v}",
    )
    ids = whole(raw, "input_assay_id", problems)
    binary = boolean(raw, "is_binary", problems)
    table = pd.DataFrame(
        {
            "assay": pd.Series([str(one) for one in ids], dtype="str"),
            "assay_type": kind.astype("str"),
            "use_in_regression": boolean(raw, "use_in_regression", problems) & ~binary,
            "is_binary": binary,
            **{name: number(raw, name, problems, optional=True) for name in EXPERT_THRESHOLDS},
            "direction": direction.astype("str"),
            "catalog_assay_id": number(raw, "catalog_assay_id", problems, optional=True),
        }
    )
    for name in EXPERT_THRESHOLDS:
        given = binary & table[name].notna().to_numpy()
        problems.add_rows(raw, given, name, lambda v: f"expected nothing for a binary assay, got {v}")
    problems.add_rows(
        raw,
        (kind == "AUX_PL").to_numpy() & ~binary,
        "is_binary",
        lambda _: "expected true: AUX_PL assays hold classes, 1 and -1",
    )
    _check_catalogue_ids(raw, table, problems, has_catalogue=has_catalogue)
    _unique(raw, ids, "input_assay_id", problems)
    # Numbered by id, so that the order of the input leaves no trace.
    order = np.argsort(ids, kind="stable")
    return table.iloc[order].reset_index(drop=True), ids[order]


def _check_catalogue_ids(raw: pd.DataFrame, table: pd.DataFrame, problems: Problems, *, has_catalogue: bool) -> None:
    catalogue = (table["assay_type"] == _CATALOGUE).to_numpy()
    identity = table["catalog_assay_id"]
    problems.add_rows(
        raw, catalogue & identity.isna().to_numpy(), "catalog_assay_id", lambda _: f"expected an id for {_CATALOGUE}"
    )
    problems.add_rows(
        raw,
        ~catalogue & identity.notna().to_numpy(),
        "catalog_assay_id",
        lambda v: f"expected nothing for an assay that is no {_CATALOGUE}, got {v}",
    )
    again = identity.duplicated().to_numpy() & identity.notna().to_numpy()
    problems.add_rows(raw, again, "catalog_assay_id", lambda v: f"id {v} is there a second time")
    if not has_catalogue:
        problems.add_rows(
            raw,
            catalogue,
            "assay_type",
            lambda v: f"{v} needs the consortium's catalogue (partner.toml: tables.catalogue)",
        )


def _structures(
    paths: Sequence[Path], date: str | None, folder: Path, problems: Problems
) -> tuple[Columns, npt.NDArray[np.int64]]:
    spool = structure_spool(folder)
    seen: list[npt.NDArray[np.int64]] = []
    known: npt.NDArray[np.int64] = np.empty(0, dtype=np.int64)
    for raw in read_pieces(paths, (*_T2, *((date,) if date else ())), problems):
        ids = whole(raw, "input_compound_id", problems)
        days = day(raw, date, problems) if date else np.full(len(raw), NO_DATE, dtype=np.int32)
        again = np.isin(ids, known) | pd.Series(ids).duplicated().to_numpy()
        problems.add_rows(raw, again & (ids != UNREAD), "input_compound_id", _second)
        spool.append(day=days, compound=[str(one) for one in ids], smiles=raw["smiles"].tolist())
        seen.append(ids)
        known = np.sort(np.concatenate([known, ids]))
    return spool.finish(), np.concatenate([known[:0], *seen])


def _activities(
    paths: Sequence[Path],
    assay_ids: npt.NDArray[np.int64],
    compound_ids: npt.NDArray[np.int64],
    folder: Path,
    problems: Problems,
) -> Columns:
    spool = Spool(folder, ACTIVITY_COLUMNS)
    assay_index, structure_index = _Index(assay_ids), _Index(compound_ids)
    codes = {text: code for code, text in enumerate(QUALIFIER_TEXTS)}
    allowed = " ".join(name for name in QUALIFIER_TEXTS if name)
    for raw in read_pieces(paths, _T1, problems):
        qualifier = raw["standard_qualifier"].map(codes)
        problems.add_rows(
            raw,
            qualifier.isna().to_numpy(),
            "standard_qualifier",
            lambda v: f"expected one of {allowed} or nothing, got {v}",
        )
        rows = {}
        for name, column, index, where in (
            ("assay", "input_assay_id", assay_index, "T0 (assays)"),
            ("structure", "input_compound_id", structure_index, "T2 (structures)"),
        ):
            ids = whole(raw, column, problems)
            rows[name] = index.rows(ids)
            unknown = (rows[name] < 0) & (ids != UNREAD)
            problems.add_rows(raw, unknown, column, lambda v, where=where: f"id {v} is not in {where}")  # type: ignore[misc]
        value = number(raw, "standard_value", problems, optional=False)
        spool.append(**rows, qualifier=qualifier.fillna(0).to_numpy(np.int8), value=value)
    return spool.finish()


def _catalogue(paths: Sequence[Path], problems: Problems) -> pd.DataFrame:
    raw = _whole_table(paths, _T_CAT, problems)
    table = pd.DataFrame(
        {
            **{name: whole(raw, name, problems) for name in ("catalog_assay_id", "catalog_task_id")},
            "threshold": number(raw, "threshold", problems, optional=False),
            "threshold_method": raw["threshold_method"].astype("str"),
            **{name: number(raw, name, problems, optional=True) for name in EXPERT_THRESHOLDS},
        }
    )
    again = table.duplicated(["catalog_assay_id", "threshold", "threshold_method"]).to_numpy()
    problems.add_rows(raw, again, "threshold", lambda v: f"threshold {v} of this assay is there a second time")
    for name in EXPERT_THRESHOLDS if len(table) else ():
        first = table[name].iloc[0]
        other = ~((table[name] == first) | (table[name].isna() & np.isnan(first))).to_numpy()
        problems.add_rows(
            raw,
            other,
            name,
            lambda v: f"expected the same value in every row, as every catalogue assay gets it, got {v}",
        )
    return table


def _whole_table(
    paths: Sequence[Path], columns: Sequence[str], problems: Problems, *, optional: Sequence[str] = ()
) -> pd.DataFrame:
    parts = list(read_pieces(paths, columns, problems, optional=optional))
    if not parts:
        problems.raise_if_any()
    return pd.concat(parts, ignore_index=True)


class _Index:
    """Rows of ids."""

    def __init__(self, ids: npt.NDArray[np.int64]) -> None:
        self._order = np.argsort(ids, kind="stable")
        self._ids = ids[self._order]

    def rows(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
        """Return each id's row, -1 where it has none."""
        place = np.searchsorted(self._ids, ids)
        found = place < len(self._ids)
        found[found] = self._ids[place[found]] == ids[found]
        rows = np.full(len(ids), -1, dtype=np.int32)
        rows[found] = self._order[place[found]]
        return rows


def _unique(raw: pd.DataFrame, ids: npt.NDArray[np.int64], column: str, problems: Problems) -> None:
    again = pd.Series(ids).duplicated().to_numpy() & (ids != UNREAD)
    problems.add_rows(raw, again, column, _second)


def _second(value: str) -> str:
    return f"id {value} is there a second time"
