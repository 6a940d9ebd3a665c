"""Discrete Gaussian noise: whole numbers y with probability proportional to ``exp(-y^2 / (2 std^2))``.

Whole numbers can be masked and added in a ring without rounding anything, so what partners sum is what is accounted.

Notes
-----
**The way.** With ``std < 256`` a value is looked up: the cumulative probabilities of all whole numbers up to 14 std are
kept as integers of 256 bits, and a uniform number finds its place among them. With more, the whole numbers are cut into
cells of ``b = 2^m`` with ``s = std / b`` in [128, 256). A cell K is looked up in the same manner, with the weight
``exp(-e^2 / (2 std^2))`` where ``e = b max(|K| - 1/2, 0)`` is nearer to 0 than all of the cell. A place in it is drawn
uniformly: ``y = b K + r``, r in [-b/2, b/2). The value is kept with the probability ``exp(-(y^2 - e^2) / (2 std^2))``,
else drawn anew. The product of the three is ``exp(-y^2 / (2 std^2)) / b``, the wanted law. At most one in 300 is drawn
anew.

Two shortcuts change nothing of the law. The first 16 bits of the uniform number nearly always tell the cell; where
they do not, its first 64 are compared, and where these equal a border's, the other 192 are drawn. And no value is kept
with a probability p below ``q = sure / 256``, so that one byte keeps most of them: below `sure` the value stays, and
otherwise it stays with the probability ``(p - q) / (1 - q)``, which makes p together.

**What is exact.** From true random bits, each whole number up to 14 std has its probability to a factor within
``e^(+-2^-50)``:

===================================  ====================================  ==============================
what is computed                     differs from the above by             that is, of a probability
===================================  ====================================  ==============================
weights, in 90 decimal digits        10^-88 of themselves                  2^-292
borders, cut to 256 bits             2^-255 of the whole                   2^-103 of a cell at 14 std
r, from m bits of a word             nothing
distances to e and their sum         nothing: below 2^46, in float64
the exponent, at most 0.11           3 roundings                           2^-54
its exponential, in [0.89, 1]        2 units of the last place             2^-51.8
``(p - q) / (1 - q)``                1 rounding; 53 bits are compared      2^-55 together
===================================  ====================================  ==============================

That is less than 2^-51, and once more as much where the probabilities are divided by their sum. Larger values than 14
std, of probability 2^-145, are never drawn. `shared_noise` says what becomes of this in a sum.

**What is not claimed.** The time it takes does not follow from data, but from the noise: values far from 0 are drawn
anew more often, so whoever could measure nanoseconds would learn a little of how large the noise of a chunk is.

References
----------
Canonne, Kamath and Steinke 2020, arXiv 2004.00010 (the discrete Gaussian in differential privacy); von Neumann 1951
(rejection).
"""

from __future__ import annotations

import bisect
import itertools
import math
from dataclasses import dataclass
from decimal import Context, Decimal, localcontext
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

LEAST_STD, MOST_STD = 0.5, 2.0**40
"""Beyond these a table would be too short, and a value too long for float64."""

_MOST_CELL_STD = 256.0
_REACH = 14.0
_BORDER_WORDS = 4
_DIGITS = 90
_GUIDE_BITS = 16
_UNSURE = np.iinfo(np.int16).min
_COIN_BITS = 8
_CHUNK = 1 << 15
"""Values drawn at a time: they stay in a processor's cache."""


def add_to(generator: np.random.Generator, vector: NDArray[np.int32] | NDArray[np.int64], std: float) -> None:
    """Add an independent discrete Gaussian value to every entry, in place and chunk by chunk.

    Parameters
    ----------
    generator : Generator
        Of random bits, which nobody can guess only if its bit generator is a cipher.
    vector : ndarray
        int32 or int64, contiguous, of any shape. Sums are taken modulo two to the number of its bits, in two's
        complement.
    std : float
        Parameter of the law, from 0.5 to 2^40. From 1 on the standard deviation is that to a millionth; with 0.5 it is
        7 % less.

    Raises
    ------
    ValueError
        The vector is of another type or not contiguous, or `std` is out of range. Nothing was drawn.
    """
    check_addable(vector, std)
    flat = vector.reshape(-1)
    for start in range(0, len(flat), _CHUNK):
        part = flat[start : start + _CHUNK]
        part += draw(generator, len(part), std).astype(part.dtype)


def check_addable(vector: NDArray[np.int32] | NDArray[np.int64], std: float) -> None:
    """Refuse a vector or a standard deviation that noise cannot be added with; errors as `add_to`."""
    if vector.dtype not in (np.int32, np.int64):
        raise ValueError(f"Expected int32 or int64 values, got {vector.dtype}.")
    if not vector.flags.c_contiguous:
        raise ValueError(f"Expected a contiguous vector, got strides {vector.strides} of {vector.shape}.")
    if not LEAST_STD <= std <= MOST_STD:
        raise ValueError(f"Expected a standard deviation from {LEAST_STD} to {MOST_STD:g}, got {std}.")


