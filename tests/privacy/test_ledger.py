"""The ledger refuses, remembers, and keeps what it was told."""

import json
import multiprocessing
import sqlite3
import stat

import pytest
from tests.privacy.ledgers import BUDGET, POLICY, Clock, a_ledger, a_plan, a_spend, spend

from pharma_fl.config.partner import BudgetSettings, PolicySettings
from pharma_fl.errors import BudgetExceeded, PolicyViolation, PrivacyError
from pharma_fl.privacy.accountant import epsilon
from pharma_fl.privacy.charge import Charge
from pharma_fl.privacy.entries import Limited, Reserved
from pharma_fl.privacy.ledger import Ledger


def kinds(ledger):
    return [entry.kind for entry in ledger.entries()]


def test_a_look_makes_no_ledger(tmp_path):
    ledger = a_ledger(tmp_path / "deep")
    assert ledger.entries() == ()
    assert ledger.epsilon(BUDGET) == 0.0
    assert ledger.head == "0" * 64
    assert ledger.affordable_rounds(a_plan(rounds=3), BUDGET) == 3
    assert not (tmp_path / "deep").exists()


def test_the_first_charge_says_whose_ledger_it_is_and_under_which_limits(tmp_path):
    ledger = a_ledger(tmp_path)
    spend(ledger, [1])
    opened, limited, reserved = ledger.entries()
    assert (opened.kind, opened.partner, limited.limits["budget"]["epsilon"]) == ("opened", "north", 2.0)
    assert reserved.charge() == Charge(0.3, 5.0, 5)
    assert (reserved.federation, reserved.run, reserved.round, reserved.purpose) == ("trial", "r", 1, "train")
    assert (reserved.unit, reserved.relation, reserved.clipping_norm) == ("compound", "add-or-remove-one", 1.0)
    assert stat.S_IMODE(ledger.path.stat().st_mode) == stat.S_IMODE(ledger.key.stat().st_mode) == 0o600


def test_epsilon_is_the_accountants_over_all_runs(tmp_path):
    ledger = a_ledger(tmp_path)
    spend(ledger, range(1, 4), run="a")
    spend(ledger, range(1, 3), a_plan(noise_multiplier=8.0), run="b")
    assert ledger.epsilon(BUDGET) == epsilon([Charge(0.3, 5.0, 15), Charge(0.3, 8.0, 10)], 1e-5)


def test_no_entry_holds_an_epsilon(tmp_path):
    """It is derived: another accountant may price the same history anew."""
    ledger = a_ledger(tmp_path)
    spend(ledger, [1])
    assert "epsilon" not in Reserved.model_fields
    assert "epsilon" not in ledger.links()[-1].body


def test_the_round_that_would_overspend_is_refused_and_costs_nothing(tmp_path):
    ledger, plan = a_ledger(tmp_path), a_plan(rounds=1000)
    affordable = ledger.affordable_rounds(plan, BUDGET)
    spend(ledger, range(1, affordable + 1), plan)
    before = ledger.entries()
    with pytest.raises(BudgetExceeded, match=r"PFL-P10.*budget\.epsilon"):
        spend(ledger, [affordable + 1], plan)
    assert ledger.entries() == before
    assert ledger.epsilon(BUDGET) <= BUDGET.epsilon
    assert epsilon([Charge(0.3, 5.0, 5 * (affordable + 1))], 1e-5) > BUDGET.epsilon


def test_the_partners_delta_counts_and_not_the_plans(tmp_path):
    ledger, lax = a_ledger(tmp_path), a_plan(delta=0.5, rounds=1000)
    affordable = ledger.affordable_rounds(a_plan(rounds=1000), BUDGET)
    assert ledger.affordable_rounds(lax, BUDGET) == affordable < lax.rounds
    spend(ledger, range(1, affordable + 1), lax)
    with pytest.raises(BudgetExceeded):
        spend(ledger, [affordable + 1], lax)


def test_a_round_is_charged_once(tmp_path):
    ledger = a_ledger(tmp_path)
    spend(ledger, [1])
    with pytest.raises(PrivacyError, match="PFL-P11"):
        spend(ledger, [1])


