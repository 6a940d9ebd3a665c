"""Epsilon against published values, a closed form, a second accountant, and its own laws."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm as gaussian

from pharma_fl.errors import PrivacyError
from pharma_fl.privacy.accountant import (
    Charge,
    affordable_steps,
    calibrate_noise,
    epsilon,
    epsilon_by_opacus,
    merge,
)

# sample rate, noise multiplier, steps, delta, epsilon: privacy-loss distributions at 1e-4, as computed
# independently with dp-accounting and confirmed by two PRV implementations.
GOLDEN = [
    (0.001, 1.0, 20000, 1e-6, 0.794),
    (0.004, 0.8, 5000, 1e-5, 2.499),
    (0.01, 2.0, 100, 1e-6, 0.228),
    (0.02, 1.5, 5000, 1e-6, 5.331),
    (0.05, 4.0, 1000, 1e-6, 1.802),
    (0.05, 1.0, 1000, 1e-5, 10.987),
]


@pytest.mark.parametrize(("rate", "noise", "steps", "delta", "expected"), GOLDEN)
def test_golden_values(rate, noise, steps, delta, expected):
    assert epsilon([Charge(rate, noise, steps)], delta) == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize(("noise", "steps"), [(1.0, 1), (3.0, 10), (20.0, 400)])
def test_without_sampling_it_is_the_gaussian_mechanism(noise, steps):
    """Balle & Wang 2018: delta(epsilon) of a Gaussian with sensitivity sqrt(steps) / noise, in closed form."""
    found = epsilon([Charge(1.0, noise, steps)], 1e-5)
    mu = math.sqrt(steps) / noise

    def delta(eps):
        return gaussian.cdf(mu / 2 - eps / mu) - math.exp(eps) * gaussian.cdf(-mu / 2 - eps / mu)

    assert delta(found) <= 1e-5 * (1 + 1e-3)
    assert delta(found - 5e-3) > 1e-5


@pytest.mark.parametrize(
    ("rate", "noise", "steps"), [(0.3, 5.0, 150), (0.5, 8.0, 100), (0.3, 2.4, 150), (0.01, 1.0, 2000)]
)
def test_opacus_agrees_within_two_percent(rate, noise, steps):
    charges = [Charge(rate, noise, steps)]
    assert epsilon(charges, 1e-5) == pytest.approx(epsilon_by_opacus(charges, 1e-5), rel=0.02)


def test_opacus_agrees_on_a_mixed_history():
    charges = [Charge(0.3, 5.0, 60), Charge(0.1, 2.0, 40)]
    assert epsilon(charges, 1e-5) == pytest.approx(epsilon_by_opacus(charges, 1e-5), rel=0.02)


rates, noises, steps = st.sampled_from([0.05, 0.2, 0.5]), st.sampled_from([1.5, 3.0, 6.0]), st.integers(1, 60)


@settings(max_examples=25, deadline=None)
@given(rate=rates, noise=noises, n=steps)
def test_epsilon_grows_with_steps_and_rate_and_falls_with_noise(rate, noise, n):
    base = epsilon([Charge(rate, noise, n)], 1e-5)
    assert base >= 0
    assert epsilon([Charge(rate, noise, n + 5)], 1e-5) >= base - 1e-9
    assert epsilon([Charge(min(1.0, 1.5 * rate), noise, n)], 1e-5) >= base - 1e-9
    assert epsilon([Charge(rate, 1.5 * noise, n)], 1e-5) <= base + 1e-9


@settings(max_examples=10, deadline=None)
@given(parts=st.lists(st.tuples(rates, noises, steps), min_size=1, max_size=4))
def test_the_order_of_composition_does_not_matter(parts):
    charges = [Charge(*part) for part in parts]
    assert epsilon(charges, 1e-5) == epsilon(list(reversed(charges)), 1e-5)
    assert epsilon(charges, 1e-5) == epsilon(merge(charges), 1e-5)


def test_an_empty_history_costs_nothing_and_an_unprotected_one_everything():
    assert epsilon([], 1e-5) == 0.0
    assert epsilon([Charge(0.3, 5.0, 10), Charge(0.3, 0.0, 1)], 1e-5) == math.inf


@pytest.mark.parametrize("target", [0.5, 1.0, 3.0, 8.0])
def test_calibrated_noise_reaches_the_target_and_never_overshoots(target):
    noise = calibrate_noise(target_epsilon=target, delta=1e-5, sample_rate=0.3, steps=100)
    assert epsilon([Charge(0.3, noise, 100)], 1e-5) <= target
    assert epsilon([Charge(0.3, noise - 0.01, 100)], 1e-5) > target


@pytest.mark.parametrize("charge", [Charge(0.3, 0.01, 10**9), Charge(1.0, 0.02, 1), Charge(0.9, 0.3, 10**6)])
def test_a_hopeless_plan_is_priced_at_once_and_never_below_its_price(charge):
    assert epsilon([charge], 1e-5) > 200
    assert affordable_steps([], sample_rate=0.9, noise_multiplier=0.01, budget=3.0, delta=1e-5, limit=10**9) == 0


def test_an_epsilon_out_of_reach_is_refused():
    with pytest.raises(PrivacyError, match="PFL-P03"):
        calibrate_noise(target_epsilon=1e-6, delta=1e-5, sample_rate=0.9, steps=100_000)


def test_affordable_steps_is_the_last_that_fits():
    spent = [Charge(0.3, 6.0, 20)]
    n = affordable_steps(spent, sample_rate=0.3, noise_multiplier=5.0, budget=2.0, delta=1e-5, limit=1000)
    assert epsilon([*spent, Charge(0.3, 5.0, n)], 1e-5) <= 2.0
    assert epsilon([*spent, Charge(0.3, 5.0, n + 1)], 1e-5) > 2.0
    assert affordable_steps(spent, sample_rate=0.3, noise_multiplier=5.0, budget=2.0, delta=1e-5, limit=3) == 3
    assert affordable_steps(spent, sample_rate=0.3, noise_multiplier=5.0, budget=0.1, delta=1e-5, limit=3) == 0
