"""From a target epsilon to the noise, the sample rate or the steps that reach it."""

from __future__ import annotations

import math
from functools import lru_cache

from pharma_fl.config.federation import MOST_STEPS, Unit
from pharma_fl.errors import PrivacyError
from pharma_fl.privacy.accountant import affordable_steps, within
from pharma_fl.privacy.charge import Charge

_NOISE_RANGE = (0.05, 10_000.0)
_NOISE_TOLERANCE = 1e-4
_RATE_RANGE = (1e-6, 1.0)
_RATE_TOLERANCE = 1e-4


@lru_cache(maxsize=64)
def calibrate_noise(
    *,
    target_epsilon: float,
    delta: float,
    sample_rate: float,
    steps: int,
    unit: Unit = "compound",
    members: int = 1,
    sampled: Unit | None = None,
) -> float:
    """Return the least noise multiplier (to 1e-4) with which `steps` steps cost at most `target_epsilon`.

    Parameters
    ----------
    target_epsilon, delta : float
        What the steps may cost, at `delta`; the accountant has checked that the answer does not cost more.
    sample_rate, steps
        Of the mechanism.
    unit, members
        What the price is for, as for `accountant.epsilon`.
    sampled : {"compound", "series"}, optional
        What the mechanism samples; left out, the `unit`.

    Raises
    ------
    PrivacyError
        ``PFL-P03`` no multiplier between 0.05 and 10,000 reaches it.
    """

    def fits(noise: float) -> bool:
        charge = Charge(sample_rate, noise, steps, sampled or unit)
        return within((charge,), target_epsilon, delta, unit=unit, members=members)

    least, most = _NOISE_RANGE
    if not fits(most):
        raise PrivacyError(
            "PFL-P03",
            f"No noise multiplier up to {most:g} brings {steps} steps at sample_rate {sample_rate:g} to epsilon "
            f"{target_epsilon:g}. Raise privacy.epsilon, or lower training.rounds or privacy.sample_rate.",
        )
    low = 0.5
    while low > least and fits(low):
        low /= 2
    high = max(1.0, 2 * low)
    while not fits(high):
        low, high = high, 2 * high
    while high - low > _NOISE_TOLERANCE:
        middle = (low + high) / 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    places = math.ceil(high / _NOISE_TOLERANCE)
    while not fits(places * _NOISE_TOLERANCE):
        places += 1
    return places * _NOISE_TOLERANCE


@lru_cache(maxsize=64)
def calibrate_sample_rate(
    *,
    target_epsilon: float,
    delta: float,
    noise_multiplier: float,
    steps: int,
    unit: Unit = "compound",
    members: int = 1,
    sampled: Unit | None = None,
) -> float:
    """Return the largest sample rate (to one part in 10,000) at which `steps` steps cost at most `target_epsilon`.

    Parameters and result as for `calibrate_noise`.

    Raises
    ------
    PrivacyError
        ``PFL-P03`` no rate from 1e-6 reaches it.
    """

    def fits(rate: float) -> bool:
        charge = Charge(rate, noise_multiplier, steps, sampled or unit)
        return within((charge,), target_epsilon, delta, unit=unit, members=members)

    low, high = _RATE_RANGE
    if fits(high):
        return high
    if not fits(low):
        raise PrivacyError(
            "PFL-P03",
            f"No sample rate from {low:g} brings {steps} steps with noise_multiplier {noise_multiplier:g} to epsilon "
            f"{target_epsilon:g}. Raise privacy.epsilon or privacy.noise_multiplier, or lower training.rounds.",
        )
    while high > low * (1 + _RATE_TOLERANCE):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def calibrate_steps(
    *,
    target_epsilon: float,
    delta: float,
    sample_rate: float,
    noise_multiplier: float,
    unit: Unit = "compound",
    members: int = 1,
    sampled: Unit | None = None,
) -> int:
    """Return the largest number of steps, at most a million, that cost at most `target_epsilon`.

    Parameters and result as for `calibrate_noise`.

    Raises
    ------
    PrivacyError
        ``PFL-P03`` one step costs more.
    """
    mechanism = Charge(sample_rate, noise_multiplier, 1, sampled or unit)
    steps = affordable_steps(
        (), mechanism, budget=target_epsilon, delta=delta, limit=MOST_STEPS, unit=unit, members=members
    )
    if not steps:
        raise PrivacyError(
            "PFL-P03",
            f"One step at sample_rate {sample_rate:g} with noise_multiplier {noise_multiplier:g} costs more than "
            f"epsilon {target_epsilon:g}. "
            "Raise privacy.epsilon or privacy.noise_multiplier, or lower privacy.sample_rate.",
        )
    return steps
