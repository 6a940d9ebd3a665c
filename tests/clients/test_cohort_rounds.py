"""Rounds of a partner that declares cohorts: who takes part, who pays, and what stays at home."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pytest
from tests.partners import a_partner, a_plan, a_request
from tests.privacy.ledgers import a_spend

from pharma_fl.clients.cohorts import of_cohorts
from pharma_fl.clients.records import open_records, training_folds
from pharma_fl.clients.train import train_round
from pharma_fl.data.cells import NO_DATE
from pharma_fl.errors import BudgetExceeded, DataError
from pharma_fl.privacy.accountant import epsilon
from pharma_fl.privacy.dp_sgd import DpSgd
from pharma_fl.privacy.entries import Cohort
from pharma_fl.privacy.ledger import Ledger

N = 150
EPOCH = date(1970, 1, 1)
OLD, NEW = date(2020, 5, 1), date(2025, 5, 1)
CUT = date(2024, 1, 1)
TABLES = {"form": "wide", "files": ["a.csv"], "date": "date"}


def number(day):
    return (day - EPOCH).days


def dated_partner(folder, days, **budget):
    settings = {"epsilon": 5.0, "delta": 1e-5, "cohorts": [CUT]} | budget
    return a_partner(folder, n=N, days=days, tables=TABLES, budget=settings)


@pytest.fixture
def sizes(monkeypatch):
    seen = []
    step = DpSgd.step

    def watched(self, records):
        seen.append(len(records))
        step(self, records)

    monkeypatch.setattr(DpSgd, "step", watched)
    return seen


def halves():
    """Every other compound is new; ten have no date, and count as the oldest."""
    days = np.where(np.arange(N) % 2 == 0, number(OLD), number(NEW)).astype(np.int32)
    days[:10] = NO_DATE
    return days


def test_records_of_a_cohort_are_those_of_its_days(tmp_path):
    partner = dated_partner(tmp_path, halves())
    request = a_request()
    records = open_records(partner, request.model, training_folds(partner))
    old = of_cohorts(records, [Cohort(since=None, until=CUT)])
    new = of_cohorts(records, [Cohort(since=CUT, until=date(2026, 1, 1))])
    both = of_cohorts(records, [Cohort(since=None, until=CUT), Cohort(since=CUT, until=date(2026, 1, 1))])
    assert len(old) + len(new) == len(both) == len(records)
    assert set(old.days) == {NO_DATE, number(OLD)}
    assert set(new.days) == {number(NEW)}
    assert (new.x != records.x[np.flatnonzero(records.days == number(NEW))]).nnz == 0
    # The last day is not of the cohort, the first is.
    assert len(of_cohorts(records, [Cohort(since=None, until=OLD)])) == int((records.days == NO_DATE).sum())
    assert len(of_cohorts(records, [Cohort(since=NEW, until=None)])) == len(new)


def test_a_cohort_that_spent_its_budget_takes_no_part_any_more(tmp_path, sizes):
    """The old compounds paid for a run before the new ones came."""
    partner, plan = dated_partner(tmp_path, halves(), epsilon=2.0), a_plan(rounds=1000)
    ledger = Ledger.of(partner)
    earlier = a_spend(1, plan=plan, run="earlier")
    paid = 1.8
    steps = next(n for n in range(1, 999) if epsilon([earlier.charge._replace(steps=n)], 1e-5) > paid)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pharma_fl.privacy.ledger.covered_cohorts", lambda *_: (Cohort(since=None, until=CUT),))
        spend = replace(earlier, charge=earlier.charge._replace(steps=steps))
        ledger.reserve(spend, budget=partner.budget, policy=partner.policy)
    days = open_records(partner, a_request().model, training_folds(partner)).days
    everybody, new = len(days), int((days == number(NEW)).sum())
    for round_number in range(1, 999):
        try:
            train_round(partner, a_request(round_number, plan=plan))
        except BudgetExceeded:
            break
    assert sizes == [everybody] * sizes.count(everybody) + [new] * sizes.count(new)
    assert 0 < sizes.count(everybody) < sizes.count(new)
    for cohort in (Cohort(since=None, until=CUT), Cohort(since=CUT, until=None)):
        assert 1.7 < epsilon(ledger.history().charges(cohort=cohort), 1e-5) <= 2.0


def test_compounds_of_tomorrow_take_no_part(tmp_path, sizes):
    """A charge covers the days until today alone, so what is dated later must not be in it."""
    days = halves()
    tomorrow = datetime.now(UTC).date() + timedelta(days=1)
    days[20:80] = number(tomorrow)
    partner = dated_partner(tmp_path, days)
    train_round(partner, a_request())
    folds = np.arange(N) % 5
    inside = np.isin(folds, training_folds(partner)) & ((np.arange(N) < 20) | (np.arange(N) >= 80))
    assert set(sizes) == {int(inside.sum())}
    later = Ledger.of(partner).history().charges(cohort=Cohort(since=tomorrow, until=None))
    assert epsilon(later, 1e-5) == 0.0


def test_data_without_dates_are_refused_before_any_charge(tmp_path):
    partner = dated_partner(tmp_path, None)
    with pytest.raises(DataError, match="PFL-D17"):
        train_round(partner, a_request())
    assert not Ledger.of(partner).entries()
