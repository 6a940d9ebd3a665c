"""Noise, rate and steps from an epsilon: reached, never overshot, refused where there is none."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pharma_fl.errors import PrivacyError
from pharma_fl.privacy.accountant import epsilon
from pharma_fl.privacy.calibration import calibrate_noise, calibrate_sample_rate, calibrate_steps
from pharma_fl.privacy.charge import Charge


@pytest.mark.parametrize("target", [0.5, 1.0, 3.0, 8.0])
def test_calibrated_noise_reaches_the_target_and_never_overshoots(target):
    noise = calibrate_noise(target_epsilon=target, delta=1e-5, sample_rate=0.3, steps=100)
    assert epsilon([Charge(0.3, noise, 100)], 1e-5) <= target
    assert epsilon([Charge(0.3, noise - 2e-4, 100)], 1e-5) > target


@pytest.mark.parametrize(("unit", "members", "sampled"), [("series", 1, None), ("compound", 2, "series")])
def test_each_calibration_is_for_the_unit_asked_for(unit, members, sampled):
    what = {"unit": unit, "members": members}
    ask = {"target_epsilon": 4.0, "delta": 1e-6, "sampled": sampled} | what

    def cost(rate, noise, steps):
        return epsilon([Charge(rate, noise, steps, sampled or unit)], 1e-6, **what)

    noise = calibrate_noise(sample_rate=0.1, steps=200, **ask)
    assert cost(0.1, noise, 200) <= 4.0 < cost(0.1, noise - 2e-4, 200)
    rate = calibrate_sample_rate(noise_multiplier=noise, steps=200, **ask)
    assert cost(rate, noise, 200) <= 4.0 < cost(rate * 1.0002, noise, 200)
    assert rate == pytest.approx(0.1, rel=1e-3)
    steps = calibrate_steps(sample_rate=0.1, noise_multiplier=noise, **ask)
    assert cost(0.1, noise, steps) <= 4.0 < cost(0.1, noise, steps + 1)
    assert steps == pytest.approx(200, abs=1)


@settings(max_examples=3, deadline=None)
@given(target=st.floats(0.2, 10), rate=st.sampled_from([0.01, 0.1, 0.5]), steps=st.integers(1, 300))
def test_no_answer_overshoots(target, rate, steps):
    noise = calibrate_noise(target_epsilon=target, delta=1e-6, sample_rate=rate, steps=steps)
    assert epsilon([Charge(rate, noise, steps)], 1e-6) <= target


def test_what_is_free_is_granted_up_to_the_end():
    assert calibrate_sample_rate(target_epsilon=5.0, delta=1e-5, noise_multiplier=100.0, steps=10) == 1.0
    assert calibrate_steps(target_epsilon=5.0, delta=1e-5, noise_multiplier=1000.0, sample_rate=0.01) == 1_000_000


def test_an_epsilon_out_of_reach_is_refused_with_a_remedy():
    with pytest.raises(PrivacyError, match=r"PFL-P03.*Raise privacy.epsilon, or lower training.rounds"):
        calibrate_noise(target_epsilon=1e-6, delta=1e-5, sample_rate=0.9, steps=100_000)
    with pytest.raises(PrivacyError, match=r"PFL-P03.*noise_multiplier 0.05.*lower training.rounds"):
        calibrate_sample_rate(target_epsilon=0.01, delta=1e-9, noise_multiplier=0.05, steps=10_000)
    with pytest.raises(PrivacyError, match=r"PFL-P03.*One step.*lower privacy.sample_rate"):
        calibrate_steps(target_epsilon=0.1, delta=1e-6, sample_rate=0.5, noise_multiplier=0.5)
