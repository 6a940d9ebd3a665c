"""A coordinator that asks for too much: every limit of partner.toml, through the very messages, refused with a code."""

import itertools

import pytest
import torch
from tests.clients.test_app import ask, file_of
from tests.partners import METRICS_ALLOWED, a_join, a_metrics_request, a_partner, a_plan, a_request, a_shared_plan

from pharma_fl.messages.envelope import CONFIG
from pharma_fl.messages.wire import metrics_request, round_request
from pharma_fl.privacy.accountant import epsilon
from pharma_fl.privacy.entries import Reserved
from pharma_fl.privacy.ledger import Ledger

POLICY = {
    "min_noise_multiplier": 3.0,
    "max_sample_rate": 0.5,
    "max_clipping_norm": 2.0,
    "max_steps_per_run": 12,
    "federations": ["trial"],
}


def charges(partner):
    return [entry for entry in Ledger.of(partner).entries() if isinstance(entry, Reserved)]


def refused_with(folder, content, code, kind="train"):
    answer = ask(file_of(folder), content, kind)
    config = dict(answer.config_records[CONFIG])
    assert config["status"] == "refused"
    assert config["code"] == code
    assert not answer.array_records
    assert not answer.metric_records
    # A code and a fixed sentence: no number of partner.toml is in it.
    assert not any(character.isdigit() for character in config["reason"])


GREEDY = {
    "less noise": (a_plan(noise_multiplier=2.9), {}),
    "a higher rate": (a_plan(sample_rate=0.51), {}),
    "a larger clip": (a_plan(clipping_norm=2.1), {}),
    "a larger clip of the heads": (a_plan(clipping="groups", head_clipping_norm=2.1), {}),
    "more rounds": (a_plan(rounds=7), {}),
    "more steps": (a_plan(steps_per_round=3), {}),
    "no protection": (a_plan(mechanism="none", noise_multiplier=0.0), {}),
    "another federation": (a_plan(), {"federation": "trial-2"}),
}


@pytest.mark.parametrize("wish", GREEDY)
def test_what_is_outside_of_the_policy_is_refused_at_joining_and_in_the_round(tmp_path, wish):
    partner = a_partner(tmp_path, policy=POLICY)
    plan, changes = GREEDY[wish]
    federation = changes.get("federation", "trial")
    joined = dict(ask(file_of(tmp_path), a_join(federation, plan), "query.join").config_records[CONFIG])
    assert (joined["status"], joined["code"]) == ("refused", "PFL-P20")
    refused_with(tmp_path, round_request(a_request(plan=plan, **changes)), "PFL-P20")
    assert charges(partner) == []
    assert ask(file_of(tmp_path), round_request(a_request())).config_records[CONFIG]["status"] == "done"


def test_shares_of_noise_are_refused_while_nothing_hides_them(tmp_path):
    partner = a_partner(tmp_path)
    refused_with(tmp_path, round_request(a_request(plan=a_shared_plan())), "PFL-F34")
    # Nor for a plan in which a share is the whole, but for the one that may be told.
    alone = a_shared_plan(contributors=2, tolerated_losses=0)
    refused_with(tmp_path, round_request(a_request(plan=alone)), "PFL-F34")
    assert charges(partner) == []


def test_metrics_are_refused_unless_policy_and_budget_allow_them(tmp_path):
    partner = a_partner(tmp_path)
    ask(file_of(tmp_path), round_request(a_request()))
    refused_with(tmp_path, metrics_request(a_metrics_request()), "PFL-P20", "evaluate")
    assert [entry.purpose for entry in charges(partner)] == ["train"]


def ask_until_refused(folder, requests):
    for count, request in enumerate(requests):
        config = dict(ask(file_of(folder), round_request(request)).config_records[CONFIG])
        if config["status"] == "refused":
            return count, config["code"]
    raise AssertionError("never refused")


def test_a_new_run_for_every_round_escapes_no_budget(tmp_path):
    """A run's own budget would never be reached so, and the one for life is."""
    partner = a_partner(tmp_path, budget={"epsilon": 2.0, "epsilon_per_run": 1.9, "delta": 1e-5})
    rounds, code = ask_until_refused(tmp_path, (a_request(1, run=f"run-{n}") for n in itertools.count()))
    assert code == "PFL-P10"
    spent = [entry.charge() for entry in charges(partner)]
    assert len(spent) == rounds
    assert epsilon(spent, 1e-5) <= 2.0 < epsilon([*spent, spent[0]], 1e-5)


def test_plans_that_change_from_run_to_run_escape_no_budget(tmp_path):
    partner = a_partner(tmp_path, budget={"epsilon": 2.0, "delta": 1e-5})
    wishes = (
        a_request(1, run=f"run-{n}", plan=a_plan(noise_multiplier=3.0 + n % 3, sample_rate=0.3 + 0.1 * (n % 2)))
        for n in itertools.count()
    )
    _, code = ask_until_refused(tmp_path, wishes)
    assert code == "PFL-P10"
    assert epsilon([entry.charge() for entry in charges(partner)], 1e-5) <= 2.0


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"budget": {"epsilon": 50.0, "epsilon_per_run": 0.9}}, "PFL-P10"),
        ({"budget": {"epsilon": 50.0, "epsilon_per_year": 0.9}}, "PFL-P10"),
        ({"policy": {"max_rounds_per_day": 2}}, "PFL-P20"),
    ],
)
def test_each_limit_on_the_pace_is_met(tmp_path, settings, code):
    partner = a_partner(tmp_path, **settings)
    rounds, found = ask_until_refused(tmp_path, (a_request(n) for n in range(1, 7)))
    assert found == code
    assert 0 < rounds < 6
    assert len(charges(partner)) == rounds


