"""Counting and summing up the prepared arrays piece by piece, so that their size does not matter."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pharma_fl.data.spool import pieces

_PIECE = 4_000_000
_BINS = 20
_MOST_WHOLE_BINS = 25
_WIDTHS = (1, 2, 5)
# A tail that reaches this many medians leaves bins of one width empty.
_LONG_TAIL = 8
# Positive values that span this factor are of a unit that is read on a logarithmic scale.
_WIDE = 1000

Scale = Literal["linear", "doubling", "log"]
Numbers = npt.NDArray[np.int64] | npt.NDArray[np.float64]


def distribution(values: Numbers, edges: Numbers, scale: Scale = "linear") -> dict[str, Any] | None:
    """Sum up some numbers; None where there are none.

    Parameters
    ----------
    values : array (n,)
    edges : array (bins + 1,)
        Ascending. A bin reaches from its edge up to and without the next; the last one includes it.
    scale : str
        How the edges are spaced.

    Returns
    -------
    dict
        ``lowest``, ``quartile_1``, ``median``, ``quartile_3``, ``highest``, ``mean`` and ``histogram`` (``scale``,
        ``edges``, ``counts``). Quartiles are interpolated linearly.

    Examples
    --------
    >>> distribution(np.array([0.0, 0.5, 1.0]), np.array([0.0, 0.5, 1.0]))["histogram"]
    {'scale': 'linear', 'edges': [0.0, 0.5, 1.0], 'counts': [1, 2]}
    """
    if not len(values):
        return None
    names = ("lowest", "quartile_1", "median", "quartile_3", "highest")
    marks = np.quantile(values, [0, 0.25, 0.5, 0.75, 1])
    counts, _ = np.histogram(values, edges)
    return {
        **{name: float(mark) for name, mark in zip(names, marks, strict=True)},
        "mean": float(np.mean(values)),
        "histogram": {"scale": scale, "edges": edges.tolist(), "counts": counts.tolist()},
    }


def of_numbers(values: npt.NDArray[np.float64]) -> dict[str, Any] | None:
    """Sum up real numbers from the lowest to the highest, in bins of one width or, if they span much, of one ratio."""
    if not len(values):
        return None
    low, high = float(values.min()), float(values.max())
    if low == high:
        return distribution(values, np.array([low, high]))
    if low > 0 and high > _WIDE * low:
        return distribution(values, np.geomspace(low, high, _BINS + 1), "log")
    return distribution(values, np.linspace(low, high, _BINS + 1))


def of_shares(values: npt.NDArray[np.float64]) -> dict[str, Any] | None:
    """Sum up numbers between 0 and 1 in twentieths."""
    return distribution(values, np.arange(_BINS + 1) / _BINS)


def of_counts(values: npt.NDArray[np.int64]) -> dict[str, Any] | None:
    """Sum up whole numbers from 0 upwards, in bins of one width or, with a long tail, of doubling widths."""
    return distribution(values, *whole_edges(values)) if len(values) else None


def whole_edges(values: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], Scale]:
    """Return edges of bins for whole numbers, and how they are spaced.

    Examples
    --------
    >>> whole_edges(np.array([0, 1, 3]))[0].tolist()
    [0, 1, 2, 3, 4]
    >>> whole_edges(np.array([17, 60, 95]))[0].tolist()
    [15, 20, 25, 30, 35, 40, 45, 50, 55, 60, 65, 70, 75, 80, 85, 90, 95, 100]
    >>> whole_edges(np.array([1, 2, 33]))[0].tolist()
    [1, 2, 3, 5, 9, 17, 33, 65]
    """
    low, high = int(values.min()), int(values.max())
    if high >= _MOST_WHOLE_BINS and high > _LONG_TAIL * max(1.0, float(np.median(values))):
        edges = np.array([0, 1, *(2**power + 1 for power in range((high - 1).bit_length() + 1))])
        return edges[np.searchsorted(edges, low, side="right") - 1 :], "doubling"
    needed = (high - low + 1) / _MOST_WHOLE_BINS
    width = next(
        step * 10**power
        for power in range(math.ceil(math.log10(max(needed, 1))) + 1)
        for step in _WIDTHS
        if step * 10**power >= needed
    )
    first = low - low % width
    return np.arange(first, high + width + 1 - (high - first) % width, width), "linear"


def by_column(
    indices: npt.NDArray[np.int32], columns: int, chosen: npt.NDArray[Any] | None = None, code: int = 0
) -> npt.NDArray[np.int64]:
    """Count the entries in each column; with `chosen`, those where it holds `code`."""
    counts = np.zeros(columns, dtype=np.int64)
    for piece in pieces(len(indices), _PIECE):
        here = indices[piece] if chosen is None else indices[piece][chosen[piece] == code]
        counts += np.bincount(here, minlength=columns)
    return counts


def by_fold(
    indptr: npt.NDArray[np.int64],
    folds: npt.NDArray[np.int8],
    count: int,
    chosen: npt.NDArray[Any] | None = None,
    code: int = 0,
) -> npt.NDArray[np.int64]:
    """Count the entries in each fold's rows; with `chosen`, those where it holds `code`."""
    counts = np.zeros(count, dtype=np.int64)
    for piece in pieces(int(indptr[-1]), _PIECE):
        first = int(np.searchsorted(indptr, piece.start, side="right")) - 1
        last = int(np.searchsorted(indptr, piece.stop, side="left"))
        ends = np.clip(indptr[first : last + 1], piece.start, piece.stop)
        of_entry = np.repeat(folds[first:last], ends[1:] - ends[:-1])
        counts += np.bincount(of_entry if chosen is None else of_entry[chosen[piece] == code], minlength=count)
    return counts


def column_values(
    indices: npt.NDArray[np.int32], values: npt.NDArray[np.float32], columns: int, *, piece_length: int = _PIECE
) -> Iterator[npt.NDArray[np.float64]]:
    """Yield the values of one column after the other, reading the whole once for some `piece_length` of them."""
    ends = np.concatenate([[0], np.cumsum(by_column(indices, columns))])
    first = 0
    while first < columns:
        last = max(first + 1, int(np.searchsorted(ends, ends[first] + piece_length, side="right")) - 1)
        # Up to this many columns, NumPy sorts by column in linear time.
        last = min(last, first + np.iinfo(np.uint16).max)
        found = [
            (here[inside], values[piece][inside])
            for piece in pieces(len(indices), _PIECE)
            for here in [indices[piece]]
            for inside in [(here >= first) & (here < last)]
        ]
        column = np.concatenate([np.empty(0, np.int32), *(one for one, _ in found)]) - first
        order = np.argsort(column.astype(np.uint16), kind="stable")
        number = np.concatenate([np.empty(0, np.float32), *(one for _, one in found)])[order].astype(np.float64)
        yield from np.split(number, ends[first + 1 : last] - ends[first])
        first = last
