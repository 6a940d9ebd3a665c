"""Tables of one kind from CSV and Parquet files, piece by piece, as text: each row knows its file and line."""

from __future__ import annotations

import gzip
import re
import warnings
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pharma_fl.data.problems import FILE, LINE, Problems
from pharma_fl.errors import DataError

_NAMES_SHOWN = 12
_ROWS_AT_ONCE = 200_000
_CELLS_AT_ONCE = 4_000_000
_BAD_LINE = re.compile(r"line (\d+): expected (\d+) fields, saw (\d+)")


def read_header(path: Path) -> list[str]:
    """Return a file's column names, stripped.

    Raises
    ------
    DataError
        ``PFL-D01`` as `read_pieces`.
    """
    if _is_parquet(path):
        with _open_parquet(path) as file:
            return [str(name).strip() for name in file.schema_arrow.names]
    problems = Problems()
    for frame in _csv_frames(path, problems, 1):
        return [str(name).strip() for name in frame.iloc[0]]
    problems.raise_if_any()
    return []


def read_pieces(
    paths: Sequence[Path], required: Sequence[str], problems: Problems, *, optional: Sequence[str] = ()
) -> Iterator[pd.DataFrame]:
    """Read the files of one kind as if they were one.

    Parameters
    ----------
    paths : sequence of Path
        Parquet by the ending ``.parquet``, else CSV: UTF-8 with or without a byte order mark, plain or gzip by
        the ending ``.gz``.
    required, optional : sequence of str
        Columns that every file must have, and that it may have; all others are ignored.
    problems : Problems
        Receives missing and doubled columns, and rows with more fields than the header.

    Yields
    ------
    DataFrame
        Those columns as stripped text, empty where an optional one is missing or a cell is null, with `FILE` (the
        path) and `LINE` (a CSV's header is 1, and a quoted field that spans lines counts as one; a Parquet file's
        rows begin at 1). Rows that are empty altogether are left out. A file whose columns are wrong yields nothing.

    Raises
    ------
    DataError
        ``PFL-D01`` a file is missing, unreadable, not UTF-8, or empty; or no file holds a row.
    """
    seen, sound = False, True
    for path in paths:
        wanted = (*required, *optional)
        whole = _parquet_frames(path, wanted) if _is_parquet(path) else _csv_frames(path, problems)
        header: list[str] | None = None
        place: dict[str, int] = {}
        lines_before = 0
        for frame in whole:
            if header is None:
                header = [str(name).strip() for name in frame.iloc[0]]
                frame = frame.iloc[1:]  # noqa: PLW2901 - the first piece begins with the header
                if not _columns_are_right(path, header, required, optional, problems):
                    sound = False
                    break
                place = {name: number for number, name in enumerate(header)}
                lines_before = 0 if _is_parquet(path) else 1
            table = pd.DataFrame(
                {name: frame[place[name]].str.strip() if name in place else "" for name in wanted}, index=frame.index
            )
            table[FILE] = str(path)
            table[LINE] = frame.index.to_numpy() + lines_before
            table = table[(frame != "").any(axis=1).to_numpy()]
            if len(table):
                seen = True
                yield table.reset_index(drop=True)
    if not seen and sound and not problems:
        names = ", ".join(str(path) for path in paths)
        raise DataError("PFL-D01", f"No rows below the header in {names}. Export the table again.")


def _columns_are_right(
    path: Path, header: Sequence[str], required: Sequence[str], optional: Sequence[str], problems: Problems
) -> bool:
    found_names = Counter(header)
    counts = {name: found_names[name] for name in (*required, *optional)}
    wrong = [name for name, count in counts.items() if count > 1 or (count == 0 and name in required)]
    for name in wrong:
        there = ", ".join(header[:_NAMES_SHOWN]) + (", ..." if len(header) > _NAMES_SHOWN else "")
        found = f"is missing; the file has {there}" if counts[name] == 0 else f"is there {counts[name]} times"
        problems.add(str(path), 1, name, f"column {found}")
    return not wrong


