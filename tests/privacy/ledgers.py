"""Ledgers for tests: a plan, a spend, and a book to charge."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from pharma_fl.config.partner import BudgetSettings, PolicySettings
from pharma_fl.privacy import ledger_file
from pharma_fl.privacy.ledger import Ledger
from pharma_fl.privacy.plan import PrivacyPlan
from pharma_fl.privacy.spend import Spend

BUDGET = BudgetSettings(epsilon=2.0, delta=1e-5)
POLICY = PolicySettings()


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


def a_spend(number=1, *, plan=None, run="r", federation="trial", **changes):
    spend = Spend.of_round(plan or a_plan(), federation=federation, run=run, round_number=number)
    return replace(spend, **changes)


def a_ledger(folder, partner="north"):
    return Ledger(folder / "ledger.sqlite", partner=partner, journal=folder / "audit.jsonl")


def spend(ledger, rounds, plan=None, run="r", *, budget=BUDGET, policy=POLICY, witnesses=(), **changes):
    found = None
    for number in rounds:
        found = ledger.reserve(
            a_spend(number, plan=plan, run=run, **changes), budget=budget, policy=policy, witnesses=witnesses
        )
    return found


class Clock:
    """Puts another time in the place of now, for the ledger alone."""

    def __init__(self, monkeypatch, start="2026-01-15T12:00:00"):
        self.now = datetime.fromisoformat(start).replace(tzinfo=UTC)
        clock = self

        class Frozen(datetime):
            @classmethod
            def now(cls, tz=None):
                return clock.now

        monkeypatch.setattr(ledger_file, "datetime", Frozen)
        monkeypatch.setattr("pharma_fl.privacy.ledger.datetime", Frozen)

    def forward(self, **span):
        self.now += timedelta(**span)