def test_rounds_of_training_and_of_metrics_are_counted_apart(tmp_path):
    ledger = a_ledger(tmp_path)
    budget = BudgetSettings(epsilon=2.0, epsilon_for_metrics=1.0)
    spend(ledger, [1], budget=budget)
    spend(ledger, [1], budget=budget, purpose="metrics", plan=a_plan(), charge=Charge(1.0, 20.0, 1))
    ledger.release("metrics", "r", 1, "ab")
    assert ledger.history().released("metrics", "r", 1)
    assert not ledger.history().released("train", "r", 1)


def test_a_run_keeps_its_plan(tmp_path):
    ledger = a_ledger(tmp_path)
    spend(ledger, [1])
    for other in ({"expected_batch": 50.0}, {"clipping": "automatic"}, {"noise_multiplier": 9.0}):
        with pytest.raises(PrivacyError, match="PFL-P14"):
            spend(ledger, [2], a_plan(**other))
    spend(ledger, [2])


def test_release_costs_nothing_and_twice_is_once(tmp_path):
    ledger = a_ledger(tmp_path)
    spend(ledger, [1])
    spent = ledger.epsilon(BUDGET)
    for _ in range(2):
        ledger.release("train", "r", 1, "ab")
    assert kinds(ledger) == ["opened", "limited", "reserved", "released"]
    assert ledger.epsilon(BUDGET) == spent


def test_nothing_is_released_that_was_not_reserved(tmp_path):
    with pytest.raises(PrivacyError, match="PFL-P15"):
        a_ledger(tmp_path).release("train", "r", 1, "ab")


def test_an_unprotected_round_ends_every_guarantee(tmp_path):
    ledger = a_ledger(tmp_path)
    spend(ledger, [1], a_plan(mechanism="none", noise_multiplier=0.0))
    assert ledger.epsilon(BUDGET) == float("inf")
    assert ledger.affordable_rounds(a_plan(), BUDGET) == 0
    with pytest.raises(BudgetExceeded):
        spend(ledger, [1], run="later")


# --- limits -------------------------------------------------------------------------------------------------------


def rounds_that_fit(ledger, budget, *, policy=POLICY, run="r", plan=None):
    plan = plan or a_plan(rounds=1000)
    number = ledger.history().last_round("train", run)
    with pytest.raises((BudgetExceeded, PolicyViolation)) as refused:  # noqa: PT012 - which round it is, is the question
        for number in range(number + 1, 1001):  # noqa: B020
            spend(ledger, [number], plan, run=run, budget=budget, policy=policy)
    return number - 1, str(refused.value)


def test_a_run_has_a_budget_of_its_own(tmp_path):
    ledger, budget = a_ledger(tmp_path), BudgetSettings(epsilon=2.0, epsilon_per_run=1.0)
    done, said = rounds_that_fit(ledger, budget)
    assert "budget.epsilon_per_run" in said
    assert epsilon([Charge(0.3, 5.0, 5 * done)], 1e-5) <= 1.0 < epsilon([Charge(0.3, 5.0, 5 * done + 5)], 1e-5)
    again, _ = rounds_that_fit(ledger, budget, run="another")
    assert 0 < again <= done


def test_a_year_has_a_budget_of_its_own_and_forgets_after_365_days(tmp_path, monkeypatch):
    clock = Clock(monkeypatch)
    ledger, budget = a_ledger(tmp_path), BudgetSettings(epsilon=1.5, epsilon_per_year=1.0)
    done, said = rounds_that_fit(ledger, budget)
    assert "budget.epsilon_per_year" in said
    clock.forward(days=364)
    assert rounds_that_fit(ledger, budget)[0] == done
    clock.forward(days=2)
    assert rounds_that_fit(ledger, budget)[0] == 2 * done
    # For life it adds up all the same.
    clock.forward(days=366)
    _, said = rounds_that_fit(ledger, budget)
    assert "budget.epsilon)" in said
    assert ledger.epsilon(budget) <= 1.5


