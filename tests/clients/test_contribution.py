"""Partners of other limits in one sum: each lowers its clip so far that the common noise meets its own, and says so."""

import math

import numpy as np
import pytest
import tomli_w
import torch
from tests.clients.consortium import Consortium, said
from tests.partners import MODEL, NAMES, ONE_STEP, Silence, a_shared_plan

from pharma_fl.clients import train
from pharma_fl.clients.records import open_records, training_folds
from pharma_fl.clients.state import PrivateState
from pharma_fl.model.fit import new_network
from pharma_fl.privacy.accountant import epsilon
from pharma_fl.privacy.charge import Charge

PLAN = a_shared_plan()
SENSITIVITY = 1 + 2 * math.sqrt(PLAN.summed_values) * 2.0**-13
"""The norm of 1, and twice the root of 520 times the unit: 32 is the power of two above that root, and 8 bits more."""


def reserved(four, name):
    return [entry for entry in four.ledger(name).entries() if entry.kind == "reserved"]


def rewrite(four, name, **settings):
    """Write a partner's file anew."""
    content = {"name": name, "budget": {"epsilon": 5.0, "delta": 1e-5}} | settings
    content["policy"] = {"report_budget": True} | settings.get("policy", {})
    (four.folder / name / "partner.toml").write_text(tomli_w.dumps(content))


def test_more_noise_than_the_plans_is_met_by_a_lower_clip(tmp_path):
    four = Consortium(tmp_path, by_name={"north": {"policy": {"min_noise_multiplier": 8.0}}}).set_up()
    four.vectors(1)
    (north,), (east,) = (reserved(four, name) for name in ("north", "east"))
    assert north.noise_multiplier == 8.0
    assert north.clipping_norm == pytest.approx(1 - SENSITIVITY / 2, rel=1e-12)
    assert (east.noise_multiplier, east.clipping_norm) == (4.0, 1.0)
    # The coordinator alone does not know the share of the partner that may collude either.
    for entry in (north, east):
        assert entry.noise_multiplier_coordinator == pytest.approx(entry.noise_multiplier * math.sqrt(3 / 2))


def test_a_noise_between_two_steps_is_met_with_more(tmp_path):
    four = Consortium(tmp_path, by_name={"north": {"policy": {"min_noise_multiplier": 4.7}}}).set_up()
    four.vectors(1)
    (north,) = reserved(four, "north")
    assert 4.7 <= north.noise_multiplier < 4.7 * 64 / 53
    assert 64 * 4.0 / north.noise_multiplier == pytest.approx(54)


def test_a_smaller_budget_is_met_by_the_largest_contribution_that_it_covers(tmp_path):
    four = Consortium(tmp_path, by_name={"north": {"budget": {"epsilon": 1.1, "delta": 1e-5}}}).set_up()
    assert said(four.round("north")) == "done"
    (north,) = reserved(four, "north")
    part = round(64 * 4.0 / north.noise_multiplier)
    assert 16 < part < 64
    assert north.noise_multiplier == pytest.approx(64 * 4.0 / part, rel=1e-12)

    def whole_run(contribution):
        return epsilon([Charge(PLAN.sample_rate, 64 * 4.0 / contribution, PLAN.rounds)], 1e-5)

    assert whole_run(part) <= 1.1 < whole_run(part + 1)
    for number in range(2, PLAN.rounds + 1):
        assert said(four.round("north", number)) == "done"
    assert four.ledger("north").epsilon(four.partner("north").budget) <= 1.1


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"budget": {"epsilon": 0.05, "delta": 1e-5}}, "PFL-P10"),
        ({"budget": {"epsilon": 1.1, "delta": 1e-5}, "policy": {"min_contribution": 1.0}}, "PFL-P10"),
        ({"budget": {"epsilon": 5.0, "epsilon_per_run": 0.05, "delta": 1e-5}}, "PFL-P10"),
        ({"policy": {"min_noise_multiplier": 8.0, "min_contribution": 0.75}}, "PFL-P20"),
        # Within the policy, and between two of the steps.
        ({"policy": {"min_noise_multiplier": 4.0 / 0.7501, "min_contribution": 0.7501}}, "PFL-P10"),
    ],
)
def test_a_contribution_too_small_is_refused_before_the_run(tmp_path, settings, code):
    four = Consortium(tmp_path, by_name={"north": settings})
    assert said(four.keys("north")) == code
    assert not four.state("north").exists()
    assert four.entries() == dict.fromkeys(NAMES, 0)


def test_what_other_runs_spent_counts(tmp_path):
    """A second run of the same plan fits in with less of a clip."""
    four = Consortium(tmp_path, budget={"epsilon": 1.6, "delta": 1e-5}).set_up()
    for number in range(1, PLAN.rounds + 1):
        assert said(four.round("north", number)) == "done"
    four.run = "run-2"
    four.set_up()
    assert said(four.round("north")) == "done"
    last = reserved(four, "north")[-1]
    assert reserved(four, "north")[0].noise_multiplier == 4.0
    assert 4.0 < last.noise_multiplier <= 16.0
    spent = [Charge(PLAN.sample_rate, 4.0, 6), Charge(PLAN.sample_rate, last.noise_multiplier, 6)]
    assert epsilon(spent, 1e-5) <= 1.6


