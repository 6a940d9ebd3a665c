"""Privacy-loss distributions on a grid: what they compose to, and what they say of epsilon and delta."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfft, next_fast_len, rfft
from scipy.signal import lfilter

Floats = NDArray[np.float64]

FINEST_GRID = 1e-4
MOST_POINTS = 2**20
"""Of a composed distribution: above this the grid is made coarser, which costs accuracy and never soundness."""
# Mass on either side that a composition may leave outside its window; it counts as infinite loss.
_LOG_TAIL = math.log(1e-15)
# What rounding in the transforms may hide, for each composed step: ten times what was measured. It counts as infinite
# loss as well, so that at a delta below it the Renyi bound decides.
_ROUNDING = 1e-15
_CHERNOFF_SCALES = 2.0 ** np.arange(-8, 4)


@dataclass(frozen=True, eq=False)
class PrivacyLoss:
    """Distribution of log(P/Q) under P, rounded so that every hockey-stick divergence is an upper bound.

    Parameters
    ----------
    level : int
        The grid's step is ``FINEST_GRID * 2**level``.
    lower : int
        Grid number of the first point.
    probabilities : ndarray
        float64 (n,): probability of each point.
    infinite : float
        Probability of an infinite loss.
    """

    level: int
    lower: int
    probabilities: Floats
    infinite: float

    @property
    def step(self) -> float:
        """Distance of two neighbouring losses."""
        return math.ldexp(FINEST_GRID, self.level)

    @cached_property
    def losses(self) -> Floats:
        """float64 (n,): the grid."""
        return self.step * np.arange(self.lower, self.lower + len(self.probabilities), dtype=np.float64)

    @cached_property
    def _at_least(self) -> Floats:
        """float64 (n + 1,): probability of a loss at or above each point; the last is infinity."""
        return np.cumsum(np.append(self.probabilities, self.infinite)[::-1])[::-1]

    @cached_property
    def deltas(self) -> Floats:
        """float64 (n,): the hockey-stick divergence of order exp(loss), at each point of the grid.

        As ``delta_k = exp(-h) delta_(k+1) + (1 - exp(-h)) Pr[loss > loss_k]``, which adds positive terms only.
        """
        decay = math.exp(-self.step)
        found, _ = lfilter([-math.expm1(-self.step)], [1.0, -decay], self._at_least[:0:-1], zi=[decay * self.infinite])
        return np.asarray(found[::-1])

    def delta(self, epsilon: float) -> float:
        """Return the hockey-stick divergence of order exp(`epsilon`)."""
        place = max(0, math.ceil(epsilon / self.step) - self.lower)
        if place >= len(self.probabilities):
            return self.infinite
        above, end, there = self._segment(place)
        return float(above - math.exp(min(0.0, epsilon - end)) * (above - there))

    def epsilon(self, delta: float) -> float:
        """Return the least epsilon >= 0 whose divergence is at most `delta`; infinity if there is none."""
        if self.infinite > delta:
            return math.inf
        if self.delta(0.0) <= delta:
            return 0.0
        above, end, there = self._segment(int(np.searchsorted(-self.deltas, -delta)))
        return float(end + math.log((above - delta) / (above - there))) if above > there else end

    def _segment(self, place: int) -> tuple[float, float, float]:
        """Return a, e, d such that up to a point of the grid the divergence is ``a - exp(epsilon - e) (a - d)``."""
        return float(self._at_least[place]), float(self.losses[place]), float(self.deltas[place])


def compose(parts: Sequence[tuple[PrivacyLoss, int]], bounds: tuple[int, int]) -> PrivacyLoss:
    """Return the privacy loss of independent parts together, each so many times; all on one grid.

    By the fast Fourier transform over the points `bounds`, as from `window`.

    References
    ----------
    Koskela, Jaelkoe, Honkela 2020, arXiv 1906.03049.
    """
    low, high = bounds
    size = next_fast_len(max(high - low + 1, *(len(part.probabilities) for part, _ in parts)), real=True)
    spectrum = np.ones(size // 2 + 1, dtype=np.complex128)
    finite = 0.0
    for part, times in parts:
        spectrum *= _power(rfft(part.probabilities, size), times)
        finite += times * (math.log1p(-part.infinite) if part.infinite < 1 else -math.inf)
    hidden = 2 * math.exp(_LOG_TAIL) + _ROUNDING * sum(times for _, times in parts)
    return PrivacyLoss(
        level=parts[0][0].level,
        lower=sum(part.lower * times for part, times in parts) + low,
        probabilities=np.maximum(np.roll(irfft(spectrum, size), -low)[: high - low + 1], 0.0),
        infinite=min(1.0, -math.expm1(finite) + hidden),
    )


def window(parts: Sequence[tuple[PrivacyLoss, int]]) -> tuple[int, int]:
    """Return between which points above its least one a composition has all but 1e-15 of either tail, by Chernoff."""
    widest = sum((len(part.probabilities) - 1) * times for part, times in parts)
    mean = variance = 0.0
    centred = []
    for part, times in parts:
        places = np.arange(len(part.probabilities), dtype=np.float64)
        middle = _mean(places, part.probabilities)
        places -= middle
        mean += times * middle
        variance += times * _mean(places**2, part.probabilities)
        centred.append((places, part.probabilities, times))
    reach = []
    for sign in (-1.0, 1.0):
        orders = _CHERNOFF_SCALES * math.sqrt(-2 * _LOG_TAIL / max(variance, 1e-30))
        cumulants = (sum(n * _log_moment(sign * t * x, p) for x, p, n in centred) for t in orders)
        reach.append(min((k - _LOG_TAIL) / t for k, t in zip(cumulants, orders, strict=True)))
    return max(0, math.floor(mean - reach[0])), min(widest, math.ceil(mean + reach[1]))


def _log_moment(exponents: Floats, weights: Floats) -> float:
    top = float(max(exponents[0], exponents[-1]))
    return top + math.log(max(_mean(np.exp(exponents - top), weights), 1e-300))


def _mean(values: Floats, weights: Floats) -> float:
    # Not as a product of BLAS, whose threads cost more than they save on vectors of this size.
    return float(np.sum(values * weights))


def _power(values: NDArray[np.complex128], exponent: int) -> NDArray[np.complex128]:
    """Return values**exponent by squaring, ten times as fast as complex powers."""
    result = np.ones_like(values)
    while exponent:
        if exponent & 1:
            result *= values
        exponent >>= 1
        if exponent:
            values = values * values
    return result