def test_a_clock_that_goes_back_opens_no_limit_again(tmp_path, monkeypatch):
    clock = Clock(monkeypatch)
    ledger, policy = a_ledger(tmp_path), PolicySettings(max_rounds_per_day=2)
    spend(ledger, [1, 2], policy=policy)
    clock.forward(days=-30)
    with pytest.raises(PolicyViolation, match="max_rounds_per_day"):
        spend(ledger, [3], policy=policy)


def test_rounds_of_a_day_are_counted_over_all_runs(tmp_path, monkeypatch):
    clock = Clock(monkeypatch)
    ledger, policy = a_ledger(tmp_path), PolicySettings(max_rounds_per_day=3)
    spend(ledger, [1, 2], policy=policy)
    clock.forward(hours=23)
    spend(ledger, [1], run="s", policy=policy)
    for run, number in (("r", 3), ("s", 2)):
        with pytest.raises(PolicyViolation, match="PFL-P20.*max_rounds_per_day 3"):
            spend(ledger, [number], run=run, policy=policy)
    clock.forward(hours=2)
    spend(ledger, [3, 4], policy=policy)
    with pytest.raises(PolicyViolation):
        spend(ledger, [5], policy=policy)


def test_steps_of_a_run_are_counted(tmp_path):
    ledger, policy = a_ledger(tmp_path), PolicySettings(max_steps_per_run=12)
    spend(ledger, [1, 2], policy=policy)
    with pytest.raises(PolicyViolation, match="PFL-P20.*15 steps.*max_steps_per_run 12"):
        spend(ledger, [3], policy=policy)
    spend(ledger, [1], run="s", policy=policy)


def test_metrics_spend_nothing_unless_the_budget_says_so_and_no_more_than_it_says(tmp_path):
    release = {"purpose": "metrics", "charge": Charge(1.0, 10.0, 1), "coordinator_noise": 10.0}
    with pytest.raises(BudgetExceeded, match=r"PFL-P10.*budget\.epsilon_for_metrics"):
        spend(a_ledger(tmp_path), [1], **release)
    ledger, budget = a_ledger(tmp_path / "other"), BudgetSettings(epsilon=2.0, epsilon_for_metrics=0.8)
    spend(ledger, [1, 2], budget=budget)
    with pytest.raises(BudgetExceeded, match="epsilon_for_metrics"):
        spend(ledger, range(1, 100), budget=budget, **release)
    paid = ledger.history().charges(purposes=("metrics",))
    assert 0 < epsilon(paid, 1e-5) <= 0.8
    # They count for life as well.
    training = Charge(0.3, 5.0, 10)
    assert ledger.epsilon(budget) == epsilon([*paid, training], 1e-5) > epsilon([training], 1e-5)


@pytest.mark.parametrize(
    ("tight", "loose"),
    [
        (("budget", {"epsilon": 45.0}), ("budget", {"epsilon": 55.0})),
        (("budget", {"epsilon": 50.0, "delta": 1e-6}), ("budget", {"epsilon": 50.0, "delta": 1e-4})),
        (
            ("budget", {"epsilon": 50.0, "epsilon_per_year": 40.0}),
            ("budget", {"epsilon": 50.0, "epsilon_per_year": 41.0}),
        ),
        (("budget", {"epsilon": 50.0, "epsilon_per_run": 40.0}), ("budget", {"epsilon": 50.0})),
        (("budget", {"epsilon": 50.0}), ("budget", {"epsilon": 50.0, "epsilon_for_metrics": 0.1})),
        (
            ("budget", {"epsilon": 50.0, "unit": "series", "series_size": 9}),
            ("budget", {"epsilon": 50.0, "unit": "series", "series_size": 8}),
        ),
        (("policy", {"min_noise_multiplier": 2.0}), ("policy", {"min_noise_multiplier": 1.9})),
        (("policy", {"max_sample_rate": 0.4}), ("policy", {"max_sample_rate": 0.5})),
        (("policy", {"max_clipping_norm": 2.0}), ("policy", {"max_clipping_norm": 3.0})),
        (("policy", {"max_steps_per_run": 100}), ("policy", {"max_steps_per_run": 101})),
        (("policy", {"max_rounds_per_day": 10}), ("policy", {})),
        (("policy", {"federations": ("trial",)}), ("policy", {"federations": ("trial", "other")})),
        (("policy", {"federations": ("trial",)}), ("policy", {})),
        (("policy", {}), ("policy", {"actions": ("train", "metrics")})),
        (("policy", {"min_metrics_noise_multiplier": 20.0}), ("policy", {})),
        (("policy", {}), ("policy", {"report_budget": True})),
        (("policy", {}), ("policy", {"allow_unprotected": True})),
    ],
    ids=str,
)
def test_limits_tighten_by_themselves_and_loosen_on_the_record_alone(tmp_path, tight, loose):
    def settings(of):
        section, values = of
        return {
            "budget": BudgetSettings(**values) if section == "budget" else BudgetSettings(epsilon=50.0),
            "policy": PolicySettings(**values) if section == "policy" else POLICY,
        }

    ledger, plan = a_ledger(tmp_path), a_plan(unit="series")
    spend(ledger, [1], plan, **settings(loose))
    spend(ledger, [2], plan, **settings(tight))
    last = ledger.history().limits
    assert (last.by, last.why) == ("partner.toml", "tightened")
    before = ledger.entries()
    with pytest.raises(PolicyViolation, match="PFL-P21.*budget loosen"):
        spend(ledger, [3], plan, **settings(loose))
    assert ledger.entries() == before
    spend(ledger, [3], plan, **settings(tight))
    (named,) = ledger.loosen(**settings(loose), by="A. Roe", why="a second year")
    assert named.startswith(f"{tight[0]}.")
    recorded = ledger.entries()[-1]
    assert isinstance(recorded, Limited)
    assert (recorded.by, recorded.why) == ("A. Roe", "a second year")
    spend(ledger, [4], plan, **settings(loose))


