"""The ledger refuses, remembers, and notices."""

import multiprocessing
import sqlite3
from dataclasses import replace

import pytest

from pharma_fl.config.partner import BudgetSettings
from pharma_fl.errors import BudgetExceeded, PrivacyError
from pharma_fl.privacy.accountant import Charge, epsilon
from pharma_fl.privacy.ledger import Ledger
from pharma_fl.privacy.plan import PrivacyPlan


def a_plan(**changes):
    fields = {
        "sample_rate": 0.3,
        "noise_multiplier": 5.0,
        "clipping_norm": 1.0,
        "expected_batch": 100.0,
        "delta": 1e-5,
        "rounds": 20,
        "steps_per_round": 5,
    }
    return PrivacyPlan(**(fields | changes))


BUDGET = BudgetSettings(epsilon=2.0, delta=1e-5)


def spend(ledger, rounds, plan=None, run="r"):
    for number in rounds:
        ledger.reserve(run=run, round_number=number, plan=plan or a_plan(), budget=BUDGET)


def test_a_new_ledger_is_empty(tmp_path):
    ledger = Ledger(tmp_path / "deep" / "ledger.sqlite")
    assert ledger.entries() == ()
    assert ledger.epsilon(1e-5) == 0.0


def test_epsilon_is_the_accountants_over_all_runs(tmp_path):
    ledger = Ledger(tmp_path / "l.sqlite")
    spend(ledger, range(1, 4), run="a")
    spend(ledger, range(1, 3), a_plan(noise_multiplier=8.0), run="b")
    assert ledger.epsilon(1e-5) == epsilon([Charge(0.3, 5.0, 15), Charge(0.3, 8.0, 10)], 1e-5)


def test_the_round_that_would_overspend_is_refused_and_costs_nothing(tmp_path):
    ledger = Ledger(tmp_path / "l.sqlite")
    affordable = ledger.affordable_rounds(a_plan(rounds=1000), BUDGET)
    spend(ledger, range(1, affordable + 1))
    before = ledger.entries()
    with pytest.raises(BudgetExceeded, match="PFL-P10.*budget.epsilon"):
        spend(ledger, [affordable + 1])
    assert ledger.entries() == before
    assert ledger.epsilon(1e-5) <= BUDGET.epsilon


def test_the_partners_delta_counts_and_not_the_plans(tmp_path):
    ledger = Ledger(tmp_path / "l.sqlite")
    lax = a_plan(delta=0.5)
    affordable = ledger.affordable_rounds(a_plan(), BUDGET)
    assert ledger.affordable_rounds(lax, BUDGET) == affordable < lax.rounds
    spend(ledger, range(1, affordable + 1), lax)
    with pytest.raises(BudgetExceeded):
        spend(ledger, [affordable + 1], lax)


def test_a_round_is_charged_once(tmp_path):
    ledger = Ledger(tmp_path / "l.sqlite")
    spend(ledger, [1])
    with pytest.raises(PrivacyError, match="PFL-P11"):
        spend(ledger, [1])


def test_release_costs_nothing_and_twice_is_once(tmp_path):
    ledger = Ledger(tmp_path / "l.sqlite")
    spend(ledger, [1])
    spent = ledger.epsilon(1e-5)
    for _ in range(2):
        ledger.release(run="r", round_number=1, plan=a_plan(), reply="ab")
    assert [e.kind for e in ledger.entries()] == ["reserved", "released"]
    assert ledger.epsilon(1e-5) == spent


def test_nothing_is_released_that_was_not_reserved(tmp_path):
    with pytest.raises(PrivacyError, match="PFL-P15"):
        Ledger(tmp_path / "l.sqlite").release(run="r", round_number=1, plan=a_plan(), reply="ab")


