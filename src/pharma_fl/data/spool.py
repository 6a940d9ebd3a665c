"""Columns on disk: appended in pieces, then read as memory maps, so that no table has to fit into memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

PIECE = 500_000
"""Rows that are held in memory at a time."""

_FLUSHED_AT = 100_000


@dataclass(frozen=True, eq=False)
class Texts:
    """A column of texts: their UTF-8 bytes in a row, and where each begins."""

    content: npt.NDArray[np.uint8]
    ends: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, row: int) -> str:
        begin = 0 if row == 0 else int(self.ends[row - 1])
        return self.content[begin : int(self.ends[row])].tobytes().decode()

    def between(self, begin: int, end: int) -> list[str]:
        """Return the texts of some consecutive rows."""
        return [self[row] for row in range(begin, min(end, len(self)))]


@dataclass(frozen=True, eq=False)
class Columns:
    """Columns of one length, numbers and texts by name."""

    length: int
    numbers: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    texts: dict[str, Texts] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        return self.numbers[name]


class Spool:
    """Writes columns; `finish` opens them.

    Parameters
    ----------
    folder : Path
        Made where it is missing; each column is a file of it.
    numbers : mapping
        Columns of numbers and their types.
    texts : sequence of str
        Columns of texts.
    """

    def __init__(self, folder: Path, numbers: Mapping[str, npt.DTypeLike], texts: Sequence[str] = ()) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._length, self._waiting = folder, 0, 0
        self._types = {name: np.dtype(kind) for name, kind in numbers.items()}
        self._text_ends = dict.fromkeys(texts, 0)
        # What is not yet on disk, by file.
        self._parts: dict[str, list[npt.NDArray[Any] | bytes]] = {name: [] for name in numbers}
        for name in texts:
            self._parts |= {name: [], f"{name}.ends": []}
        for name in self._parts:
            (folder / name).write_bytes(b"")

    def append(self, **columns: npt.ArrayLike | Sequence[str]) -> None:
        """Add rows: every column, all of one length."""
        lengths = {len(values) for values in columns.values()}  # type: ignore[arg-type]
        if len(lengths) != 1 or set(columns) != {*self._types, *self._text_ends}:
            raise ValueError(f"expected every column with one length, got {sorted(columns)} of {sorted(lengths)}")
        count = lengths.pop()
        for name, values in columns.items():
            if name in self._types:
                self._parts[name].append(np.ascontiguousarray(values, dtype=self._types[name]))
            elif count:
                self._append_texts(name, values)  # type: ignore[arg-type]
        self._length += count
        self._waiting += count
        if self._waiting >= _FLUSHED_AT:
            self._flush()

    def finish(self) -> Columns:
        """Map what was written."""
        self._flush()
        return Columns(
            self._length,
            {name: _map(self._folder / name, kind, self._length) for name, kind in self._types.items()},
            {
                name: Texts(
                    _map(self._folder / name, np.dtype(np.uint8), end),
                    _map(self._folder / f"{name}.ends", np.dtype(np.int64), self._length),
                )
                for name, end in self._text_ends.items()
            },
        )

    def _append_texts(self, name: str, values: Sequence[str]) -> None:
        encoded = [value.encode("utf-8", "surrogatepass") for value in values]
        ends = self._text_ends[name] + np.cumsum([len(one) for one in encoded], dtype=np.int64)
        self._parts[name].append(b"".join(encoded))
        self._parts[f"{name}.ends"].append(ends)
        self._text_ends[name] = int(ends[-1])

    def _flush(self) -> None:
        for name, parts in self._parts.items():
            with (self._folder / name).open("ab") as file:
                file.writelines(part if isinstance(part, bytes) else part.data for part in parts)
            parts.clear()
        self._waiting = 0


def pieces(length: int, size: int = PIECE) -> Iterator[slice]:
    """Cut rows 0 to `length` into slices of `size`.

    >>> [(piece.start, piece.stop) for piece in pieces(5, 2)]
    [(0, 2), (2, 4), (4, 5)]
    """
    for begin in range(0, length, size):
        yield slice(begin, min(begin + size, length))


def grouped(folder: Path, key: npt.NDArray[Any], groups: int, columns: Mapping[str, npt.NDArray[Any]]) -> Columns:
    """Bring rows with equal keys together, in the order of keys and, within one, in the order they have.

    Parameters
    ----------
    folder : Path
        Receives the columns.
    key : integer array (n,)
        From 0 to groups - 1.
    groups : int
        Number of groups.
    columns : mapping
        Arrays (n,) by name, read piece by piece.

    Returns
    -------
    Columns
        `columns` in the new order, and ``begin``: int64 (groups + 1,), where each group begins.
    """
    folder.mkdir(parents=True, exist_ok=True)
    counts = np.zeros(groups, dtype=np.int64)
    for piece in pieces(len(key)):
        counts += np.bincount(key[piece], minlength=groups)
    begin = np.concatenate([[0], np.cumsum(counts)])
    cursor = begin[:-1].copy()
    out = {name: _create(folder / name, values.dtype, len(key)) for name, values in columns.items()}
    for piece in pieces(len(key)):
        order = np.argsort(key[piece], kind="stable")
        sorted_keys = np.asarray(key[piece])[order]
        first = np.flatnonzero(np.diff(sorted_keys, prepend=-1))
        sizes = np.diff(first, append=len(sorted_keys))
        place = cursor[sorted_keys] + np.arange(len(sorted_keys)) - np.repeat(first, sizes)
        for name, values in columns.items():
            out[name][place] = values[piece][order]
        cursor[sorted_keys[first]] += sizes
    return Columns(len(key), {**out, "begin": begin})


def _map(path: Path, kind: np.dtype[Any], length: int) -> npt.NDArray[Any]:
    # An empty file cannot be mapped.
    return np.memmap(path, dtype=kind, mode="r", shape=(length,)) if length else np.empty(0, dtype=kind)


def _create(path: Path, kind: np.dtype[Any], length: int) -> npt.NDArray[Any]:
    return np.memmap(path, dtype=kind, mode="w+", shape=(length,)) if length else np.empty(0, dtype=kind)
