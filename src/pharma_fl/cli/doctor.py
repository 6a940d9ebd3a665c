"""`pharma-fl doctor`: whether one side of a deployment is as it should be, question by question."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from pharma_fl.cli.output import console, print_json
from pharma_fl.cli.prepare import JsonOption
from pharma_fl.cli.status import SideArgument
from pharma_fl.deployment.checks import Check, bad
from pharma_fl.deployment.lines import FEDERATION_FILE, PARTNER_FILE
from pharma_fl.errors import ConfigError

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def doctor(
    file: SideArgument,
    plan: Annotated[
        Path | None,
        typer.Option(
            metavar="FEDERATION.TOML", help="At a partner: a proposed run, checked against policy and budget."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check keys, certificates, connections, clocks, data and budget of one side, and say what to do.

    Nothing is changed, and nothing is sent but a question to the SuperLink. Exit code 1 means that something fails.

    Example: `pharma-fl doctor federation.toml`, or `pharma-fl doctor partner.toml --plan federation.toml`
    """
    checks = checks_of(file, plan)
    failed = sum(one.status == "fail" for one in checks)
    if as_json:
        print_json({"file": str(file), "ok": not failed, "checks": [asdict(one) for one in checks]})
    else:
        _print(checks)
    if failed:
        raise typer.Exit(1)


def checks_of(file: Path, plan: Path | None = None) -> list[Check]:
    """Return the checks of one side; settings that cannot be read leave nothing else to ask."""
    if file.name not in {FEDERATION_FILE, PARTNER_FILE}:
        raise ConfigError("PFL-C08", f"Expected {FEDERATION_FILE} or {PARTNER_FILE}, got {file}: its name says which.")
    if plan is not None and file.name == FEDERATION_FILE:
        raise ConfigError("PFL-C08", "Expected partner.toml with --plan: federation.toml is the plan.")
    try:
        if file.name == FEDERATION_FILE:
            from pharma_fl.cli.doctor_coordinator import coordinator_checks

            return coordinator_checks(file)
        from pharma_fl.cli.doctor_partner import partner_checks

        return partner_checks(file, plan)
    except ConfigError as error:
        return [bad("settings", str(error), "See docs/configuration.md, or begin with pharma-fl init")]


def _print(checks: list[Check]) -> None:
    width = max(len(one.name) for one in checks)
    for one in checks:
        colour = _COLOURS[one.status]
        console.print(f"[{colour}]{one.status:<5}[/]{one.name:<{width}}  {escape(one.found)}", soft_wrap=True)
        if one.remedy:
            console.print(f"{'':<{width + 5}}  -> {escape(one.remedy)}", soft_wrap=True)
    failed, warned = (sum(one.status == status for one in checks) for status in ("fail", "warn"))
    console.print(f"{len(checks)} checks: {failed} fail, {warned} warn")
