"""The two forms that people really have: one row a compound (wide), or one row a measurement (long)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from pharma_fl.config import AssaySettings, LongTables, WideTables
from pharma_fl.data.cells import NO_DATE, day, qualified_numbers
from pharma_fl.data.problems import Problems
from pharma_fl.data.spool import Columns, Spool, pieces
from pharma_fl.data.table_files import read_header, read_pieces
from pharma_fl.data.tables import ACTIVITY_COLUMNS, QUALIFIER_TEXTS, Tables, structure_spool
from pharma_fl.data.thresholds import EXPERT_THRESHOLDS

_EXPECTED = "expected a finite number, with or without a qualifier"
_QUALIFIER_NAMES = frozenset({"qualifier", "standard_qualifier", "standard_relation", "relation"})
_CODES = {text: code for code, text in enumerate(QUALIFIER_TEXTS)}


def read_wide_tables(settings: WideTables, path: Callable[[str], Path], spool: Path) -> Tables:
    """Read tables with one row a compound and one column an assay.

    A cell is a number, with or without a qualifier before it (``<5``); an empty one is not measured. Assays are
    the columns that `settings.assays` lists, or all that are nothing else; they are numbered by name.

    Parameters and errors as `read_tuner_tables`; ``PFL-D02`` also where files list other assays.
    """
    problems = Problems()
    paths = [path(name) for name in settings.files]
    names = sorted(settings.assays or _other_columns(settings, read_header(paths[0])))
    _check_names(settings, names, problems)
    assays = _assays(settings, names)
    binary = assays["is_binary"].to_numpy()
    structures, activities = structure_spool(spool / "structures"), Spool(spool / "activities", ACTIVITY_COLUMNS)
    row = 0
    for raw in read_pieces(paths, (*_compound_columns(settings), *names), problems):
        structures.append(
            day=_days(settings, raw, problems),
            compound=_labels(settings, raw, row),
            smiles=raw[settings.smiles].tolist(),
        )
        # Of many columns most cells are empty: the others are read as one long column.
        cells = raw[names].to_numpy(dtype=object)
        where, assay = np.nonzero(cells != "")
        text = pd.Series(cells[where, assay], dtype="str")
        qualifier, value = qualified_numbers(text)
        wrong = np.isnan(value)
        for column in np.unique(assay[wrong]):
            rows = np.isin(np.arange(len(raw)), where[wrong & (assay == column)])
            problems.add_rows(raw, rows, names[column], lambda v: f"{_EXPECTED}, got {v}")
        activities.append(
            assay=assay,
            structure=row + where,
            qualifier=[_CODES[one] for one in qualifier],
            value=np.where(binary[assay], _classes(value), value),
        )
        row += len(raw)
    problems.raise_if_any()
    return Tables(assays, activities.finish(), structures.finish())


def read_long_tables(settings: LongTables, path: Callable[[str], Path], spool: Path) -> Tables:
    """Read tables with one row a measurement.

    Rows of one compound id, or without ids of one SMILES, are one compound, dated by the earliest; assays are
    numbered by name. `settings.assays` lists them; without, the rows tell, and `Tables.listed` is false.

    Parameters and errors as `read_tuner_tables`; ``PFL-D02`` also where one id has two SMILES.
    """
    problems = Problems()
    paths = [path(name) for name in settings.files]
    if settings.qualifier is None:
        for name in (name for name in read_header(paths[0]) if name.lower() in _QUALIFIER_NAMES):
            problems.add(
                str(paths[0]),
                1,
                name,
                f'tables.qualifier does not name this column, so every value would be exact: set qualifier = "{name}", '
                'or "" to ignore it',
            )
    optional = (settings.qualifier,) if settings.qualifier else ()
    columns = (*_compound_columns(settings), settings.assay, settings.value, *optional)
    structures, activities = structure_spool(spool / "structures"), Spool(spool / "read", ACTIVITY_COLUMNS)
    compounds = _Compounds()
    assay_numbers: dict[str, int] = {}
    days = _EarliestDays()
    for raw in read_pieces(paths, columns, problems):
        problems.add_rows(raw, (raw[settings.assay] == "").to_numpy(), settings.assay, lambda _: "expected a name")
        if settings.assays:
            unlisted = ~raw[settings.assay].isin(settings.assays).to_numpy()
            problems.add_rows(
                raw, unlisted, settings.assay, lambda v: f"assay {v} is not listed (partner.toml: tables.assays)"
            )
        key = settings.compound or settings.smiles
        row, new, other = compounds.rows(raw[key], raw[settings.smiles])
        problems.add_rows(
            raw, other, settings.smiles, lambda v: f"the compound has another SMILES in a former row, got {v}"
        )
        structures.append(
            day=np.full(len(new), NO_DATE),
            compound=[raw[key].iloc[one] if settings.compound else str(row[one] + 1) for one in new],
            smiles=raw[settings.smiles].iloc[new].tolist(),
        )
        days.add(row, _days(settings, raw, problems), len(compounds))
        assay = [assay_numbers.setdefault(name, len(assay_numbers)) for name in raw[settings.assay]]
        qualifier, value = _measured(settings, raw, problems)
        activities.append(assay=assay, structure=row, qualifier=qualifier, value=value)
    problems.raise_if_any()
    names = sorted(settings.assays or assay_numbers)
    _check_names(settings, names, problems)
    assays = _assays(settings, names)
    rank = {name: number for number, name in enumerate(names)}
    renumbered = np.array([rank[name] for name in assay_numbers], dtype=np.int32)
    known = structures.finish()
    return Tables(
        assays,
        _by_name(activities.finish(), renumbered, assays["is_binary"].to_numpy(), spool / "activities"),
        Columns(len(known), {"day": days.finish()}, known.texts),
        listed=bool(settings.assays),
    )


def _by_name(read: Columns, renumbered: npt.NDArray[np.int32], binary: npt.NDArray[np.bool_], folder: Path) -> Columns:
    """Return measurements with assays numbered anew, and the classes of binary ones read."""
    spool = Spool(folder, ACTIVITY_COLUMNS)
    for piece in pieces(len(read)):
        assay, value = renumbered[read["assay"][piece]], read["value"][piece]
        spool.append(
            assay=assay,
            structure=read["structure"][piece],
            qualifier=read["qualifier"][piece],
            value=np.where(binary[assay], _classes(value), value),
        )
    return spool.finish()


class _EarliestDays:
    """The earliest day of each compound."""

    def __init__(self) -> None:
        self._days: npt.NDArray[np.int32] = np.empty(0, dtype=np.int32)

    def add(self, rows: npt.NDArray[np.int32], days: npt.NDArray[np.int32], count: int) -> None:
        """Take the days of some rows of compounds 0 to `count` - 1."""
        latest = np.iinfo(np.int32).max
        self._days = np.pad(self._days, (0, count - len(self._days)), constant_values=latest)
        np.minimum.at(self._days, rows, np.where(days == NO_DATE, latest, days))

    def finish(self) -> npt.NDArray[np.int32]:
        """Return int32 (n,), with `NO_DATE` for compounds without any."""
        return np.where(self._days == np.iinfo(np.int32).max, NO_DATE, self._days).astype(np.int32)


def _compound_columns(settings: WideTables | LongTables) -> tuple[str, ...]:
    return tuple(name for name in (settings.smiles, settings.compound, settings.date) if name)


def _other_columns(settings: WideTables, header: Iterable[str]) -> list[str]:
    taken = _compound_columns(settings)
    return [name for name in dict.fromkeys(header) if name and name not in taken]


def _check_names(settings: WideTables | LongTables, names: Sequence[str], problems: Problems) -> None:
    file = settings.files[0]
    if not names:
        problems.add(file, 1, "(file)", "no column is an assay")
    for name in names:
        if not name.isprintable():
            problems.add(file, 1, repr(name), "expected the name of an assay without control characters")
    for name in sorted(set(settings.assay_settings) - set(names)):
        problems.add(file, 1, name, "no such assay, but partner.toml: tables.assay_settings names it")
    problems.raise_if_any()


def _assays(settings: WideTables | LongTables, names: Sequence[str]) -> pd.DataFrame:
    chosen: list[AssaySettings] = [settings.assay_settings.get(name, settings.assay_defaults) for name in names]
    experts = [[*sorted(one.expert_thresholds), *[np.nan] * 5][:5] for one in chosen]
    return pd.DataFrame(
        {
            "assay": pd.Series(list(names), dtype="str"),
            "assay_type": pd.Series([one.assay_type for one in chosen], dtype="str"),
            "use_in_regression": [one.use_in_regression for one in chosen],
            "is_binary": [one.is_binary for one in chosen],
            **{name: [one[number] for one in experts] for number, name in enumerate(EXPERT_THRESHOLDS)},
            "direction": pd.Series([one.direction for one in chosen], dtype="str"),
            "catalog_assay_id": np.nan,
        }
    )


def _labels(settings: WideTables, raw: pd.DataFrame, row: int) -> list[str]:
    if settings.compound:
        return list(raw[settings.compound])
    return [str(number) for number in range(row + 1, row + 1 + len(raw))]


def _days(settings: WideTables | LongTables, raw: pd.DataFrame, problems: Problems) -> npt.NDArray[np.int32]:
    if settings.date:
        return day(raw, settings.date, problems)
    return np.full(len(raw), NO_DATE, dtype=np.int32)


def _classes(value: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Inactive is written 0 as often as -1."""
    return np.where(value == 0, -1.0, value)