# What is fixed by the first charge


@pytest.mark.parametrize("change", ["loosened", "tightened"])
def test_the_runs_first_charge_fixes_it(tmp_path, change):
    """As composition of what was not fixed in advance is not what the accountant computes."""
    before, after, share = {
        "loosened": ({"policy": {"min_noise_multiplier": 8.0}}, {}, 0.5),
        # Two rounds fit in, and six do not: asked anew, it would be less.
        "tightened": ({}, {"budget": {"epsilon": 1.1, "delta": 1e-5}}, 1.0),
    }[change]
    four = Consortium(tmp_path, by_name={"north": before}).set_up()
    four.vectors(1)
    rewrite(four, "north", **after)
    if change == "loosened":
        partner = four.partner("north")
        four.ledger("north").loosen(budget=partner.budget, policy=partner.policy, by="test", why="test")
    assert said(four.round("north", 2)) == "done"
    assert [entry.noise_multiplier for entry in reserved(four, "north")] == [4.0 / share] * 2
    assert len({entry.clipping_norm for entry in reserved(four, "north")}) == 1


def test_a_limit_tightened_during_the_run_holds_from_then_on(tmp_path):
    """What the run contributes is fixed, so that the partner leaves it."""
    four = Consortium(tmp_path).set_up()
    four.vectors(1)
    rewrite(four, "north", policy={"min_noise_multiplier": 8.0})
    before = four.charged("north")
    assert said(four.round("north", 2)) in {"PFL-P10", "PFL-P20"}
    assert four.charged("north") == before


# What the vector holds


def one_record(tmp_path, **policy):
    """North has one compound to train on, and is the only one whose data count; nobody adds noise."""
    plan = a_shared_plan(sample_rate=1.0, clipping_norm=0.01, rounds=2)
    placebo = {"budget": {"epsilon": 50.0, "delta": 1e-5}, "policy": {"placebo": True}}
    mine = {"n": 1, "folds": [2], "policy": policy}
    return Consortium(tmp_path, plan, by_name={"north": mine}, **placebo).set_up()


def norms(four):
    """Norms of what is in the opened sum, and of what north's heads moved by, in the units of the clip."""
    total = four.opened(four.vectors(1))
    partner = four.partner("north")
    start = new_network(MODEL, open_records(partner, MODEL, training_folds(partner)), 0).heads.state_dict()
    after = PrivateState.load(four.state("north")).heads
    moved = torch.cat([(start[name] - after[name]).flatten() for name in start]).double()
    gradient = moved.norm() * four.plan.expected_batch / ONE_STEP.head_learning_rate
    return np.linalg.norm(total.astype(float)) * 0.01 * 2.0**-13, float(gradient)


@pytest.mark.parametrize(("least", "share"), [(0.5, 1.0), (8.0, 0.5), (16.0, 0.25)])
def test_one_compound_moves_trunk_and_heads_by_the_contribution_and_no_more(tmp_path, monkeypatch, least, share):
    monkeypatch.setattr(train, "SystemNoise", lambda **_: Silence())
    four = one_record(tmp_path, min_noise_multiplier=least)
    trunk, heads = norms(four)
    clip = 0.01 * (1 - (1 - share) * SENSITIVITY)
    assert reserved(four, "north")[0].clipping_norm == pytest.approx(clip, rel=1e-12)
    assert trunk > 0.1 * clip
    assert heads > 0.1 * clip
    # Rounding moves each of 520 values by half a unit at most.
    assert math.hypot(trunk, heads) == pytest.approx(clip, abs=0.01 * 2.0**-14 * math.sqrt(520))
    assert math.hypot(trunk, heads) <= share * 0.01 * SENSITIVITY


def test_the_noise_stays_the_common_one(tmp_path, monkeypatch):
    """A smaller contribution does not buy itself less noise: the others' epsilon rests on it."""
    drawn = []

    class Watched(Silence):
        def add_discrete_gaussian(self, vector, std):
            drawn.append(std)

        def add_normal(self, tensor, std, scale=1.0):
            drawn.append(std)
            super().add_normal(tensor, std, scale)

    monkeypatch.setattr(train, "SystemNoise", lambda **_: Watched())
    four = Consortium(tmp_path, by_name={"north": {"policy": {"min_noise_multiplier": 8.0}}}).set_up()
    four.round("north")
    first, drawn[:] = list(drawn), []
    four.round("east")
    assert first == drawn
    assert {round(std / (4.0 * SENSITIVITY * math.sqrt(3 / 2)), 9) for std in drawn[1:]} == {1.0}
    assert drawn[0] == pytest.approx(4.0 * SENSITIVITY * 2**13 / math.sqrt(2), rel=1e-6)
