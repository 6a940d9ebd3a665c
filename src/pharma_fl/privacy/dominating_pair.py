"""The worst two output distributions that a step of the sampled Gaussian mechanism has on neighbouring data.

A step adds up one clipped vector, here of length at most 1, of each unit that a coin of probability q sampled, and
adds N(0, s² I). Neighbouring data differ in k units. Given all else, the output is a mixture over their coins: of
N(u, s² I) on the one data set, with length u <= J, the number of its k units that were sampled, and of N(v, s² I) on
the other one, with length v <= J' likewise.

**Removed units.** The other data set does not have them: v = 0, and J is from Binomial(k, q). The worst pair is
N(J, s²) against N(0, s²), on the line; with k = 1 that of the subsampled Gaussian mechanism.

**Replaced units.** Both have them, with other vectors: a series of which a compound is removed has another clipped sum,
and other members of it may be drawn. J and J' are from Binomial(k, q); that both come of the same coins does not
matter. The worst pair is N(J, s²) against N(-J', s²): all vectors point one way, and all others the opposite way.

*Proof.* Take any set S of outputs, and t with Pr[N(0, s² I) in S] = Pr[N(0, s²) > t]. By Neyman and Pearson's lemma no
shift of length a raises this above Pr[N(a, s²) > t] or lowers it below Pr[N(-a, s²) > t]. On average over the coins,
Pr[S on the one] <= Pr[N(J, s²) > t] and Pr[S on the other] >= Pr[N(-J', s²) > t], with J' = 0 for removed units. So at
every order e >= 0, Pr[S on the one] - e Pr[S on the other] is at most what the half-line above t has under the pair on
the line, and no hockey-stick divergence is larger than the pair's. The opposite order follows by reflection. Fewer than
k units are covered, since vectors may be 0; so are steps that depend on what was released before, since S, u and v
were arbitrary; and pairs that dominate each step dominate all steps together.

References
----------
Zhu, Dong, Wang 2022, arXiv 2106.08567 (dominating pairs and their composition); Choquette-Choo, Ganesh, Steinke,
Thakurta 2023, arXiv 2310.15526, corollary 4.7 (removed units); Schuchardt, Stoian, Kosmala, Guennemann, NeurIPS 2024
(groups of units under subsampling).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from dp_accounting import NeighboringRelation
from dp_accounting.pld.pld_pmf import DensePLDPmf
from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution, from_gaussian_mechanism
from numpy.typing import NDArray
from scipy.special import log_ndtr, ndtr
from scipy.stats import binom

Floats = NDArray[np.float64]

FINEST_GRID = 1e-4
_RELATIONS = {False: NeighboringRelation.ADD_OR_REMOVE_ONE, True: NeighboringRelation.REPLACE_ONE}
# Mass of either distribution that counts as infinite loss instead of being followed, for each step.
_LOG_TAIL = -50.0
# Beyond so many standard deviations a Gaussian has no mass that float64 could tell from none.
_FAR = 40.0
_MOST_POINTS = 2**18
# Points times components.
_MOST_TERMS = 2**21


class Pair(NamedTuple):
    """Two mixtures of Gaussians on the line, the clip being the unit of length.

    The upper one is N(J, noise²) with J from Binomial(`units`, `rate`). The lower one is N(0, noise²) or, if the units
    are `replaced` instead of removed, N(-J', noise²) with J' as J.
    """

    rate: float
    noise: float
    units: int = 1
    replaced: bool = False

    @property
    def is_known(self) -> bool:
        """Whether dp-accounting has the pair."""
        return self.units == 1

    @property
    def most_shift(self) -> int:
        """Largest distance of two components, of one mixture from the other."""
        return self.units * (2 if self.replaced else 1)

    def loss(self, x: Floats) -> tuple[Floats, Floats]:
        """Return log(upper/lower) at x (n,), which grows with x, and its derivative."""
        value, slope = self._against_noise(x)
        if not self.replaced:
            return value, slope
        mirrored, mirrored_slope = self._against_noise(-x)
        return value - mirrored, slope + mirrored_slope

    def _against_noise(self, x: Floats) -> tuple[Floats, Floats]:
        shifts, weights, _ = _mixture(self.rate, self.units)
        terms = weights[:, None] + (shifts[:, None] * x - shifts[:, None] ** 2 / 2) / self.noise**2
        top = terms.max(axis=0)
        terms = np.exp(terms - top)
        total = terms.sum(axis=0)
        return top + np.log(total), shifts @ terms / total / self.noise**2


@lru_cache(maxsize=128)
def _mixture(rate: float, units: int) -> tuple[Floats, Floats, float]:
    """Return shifts and log-weights (k,) of a binomial mixture, and the weight of what was left out on the right.

    What is left out on the left is moved to the first shift, which by the proof above cannot lower a price.
    """
    shifts = np.arange(units + 1)
    up_to, from_on = binom.logcdf(shifts, units, rate), binom.logsf(shifts - 1, units, rate)
    shifts = shifts[(up_to > _LOG_TAIL) & (from_on > _LOG_TAIL)]
    weights = binom.logpmf(shifts, units, rate)
    weights[0] = up_to[shifts[0]]
    return shifts.astype(np.float64), weights, float(binom.sf(shifts[-1], units, rate))


@lru_cache(maxsize=128)
def _ends(pair: Pair) -> tuple[float, float]:
    """Return left and right of which points either distribution of the pair has next to no mass."""
    shifts, weights, _ = _mixture(pair.rate, pair.units)

    def tail(x: float) -> float:
        return float(np.logaddexp.reduce(weights + log_ndtr((shifts - x) / pair.noise)))

    low, high = 0.0, float(shifts[-1]) + _FAR * pair.noise
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if tail(middle) > _LOG_TAIL else (low, middle)
    return (-high if pair.replaced else -10.0 * pair.noise), high


def least_level(pair: Pair) -> int:
    """Return the level of the finest grid on which the pair's loss has few enough points."""
    edges = pair.loss(np.array(_ends(pair)))[0]
    most = min(_MOST_POINTS, _MOST_TERMS // len(_mixture(pair.rate, pair.units)[0]))
    return max(0, math.ceil(math.log2(max(1.0, float(edges[1] - edges[0]) / FINEST_GRID / most))))


@lru_cache(maxsize=64)
def pair_distribution(pair: Pair, level: int) -> PrivacyLossDistribution:
    """Return the privacy-loss distribution of a pair on the grid ``FINEST_GRID * 2**level``, rounded pessimistically.

    dp-accounting's own where it has the pair, which is for one unit. It builds mixtures of more in minutes and has none
    against a mixture, so those are made here: between two points of the grid, the mass of both distributions is
    moved to the two points such that both keep their masses ("connect the dots"), and then no hockey-stick divergence
    is less than before.

    References
    ----------
    Doroshenko, Ghazi, Kamath, Kumar, Manurangsi 2022, arXiv 2207.04380.
    """
    step = math.ldexp(FINEST_GRID, level)
    if pair.is_known:
        return from_gaussian_mechanism(
            pair.noise,
            value_discretization_interval=step,
            sampling_prob=pair.rate,
            neighboring_relation=_RELATIONS[pair.replaced],
        )
    (left, right), (shifts, weights, cut) = _ends(pair), _mixture(pair.rate, pair.units)
    edges = pair.loss(np.array([left, right]))[0]
    first = math.floor(edges[0] / step)
    numbers = np.arange(first, max(math.ceil(edges[1] / step), first + 1) + 1)
    losses = step * numbers
    reach = float(shifts[-1]) + _FAR * pair.noise
    x = _inverse(pair, losses, reach)
    upper = _log_masses(x, shifts, weights, pair.noise)
    lower = (
        _log_masses(x, -shifts, weights, pair.noise)
        if pair.replaced
        else _log_masses(x, np.zeros(1), np.zeros(1), pair.noise)
    )
    forward = _connect(upper, lower, losses, cut=cut, step=step, first=first)
    if pair.replaced:
        return PrivacyLossDistribution(forward)
    back = _connect(lower[::-1], upper[::-1], -losses[::-1], cut=0.0, step=step, first=-int(numbers[-1]))
    return PrivacyLossDistribution(forward, back)


def _inverse(pair: Pair, losses: Floats, reach: float) -> Floats:
    """Return where the pair's loss takes each of some increasing values; infinite where not within `reach` of 0."""
    nodes = np.linspace(-reach, reach, min(8192, _MOST_TERMS // len(_mixture(pair.rate, pair.units)[0])))
    at_nodes, _ = pair.loss(nodes)
    place = np.searchsorted(at_nodes, losses)
    x = np.where(place == 0, -math.inf, math.inf)
    (open_,) = np.nonzero((place > 0) & (place < len(nodes)))
    below, above = nodes[place[open_] - 1], nodes[place[open_]]
    x[open_] = np.interp(losses[open_], at_nodes, nodes)
    # Newton's method, kept within a bracket; what it misplaces is then a billionth of the grid.
    tolerance = 1e-9 * (losses[1] - losses[0])
    for _ in range(60):
        value, slope = pair.loss(x[open_])
        missing = losses[open_] - value
        left = np.abs(missing) > tolerance
        if not left.any():
            break
        open_, missing, slope = open_[left], missing[left], slope[left]
        below = np.where(missing >= 0, x[open_], below[left])
        above = np.where(missing <= 0, x[open_], above[left])
        with np.errstate(divide="ignore"):
            moved = x[open_] + missing / slope
        x[open_] = np.where((moved > below) & (moved < above), moved, (below + above) / 2)
    return x


def _log_masses(x: Floats, means: Floats, weights: Floats, noise: float) -> Floats:
    """Return log-masses (n + 1,) of a Gaussian mixture: left of the first point, between them, right of the last."""
    found = np.full(len(x) + 1, -math.inf)
    bounds = np.concatenate([[-math.inf], x, [math.inf]])
    for mean, weight in zip(means, weights, strict=True):
        z = (bounds - mean) / noise
        tails = log_ndtr(-np.abs(z))
        right = z[:-1] >= 0
        large, small = np.where(right, tails[:-1], tails[1:]), np.where(right, tails[1:], tails[:-1])
        across = (z[:-1] < 0) & (z[1:] > 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            masses = large + np.log(-np.expm1(np.minimum(small - large, 0.0)))
        masses[across] = np.log(ndtr(z[1:][across]) - ndtr(z[:-1][across]))
        found = np.logaddexp(found, weight + np.where(np.isnan(masses), -math.inf, masses))
    return found


def _connect(upper: Floats, lower: Floats, losses: Floats, *, cut: float, step: float, first: int) -> DensePLDPmf:
    masses = np.exp(upper)
    with np.errstate(invalid="ignore"):
        ratio = losses[:-1] + lower[1:-1] - upper[1:-1]
    share = np.nan_to_num(np.clip(np.expm1(ratio) / math.expm1(-step), 0.0, 1.0), nan=1.0)
    points = np.zeros(len(losses))
    points[1:] += masses[1:-1] * share
    points[:-1] += masses[1:-1] * (1.0 - share)
    points[0] += masses[0]
    return DensePLDPmf(step, first, points, min(1.0, float(masses[-1]) + cut), pessimistic_estimate=True)
