"""Reading MELLODDY-TUNER's matrices and tables, with everything that is wrong in them told at once."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.sparse import csr_array, load_npz

from pharma_fl.errors import DataError

MOST_FOLDS = 64
"""Folds that partner.toml allows."""

MOST_BITS = 1_048_576
"""Fingerprint bits that partner.toml allows."""

_UNREADABLE = (
    *(OSError, EOFError, MemoryError, ValueError, TypeError, KeyError, IndexError, AttributeError, NotImplementedError),
    *(zipfile.BadZipFile, zlib.error),
)


@dataclass
class ImportProblems:
    """All that is wrong in the files, told at once."""

    lines: list[str] = field(default_factory=list)

    def add(self, path: Path, message: str) -> None:
        """Record one problem of a file."""
        self.lines.append(f"{path}: {message}.")

    def raise_if_any(self) -> None:
        """Raise ``PFL-D16`` with what was recorded."""
        if self.lines:
            count = f"{len(self.lines)} problem{'s' if len(self.lines) > 1 else ''}"
            raise DataError(
                "PFL-D16",
                f"{count} in the files to import; correct them and import again:\n  " + "\n  ".join(self.lines),
            )


def same_pattern(one: csr_array, other: csr_array) -> bool:
    """Whether two matrices store entries in the same places."""
    same = np.array_equal(one.indptr, other.indptr) and np.array_equal(one.indices, other.indices)
    return same and one.shape == other.shape


def read_matrix(
    path: Path, problems: ImportProblems, *, what: str, allowed: Sequence[int] | None = None
) -> csr_array | None:
    """Read a CSR matrix, sorted; None after a problem. Stored zeros stay."""
    try:
        # It refuses pickled objects. A file that is opened here is closed whatever happens.
        with path.open("rb") as file:
            loaded = load_npz(file)
        if loaded.format != "csr" or len(loaded.shape) != 2:
            problems.add(path, f"expected a matrix in CSR format, got {loaded.format}: save it with tocsr()")
            return None
        matrix = csr_array(loaded)
        matrix.check_format(full_check=True)
    except FileNotFoundError:
        problems.add(path, "it is missing")
        return None
    except _UNREADABLE as error:
        problems.add(path, f"it is damaged or not a SciPy sparse matrix ({error})")
        return None
    matrix.sort_indices()
    if not matrix.has_canonical_format:
        problems.add(path, "some entries are stored twice: sum or remove them where they come from")
    elif matrix.dtype.kind not in "biuf" or not np.isfinite(matrix.data).all():
        problems.add(path, f"expected finite numbers as {what}")
    elif allowed is not None and not np.isin(matrix.data, allowed).all():
        expected = " and ".join(f"{value:+d}" if value else "0" for value in allowed)
        problems.add(path, f"expected {what} of {expected} only, got {_example(matrix.data, allowed)}")
    else:
        return matrix
    return None


def _example(data: npt.NDArray[Any], allowed: Sequence[int]) -> str:
    return f"{data[~np.isin(data, allowed)][0]:g}"


def read_folds(path: Path, count: int | None, problems: ImportProblems) -> npt.NDArray[np.int8] | None:
    """Read the fold of each row, 0 to `count` - 1; None after a problem."""
    try:
        with path.open("rb") as file:
            folds = np.load(file, allow_pickle=False)
    except FileNotFoundError:
        problems.add(path, "it is missing")
        return None
    except _UNREADABLE as error:
        problems.add(path, f"it is damaged or not an array ({error})")
        return None
    if not isinstance(folds, np.ndarray) or folds.ndim != 1 or folds.dtype.kind not in "iu" or not len(folds):
        problems.add(path, "expected one whole number for each row")
        return None
    present = np.unique(folds)
    most = len(present) if count is None else count
    if most > MOST_FOLDS:
        problems.add(path, f"expected at most {MOST_FOLDS} folds, got {most}")
        return None
    if present[0] < 0 or present[-1] >= most:
        remedy = "; give fold_count if some folds have no row" if count is None else ""
        problems.add(path, f"expected folds 0 to {most - 1}, got {present[0]} to {present[-1]}{remedy}")
        return None
    return folds.astype(np.int8)


def read_labels(path: Path | None, problems: ImportProblems) -> csr_array | None:
    """Read labels as int8 +1 and -1; None without a file or after a problem."""
    if path is None:
        return None
    matrix = read_matrix(path, problems, what="labels")
    if matrix is None:
        return None
    zero_one = bool((matrix.data == 0).any())
    allowed = (0, 1) if zero_one else (-1, 1)
    if not np.isin(matrix.data, allowed).all():
        got = _example(matrix.data, allowed)
        problems.add(path, f"expected labels of -1 and +1, or of 0 and +1, got {'0 and ' if zero_one else ''}{got}")
        return None
    signs = np.where(matrix.data == 1, np.int8(1), np.int8(-1))
    return csr_array((signs, matrix.indices, matrix.indptr), shape=matrix.shape)


def read_values(
    path: Path | None, censor_path: Path | None, problems: ImportProblems
) -> tuple[csr_array | None, csr_array | None]:
    """Read values as float32 and their censor codes as int8; None without files or after a problem."""
    if path is None or censor_path is None:
        return None, None
    values = read_matrix(path, problems, what="values")
    censor = read_matrix(censor_path, problems, allowed=(-1, 0, 1), what="censor codes")
    if values is not None:
        with np.errstate(over="ignore"):
            values = values.astype(np.float32)
        if not np.isfinite(values.data).all():
            problems.add(path, "some values are too large for float32: use another unit")
    if values is not None and censor is not None and not same_pattern(values, censor):
        problems.add(
            censor_path, f"expected exactly the entries of {path.name}; a stored 0 (exact) must not be dropped"
        )
    return values, None if censor is None else censor.astype(np.int8)


def read_table(path: Path, key: str, needed: Sequence[str], problems: ImportProblems) -> pd.DataFrame | None:
    """Read a table as text, in the order of its `key`, which counts its rows from 0; None after a problem."""
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except FileNotFoundError:
        problems.add(path, "it is missing")
        return None
    except (OSError, ValueError) as error:
        problems.add(path, f"it is not a CSV table ({error})")
        return None
    lacking = [name for name in (key, *needed) if name not in table.columns]
    if lacking or not isinstance(table.index, pd.RangeIndex):
        wrong = f"columns {', '.join(lacking)} are missing" if lacking else "rows have more fields than the header"
        problems.add(path, wrong)
        return None
    # T8 lists tasks below their quorum too, without an id.
    table = table[table[key].str.strip() != ""] if path.name.startswith("T8") else table
    numbers = pd.to_numeric(table[key], errors="coerce").to_numpy(np.float64)
    order = np.argsort(numbers, kind="stable")
    if not np.array_equal(numbers[order], np.arange(len(numbers))):
        problems.add(path, f"expected each {key} from 0 to {len(numbers) - 1} once")
        return None
    return table.iloc[order]


def read_numbers(
    path: Path,
    table: pd.DataFrame,
    name: str,
    problems: ImportProblems,
    *,
    most: float = np.inf,
    blank: bool = False,
    whole: bool = False,
) -> npt.NDArray[np.float64]:
    """Return a column as numbers of at least 0, NaN where it may be blank; all NaN without the column."""
    if name not in table.columns:
        return np.full(len(table), np.nan)
    numbers = pd.to_numeric(table[name], errors="coerce").to_numpy(np.float64)
    wrong = ~((numbers >= 0) & (numbers <= most) & np.isfinite(numbers))
    if whole:
        wrong |= numbers % 1 != 0
    if blank:
        wrong &= (table[name].str.strip() != "").to_numpy()
    if wrong.any():
        first = int(np.flatnonzero(wrong)[0])
        limit = f"from 0 to {most:g}" if np.isfinite(most) else "of at least 0"
        got = table[name].iloc[first]
        problems.add(path, f"line {table.index[first] + 2}, column {name}: expected a number {limit}, got {got!r}")
    return numbers