def test_a_limit_that_refuses_the_first_round_after_it_was_tightened_holds_all_the_same(tmp_path):
    ledger = a_ledger(tmp_path)
    spend(ledger, [1])
    with pytest.raises(BudgetExceeded):
        spend(ledger, [2], budget=BudgetSettings(epsilon=0.1))
    with pytest.raises(PolicyViolation, match="PFL-P21.*budget.epsilon"):
        spend(ledger, [2])


def test_another_unit_is_another_promise_whichever_way(tmp_path):
    """Runs for series cost a series less than a compound, so a budget that changes its unit would go on and on."""
    ledger, plan = a_ledger(tmp_path), a_plan(unit="series", rounds=1000)
    budget = BudgetSettings(epsilon=4.0)
    done, _ = rounds_that_fit(ledger, budget, plan=plan)
    series = BudgetSettings(epsilon=4.0, unit="series", series_size=1)
    with pytest.raises(PolicyViolation, match="PFL-P21.*budget.unit: compound to series"):
        spend(ledger, [done + 1], plan, budget=series)
    assert ledger.loosen(budget=series, policy=POLICY, by="A. Roe", why="series from now on")
    spend(ledger, [done + 1], plan, budget=series)


def test_a_placebo_and_cohorts_are_no_limits(tmp_path):
    ledger = a_ledger(tmp_path)
    spend(ledger, [1], policy=PolicySettings(placebo=True))
    spend(ledger, [2], policy=PolicySettings(placebo=False))
    assert kinds(ledger) == ["opened", "limited", "reserved", "reserved"]


def test_what_was_spent_elsewhere_can_be_declared_beyond_any_budget(tmp_path):
    ledger = a_ledger(tmp_path)
    spend(ledger, [1])
    declared = {"purpose": "declared", "charge": Charge(0.3, 1.0, 100), "by": "A. Roe", "why": "an earlier study"}
    ledger.reserve(a_spend(1, run="declared", **declared), budget=BUDGET, policy=POLICY)
    assert ledger.epsilon(BUDGET) > 10
    with pytest.raises(BudgetExceeded):
        spend(ledger, [2])


# --- one at a time ------------------------------------------------------------------------------------------------


def _spend_in_process(folder, run, queue, start):
    spend(a_ledger(folder), [1], a_plan(rounds=1000), run=run)
    done = 1
    start.wait(60)
    try:
        for number in range(2, 200):
            spend(a_ledger(folder), [number], a_plan(rounds=1000), run=run)
            done += 1
    except BudgetExceeded:
        queue.put(done)