def draw(generator: np.random.Generator, count: int, std: float) -> NDArray[np.int64]:
    """Return int64 (count,): independent values of the law; `std` as in `add_to`."""
    width_bits = max(0, math.frexp(std / _MOST_CELL_STD)[1])
    cells = _cells(math.ldexp(std, -width_bits), 0.5 if width_bits else 0.0)
    if not width_bits:
        return cells.draw(generator, count).astype(np.int64)
    return _within_cells(generator, count, std, cells, width_bits)


def _within_cells(
    generator: np.random.Generator, count: int, std: float, cells: _Cells, width_bits: int
) -> NDArray[np.int64]:
    width, drawn, words = 1 << width_bits, cells.draw(generator, count), _words(generator, count)
    values = drawn.astype(np.int64)
    values <<= width_bits
    values += (words & np.uint64(width - 1)).view(np.int64)
    values -= width // 2
    # The lowest bits of the word went into the place, these highest ones toss the coin.
    words >>= np.uint64(64 - _COIN_BITS)
    doubtful = np.flatnonzero(words >= cells.sure)
    kept, sure = _kept(values[doubtful], drawn[doubtful], width, std), cells.sure / 2.0**_COIN_BITS
    rejected = doubtful[generator.random(len(doubtful)) >= (kept - sure) / (1 - sure)]
    if len(rejected):
        values[rejected] = _within_cells(generator, len(rejected), std, cells, width_bits)
    return values


def _kept(values: NDArray[np.int64], drawn: NDArray[np.int16], width: int, std: float) -> NDArray[np.float64]:
    """Return the probability that each value of its cell is kept with."""
    far = np.abs(values).astype(np.float64)
    nearest = np.maximum(np.abs(drawn.astype(np.float64)) - 0.5, 0) * width
    kept: NDArray[np.float64] = np.exp((far - nearest) * (far + nearest) / (-2 * std * std))
    return kept


@dataclass(frozen=True, eq=False)
class _Cells:
    """Whole numbers -last..last and their probabilities.

    Attributes
    ----------
    borders : list of int
        Between one number and the next: the probability of all before, in units of 2^-256.
    heads : ndarray
        uint64: the first word of each border.
    guide : ndarray
        int16 (65536,): the number that a uniform one of these first 16 bits falls on, or that they do not tell.
    sure : int
        In units of 1/256: no value of any of these cells is kept with less probability.
    """

    last: int
    borders: list[int]
    heads: NDArray[np.uint64]
    guide: NDArray[np.int16]
    sure: int

    def draw(self, generator: np.random.Generator, count: int) -> NDArray[np.int16]:
        """Return int16 (count,)."""
        words = _words(generator, count)
        drawn = self.guide.take((words >> np.uint64(64 - _GUIDE_BITS)).view(np.int64), mode="clip")
        unsure = np.flatnonzero(drawn == _UNSURE)
        drawn[unsure] = self._searched(generator, words[unsure])
        return drawn

    def _searched(self, generator: np.random.Generator, words: NDArray[np.uint64]) -> NDArray[np.int64]:
        # The first border's first word is 0, so that there is always one that is not above.
        found = np.searchsorted(self.heads, words, side="right")
        for tied in np.flatnonzero(self.heads[found - 1] == words):
            exact = int(words[tied])
            for word in _words(generator, _BORDER_WORDS - 1):
                exact = exact << 64 | int(word)
            found[tied] = bisect.bisect_right(self.borders, exact)
        return found - self.last


@lru_cache(maxsize=8)
def _cells(std: float, nearer: float) -> _Cells:
    """Return the cells of a standard deviation, weighted by their points that are `nearer` to 0 than their middles."""
    last = math.ceil(_REACH * std)
    with localcontext(Context(prec=_DIGITS)):
        half = [(-((cell - Decimal(nearer)) ** 2) / (2 * Decimal(std) ** 2)).exp() for cell in range(1, last + 1)]
        weights = [*reversed(half), Decimal(1), *half]
        unit = 2 ** (64 * _BORDER_WORDS) / sum(weights)
        borders = [int(below * unit) for below in itertools.accumulate(weights[:-1])]
    heads = np.array([border >> 64 * (_BORDER_WORDS - 1) for border in borders], dtype=np.uint64)
    starts = np.arange(2**_GUIDE_BITS, dtype=np.uint64) << np.uint64(64 - _GUIDE_BITS)
    ends = starts | np.uint64(2 ** (64 - _GUIDE_BITS) - 1)
    at_start, at_end = np.searchsorted(heads, starts, side="left"), np.searchsorted(heads, ends, side="right")
    return _Cells(
        last=last,
        borders=borders,
        heads=heads,
        guide=np.where(at_start == at_end, at_start - last, _UNSURE).astype(np.int16),
        sure=math.floor(2**_COIN_BITS * math.exp(-last / std**2)),
    )


def _words(generator: np.random.Generator, count: int) -> NDArray[np.uint64]:
    # Other threads run meanwhile, as they do not with the bit generator's own `random_raw`.
    return generator.integers(2**64 - 1, size=count, dtype=np.uint64, endpoint=True)
