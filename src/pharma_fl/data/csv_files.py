"""CSV files of one kind as one frame of raw text, each row knowing its file and line."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from pharma_fl.data.problems import Problems
from pharma_fl.errors import DataError

FILE, LINE = "_file", "_line"


def read_raw(paths: Sequence[Path], required: Sequence[str], problems: Problems) -> pd.DataFrame | None:
    """Read and concatenate the files of one kind.

    Parameters
    ----------
    paths : sequence of Path
        CSV, UTF-8 with or without a byte order mark, plain or gzip by the ending ``.gz``.
    required : sequence of str
        Columns that every file must have; all others are ignored.
    problems : Problems
        Receives missing and doubled columns, and rows with more fields than the header.

    Returns
    -------
    DataFrame or None
        The required columns as stripped text, with `FILE` (the path) and `LINE` (header = 1; a quoted field
        that spans lines counts as one). None where a file's shape was wrong.

    Raises
    ------
    DataError
        ``PFL-D01`` a file is missing, unreadable, not UTF-8, or empty; or no file holds a row.
    """
    frames = [_read_one(path, required, problems) for path in paths]
    good = [frame for frame in frames if frame is not None]
    if len(good) < len(frames):
        return None
    whole = pd.concat(good, ignore_index=True)
    if whole.empty:
        names = ", ".join(str(path) for path in paths)
        raise DataError("PFL-D01", f"No rows below the header in {names}. Export the table again.")
    return whole


def _read_one(path: Path, required: Sequence[str], problems: Problems) -> pd.DataFrame | None:
    try:
        # Read without a header: pandas would otherwise take a first column without a name for an index. Blank
        # lines are kept until lines are counted.
        raw = pd.read_csv(
            path,
            header=None,
            dtype=str,
            keep_default_na=False,
            skip_blank_lines=False,
            encoding="utf-8-sig",
            compression="gzip" if path.suffix == ".gz" else None,
        )
    except OSError as error:
        reason = error.strerror or "it is not a gzip file"
        raise DataError("PFL-D01", f"Cannot read {path}: {reason}. Check partner.toml: tables.") from error
    except UnicodeDecodeError as error:
        raise DataError("PFL-D01", f"Cannot read {path}: it is not UTF-8 text. Export it as UTF-8.") from error
    except (EOFError, zlib.error) as error:
        raise DataError("PFL-D01", f"Cannot read {path}: the gzip data is damaged. Export it again.") from error
    except pd.errors.EmptyDataError as error:
        raise DataError("PFL-D01", f"{path} is empty. Export the table again, with its header.") from error
    except pd.errors.ParserError as error:
        _describe_shape(path, str(error), problems)
        return None
    header = [str(name).strip() for name in raw.iloc[0]]
    wrong = [(name, header.count(name)) for name in required if header.count(name) != 1]
    for name, count in wrong:
        problems.add(str(path), 1, name, "column is missing" if count == 0 else f"column is there {count} times")
    if wrong:
        return None
    table = pd.DataFrame({name: raw[header.index(name)].str.strip() for name in required})
    table[FILE] = str(path)
    table[LINE] = raw.index.to_numpy() + 1
    filled = (raw != "").any(axis=1)
    filled.iloc[0] = False
    return table[filled]


def _describe_shape(path: Path, message: str, problems: Problems) -> None:
    found = re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", message)
    if found:
        expected, line, seen = (int(number) for number in found.groups())
        problems.add(str(path), line, "(row)", f"expected {expected} fields, got {seen}: quote a field with commas")
    else:
        problems.add(str(path), 1, "(file)", f"not a CSV table: {message.strip()}")
