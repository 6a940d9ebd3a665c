"""What the text of a cell says: a number, a date, a flag; or else a problem with file, line and column."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pharma_fl.data.problems import Problems

if TYPE_CHECKING:
    import pandas as pd

UNREAD = np.iinfo(np.int64).min
"""Stands for an id that is already reported as no whole number, so that it is not reported twice."""

NO_DATE = np.iinfo(np.int32).min
"""Stands for a date that is not given."""

_WHOLE = r"[+-]?[0-9]{1,18}(?:\.0+)?"
_NUMBER = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
_QUALIFIED = rf"(<<|<=|<|>>|>=|>|=|~)?\s*({_NUMBER})"
_DATE = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
_BOOLEANS = {"true": True, "false": False, "1": True, "0": False}


def whole(raw: pd.DataFrame, column: str, problems: Problems) -> npt.NDArray[np.int64]:
    """Return ids; spreadsheets' ``12.0`` is 12, and `UNREAD` stands where there is none."""
    text = raw[column]
    good = text.str.fullmatch(_WHOLE).to_numpy(dtype=bool)
    problems.add_rows(raw, ~good, column, lambda v: f"expected a whole number, got {v}")
    return np.array([int(v.split(".")[0]) if ok else UNREAD for v, ok in zip(text, good, strict=True)], dtype=np.int64)


def number(raw: pd.DataFrame, column: str, problems: Problems, *, optional: bool) -> npt.NDArray[np.float64]:
    """Return finite numbers, NaN where there is none, which is a problem unless `optional` and the cell is empty."""
    text = raw[column]
    written = text.str.fullmatch(_NUMBER).to_numpy(dtype=bool)
    values = _parsed(text, written)
    missing = (text == "").to_numpy(dtype=bool) if optional else np.zeros(len(text), dtype=bool)
    problems.add_rows(raw, ~np.isfinite(values) & ~missing, column, lambda v: f"expected a finite number, got {v}")
    return values


def qualified_numbers(text: pd.Series[str]) -> tuple[npt.NDArray[np.object_], npt.NDArray[np.float64]]:
    """Return qualifier and value of texts such as ``<5`` or ``6.2``; NaN where a text says no finite number.

    >>> import pandas as pd
    >>> qualifier, value = qualified_numbers(pd.Series(["< 5", "6.2", "high"], dtype="str"))
    >>> qualifier.tolist(), value.tolist()
    (['<', '', ''], [5.0, 6.2, nan])
    """
    parts = text.str.extract(f"^{_QUALIFIED}$")
    values = _parsed(parts[1].fillna(""), parts[1].notna().to_numpy())
    return parts[0].fillna("").to_numpy(dtype=object), np.where(np.isfinite(values), values, np.nan)


def boolean(raw: pd.DataFrame, column: str, problems: Problems) -> npt.NDArray[np.bool_]:
    """Return flags written true, false, 1 or 0."""
    text = raw[column].str.lower()
    problems.add_rows(raw, ~text.isin(list(_BOOLEANS)).to_numpy(), column, lambda v: f"expected true or false, got {v}")
    return np.array([_BOOLEANS.get(v, False) for v in text], dtype=np.bool_)


def day(raw: pd.DataFrame, column: str, problems: Problems) -> npt.NDArray[np.int32]:
    """Return int32 days since 1970-01-01 of dates like 2019-03-31 (a time after it is ignored), or `NO_DATE`."""
    import pandas as pd  # noqa: PLC0415 - a round of training needs this module's constants and no pandas

    text = raw[column]
    given = text.str.slice(0, 10)
    read = pd.to_datetime(given.where(given.str.fullmatch(_DATE), ""), format="%Y-%m-%d", errors="coerce")
    wrong = (read.isna() & (text != "")).to_numpy(dtype=bool)
    problems.add_rows(raw, wrong, column, lambda v: f"expected a date like 2019-03-31, got {v}")
    days = read.to_numpy(dtype="datetime64[D]").astype(np.int64)
    return np.where(read.isna().to_numpy(), NO_DATE, days).astype(np.int32)


def _parsed(text: pd.Series[str], written: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    # Python's own reading of a decimal is the nearest double; pandas' fast one may miss it by one place.
    values = np.array([float(v) if ok else np.nan for v, ok in zip(text, written, strict=True)], dtype=np.float64)
    # Values are stored as float32, which would make more of them infinite.
    return np.where(np.abs(values) > np.finfo(np.float32).max, np.inf, values)
