"""Distributions of privacy loss: their readings, and what composing by Fourier transforms may get wrong."""

import math

import numpy as np
import pytest
from scipy.fft import irfft, rfft
from scipy.stats import norm

from pharma_fl.privacy.dominating_pair import Pair, privacy_losses
from pharma_fl.privacy.privacy_loss import PrivacyLoss, compose, window


def direct_delta(loss, epsilon):
    with np.errstate(over="ignore"):
        gains = np.maximum(0.0, -np.expm1(epsilon - loss.losses))
    return loss.infinite + float(np.sum(loss.probabilities * gains))


LOSS = PrivacyLoss(level=11, lower=-3, probabilities=np.array([0.1, 0.0, 0.3, 0.25, 0.2, 0.1]), infinite=0.05)


@pytest.mark.parametrize("epsilon", [-5.0, -0.61, -0.3, 0.0, 0.05, 0.2, 0.4, 0.41, 3.0])
def test_delta_is_the_sum_it_stands_for(epsilon):
    assert LOSS.delta(epsilon) == pytest.approx(direct_delta(LOSS, epsilon), abs=1e-14)


def test_deltas_are_delta_on_the_grid():
    assert LOSS.deltas == pytest.approx([LOSS.delta(at) for at in LOSS.losses], abs=1e-14)


@pytest.mark.parametrize("epsilon", [0.01, 0.2, 0.3, 0.4])
def test_epsilon_inverts_delta(epsilon):
    assert LOSS.epsilon(LOSS.delta(epsilon)) == pytest.approx(epsilon, abs=1e-12)


def test_epsilon_is_0_where_delta_is_large_and_infinite_where_it_is_below_the_infinite_mass():
    assert LOSS.epsilon(0.9) == 0.0
    assert LOSS.epsilon(0.049) == math.inf


def test_a_grid_far_from_0_reads_as_well():
    far = PrivacyLoss(level=20, lower=1000, probabilities=np.array([0.5, 0.3, 0.2]), infinite=0.0)
    for delta in (1e-6, 0.1, 0.4, 0.9):
        assert far.delta(far.epsilon(delta)) == pytest.approx(delta, rel=1e-6)


def test_composing_is_convolving():
    probabilities = LOSS.probabilities
    other = PrivacyLoss(level=11, lower=2, probabilities=np.array([0.6, 0.4]), infinite=0.0)
    direct = probabilities
    for _ in range(4):
        direct = np.convolve(direct, probabilities)
    direct = np.convolve(direct, other.probabilities)
    parts = [(LOSS, 5), (other, 1)]
    low, high = window(parts)
    found = compose(parts, (low, high))
    assert found.lower == 5 * -3 + 2 + low
    assert found.probabilities == pytest.approx(direct[low : high + 1], abs=1e-15)
    assert found.infinite == pytest.approx(1 - 0.95**5, abs=1e-13)


@pytest.mark.parametrize("times", [1, 50, 3000])
def test_a_window_leaves_next_to_nothing_out(times):
    part = privacy_losses(Pair(0.05, 1.5), 8)[0]
    low, high = window([(part, times)])
    assert 0 <= low < high <= times * (len(part.probabilities) - 1)
    size = 2 ** math.ceil(math.log2(times * len(part.probabilities) + 1))
    whole = irfft(rfft(part.probabilities, size) ** times, size)
    assert whole[:low].sum() + whole[high + 1 :].sum() <= 2e-15 + 1e-13


@pytest.mark.parametrize(
    ("pair", "times"),
    [
        (Pair(0.01, 1.0), 100_000),
        (Pair(0.001, 1.0), 1_000_000),
        (Pair(1e-6, 0.5), 1_000_000),
        (Pair(1.0, 300.0), 10_000),
        (Pair(0.3, 5.0), 1000),
    ],
    ids=str,
)
def test_rounding_hides_a_fifth_of_what_is_allowed_for_it_at_most(pair, times):
    """Against the same transforms in extended precision."""
    for part in privacy_losses(pair, 0):
        low, high = window([(part, times)])
        found = compose([(part, times)], (low, high))
        size = max(high - low + 1, len(part.probabilities)) + 1
        size += size % 2
        spectrum, power, left = rfft(part.probabilities.astype(np.longdouble), size), 1.0, times
        while left:
            power = power * spectrum if left & 1 else power
            spectrum, left = spectrum * spectrum, left >> 1
        exact = np.roll(irfft(power, size), -low)[: high - low + 1]
        hidden = np.cumsum((exact - found.probabilities)[::-1])  # of the probability of a loss above
        assert float(hidden.max()) <= 2e-16 * times + 1e-16


@pytest.mark.parametrize(("noise", "times"), [(3.0, 10), (30.0, 1000), (1000.0, 1_000_000)])
def test_composed_gaussians_are_the_gaussian(noise, times):
    """Balle, Wang 2018: in closed form."""
    part = privacy_losses(Pair(1.0, noise), 0)[0]
    found = compose([(part, times)], window([(part, times)]))
    mu = math.sqrt(times) / noise
    for epsilon in (0.0, 0.5, 2.0, 4.0):
        exact = norm.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon) * norm.cdf(-mu / 2 - epsilon / mu)
        assert exact - 1e-12 <= found.delta(epsilon)
        if noise < 100:  # a grid as wide as the loss of a step is pessimistic
            assert found.delta(epsilon) <= exact * (1 + 2e-4) + 1e-9