@pytest.mark.slow
def test_two_processes_cannot_overspend_together(tmp_path):
    alone = a_ledger(tmp_path).affordable_rounds(a_plan(rounds=1000), BUDGET)
    context = multiprocessing.get_context("spawn")
    queue, start = context.SimpleQueue(), context.Barrier(2)
    processes = [context.Process(target=_spend_in_process, args=(tmp_path, run, queue, start)) for run in ("a", "b")]
    for process in processes:
        process.start()
    done = [queue.get(), queue.get()]
    for process in processes:
        process.join(60)
    assert sum(done) == alone
    assert min(done) > 0
    assert a_ledger(tmp_path).epsilon(BUDGET) <= BUDGET.epsilon


def test_whoever_finds_the_ledger_held_waits_and_then_says_so(tmp_path):
    with a_ledger(tmp_path).held():
        assert a_ledger(tmp_path).entries() == ()
        with pytest.raises(PrivacyError, match="PFL-P19"), a_ledger(tmp_path).held(wait_s=0.05):
            pass
    spend(a_ledger(tmp_path), [1])


def test_what_another_process_wrote_is_read_before_the_next_charge(tmp_path):
    """This process remembers what it verified, and must not trust it once somebody else wrote."""
    first = a_ledger(tmp_path)
    spend(first, [1])
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=spend, args=(a_ledger(tmp_path), [2]))
    process.start()
    process.join(60)
    with pytest.raises(PrivacyError, match="PFL-P11"):
        spend(first, [2])
    assert first.epsilon(BUDGET) == epsilon([Charge(0.3, 5.0, 10)], 1e-5)


def test_a_charge_that_fails_in_the_middle_is_not_remembered(tmp_path, monkeypatch):
    ledger = a_ledger(tmp_path)
    spend(ledger, [1])
    with monkeypatch.context() as patch:
        patch.setattr("pharma_fl.privacy.history.History.add", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            spend(ledger, [2])
    # On disk it is, and so it counts.
    with pytest.raises(PrivacyError, match="PFL-P11"):
        spend(ledger, [2])


def test_every_commit_waits_for_the_disk(tmp_path):
    with a_ledger(tmp_path).held() as ledger:
        assert ledger._connection.execute("PRAGMA synchronous").fetchone()[0] == 2  # FULL


@pytest.mark.parametrize("statement", ["UPDATE entries SET body = ''", "DELETE FROM entries"])
def test_update_and_delete_are_refused(tmp_path, statement):
    ledger = a_ledger(tmp_path)
    spend(ledger, [1])
    with sqlite3.connect(ledger.path) as connection, pytest.raises(sqlite3.DatabaseError, match="append-only"):
        connection.execute(statement)
    connection.close()


def test_every_entry_is_told_to_the_audit_log(tmp_path):
    ledger = a_ledger(tmp_path)
    (tmp_path / "audit.jsonl").write_text('{"event": "answered"}\n{"half a li')
    spend(ledger, [1])
    ledger.release("train", "r", 1, "ab")
    lines = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines() if line.endswith("}")]
    told = [line for line in lines if line["event"] == "ledger"]
    assert [(one["seq"], one["entry"], one["hash"]) for one in told] == [
        (seq, link.body, link.hash) for seq, link in enumerate(ledger.links(), start=1)
    ]


def test_a_log_that_was_rotated_is_told_everything_anew(tmp_path):
    ledger = a_ledger(tmp_path)
    spend(ledger, [1, 2])
    (tmp_path / "audit.jsonl").rename(tmp_path / "audit.jsonl.1")
    spend(ledger, [3])
    assert [echo.seq for echo in ledger.journal.all()] == [1, 2, 3, 4, 5]


def test_a_partners_own_files_are_used(tmp_path):
    from tests.partners import a_partner

    partner = a_partner(tmp_path)
    ledger = Ledger.of(partner)
    spend(ledger, [1])
    assert ledger.path == (tmp_path / "north" / "ledger.sqlite").resolve()
    assert (tmp_path / "north" / "ledger.key").exists()
    assert (tmp_path / "north" / "audit.jsonl").exists()
    assert ledger.entries()[0].partner == "north"
