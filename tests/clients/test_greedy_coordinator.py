"""A coordinator that asks for too much: every limit of partner.toml, through the very messages, refused with a code."""

import itertools

import pytest
from tests.clients.test_app import ask, file_of
from tests.partners import a_join, a_metrics_request, a_partner, a_plan, a_request, a_shared_plan

from pharma_fl.messages.wire import CONFIG, metrics_request, round_request
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