def test_a_budget_for_series_refuses_runs_that_sample_compounds(tmp_path):
    budget = {"epsilon": 5.0, "unit": "series", "series_size": 3}
    a_partner(tmp_path, series=[n // 3 for n in range(150)], budget=budget)
    refused_with(tmp_path, round_request(a_request()), "PFL-P20")
    done = ask(file_of(tmp_path), round_request(a_request(plan=a_plan(unit="series"))))
    assert done.config_records[CONFIG]["status"] == "done"


def test_limits_loosened_by_hand_are_refused_until_they_are_recorded(tmp_path):
    partner = a_partner(tmp_path)
    ask(file_of(tmp_path), round_request(a_request(1)))
    text = file_of(tmp_path).read_text()
    file_of(tmp_path).write_text(text.replace("epsilon = 5.0", "epsilon = 9.0"))
    refused_with(tmp_path, round_request(a_request(2)), "PFL-P21")
    assert len(charges(partner)) == 1


def test_what_the_coordinator_remembers_is_looked_for_in_every_round(tmp_path):
    partner = a_partner(tmp_path)
    joined = ask(file_of(tmp_path), a_join("trial", a_plan()), "query.join").config_records[CONFIG]
    ask(file_of(tmp_path), round_request(a_request(1, witnesses=(str(joined["ledger"]),))))
    head = Ledger.of(partner).head
    ask(file_of(tmp_path), round_request(a_request(2, witnesses=(head,))))
    refused_with(tmp_path, round_request(a_request(3, witnesses=(head, "ab" * 32))), "PFL-P15")
    assert len(charges(partner)) == 2


def test_a_plan_that_was_not_approved_is_refused_however_much_it_protects(tmp_path):
    approved = a_plan()
    partner = a_partner(tmp_path, policy={"plans": [approved.digest]})
    other = a_plan(noise_multiplier=400.0)
    joined = dict(ask(file_of(tmp_path), a_join(plan=other), "query.join").config_records[CONFIG])
    assert (joined["status"], joined["code"]) == ("refused", "PFL-P20")
    refused_with(tmp_path, round_request(a_request(plan=other)), "PFL-P20")
    assert charges(partner) == []
    assert ask(file_of(tmp_path), round_request(a_request(plan=approved))).config_records[CONFIG]["status"] == "done"


def test_a_round_that_was_paid_for_is_not_computed_again(tmp_path):
    """Neither with another trunk, nor after a later round, nor after another run."""
    partner = a_partner(tmp_path)
    first = ask(file_of(tmp_path), round_request(a_request(1)))
    again = ask(file_of(tmp_path), round_request(a_request(1)))
    assert first.array_records == again.array_records
    moved = {name: value + 1 for name, value in a_request().trunk.items()}
    refused_with(tmp_path, round_request(a_request(1, trunk=moved)), "PFL-F02")
    ask(file_of(tmp_path), round_request(a_request(2)))
    refused_with(tmp_path, round_request(a_request(1)), "PFL-F02")
    ask(file_of(tmp_path), round_request(a_request(1, run="run-2")))
    for number in (1, 2):
        refused_with(tmp_path, round_request(a_request(number)), "PFL-P16")
    assert [(entry.run, entry.round) for entry in charges(partner)] == [("run-1", 1), ("run-1", 2), ("run-2", 1)]


@pytest.mark.parametrize(
    "kind",
    [
        "query.heads",
        "query.metrics",
        "query.data",
        "query",
        "train.audit",
        "evaluate.test",
        "evaluate.heads",
        "query." + "x" * 63,
    ],
)
def test_what_is_no_question_of_ours_is_refused_and_costs_nothing(tmp_path, kind):
    """Heads, scores and canaries cannot even be asked for."""
    partner = a_partner(tmp_path, **METRICS_ALLOWED)
    ask(file_of(tmp_path), round_request(a_request()))
    refused_with(tmp_path, round_request(a_request(2)), "PFL-F01", kind)
    refused_with(tmp_path, metrics_request(a_metrics_request()), "PFL-F01", kind)
    assert len(charges(partner)) == 1


def test_a_trunk_that_holds_heads_is_refused_before_anything_is_charged(tmp_path):
    partner = a_partner(tmp_path)
    trunk = a_request().trunk
    for name in ("heads.classes.weight", "trunk.extra"):
        greedy = trunk | {name: torch.zeros(2, 8)}
        refused_with(tmp_path, round_request(a_request(trunk=greedy)), "PFL-M03")
    assert charges(partner) == []


def test_metrics_of_another_round_or_run_or_twice_over_are_not_given(tmp_path):
    partner = a_partner(tmp_path, **METRICS_ALLOWED)
    ask(file_of(tmp_path), round_request(a_request(1)))
    once = ask(file_of(tmp_path), metrics_request(a_metrics_request(1)), "evaluate")
    assert once.config_records[CONFIG]["status"] == "done"
    before = len(charges(partner))
    again = ask(file_of(tmp_path), metrics_request(a_metrics_request(1)), "evaluate")
    assert again.array_records == once.array_records
    for asked in (a_metrics_request(2), a_metrics_request(1, run="run-2")):
        refused_with(tmp_path, metrics_request(asked), "PFL-F02", "evaluate")
    assert len(charges(partner)) == before
