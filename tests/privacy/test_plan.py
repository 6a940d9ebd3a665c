"""One object makes sampler, mechanism and charge, in both modes of noise and for both units."""

import math

import numpy as np
import pytest
from pydantic import ValidationError
from tests.conftest import SeededNoise
from tests.privacy.ledgers import a_plan

from pharma_fl.config.federation import PrivacySettings, TrainingSettings
from pharma_fl.errors import PrivacyError
from pharma_fl.privacy.accountant import Charge, epsilon
from pharma_fl.privacy.plan import propose


def shared(**changes):
    fields = {
        "noise_mode": "shared",
        "contributors": 10,
        "tolerated_colluders": 3,
        "steps_per_round": 1,
        "noise_multiplier": 3.0,
    }
    return a_plan(**(fields | changes))


def test_shares_add_up_to_the_accounted_noise():
    """Simulated: what each adversary does not know of the noise has the standard deviation that is accounted."""
    plan = shared(tolerated_losses=2)
    (share,) = plan.multipliers
    rng = np.random.default_rng(5)
    noise = rng.normal(size=(10, 400_000)) * share
    there = noise[: 10 - 2]
    assert np.std(there[3:].sum(0)) == pytest.approx(plan.noise_against("partners"), rel=0.01)
    assert np.std(there.sum(0)) == pytest.approx(plan.noise_against("coordinator"), rel=0.01)
    assert plan.noise_against("partners") == plan.noise_multiplier


def test_the_strongest_adversary_costs_most_and_is_the_one_charged():
    plan = shared()
    assert plan.noise_against("coordinator") == pytest.approx(3.0 * math.sqrt(10 / 7))
    assert plan.epsilon("coordinator") < plan.epsilon("partners") == plan.epsilon()
    assert plan.round_charge == Charge(0.3, 3.0, 1)
    assert plan.charge_of(4, "coordinator").steps == 4


def test_with_local_noise_everybody_faces_the_same():
    plan = a_plan()
    assert plan.noise_against("coordinator") == plan.noise_against("partners") == 5.0
    assert plan.multipliers == (5.0,)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"steps_per_round": 2}, "steps_per_round = 1"),
        ({"tolerated_colluders": 0}, "1 <= tolerated_colluders"),
        ({"tolerated_colluders": 10}, "< contributors = 10"),
        ({"tolerated_colluders": 5, "tolerated_losses": 5}, "< contributors = 10"),
        ({"contributors": 1}, "< contributors = 1"),
        ({"clipping": "adaptive"}, 'clipping "flat"'),
        ({"clipping": "groups", "head_clipping_norm": 1.0}, 'clipping "flat"'),
        ({"mechanism": "none", "noise_multiplier": 0.0}, 'mechanism "dp-sgd"'),
    ],
)
def test_shares_that_would_not_protect_are_refused(changes, named):
    with pytest.raises(ValidationError, match=named):
        shared(**changes)


@pytest.mark.parametrize("changes", [{"contributors": 4}, {"tolerated_colluders": 1}, {"tolerated_losses": 1}])
def test_local_noise_has_no_shares(changes):
    with pytest.raises(ValidationError, match="local"):
        a_plan(**changes)


def test_a_plan_counts_the_partners_that_share():
    privacy = PrivacySettings(epsilon=2.0, noise_mode="shared", tolerated_colluders=2)
    plan = propose(privacy, TrainingSettings(rounds=5, local_steps=1), partners=6)
    assert (plan.contributors, plan.tolerated_colluders) == (6, 2)
    assert plan.epsilon() <= 2.0
    local = propose(PrivacySettings(epsilon=2.0), TrainingSettings(rounds=5, local_steps=1), partners=6)
    assert local.noise_multiplier == plan.noise_multiplier
    assert local.contributors == 1


def test_the_number_of_partners_amplifies_nothing():
    privacy, training = PrivacySettings(noise_multiplier=4.0), TrainingSettings(rounds=5, local_steps=2)
    charges = {propose(privacy, training, partners=partners).round_charge for partners in (1, 4, 100)}
    assert charges == {Charge(0.3, 4.0, 2)}


def test_the_sampler_is_the_plans():
    noise = SeededNoise(3)
    sample = a_plan(sample_rate=0.25).sample(noise, 40_000)
    assert len(sample.rows) == pytest.approx(10_000, rel=0.03)
    series = np.repeat(np.arange(10_000, dtype=np.int32), 4)
    sample = a_plan(sample_rate=0.25, unit="series", max_series_size=3).sample(noise, 40_000, series)
    assert sample.units == pytest.approx(2_500, rel=0.1)
    assert len(sample.rows) == 3 * sample.units


def test_series_that_nobody_knows_are_refused():
    with pytest.raises(PrivacyError, match="PFL-P08"):
        a_plan(unit="series").sample(SeededNoise(), 10)


def test_a_run_of_series_is_priced_for_a_series():
    plan = a_plan(unit="series")
    assert plan.epsilon() == epsilon([Charge(0.3, 5.0, 100)], 1e-5)
    assert plan.round_charge.unit == "series"
    # For one compound of a series the bound is weaker: its series changes, and does not come or go.
    assert epsilon([plan.charge_of(20)], 1e-5) > plan.epsilon()