def _csv_frames(path: Path, problems: Problems, rows: int | None = None) -> Iterator[pd.DataFrame]:
    """Yield pieces of a CSV file without telling its header; row numbers are those of the file, from 0."""
    try:
        width = _width(path)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", pd.errors.ParserWarning)
            # Read without a header: pandas would otherwise take a first column without a name for an index. Blank
            # lines are kept until lines are counted.
            reader = pd.read_csv(
                path,
                header=None,
                dtype=str,
                keep_default_na=False,
                skip_blank_lines=False,
                encoding="utf-8-sig",
                compression="gzip" if path.suffix == ".gz" else None,
                on_bad_lines="warn",
                chunksize=_rows_at_once(width),
                nrows=rows,
            )
            with reader:
                for frame in reader:
                    skipped = _bad_lines(path, caught, problems)
                    if skipped:
                        # Its rows would be counted wrongly from here on, and the run will stop anyway.
                        frame = frame.iloc[:0] if frame.index[0] else frame.iloc[:1]  # noqa: PLW2901
                    yield frame
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
        problems.add(str(path), 1, "(file)", f"not a CSV table: {str(error).strip()}")


def _rows_at_once(width: int) -> int:
    return max(1, min(_ROWS_AT_ONCE, _CELLS_AT_ONCE // max(1, width)))


def _width(path: Path) -> int:
    """Return the number of fields of the first line."""
    with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
        if not file.read(4).strip(b"\xef\xbb\xbf"):
            raise pd.errors.EmptyDataError
    first = pd.read_csv(
        path,
        header=None,
        dtype=str,
        nrows=1,
        skip_blank_lines=False,
        encoding="utf-8-sig",
        compression="gzip" if path.suffix == ".gz" else None,
    )
    return int(first.shape[1])


def _bad_lines(path: Path, caught: list[warnings.WarningMessage], problems: Problems) -> bool:
    found = [entry for warning in caught for entry in _BAD_LINE.findall(str(warning.message))]
    caught.clear()
    for line, expected, got in found:
        message = f"expected {expected} fields, got {got}: quote a field with commas"
        problems.add(str(path), int(line), "(row)", message)
    return bool(found)


def _is_parquet(path: Path) -> bool:
    return path.suffix == ".parquet"


def _open_parquet(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path, memory_map=False)
    except OSError as error:
        reason = error.strerror or "it is no file that can be read"
        raise DataError("PFL-D01", f"Cannot read {path}: {reason}. Check partner.toml: tables.") from error
    except pa.ArrowException as error:
        raise DataError("PFL-D01", f"Cannot read {path}: it is not a Parquet file. Export it again.") from error


def _parquet_frames(path: Path, wanted: Sequence[str]) -> Iterator[pd.DataFrame]:
    """Yield a Parquet file as `_csv_frames` does: the names as first row, then text, but of wanted columns alone."""
    with _open_parquet(path) as file:
        names = file.schema_arrow.names
        header = pd.DataFrame([[str(name) for name in names]], index=[0], dtype="str")
        yield header
        row = 1
        numbers = [number for number, name in enumerate(names) if str(name).strip() in wanted]
        chosen = [names[number] for number in numbers]
        try:
            for batch in file.iter_batches(batch_size=_rows_at_once(len(chosen)), columns=chosen):
                columns = [_text(batch.column(place)) for place in range(len(chosen))]
                index = pd.RangeIndex(row, row + len(batch))
                texts = {number: text.to_pandas() for number, text in zip(numbers, columns, strict=True)}
                yield pd.DataFrame({number: text.to_numpy() for number, text in texts.items()}, index, dtype="str")
                row += len(batch)
        except (OSError, pa.ArrowException) as error:
            raise DataError("PFL-D01", f"Cannot read {path}: its data is damaged. Export it again.") from error


def _text(column: pa.Array) -> pa.Array:
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_floating(column.type):
        # pandas writes its missing numbers so.
        column = pc.if_else(pc.is_nan(column), None, column)
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        column = pc.strftime(column, format="%Y-%m-%d")
    return pc.fill_null(column.cast(pa.string()), "")
