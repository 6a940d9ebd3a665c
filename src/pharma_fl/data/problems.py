"""All that is wrong in the tables, told at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pharma_fl.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

FILE, LINE = "\0file", "\0line"
"""Columns of a table that say where a row came from; no file names its columns so."""

SHOWN = 100
"""Problems listed in full; the rest is counted."""


class Problems:
    """Collects problems, then raises one error that names file, line and column of the first `SHOWN`."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._count = 0

    def add(self, file: str, line: int, column: str, message: str) -> None:
        """Record one problem."""
        self._count += 1
        if len(self._lines) < SHOWN:
            self._lines.append(_place(file, line, column, message))

    def __bool__(self) -> bool:
        return self._count > 0

    def add_rows(
        self, table: pd.DataFrame, wrong: npt.NDArray[np.bool_], column: str, describe: Callable[[str], str]
    ) -> None:
        """Record one problem for each row of `table` (with its file and line) where `wrong` is true."""
        rows = np.flatnonzero(wrong)
        self._count += len(rows)
        for row in rows[: SHOWN - len(self._lines)]:
            entry = table.iloc[row]
            message = describe(_short(str(entry[column])))
            self._lines.append(_place(entry[FILE], entry[LINE], column, message))

    def raise_if_any(self) -> None:
        """Raise what was collected.

        Raises
        ------
        DataError
            ``PFL-D02``, naming the first problems and how many more there are.
        """
        if not self._count:
            return
        more = self._count - len(self._lines)
        tail = f"\n  and {more} more." if more else ""
        raise DataError(
            "PFL-D02",
            f"{self._count} problem{'s' if self._count > 1 else ''} in the tables; correct them and prepare again:\n  "
            + "\n  ".join(self._lines)
            + tail,
        )


def _place(file: str, line: int, column: str, message: str) -> str:
    word = "row" if file.endswith(".parquet") else "line"
    return f"{file} {word} {line}, column {column}: {message}."


def _short(value: str, limit: int = 40) -> str:
    return repr(value if len(value) <= limit else value[:limit] + "...")
