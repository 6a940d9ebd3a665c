"""Whether a budget covers what is asked for: for life, for a year, for the run, for metrics, and by cohort."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple

from pharma_fl.config.partner import BudgetSettings
from pharma_fl.errors import BudgetExceeded
from pharma_fl.privacy.charge import Charge
from pharma_fl.privacy.entries import Cohort, Purpose
from pharma_fl.privacy.history import YEAR, History
from pharma_fl.privacy.limits import cohorts_of
from pharma_fl.privacy.spend import Spend

_METRICS: tuple[Purpose, ...] = ("metrics", "statistics")


class Allowance(NamedTuple):
    """One limit on epsilon and what counts towards it."""

    setting: str
    epsilon: float
    spent: tuple[Charge, ...]


def allowances(
    history: History, budget: BudgetSettings, *, run: str, purpose: Purpose, now: datetime, cohort: Cohort | None
) -> Iterator[Allowance]:
    """Yield every limit that a charge must fit, in the unit of the budget.

    Parameters
    ----------
    history : History
    budget : BudgetSettings
    run, purpose
        Of the charge.
    now : datetime
        A year counts back from here.
    cohort : Cohort or None
        Whose compounds; None where all share one budget.
    """
    yield Allowance("budget.epsilon", budget.epsilon, history.charges(cohort=cohort))
    if budget.epsilon_per_year is not None:
        since = (now - YEAR).date()
        yield Allowance("budget.epsilon_per_year", budget.epsilon_per_year, history.charges(cohort=cohort, since=since))
    if budget.epsilon_per_run is not None:
        yield Allowance("budget.epsilon_per_run", budget.epsilon_per_run, history.charges(cohort=cohort, run=run))
    if purpose in _METRICS:
        paid = history.charges(cohort=cohort, purposes=_METRICS)
        yield Allowance("budget.epsilon_for_metrics", budget.epsilon_for_metrics or 0.0, paid)


def affordable(allowance: Allowance, budget: BudgetSettings, charge: Charge, limit: int) -> int:
    """Return how many steps of a charge's mechanism, at most `limit`, an allowance covers."""
    from pharma_fl.privacy.accountant import affordable_steps  # noqa: PLC0415 - it takes a second to import

    return affordable_steps(
        allowance.spent,
        charge,
        budget=allowance.epsilon,
        delta=budget.delta,
        limit=limit,
        unit=budget.unit,
        members=budget.members,
    )


def covered_cohorts(history: History, budget: BudgetSettings, spend: Spend, now: datetime) -> tuple[Cohort, ...]:
    """Return the cohorts that can pay; without declared cohorts nothing, which stands for all compounds.

    A cohort whose budget is spent retires, and the others go on. Which those are follows from charges and dates
    in partner.toml alone, never from a measurement.

    Raises
    ------
    BudgetExceeded
        ``PFL-P10`` nobody can pay.
    """
    cohorts = cohorts_of(budget.cohorts, now.date())
    able, refused = [], []
    for cohort in cohorts or (None,):
        short = _shortfall(history, budget, spend, now, cohort)
        if short is None:
            able.append(cohort)
        else:
            refused.append(short)
    if not able:
        raise BudgetExceeded("PFL-P10", refused[-1])
    return tuple(cohort for cohort in able if cohort is not None)


def _shortfall(
    history: History, budget: BudgetSettings, spend: Spend, now: datetime, cohort: Cohort | None
) -> str | None:
    if not spend.protected:
        return None
    charge = spend.charge
    limit = charge.steps * spend.remaining_rounds
    for allowance in allowances(history, budget, run=spend.run, purpose=spend.purpose, now=now, cohort=cohort):
        if affordable(allowance, budget, charge, limit) < charge.steps:
            from pharma_fl.privacy.accountant import epsilon  # noqa: PLC0415 - it takes a second to import

            before, after = (
                epsilon(part, budget.delta, unit=budget.unit, members=budget.members)
                for part in (allowance.spent, (*allowance.spent, charge))
            )
            whose = "" if cohort is None else f" of the compounds from {cohort.since} until {cohort.until}"
            return (
                f"{spend.name} would bring epsilon{whose} from {before:.4g} to {after:.4g} at delta {budget.delta:g}, "
                f"above the budget of {allowance.epsilon:g} (partner.toml: {allowance.setting}). Nothing was computed "
                "and nothing left. Ask for a cheaper plan, or decide to raise the budget: pharma-fl budget loosen."
            )
    return None
