"""`pharma-fl budget show`: what was spent, what is left, and what that means."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import numpy as np
import typer

from pharma_fl.cli.output import console, print_json, table
from pharma_fl.cli.prepare import JsonOption
from pharma_fl.config import Federation, Partner
from pharma_fl.errors import BudgetExceeded, PolicyViolation

if TYPE_CHECKING:
    from pharma_fl.privacy.guarantee import Guarantee
    from pharma_fl.privacy.history import History

PartnerArgument = Annotated[Path, typer.Argument(metavar="PARTNER.TOML", help="The partner's own settings.")]


def show(
    partner_file: PartnerArgument,
    plan: Annotated[
        Path | None, typer.Option(metavar="FEDERATION.TOML", help="A proposed run: show its price as well.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Draw epsilon over the ledger's life.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show the partner's privacy budget from its ledger, with the checks that a round makes.

    Epsilon is computed anew from the recorded mechanisms. Beside it stands what a worst-case attacker could do, and
    what the same history costs several compounds together, or a compound that several partners own.

    Example: `pharma-fl budget show partners/north/partner.toml --plan federation.toml`
    """
    from pharma_fl.clients.witnesses import ledger_of
    from pharma_fl.privacy.limits import limits_of, loosened

    partner = Partner.load(partner_file)
    ledger = ledger_of(partner)
    history = ledger.look()
    wanted = limits_of(partner.budget, partner.policy)
    guarantees = guarantees_of(partner, history)
    shown = {
        **_spent(partner, ledger, history),
        "left": _left(partner, history),
        "largest_series": _largest_series(partner),
        "looser_than_the_ledger_allows": loosened(history.limits.limits, wanted) if history.limits else [],
        "guarantees": [_as_json(one) for one in guarantees],
        "cohorts": _cohorts(partner, history),
    }
    if plan is not None:
        shown["plan"] = _price(partner, ledger, Federation.load(plan))
    if plot is not None:
        from pharma_fl.tracking.budget_chart import draw_spending

        draw_spending(plot, partner.name, _course(partner, ledger), partner.budget.epsilon)
        shown["plot"] = str(plot)
    if as_json:
        print_json(finite(shown))
        return
    _print(partner, shown, guarantees)


def guarantees_of(partner: Partner, history: History) -> tuple[Guarantee, ...]:
    """Return what the history means against each adversary; once where all face the same noise."""
    from pharma_fl.privacy.charge import Adversary
    from pharma_fl.privacy.guarantee import guarantee

    budget = partner.budget
    adversaries: tuple[Adversary, ...] = get_args(Adversary)
    shared = len({history.charges(adversary=one) for one in adversaries}) > 1
    return tuple(
        guarantee(
            history.charges(adversary=one),
            adversary=one if shared else "everybody",
            delta=budget.delta,
            unit=budget.unit,
            members=budget.members,
            shared_noise=shared,
        )
        for one in (adversaries if shared else adversaries[:1])
    )