def test_an_unprotected_round_ends_every_guarantee(tmp_path):
    ledger = Ledger(tmp_path / "l.sqlite")
    spend(ledger, [1], a_plan(mechanism="none", noise_multiplier=0.0))
    assert ledger.epsilon(1e-5) == float("inf")
    with pytest.raises(BudgetExceeded):
        spend(ledger, [1], run="later")


@pytest.mark.parametrize("statement", ["UPDATE entries SET steps = 1", "DELETE FROM entries"])
def test_update_and_delete_are_refused(tmp_path, statement):
    path = tmp_path / "l.sqlite"
    spend(Ledger(path), [1])
    with sqlite3.connect(path) as connection, pytest.raises(sqlite3.DatabaseError, match="append-only"):
        connection.execute(statement)
    connection.close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entries SET noise_multiplier = 50 WHERE seq = 2",
        "DELETE FROM entries WHERE seq = 1",
        "DELETE FROM entries WHERE seq = 2",
        "UPDATE entries SET hash = 'x' WHERE seq = 3",
    ],
)
def test_tampering_is_noticed_by_the_next_round(tmp_path, statement):
    path = tmp_path / "l.sqlite"
    spend(Ledger(path), [1, 2, 3])
    connection = sqlite3.connect(path)
    connection.executescript(f"DROP TRIGGER no_update; DROP TRIGGER no_delete; {statement};")
    connection.close()
    with pytest.raises(PrivacyError, match="PFL-P12"):
        spend(Ledger(path), [4])


def test_an_entry_that_the_table_would_change_is_not_written(tmp_path):
    ledger = Ledger(tmp_path / "l.sqlite")
    spend(ledger, [1])
    with pytest.raises(PrivacyError, match="PFL-P12"):
        spend(ledger, [True], run="another")
    with pytest.raises(PrivacyError, match="PFL-P12"):
        spend(ledger, [1], a_plan(mechanism="none", noise_multiplier=-0.0), run="another")
    assert len(ledger.entries()) == 1


def test_every_commit_waits_for_the_disk(tmp_path):
    with Ledger(tmp_path / "l.sqlite")._connect() as connection:
        assert connection.execute("PRAGMA synchronous").fetchone()[0] == 2  # FULL


def test_a_forged_entry_needs_all_later_hashes_too(tmp_path):
    path = tmp_path / "l.sqlite"
    spend(Ledger(path), [1, 2])
    first, second = Ledger(path).entries()
    forged = replace(first, noise_multiplier=50.0)
    connection = sqlite3.connect(path)
    connection.execute("DROP TRIGGER no_update")
    connection.execute("UPDATE entries SET noise_multiplier = 50, hash = ? WHERE seq = 1", (forged.hash,))
    connection.execute("UPDATE entries SET previous = ? WHERE seq = 2", (forged.hash,))
    connection.commit()
    connection.close()
    assert second.hash != replace(second, previous=forged.hash).hash
    with pytest.raises(PrivacyError, match="PFL-P12"):
        Ledger(path).entries()


def test_a_file_that_is_no_ledger_is_refused(tmp_path):
    path = tmp_path / "l.sqlite"
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(PrivacyError, match="PFL-P13"):
        Ledger(path)


def _spend_in_process(path, run, queue):
    done = 0
    try:
        for number in range(1, 200):
            Ledger(path).reserve(run=run, round_number=number, plan=a_plan(), budget=BUDGET)
            done += 1
    except BudgetExceeded:
        queue.put(done)


@pytest.mark.slow
def test_two_processes_cannot_overspend_together(tmp_path):
    path = tmp_path / "l.sqlite"
    alone = Ledger(path).affordable_rounds(a_plan(rounds=1000), BUDGET)
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    processes = [context.Process(target=_spend_in_process, args=(path, run, queue)) for run in ("a", "b")]
    for process in processes:
        process.start()
    done = [queue.get(), queue.get()]
    for process in processes:
        process.join(60)
    assert sum(done) == alone
    assert Ledger(path).epsilon(1e-5) <= BUDGET.epsilon
