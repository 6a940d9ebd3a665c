"""The worst-case attacker against closed forms, published values and an attack that is carried out."""

import math

import numpy as np
import pytest
from scipy.stats import norm

from pharma_fl.privacy.accountant import delta_at
from pharma_fl.privacy.attacker import worst_case_attacker
from pharma_fl.privacy.charge import Charge

# 600 steps at rate 0.04: noise multiplier, advantage, true positive rates at 0.1 % and 1 % false positives.
GOLDEN = [(0.956, 0.48, 0.044, 0.166), (2.37, 0.17, 0.004, 0.030), (4.5, 0.09, 0.002, 0.018)]


@pytest.mark.parametrize(("noise", "advantage", "low", "high"), GOLDEN)
def test_golden_values(noise, advantage, low, high):
    found = worst_case_attacker([Charge(0.04, noise, 600)])
    assert found.advantage == pytest.approx(advantage, abs=0.005)
    assert found.tpr == {0.001: pytest.approx(low, abs=6e-4), 0.01: pytest.approx(high, abs=6e-4)}


@pytest.mark.parametrize(("noise", "steps"), [(1.0, 1), (4.0, 9), (30.0, 25)])
@pytest.mark.parametrize("members", [1, 3])
def test_without_sampling_it_is_the_gaussian_mechanisms(noise, steps, members):
    found = worst_case_attacker([Charge(1.0, noise, steps)], members=members, fprs=(1e-4, 0.01, 0.3))
    mu = members * math.sqrt(steps) / noise
    assert found.advantage == pytest.approx(2 * norm.cdf(mu / 2) - 1, abs=1e-6)
    for fpr, tpr in found.tpr.items():
        exact = norm.cdf(norm.ppf(fpr) + mu)
        assert exact - 1e-12 <= tpr <= exact + 1e-5


def test_the_best_test_of_one_sampled_step_is_met_in_both_directions():
    """Thresholds on the output are the best tests; the bound must be the better one's, at each rate."""
    rate, noise = 0.3, 0.8
    at = np.linspace(-8, 9, 200_001)
    with_it = (1 - rate) * norm.sf(at, 0, noise) + rate * norm.sf(at, 1, noise)
    without = norm.sf(at, 0, noise)
    found = worst_case_attacker([Charge(rate, noise, 1)], fprs=(0.001, 0.01, 0.1))
    for fpr, tpr in found.tpr.items():
        claims_there = np.interp(fpr, without[::-1], with_it[::-1])
        claims_not_there = np.interp(fpr, 1 - with_it, 1 - without)
        assert tpr == pytest.approx(max(claims_there, claims_not_there), abs=1e-5)
    assert found.advantage == pytest.approx((with_it - without).max(), abs=1e-6)


def test_advantage_is_delta_at_epsilon_0():
    history = [Charge(0.1, 2.0, 50), Charge(0.2, 3.0, 10, "series")]
    assert worst_case_attacker(history).advantage == pytest.approx(delta_at(history, 0.0), abs=1e-9)


def test_nothing_spent_leaves_guessing_and_no_noise_leaves_nothing_secret():
    nothing, everything = worst_case_attacker([]), worst_case_attacker([Charge(0.1, 2.0, 5), Charge(0.1, 0.0, 1)])
    assert (nothing.advantage, nothing.tpr) == (0.0, {0.001: 0.001, 0.01: 0.01})
    assert (everything.advantage, everything.tpr) == (1.0, {0.001: 1.0, 0.01: 1.0})


def test_attackers_of_more_compounds_and_of_hopeless_plans_are_no_weaker():
    charge = Charge(0.05, 2.0, 200)
    found = [worst_case_attacker([charge], members=m) for m in (1, 2, 5)]
    assert found[0].advantage < found[1].advantage < found[2].advantage
    assert found[0].tpr[0.001] < found[1].tpr[0.001] < found[2].tpr[0.001]
    hopeless = worst_case_attacker([Charge(0.9, 0.1, 1000)])
    assert (hopeless.advantage, hopeless.tpr[0.001]) == (pytest.approx(1.0), pytest.approx(1.0))


def test_no_rate_leaves_its_range():
    found = worst_case_attacker([Charge(0.001, 5.0, 3)], fprs=(1e-9, 0.5, 0.999))
    for fpr, tpr in found.tpr.items():
        assert fpr <= tpr <= 1
