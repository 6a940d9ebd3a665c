"""Epsilon of what was charged: privacy-loss distributions decide, Opacus's accountant checks."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

import dp_accounting
from dp_accounting.pld import pld_privacy_accountant
from dp_accounting.rdp import rdp_privacy_accountant

from pharma_fl.errors import PrivacyError

_NOISE_RANGE = (0.05, 10_000.0)
_NOISE_TOLERANCE = 1e-4
# Above this the Renyi bound, which takes a millisecond, is the answer: nobody calls it private, and privacy-loss
# distributions so wide take gigabytes, which a plan from elsewhere must not be able to ask for.
_HOPELESS = 200.0


class Charge(NamedTuple):
    """Some steps of one Poisson-subsampled Gaussian mechanism; all fields are public.

    ``noise_multiplier`` 0 stands for steps without protection.
    """

    sample_rate: float
    noise_multiplier: float
    steps: int


def merge(charges: Iterable[Charge]) -> tuple[Charge, ...]:
    """Add up the steps of equal mechanisms, in a canonical order.

    >>> merge([Charge(0.1, 2.0, 3), Charge(0.1, 1.0, 1), Charge(0.1, 2.0, 4)])
    (Charge(sample_rate=0.1, noise_multiplier=1.0, steps=1), Charge(sample_rate=0.1, noise_multiplier=2.0, steps=7))
    """
    steps: Counter[tuple[float, float]] = Counter()
    for charge in charges:
        steps[charge.sample_rate, charge.noise_multiplier] += charge.steps
    return tuple(Charge(q, sigma, n) for (q, sigma), n in sorted(steps.items()) if n)


def epsilon(charges: Iterable[Charge], delta: float) -> float:
    """Return epsilon of all charges together.

    Parameters
    ----------
    charges : iterable of Charge
        What was run on the same records. Order does not matter.
    delta : float
        In (0, 1).

    Returns
    -------
    float
        An upper bound (discretisation is pessimistic) under adding or removing one record; 0 for an
        empty history, infinity as soon as one charge has no noise. Where a Renyi bound is already above
        200 that bound is returned, which is larger still.

    References
    ----------
    Koskela, Jaelkoe, Honkela 2020, arXiv 1906.03049; dp-accounting 0.6, ``PLDAccountant``.
    """
    return _epsilon(merge(charges), delta)


@lru_cache(maxsize=4096)
def _epsilon(charges: tuple[Charge, ...], delta: float) -> float:
    if not charges:
        return 0.0
    if any(charge.noise_multiplier == 0 for charge in charges):
        return math.inf
    coarse = _epsilon_by_rdp(charges, delta)
    if coarse > _HOPELESS:
        return coarse
    accountant = pld_privacy_accountant.PLDAccountant(dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE)
    for charge in charges:
        accountant.compose(_event(charge), charge.steps)
    found = float(accountant.get_epsilon(delta))
    if math.isnan(found):
        raise PrivacyError("PFL-P06", f"The accountant found no epsilon for {charges} at delta {delta:g}.")
    return max(0.0, found)


def _epsilon_by_rdp(charges: tuple[Charge, ...], delta: float) -> float:
    accountant = rdp_privacy_accountant.RdpAccountant([2, 3, 4, 5, 6, 8, 12, 16, 24, 32, 48, 64, 128])
    for charge in charges:
        accountant.compose(_event(charge), charge.steps)
    return float(accountant.get_epsilon(delta))


def _event(charge: Charge) -> dp_accounting.DpEvent:
    gaussian = dp_accounting.GaussianDpEvent(charge.noise_multiplier)
    return gaussian if charge.sample_rate == 1 else dp_accounting.PoissonSampledDpEvent(charge.sample_rate, gaussian)


def epsilon_by_opacus(charges: Iterable[Charge], delta: float) -> float:
    """Return epsilon by Opacus's PRV accountant: a second opinion, never the number of record."""
    from opacus.accountants import PRVAccountant  # noqa: PLC0415 - Opacus takes seconds to import

    accountant = PRVAccountant()
    accountant.history = [(c.noise_multiplier, c.sample_rate, c.steps) for c in merge(charges)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(accountant.get_epsilon(delta=delta))


def affordable_steps(
    spent: Iterable[Charge], *, sample_rate: float, noise_multiplier: float, budget: float, delta: float, limit: int
) -> int:
    """Return how many more steps of a mechanism fit a budget beside what was spent.

    Parameters
    ----------
    spent : iterable of Charge
        The history.
    sample_rate, noise_multiplier : float
        The mechanism.
    budget, delta : float
        Epsilon that the whole may reach, at `delta`.
    limit : int
        Largest answer of interest.
    """
    return _affordable(merge(spent), sample_rate, noise_multiplier, budget, delta, limit)


@lru_cache(maxsize=256)
def _affordable(
    spent: tuple[Charge, ...], sample_rate: float, noise_multiplier: float, budget: float, delta: float, limit: int
) -> int:
    def fits(steps: int) -> bool:
        return epsilon((*spent, Charge(sample_rate, noise_multiplier, steps)), delta) <= budget

    if fits(limit):
        return limit
    low, high = 0, limit
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


@lru_cache(maxsize=64)
def calibrate_noise(*, target_epsilon: float, delta: float, sample_rate: float, steps: int) -> float:
    """Return the least noise multiplier (to 1e-4) with which `steps` steps cost at most `target_epsilon`.

    Raises
    ------
    PrivacyError
        ``PFL-P03`` no multiplier between 0.05 and 10,000 reaches it.
    """

    def cost(noise: float) -> float:
        return epsilon((Charge(sample_rate, noise, steps),), delta)

    low, high = _NOISE_RANGE
    if cost(high) > target_epsilon:
        raise PrivacyError(
            "PFL-P03",
            f"No noise multiplier up to {high:g} brings {steps} steps at sample_rate {sample_rate:g} to epsilon "
            f"{target_epsilon:g}. Raise privacy.epsilon, or lower training.rounds or privacy.sample_rate.",
        )
    # Privacy-loss distributions of very small noise are huge, so the bracket grows from a useful middle.
    low = 0.5
    while low > _NOISE_RANGE[0] and cost(low) <= target_epsilon:
        low /= 2
    high = max(1.0, 2 * low)
    while cost(high) > target_epsilon:
        low, high = high, 2 * high
    while high - low > _NOISE_TOLERANCE:
        middle = (low + high) / 2
        low, high = (low, middle) if cost(middle) <= target_epsilon else (middle, high)
    return math.ceil(high / _NOISE_TOLERANCE) * _NOISE_TOLERANCE
