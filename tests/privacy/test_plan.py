"""One object makes sampler, mechanism and charge, in both modes of noise and for both units."""

import math

import numpy as np
import pytest
from pydantic import ValidationError
from tests.conftest import SeededNoise
from tests.privacy.ledgers import a_plan

from pharma_fl.config.federation import PrivacySettings, TrainingSettings
from pharma_fl.errors import PrivacyError
from pharma_fl.privacy.accountant import epsilon
from pharma_fl.privacy.charge import Charge
from pharma_fl.privacy.plan import PrivacyPlan, propose


def shared(**changes):
    fields = {
        "noise_mode": "shared",
        "contributors": 10,
        "tolerated_colluders": 3,
        "steps_per_round": 1,
        "noise_multiplier": 3.0,
        "summed_values": 50_000,
    }
    return a_plan(**(fields | changes))


def test_shares_add_up_to_the_accounted_noise():
    """Drawn: what each adversary does not know of the noise has the standard deviation that is accounted."""
    plan = shared(tolerated_losses=2)
    noise = np.zeros((10 - 2, 200_000), np.int32)
    for seed, share in enumerate(noise):
        plan.shared.add_share(share, SeededNoise(seed))
    accounted = plan.shared.sensitivity / plan.shared.grid
    assert np.std(noise[3:].sum(0)) == pytest.approx(plan.noise_against("partners") * accounted, rel=0.01)
    assert np.std(noise.sum(0)) == pytest.approx(plan.noise_against("coordinator") * accounted, rel=0.01)
    assert plan.noise_against("partners") == plan.noise_multiplier


def test_what_is_shared_follows_from_the_plan():
    plan = shared(tolerated_losses=1, clipping_norm=0.5, ring_bits=64)
    noise = plan.shared
    assert (noise.clipping_norm, noise.noise_multiplier, noise.values, noise.ring_bits) == (0.5, 3.0, 50_000, 64)
    assert (noise.contributors, noise.tolerated_colluders, noise.tolerated_losses) == (10, 3, 1)
    assert noise == plan.shared
    assert plan.multipliers == (noise.head_std / 0.5,)
    assert plan.multipliers[0] > plan.noise_against("coordinator")
    with pytest.raises(ValueError, match="shares no noise"):
        _ = a_plan().shared


def test_a_smaller_contribution_costs_less():
    plan = shared()
    for adversary in ("partners", "coordinator"):
        assert plan.noise_against(adversary, 0.5) == 2 * plan.noise_against(adversary)
        assert plan.charge_of(7, adversary, 0.5) == Charge(0.3, plan.noise_against(adversary, 0.5), 7)
    clip = plan.shared.clip_of(0.5)
    assert clip < plan.clipping_norm / 2
    assert (clip + plan.shared.slack) * 2 == pytest.approx(plan.shared.sensitivity)
    for contribution in (0.0, 0.004, 1.01):
        with pytest.raises(ValueError, match="contribution"):
            plan.noise_against("partners", contribution)
    with pytest.raises(ValueError, match="contribution = 1"):
        a_plan().charge_of(1, "partners", 0.5)


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
        ({"rounds": 10_001}, "rounds <= 10,000, got 10,001"),
        ({"summed_values": 0}, "summed_values >= 1"),
        (
            {"tolerated_losses": 3},
            "tolerated_losses \\* .*contributors - tolerated_colluders = 7, got tolerated_losses = 3",
        ),
        ({"summed_values": 10**9, "noise_multiplier": 100.0}, "ring_bits = 32"),
        ({"summed_values": 1, "noise_multiplier": 0.001}, "noise_multiplier = 0.001"),
    ],
)
def test_shares_that_would_not_protect_are_refused(changes, named):
    with pytest.raises(ValidationError, match=named):
        shared(**changes)


@pytest.mark.parametrize(
    "changes",
    [{"contributors": 4}, {"tolerated_colluders": 1}, {"tolerated_losses": 1}, {"summed_values": 9}, {"ring_bits": 64}],
)
def test_local_noise_has_no_shares(changes):
    with pytest.raises(ValidationError, match="local"):
        a_plan(**changes)


@pytest.mark.parametrize(("colluders", "losses", "contributors"), [(1, 0, 2), (1, 1, 4), (3, 2, 10), (2, 3, 15)])
def test_losses_are_few_enough_that_no_two_stories_of_them_open_less_than_the_shares_are_for(
    colluders, losses, contributors
):
    """The most honest partners that can be called lost when each is told another story."""
    fields = {"tolerated_colluders": colluders, "tolerated_losses": losses}
    plan = shared(contributors=contributors, **fields)
    threshold = contributors - losses
    honest = contributors - colluders
    assert honest * losses // (threshold - colluders) <= losses
    assert plan.shared.honest_shares == honest - losses
    with pytest.raises(ValidationError):
        shared(contributors=contributors - 1, **fields)


def test_a_plan_counts_the_partners_that_share():
    privacy = PrivacySettings(epsilon=2.0, noise_mode="shared", tolerated_colluders=2)
    training = TrainingSettings(rounds=5, local_steps=1)
    plan = propose(privacy, training, partners=6, summed_values=1000)
    assert (plan.contributors, plan.tolerated_colluders, plan.summed_values, plan.ring_bits) == (6, 2, 1000, 32)
    assert plan.epsilon() <= 2.0
    local = propose(PrivacySettings(epsilon=2.0), training, partners=6, summed_values=1000)
    assert local.noise_multiplier == plan.noise_multiplier
    assert (local.contributors, local.summed_values, local.ring_bits) == (1, 0, 32)


def test_a_plan_with_shared_noise_must_know_how_much_is_summed():
    privacy = PrivacySettings(noise_multiplier=2.0, noise_mode="shared")
    with pytest.raises(ValueError, match="summed_values >= 1"):
        propose(privacy, TrainingSettings(rounds=5, local_steps=1), partners=6)


def test_a_plan_takes_the_narrowest_ring():
    privacy = PrivacySettings(noise_multiplier=4.0, noise_mode="shared")
    training = TrainingSettings(rounds=5, local_steps=1)
    bits = [propose(privacy, training, partners=n, summed_values=71_000_000).ring_bits for n in (2, 10, 30)]
    assert bits == [32, 32, 64]
    narrow = propose(privacy, training, partners=30, summed_values=71_000_000).model_dump() | {"ring_bits": 32}
    with pytest.raises(ValidationError, match="ring_bits = 32"):
        PrivacyPlan(**narrow)


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