def _measured(
    settings: LongTables, raw: pd.DataFrame, problems: Problems
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float64]]:
    written, value = qualified_numbers(raw[settings.value])
    problems.add_rows(raw, np.isnan(value), settings.value, lambda v: f"{_EXPECTED}, got {v}")
    if not settings.qualifier:
        return np.array([_CODES[one] for one in written], dtype=np.int8), value
    both = (raw[settings.qualifier] != "").to_numpy() & (written != "")
    problems.add_rows(
        raw, both, settings.value, lambda v: f"expected a number, as there is a column of qualifiers, got {v}"
    )
    codes = raw[settings.qualifier].map(_CODES)
    allowed = " ".join(name for name in QUALIFIER_TEXTS if name)
    problems.add_rows(
        raw,
        codes.isna().to_numpy(),
        settings.qualifier,
        lambda v: f"expected one of {allowed} or nothing, got {v}",
    )
    separate = codes.fillna(0).to_numpy(np.int8)
    return np.where(written != "", [_CODES[one] for one in written], separate).astype(np.int8), value


class _Compounds:
    """Rows of compounds by their key, each with the SMILES it came with first."""

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[int, bytes]] = {}

    def __len__(self) -> int:
        return len(self._known)

    def rows(
        self, keys: pd.Series[str], smiles: pd.Series[str]
    ) -> tuple[npt.NDArray[np.int32], list[int], npt.NDArray[np.bool_]]:
        """Return each entry's compound, the entries that are new compounds, and those with another SMILES."""
        rows, new = np.empty(len(keys), dtype=np.int32), []
        other = np.zeros(len(keys), dtype=bool)
        for number, (key, text) in enumerate(zip(keys, smiles, strict=True)):
            digest = _digest(text)
            identity = _digest(key)
            if identity not in self._known:
                self._known[identity] = (len(self._known), digest)
                new.append(number)
            row, first = self._known[identity]
            rows[number] = row
            other[number] = first != digest
        return rows, new, other


def _digest(text: str) -> bytes:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).digest()
