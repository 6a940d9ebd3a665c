"""What was charged, priced: privacy-loss distributions decide, Renyi divergences check and stand in."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import dp_accounting
import numpy as np
from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution, identity
from dp_accounting.rdp import rdp_privacy_accountant

from pharma_fl.config.federation import Unit
from pharma_fl.errors import PrivacyError
from pharma_fl.privacy.charge import Charge
from pharma_fl.privacy.dominating_pair import FINEST_GRID, Pair, least_level, pair_distribution

_ORDERS = (2, 3, 4, 5, 6, 8, 12, 16, 24, 32, 48, 64, 128)
# What rounding may hide of the divergence of each step, at order 2.
_RENYI_ROUNDING = 1e-15
_MOST_POINTS = 2**20
"""Of a composed distribution: above this the grid is made coarser, which costs accuracy and never soundness."""
_COARSEST_LEVEL = 20
_NEXT_TO_NO_MASS = 1e-12
# Less noise than this is priced as none, and more than that as that: both raise the price.
_LEAST_NOISE, _MOST_NOISE = 1e-3, 1e6

Steps = tuple[tuple[Pair, int], ...]
UNPROTECTED: Steps = ((Pair(rate=1.0, noise=0.0), 1),)


def merge(charges: Iterable[Charge]) -> tuple[Charge, ...]:
    """Add up the steps of equal mechanisms, in a canonical order.

    >>> [tuple(c) for c in merge([Charge(0.1, 2.0, 3), Charge(0.1, 1.0, 1), Charge(0.1, 2.0, 4)])]
    [(0.1, 1.0, 1, 'compound'), (0.1, 2.0, 7, 'compound')]
    """
    steps: Counter[tuple[float, float, Unit]] = Counter()
    for charge in charges:
        steps[charge.sample_rate, charge.noise_multiplier, charge.unit] += charge.steps
    return tuple(Charge(q, sigma, n, unit) for (q, sigma, unit), n in sorted(steps.items()) if n)


def epsilon(charges: Iterable[Charge], delta: float, *, unit: Unit = "compound", members: int = 1) -> float:
    """Return epsilon of all charges together.

    Parameters
    ----------
    charges : iterable of Charge
        What was run on the same data. Order does not matter.
    delta : float
        In (0, 1).
    unit : {"compound", "series"}
        What neighbouring data sets differ by: `members` compounds of one partner, or one whole series.
    members : int
        How many compounds; with ``unit = "series"``, the most that a series of the partner has, which charges that
        sampled compounds need to know.

    Returns
    -------
    float
        An upper bound under adding or removing that: the smaller one of two, by dp-accounting's privacy-loss
        distributions on a grid of 1e-4 (coarser only where 2**20 points do not reach) and by its Renyi divergences.
        0 for an empty history, infinity as soon as one charge has no noise.

    Raises
    ------
    PrivacyError
        ``PFL-P06`` neither gives a number.

    Notes
    -----
    What a charge costs depends on what it sampled (`dominating_pair` proves the pairs):

    =========  ==========  ==========================================================================
    charge     priced for  each step is at worst
    =========  ==========  ==========================================================================
    compound   compounds   a Gaussian shifted by Binomial(`members`, q) clips, against an unshifted one
    compound   a series    the same
    series     a series    a Gaussian shifted by Binomial(1, q) clips, against an unshifted one
    series     compounds   shifted by Binomial(`members`, q) one way, against as much the other way
    =========  ==========  ==========================================================================

    The last line is dear because one compound less replaces the clipped sum of its series by another one, which may
    point the other way, and `members` compounds may lie in as many series.

    References
    ----------
    Koskela, Jaelkoe, Honkela 2020, arXiv 1906.03049; Zhu, Dong, Wang 2022, arXiv 2106.08567; Mironov, Talwar,
    Zhang 2019, arXiv 1908.10530; dp-accounting 0.6.
    """
    return _epsilon(priced(charges, unit, members), delta)


def within(
    charges: Iterable[Charge], budget: float, delta: float, *, unit: Unit = "compound", members: int = 1
) -> bool:
    """Whether epsilon of all charges together is at most `budget`; parameters as for `epsilon`, which takes longer."""
    return _within(priced(charges, unit, members), budget, delta)


def _within(steps: Steps, budget: float, delta: float) -> bool:
    # One upper bound within the budget is enough, and Renyi's takes a fraction of the time.
    return _epsilon_by_renyi(steps, delta) <= budget or _epsilon(steps, delta) <= budget


def delta_at(charges: Iterable[Charge], epsilon: float, *, unit: Unit = "compound", members: int = 1) -> float:
    """Return delta of all charges together at an epsilon: an upper bound, as `epsilon`, whose inverse it is."""
    steps = priced(charges, unit, members)
    if not steps:
        return max(0.0, -math.expm1(epsilon))
    whole = _composed(steps)
    found = 1.0 if whole is None else float(whole.get_delta_for_epsilon(epsilon))
    if steps == UNPROTECTED:
        return found
    try:
        return min(found, float(renyi(steps).get_delta(epsilon)))
    except ValueError:  # dp-accounting's formula ends where a divergence is rounded to 0
        return found


def priced(charges: Iterable[Charge], unit: Unit, members: int) -> Steps:
    """Return the dominating pairs of charges and how often each is met, merged and in a canonical order."""
    if members < 1:
        raise ValueError(f"expected members >= 1, got {members}")
    steps: Counter[Pair] = Counter()
    precision = 0.0
    for charge in merge(charges):
        if not charge.noise_multiplier >= _LEAST_NOISE:  # so that NaN is without protection too
            return UNPROTECTED
        noise = min(charge.noise_multiplier, _MOST_NOISE)
        whole = charge.unit == unit == "series"
        pair = Pair(charge.sample_rate, noise, 1 if whole else members, charge.unit == "series" and not whole)
        if charge.sample_rate == 1:
            # Without sampling all is one Gaussian, whose shifts add up.
            precision += charge.steps * (pair.most_shift / noise) ** 2
        elif charge.sample_rate > 0:
            steps[pair] += charge.steps
    if precision:
        steps[Pair(1.0, 1 / math.sqrt(precision))] = 1
    return tuple(sorted(steps.items()))


@lru_cache(maxsize=4096)
def _epsilon(steps: Steps, delta: float) -> float:
    if not steps:
        return 0.0
    whole = _composed(steps)
    by_loss = math.inf if whole is None else float(whole.get_epsilon_for_delta(delta))
    both = by_loss, _epsilon_by_renyi(steps, delta)
    numbers = [value for value in both if not math.isnan(value)]
    if not numbers:
        raise PrivacyError("PFL-P06", f"The accountant found no epsilon for {steps} at delta {delta:g}.")
    return max(0.0, min(numbers))


@lru_cache(maxsize=4096)
def _epsilon_by_renyi(steps: Steps, delta: float) -> float:
    if not steps or steps == UNPROTECTED:
        return math.inf if steps else 0.0
    return float(renyi(steps).get_epsilon(delta))


def renyi(steps: Steps, orders: Sequence[int] = _ORDERS) -> rdp_privacy_accountant.RdpAccountant:
    """Return dp-accounting's Renyi accountant, told of steps that dominate these.

    A mixture of many shifts is no more than its parts, each with its share of the noise and released on its own.
    """
    accountant = rdp_privacy_accountant.RdpAccountant(orders)
    # A divergence rounded to 0 would be read as "no delta at all", and delta goes with the root of divergences.
    rounding = _RENYI_ROUNDING * sum(times * pair.most_shift for pair, times in steps)
    accountant.compose(dp_accounting.GaussianDpEvent(1 / math.sqrt(rounding)))
    for pair, times in steps:
        parts = pair.most_shift
        gaussian = dp_accounting.GaussianDpEvent(pair.noise / math.sqrt(parts))
        event = gaussian if pair.rate == 1 else dp_accounting.PoissonSampledDpEvent(pair.rate, gaussian)
        accountant.compose(event, times * parts)
    return accountant


def composed(charges: Iterable[Charge], *, unit: Unit = "compound", members: int = 1) -> PrivacyLossDistribution | None:
    """Return the privacy-loss distribution of all charges together; None where it would be without end.

    Its divergences are the larger ones of data with the unit against data without it, and back.
    """
    return _composed(priced(charges, unit, members))


@lru_cache(maxsize=8)
def _composed(steps: Steps) -> PrivacyLossDistribution | None:
    if steps == UNPROTECTED:
        return None
    level = _level(steps, _epsilon_by_renyi(steps, _NEXT_TO_NO_MASS))
    while level <= _COARSEST_LEVEL:
        whole = identity(math.ldexp(FINEST_GRID, level))
        for pair, times in steps:
            whole = whole.compose(_repeated(pair, times, level))
        # Renyi's bound is loose for units of several compounds, and what a coarse grid says is less so.
        finer = _level(steps, float(whole.get_epsilon_for_delta(_NEXT_TO_NO_MASS))) if level else 0
        if finer >= level:
            return whole
        level = finer
    return None


def _level(steps: Steps, reach: float) -> int:
    """Return the level of the finest grid on which losses up to `reach` have few enough points."""
    wanted = math.ceil(math.log2(max(1.0, 2 * min(reach, 1e300) / FINEST_GRID / _MOST_POINTS)))
    return max([wanted, *(least_level(pair) for pair, _ in steps)], default=0)


@lru_cache(maxsize=32)
def _repeated(pair: Pair, times: int, level: int) -> PrivacyLossDistribution:
    # Orders at which moments of the loss overflow bound nothing, and others do.
    with np.errstate(over="ignore", divide="ignore"):
        return pair_distribution(pair, level).self_compose(times)


def affordable_steps(
    spent: Iterable[Charge],
    charge: Charge,
    *,
    budget: float,
    delta: float,
    limit: int,
    unit: Unit = "compound",
    members: int = 1,
) -> int:
    """Return how many more steps of a charge's mechanism fit a budget beside what was spent.

    What was found is remembered for the mechanism and for whatever else was spent, so that the rounds of a run, which
    add steps of the one mechanism, ask again without computing.

    Parameters
    ----------
    spent : iterable of Charge
        The history; steps of the same mechanism among it are its own earlier ones.
    charge : Charge
        The mechanism; its steps are not read.
    budget, delta : float
        Epsilon that the whole may reach, at `delta`.
    limit : int
        Largest answer of interest.
    unit, members
        As for `epsilon`.
    """
    history = merge(spent)
    same = [past for past in history if past._replace(steps=0) == charge._replace(steps=0)]
    others = tuple(past for past in history if past not in same)
    done = sum(past.steps for past in same)
    total = _total(others, charge._replace(steps=0), budget, delta, unit, members)
    return max(0, total.most(done + limit) - done)


@dataclass
class _Total:
    """How many steps of a mechanism are known to fit a budget beside others, and how many not to."""

    others: tuple[Charge, ...]
    mechanism: Charge
    budget: float
    delta: float
    unit: Unit
    members: int
    fit: int = 0
    exceed: int = sys.maxsize
    asked: bool = False
    guesses: int = 0

    def most(self, limit: int) -> int:
        """Return the largest number of steps up to `limit` that fits; 0 also if not even none does."""
        if self.fit < limit < self.exceed:
            # Whoever asks for more and more, as rounds pass, pays for few answers if each looks further ahead.
            if self._fits(limit) and self.asked:
                self._fits(2 * limit)
            self.asked = True
            while self.exceed < sys.maxsize and self.exceed - self.fit > 1:
                self._fits(self._guess())
        return min(limit, self.fit)

    def _steps(self, steps: int) -> Steps:
        return priced((*self.others, self.mechanism._replace(steps=steps)), self.unit, self.members)

    def _fits(self, steps: int) -> bool:
        fits = _within(self._steps(steps), self.budget, self.delta)
        if fits:
            self.fit = max(self.fit, steps)
        else:
            self.exceed = min(self.exceed, steps)
        return fits

    def _guess(self) -> int:
        """Return where the square of epsilon, which is about linear in the steps, would be the budget's."""
        self.guesses += 1
        if self.exceed > 16 * (self.fit + 1):
            return math.isqrt((self.fit + 1) * self.exceed)
        below, above = (_epsilon(self._steps(steps), self.delta) for steps in (self.fit, self.exceed))
        share = (self.budget**2 - below**2) / (above**2 - below**2) if below < above < math.inf else 0.5
        if self.guesses % 3 == 0 or not 0 <= share <= 1:
            share = 0.5
        return min(max(self.fit + math.floor(share * (self.exceed - self.fit)), self.fit + 1), self.exceed - 1)


@lru_cache(maxsize=256)
def _total(
    others: tuple[Charge, ...], mechanism: Charge, budget: float, delta: float, unit: Unit, members: int
) -> _Total:
    return _Total(others, mechanism, budget, delta, unit, members)
