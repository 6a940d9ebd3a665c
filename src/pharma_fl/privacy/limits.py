"""The limits that a ledger holds a partner to: they may be tightened at any time, and loosened on the record alone."""

from __future__ import annotations

from datetime import date
from typing import Any

from pharma_fl.config.partner import BudgetSettings, PolicySettings
from pharma_fl.privacy.entries import Cohort

_Keys = dict[str, tuple[str, ...]]

_LESS_IS_TIGHTER: _Keys = {
    "budget": ("epsilon", "delta", "epsilon_per_year", "epsilon_per_run"),
    "policy": ("max_sample_rate", "max_clipping_norm", "max_steps_per_run", "max_rounds_per_day"),
}
_MORE_IS_TIGHTER: _Keys = {
    "policy": ("min_noise_multiplier", "min_metrics_noise_multiplier", "min_tolerated_colluders")
}
_NO_IS_TIGHTER: _Keys = {"policy": ("report_budget", "allow_unprotected")}
_FEWER_IS_TIGHTER: _Keys = {"policy": ("federations", "plans", "actions")}


def limits_of(budget: BudgetSettings, policy: PolicySettings) -> dict[str, Any]:
    """Return what a ledger keeps of partner.toml: all that decides how much may leave.

    Cohorts are not among it, since each charge says itself which compounds took part, and neither are the placebo and
    how small a contribution is still worth while.
    """
    return {
        "budget": budget.model_dump(mode="json", exclude={"cohorts"}),
        "policy": policy.model_dump(mode="json", exclude={"placebo", "min_contribution"}),
    }


def loosened(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Name each limit that lets more leave than it did, with both values."""

    def changed(section: str, key: str) -> str:
        return f"{section}.{key}: {_said(before, section, key)} to {_said(after, section, key)}"

    found = []
    for section, keys in _LESS_IS_TIGHTER.items():
        found += [changed(section, k) for k in keys if _number(after, section, k) > _number(before, section, k)]
    for section, keys in _MORE_IS_TIGHTER.items():
        found += [changed(section, k) for k in keys if _least(after, section, k) < _least(before, section, k)]
    for section, keys in _NO_IS_TIGHTER.items():
        found += [changed(section, k) for k in keys if after[section].get(k) and not before[section].get(k)]
    for section, keys in _FEWER_IS_TIGHTER.items():
        found += [changed(section, k) for k in keys if not _within(after[section].get(k), before[section].get(k))]
    # Left out, it is nothing, where the others are without limit.
    if (after["budget"].get("epsilon_for_metrics") or 0) > (before["budget"].get("epsilon_for_metrics") or 0):
        found.append(changed("budget", "epsilon_for_metrics"))
    # Left out, it is all there are.
    if _number(after, "policy", "min_contributors") < _number(before, "policy", "min_contributors"):
        found.append(changed("policy", "min_contributors"))
    if before["budget"].get("unit") != after["budget"].get("unit"):
        # Neither guarantee contains the other: a run for series costs a series less than a compound.
        found.append(changed("budget", "unit"))
    elif (after["budget"].get("series_size") or 0) < (before["budget"].get("series_size") or 0):
        # Smaller families are cheaper.
        found.append(changed("budget", "series_size"))
    return found


def cohorts_of(cuts: tuple[date, ...], today: date | None = None) -> tuple[Cohort, ...]:
    """Return the parts that days cut the compounds into, oldest first; without cuts there are none.

    A charge cannot concern a compound that is not there yet, so with `today` the last part ends after that day:
    training leaves out what is dated later.

    >>> [(str(c.since), str(c.until)) for c in cohorts_of((date(2025, 1, 1),))]
    [('None', '2025-01-01'), ('2025-01-01', 'None')]
    """
    if not cuts:
        return ()
    end = None if today is None else date.fromordinal(today.toordinal() + 1)
    marks = [None, *cuts]
    ends = [*cuts, end]
    parts = zip(marks, ends, strict=True)
    if end is None:
        return tuple(Cohort(since=since, until=until) for since, until in parts)
    begun = [(since, until) for since, until in parts if since is None or since < end]
    return tuple(Cohort(since=since, until=min(until or end, end)) for since, until in begun)


def _said(limits: dict[str, Any], section: str, key: str) -> object:
    value = limits[section].get(key)
    if value is None:
        return {"epsilon_for_metrics": "nothing", "min_contributors": "all"}.get(key, "no limit")
    return value


def _number(limits: dict[str, Any], section: str, key: str) -> float:
    value = limits[section].get(key)
    return float("inf") if value is None else float(value)


def _least(limits: dict[str, Any], section: str, key: str) -> float:
    return float(limits[section].get(key) or 0)


def _within(some: list[str] | None, others: list[str] | None) -> bool:
    return others is None or (some is not None and set(some) <= set(others))
