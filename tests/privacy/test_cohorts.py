"""A compound has spent only since it is there, and declaring cohorts anew forgets nothing."""

from datetime import date
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from tests.privacy.ledgers import Clock, a_ledger, a_plan, spend

from pharma_fl.config.partner import BudgetSettings
from pharma_fl.errors import BudgetExceeded
from pharma_fl.privacy.accountant import epsilon
from pharma_fl.privacy.charge import Charge
from pharma_fl.privacy.entries import Cohort
from pharma_fl.privacy.limits import cohorts_of

CUT = date(2026, 1, 1)


def budget(*cuts, limit=2.0):
    return BudgetSettings(epsilon=limit, cohorts=cuts)


def spent_of(ledger, since=None, until=None):
    return epsilon(ledger.history().charges(cohort=Cohort(since=since, until=until)), 1e-5)


days = st.one_of(st.none(), st.dates(date(2020, 1, 1), date(2030, 1, 1)))


@given(a=days, b=days, c=days, d=days, day=st.dates(date(2019, 1, 1), date(2031, 1, 1)))
def test_cohorts_overlap_if_a_day_is_of_both(a, b, c, d, day):
    one, other = Cohort(since=a, until=b), Cohort(since=c, until=d)

    def holds(cohort):
        return (cohort.since is None or cohort.since <= day) and (cohort.until is None or day < cohort.until)

    assert one.overlaps(other) == other.overlaps(one)
    if holds(one) and holds(other):
        assert one.overlaps(other)


@given(cuts=st.lists(st.dates(date(2020, 1, 1), date(2030, 1, 1)), unique=True).map(sorted), today=days)
def test_cohorts_part_the_days_until_today(cuts, today):
    parts = cohorts_of(tuple(cuts), today)
    if not cuts:
        assert parts == ()
        return
    assert parts[0].since is None
    assert all(one.until == other.since for one, other in pairwise(parts))
    assert (parts[-1].until is None) is (today is None)
    if today is not None:
        assert parts[-1].until == date.fromordinal(today.toordinal() + 1)


def test_a_compound_added_later_has_spent_only_since_then(tmp_path, monkeypatch):
    clock = Clock(monkeypatch, "2025-11-01T12:00:00")
    ledger = a_ledger(tmp_path)
    spend(ledger, range(1, 6), budget=budget(CUT))
    clock.forward(days=100)
    spend(ledger, range(6, 9), budget=budget(CUT))
    assert spent_of(ledger, until=CUT) == epsilon([Charge(0.3, 5.0, 40)], 1e-5)
    assert spent_of(ledger, since=CUT) == epsilon([Charge(0.3, 5.0, 15)], 1e-5)
    assert ledger.epsilon(budget(CUT)) == spent_of(ledger, until=CUT)


def test_a_cohort_whose_budget_is_spent_retires_and_the_others_go_on(tmp_path, monkeypatch):
    clock = Clock(monkeypatch, "2025-11-01T12:00:00")
    ledger, plan = a_ledger(tmp_path), a_plan(rounds=1000)
    number = 0
    with pytest.raises(BudgetExceeded, match=r"compounds from None until"):  # noqa: PT012
        for number in range(1, 100):
            spend(ledger, [number], plan, budget=budget(CUT))
    clock.forward(days=100)
    assert ledger.affordable_rounds(plan, budget(CUT)) == number - 1
    taking_part = spend(ledger, [number], plan, budget=budget(CUT))
    assert [(one.since, one.until) for one in taking_part] == [(CUT, date(2026, 2, 10))]
    assert spent_of(ledger, until=CUT) == epsilon([Charge(0.3, 5.0, 5 * (number - 1))], 1e-5)
    # Without cohorts all compounds would be charged, and the old ones cannot pay.
    with pytest.raises(BudgetExceeded):
        spend(ledger, [number + 1], plan, budget=budget())


def test_declaring_cohorts_anew_forgets_nothing(tmp_path, monkeypatch):
    """A charge says which days took part; whoever cuts otherwise meets every charge that touches his part."""
    clock = Clock(monkeypatch, "2026-03-01T12:00:00")
    ledger = a_ledger(tmp_path)
    spend(ledger, range(1, 4), budget=budget(CUT))
    clock.forward(days=30)
    later = date(2026, 3, 15)
    cuts = (date(2025, 6, 1), CUT, date(2026, 2, 1), later)
    spent = [spent_of(ledger, one.since, one.until) for one in cohorts_of(cuts)]
    whole = epsilon([Charge(0.3, 5.0, 15)], 1e-5)
    assert spent == [whole, whole, whole, whole, 0.0]  # dated after the last charge: not there yet
    # A part that begins one day earlier was touched.
    assert spent_of(ledger, since=date(2026, 3, 1)) == whole
    assert spent_of(ledger, since=date(2026, 3, 2)) == 0.0


def test_charges_without_cohorts_touch_everybody_for_ever(tmp_path):
    ledger = a_ledger(tmp_path)
    spend(ledger, [1])
    assert spent_of(ledger, since=date(2090, 1, 1)) == epsilon([Charge(0.3, 5.0, 5)], 1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"cohorts": (CUT, CUT)},
        {"cohorts": (CUT, date(2025, 1, 1))},
        {"cohorts": (CUT,), "unit": "series", "series_size": 9},
        {"unit": "series"},
        {"series_size": 9},
    ],
)
def test_budgets_that_make_no_sense_are_refused(settings):
    with pytest.raises(ValidationError):
        BudgetSettings(epsilon=1.0, **settings)