def finite(content: Any) -> Any:
    """Replace infinity, which JSON has not, by null."""
    if isinstance(content, dict):
        return {str(key): finite(value) for key, value in content.items()}
    if isinstance(content, list):
        return [finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def text(value: object) -> str:
    """Write a value for a table."""
    if isinstance(value, float):
        return "no epsilon (an unprotected run)" if math.isinf(value) else f"{value:.6g}"
    return "-" if value is None else str(value)


def _spent(partner: Partner, ledger: Any, history: History) -> dict[str, Any]:
    from pharma_fl.privacy.second_opinions import epsilon_by_opacus

    budget = partner.budget
    charges = history.charges()
    spent = ledger.epsilon(budget)
    return {
        "partner": partner.name,
        "epsilon_budget": budget.epsilon,
        "delta": budget.delta,
        "unit": budget.unit,
        "epsilon_spent": spent,
        "epsilon_spent_by_opacus": epsilon_by_opacus(charges, budget.delta, unit=budget.unit),
        "epsilon_left": max(0.0, budget.epsilon - spent),
        "steps": sum(charge.steps for charge in charges),
        "ledger": str(ledger.path) if ledger.path.exists() else "none yet",
        "ledger_entries": history.length,
        "ledger_head": history.head,
    }


def _left(partner: Partner, history: History) -> dict[str, float]:
    """Return what is left of every limit on epsilon that is set, for the cohort that has least."""
    from datetime import UTC, datetime

    from pharma_fl.privacy.accountant import epsilon
    from pharma_fl.privacy.budget import allowances
    from pharma_fl.privacy.limits import cohorts_of

    budget = partner.budget
    found: dict[str, float] = {}
    for cohort in cohorts_of(budget.cohorts) or (None,):
        for one in allowances(history, budget, run="", purpose="metrics", now=datetime.now(UTC), cohort=cohort):
            spent = epsilon(one.spent, budget.delta, unit=budget.unit, members=budget.members)
            left = max(0.0, one.epsilon - spent)
            found[one.setting] = min(left, found.get(one.setting, left))
    return found


def _largest_series(partner: Partner) -> int | None:
    """Return how many compounds the largest family of the prepared data has, where that is known."""
    from pharma_fl.data.matrices import PreparedData
    from pharma_fl.errors import DataError

    try:
        series = PreparedData.open(partner.path(partner.data)).series
    except DataError:
        return None
    return None if series is None or not len(series) else int(np.bincount(series).max())


def _cohorts(partner: Partner, history: History) -> list[dict[str, Any]]:
    from pharma_fl.privacy.accountant import epsilon
    from pharma_fl.privacy.limits import cohorts_of

    return [
        {
            "since": None if cohort.since is None else cohort.since.isoformat(),
            "until": None if cohort.until is None else cohort.until.isoformat(),
            "epsilon_spent": epsilon(history.charges(cohort=cohort), partner.budget.delta),
        }
        for cohort in cohorts_of(partner.budget.cohorts)
    ]


def _price(partner: Partner, ledger: Any, federation: Federation) -> dict[str, Any]:
    from pharma_fl.privacy.accountant import epsilon
    from pharma_fl.privacy.contribution import contribution
    from pharma_fl.privacy.policy import check_policy
    from pharma_fl.strategies.proposal import proposed_plan

    proposed = proposed_plan(federation)
    try:
        check_policy(proposed, partner.policy, partner.budget, federation=federation.name)
        allowed = "yes"
    except PolicyViolation as error:
        allowed = f"no: {error}"
    share = 1.0
    try:
        share = contribution(proposed, ledger, budget=partner.budget, policy=partner.policy, run="")
    except BudgetExceeded as error:
        allowed, share = f"no: {error}", partner.policy.min_contribution
    alone = [proposed.charge_of(proposed.rounds, adversary, share) for adversary in ("partners", "coordinator")]
    return {
        "epsilon_alone": epsilon(alone[:1], proposed.delta, unit=proposed.unit),
        "epsilon_alone_coordinator": epsilon(alone[1:], proposed.delta, unit=proposed.unit),
        "noise_mode": proposed.noise_mode,
        "contribution": share,
        "unit": proposed.unit,
        "noise_multiplier": alone[0].noise_multiplier,
        "noise_multiplier_coordinator": alone[1].noise_multiplier,
        "sample_rate": proposed.sample_rate,
        "steps": proposed.rounds * proposed.steps_per_round,
        "rounds": proposed.rounds,
        "affordable_rounds": ledger.affordable_rounds(proposed, partner.budget, contribution=share),
        "policy_allows": allowed,
    }


def _course(partner: Partner, ledger: Any) -> list[tuple[str, float]]:
    """Return epsilon after each charge, of all compounds; of long histories at some hundred places."""
    from pharma_fl.privacy.accountant import epsilon
    from pharma_fl.privacy.entries import Reserved
    from pharma_fl.tracking.budget_chart import MOST_MARKS

    charges = [entry for entry in ledger.entries() if isinstance(entry, Reserved)]
    last = MOST_MARKS - 1
    marks = {round(place * (len(charges) - 1) / last) for place in range(MOST_MARKS)} if charges else set()
    budget = partner.budget
    return [
        (
            charges[mark].time,
            epsilon(
                [one.charge() for one in charges[: mark + 1]], budget.delta, unit=budget.unit, members=budget.members
            ),
        )
        for mark in sorted(marks)
    ]


def _as_json(found: Guarantee) -> dict[str, Any]:
    from pharma_fl.privacy.guarantee import sentence

    return {
        "adversary": found.adversary,
        "unit": found.unit,
        "epsilon_by_delta": {f"{delta:g}": value for delta, value in found.epsilons.items()},
        "attacker_advantage": found.attacker.advantage,
        "attacker_tpr_by_fpr": {f"{fpr:g}": value for fpr, value in found.attacker.tpr.items()},
        "epsilon_of_compounds_together": dict(found.by_series),
        "epsilon_of_a_compound_by_owners": dict(found.by_owners),
        "statement": sentence(found),
    }


def _print(partner: Partner, shown: dict[str, Any], guarantees: tuple[Guarantee, ...]) -> None:
    long = ("ledger", "ledger_head", "plot")
    parts = (*long, "guarantees", "cohorts", "plan", "left", "looser_than_the_ledger_allows")
    names = {"epsilon_spent_by_opacus": "second opinion (Opacus)"}
    rows = [[names.get(key, key.replace("_", " ")), text(value)] for key, value in shown.items() if key not in parts]
    rows += [[f"left of {setting}", text(value)] for setting, value in shown["left"].items()]
    console.print(table(f"Privacy budget of {partner.name}", ["what", "value"], rows))
    for key in long:
        if key in shown:
            console.print(f"{key.replace('_', ' ').capitalize()}: {shown[key]}", markup=False, soft_wrap=True)
    for one in shown["cohorts"]:
        since, until = one["since"] or "the start", one["until"] or "now"
        console.print(f"Compounds from {since} to {until} have spent epsilon {text(one['epsilon_spent'])}.")
    for found in guarantees:
        rows = [[f"epsilon at delta {delta:g}", text(value)] for delta, value in found.epsilons.items()]
        rows += [["worst-case attacker: advantage", f"{found.attacker.advantage:.3f}"]]
        rows += [
            [f"worst-case attacker: found at {100 * fpr:g} % false alarms", f"{100 * rate:.2f} %"]
            for fpr, rate in found.attacker.tpr.items()
        ]
        rows += [[f"epsilon of {n} compounds together", text(value)] for n, value in found.by_series.items()]
        rows += [
            [f"epsilon of a {found.unit} that {n} partners own", text(value)] for n, value in found.by_owners.items()
        ]
        console.print(table(f"Against {found.adversary}", ["what", "value"], rows))
    for one in shown["guarantees"]:
        console.print(one["statement"])
    most, largest = partner.budget.series_size, shown["largest_series"]
    if most is not None and largest is not None and largest > most:
        console.print(
            f"The largest series has {largest} compounds, more than budget.series_size {most}: what runs that sampled "
            "single compounds cost it is more than is shown.",
            style="bold",
        )
    for one in shown["looser_than_the_ledger_allows"]:
        said = (
            f"partner.toml is looser than the ledger's limits ({one}): rounds are refused. See pharma-fl budget loosen."
        )
        console.print(said, style="bold", markup=False, soft_wrap=True)
    if "plan" in shown:
        allowed = shown["plan"]["policy_allows"]
        rows = [[key.replace("_", " "), text(value)] for key, value in shown["plan"].items() if key != "policy_allows"]
        console.print(table("The plan", ["what", "value"], rows))
        console.print(f"Does the policy allow it? {allowed}", markup=False, soft_wrap=True)
        fits = shown["plan"]["affordable_rounds"] == shown["plan"]["rounds"]
        console.print(f"Does the budget cover all its rounds? {'yes' if fits else 'no'}")
    unit = "one compound with all its measurements" if partner.budget.unit == "compound" else "one scaffold family"
    console.print(f"Unit: {unit}. Relation: add or remove one.")
