"""`pharma-fl budget`: what a partner has spent, what is left, and what a plan would cost."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from pharma_fl.cli.output import console, print_json, table
from pharma_fl.cli.prepare import JsonOption
from pharma_fl.config import Federation, Partner
from pharma_fl.errors import PolicyViolation


def budget(
    partner_file: Annotated[Path, typer.Argument(metavar="PARTNER.TOML", help="The partner's own settings.")],
    plan: Annotated[
        Path | None, typer.Option(metavar="FEDERATION.TOML", help="A proposed run: show its price as well.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show the partner's privacy budget from its ledger, checking the ledger's chain.

    Epsilon is computed anew from the recorded mechanisms, by privacy-loss distributions and, as a second
    opinion, by Opacus.

    Example: `pharma-fl budget partners/north/partner.toml --plan federation.toml`
    """
    partner = Partner.load(partner_file)
    shown = _spent(partner)
    if plan is not None:
        shown["plan"] = _price(partner, Federation.load(plan))
    if as_json:
        print_json(_finite(shown))
        return
    rows = [[key.replace("_", " "), _text(value)] for key, value in shown.items() if key != "plan"]
    console.print(table(f"Privacy budget of {partner.name}", ["what", "value"], rows))
    if plan is not None:
        rows = [[key.replace("_", " "), _text(value)] for key, value in shown["plan"].items()]
        console.print(table(f"The plan in {plan}", ["what", "value"], rows))
    console.print("Unit: one compound with all its measurements. Relation: add or remove one compound.")


def _spent(partner: Partner) -> dict[str, Any]:
    from pharma_fl.privacy.accountant import epsilon, epsilon_by_opacus
    from pharma_fl.privacy.ledger import Ledger

    path, delta = partner.path(partner.ledger), partner.budget.delta
    entries = Ledger(path).entries() if path.exists() else ()
    charges = tuple(entry.charge for entry in entries if entry.kind == "reserved")
    spent = epsilon(charges, delta)
    return {
        "partner": partner.name,
        "epsilon_budget": partner.budget.epsilon,
        "delta": delta,
        "epsilon_spent": spent,
        "epsilon_spent_by_opacus": epsilon_by_opacus(charges, delta) if charges and math.isfinite(spent) else spent,
        "epsilon_left": max(0.0, partner.budget.epsilon - spent),
        "steps": sum(charge.steps for charge in charges),
        "ledger": str(path) if path.exists() else "none yet",
        "ledger_entries": len(entries),
    }


def _price(partner: Partner, federation: Federation) -> dict[str, Any]:
    from pharma_fl.privacy.ledger import Ledger
    from pharma_fl.privacy.plan import propose
    from pharma_fl.privacy.policy import check_policy

    proposed = propose(federation.privacy, federation.training)
    try:
        check_policy(proposed, partner.policy)
        allowed = "yes"
    except PolicyViolation as error:
        allowed = f"no: {error}"
    path = partner.path(partner.ledger)
    with tempfile.TemporaryDirectory() as scratch:
        # To look at a price must not make a ledger where there is none.
        ledger = Ledger(path if path.exists() else Path(scratch) / "ledger.sqlite")
        affordable = ledger.affordable_rounds(proposed, partner.budget)
    return {
        "epsilon_alone": proposed.epsilon(),
        "noise_multiplier": proposed.noise_multiplier,
        "sample_rate": proposed.sample_rate,
        "steps": proposed.rounds * proposed.steps_per_round,
        "rounds": proposed.rounds,
        "affordable_rounds": affordable,
        "policy_allows": allowed,
    }


def _text(value: object) -> str:
    if isinstance(value, float):
        return "no epsilon (an unprotected run)" if math.isinf(value) else f"{value:.6g}"
    return str(value)


def _finite(content: dict[str, Any]) -> dict[str, Any]:
    """Replace infinity, which JSON has not, by null."""
    return {
        key: _finite(value)
        if isinstance(value, dict)
        else None
        if isinstance(value, float) and math.isinf(value)
        else value
        for key, value in content.items()
    }
