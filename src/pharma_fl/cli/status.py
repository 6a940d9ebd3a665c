"""`pharma-fl status`: where a run stands, at the coordinator or at a partner, before, while and after it runs."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from pharma_fl.cli.output import console, print_json, table
from pharma_fl.cli.prepare import JsonOption
from pharma_fl.config import Federation, Partner
from pharma_fl.config.base import read_text
from pharma_fl.deployment.lines import FEDERATION_FILE, PARTNER_FILE, local_address
from pharma_fl.deployment.processes import supernode_of
from pharma_fl.deployment.run_folder import RunFolder, look
from pharma_fl.errors import ConfigError, PharmaFlError

SideArgument = Annotated[Path, typer.Argument(metavar="FILE", help="federation.toml, or partner.toml.")]

_ROUNDS = 5
"""How many of the last rounds' seconds are shown."""
_AUDIT_BYTES = 1 << 18


def status(file: SideArgument, as_json: JsonOption = False) -> None:
    """Say where a run stands.

    At the coordinator: partners, round, budgets as partners report them, whether the ServerApp lives, the last good
    model. At a partner: its SuperNode, the last message, the last round, what is left of the budget.

    Example: `pharma-fl status federation.toml`
    """
    if file.name == PARTNER_FILE:
        shown = partner_status(file)
    elif file.name == FEDERATION_FILE:
        shown = coordinator_status(file)
    else:
        raise ConfigError("PFL-C08", f"Expected {FEDERATION_FILE} or {PARTNER_FILE}, got {file}: its name says which.")
    if as_json:
        print_json(shown)
    elif file.name == PARTNER_FILE:
        _print_partner(shown)
    else:
        _print_coordinator(shown)


def coordinator_status(file: Path) -> dict[str, Any]:
    """Return the coordinator's side; a SuperLink that does not answer is said, and nothing else depends on it."""
    federation = Federation.load(file)
    folder = file.resolve().parent
    now = look(folder / federation.output)
    nodes, said = _nodes(folder, federation)
    last = now.rounds[-1] if now.rounds else {}
    return {
        "federation": federation.name,
        "state": now.state,
        "server_app": "runs" if now.alive else "does not run",
        "superlink": said or "answers",
        "run": now.progress.get("run"),
        "flower_run": now.waiting or now.flower_run,
        "phase": now.progress.get("phase"),
        "round": int(last.get("round", 0)),
        "rounds": int(now.progress.get("rounds", federation.training.rounds)),
        "updated": now.progress.get("updated"),
        "seconds": [record["seconds"] for record in now.rounds[-_ROUNDS:]],
        "partners": {name: _partner(name, now, last, nodes) for name in federation.partners},
        "folder": str(now.folder),
        "model": None if now.model is None else str(now.model),
        "end": now.end,
    }


def partner_status(file: Path) -> dict[str, Any]:
    """Return a partner's side."""
    partner = Partner.load(file)
    process = supernode_of(file)
    answered, charged = _last_of(partner.path(partner.audit_log))
    return {
        "partner": partner.name,
        "supernode": "does not run" if process is None else "runs",
        "process": process,
        "last_message": answered,
        "last_round": charged,
        **_budget(partner),
    }


def _nodes(folder: Path, federation: Federation) -> tuple[dict[str, Any], str]:
    """Return the registered SuperNodes by name, and why there are none."""
    link = federation.superlink
    if link is None:
        return {}, "none: federation.toml has no [superlink]"
    from pharma_fl.strategies.supernodes import supernodes

    try:
        found = supernodes(local_address(link), read_text(folder / link.root_certificates).encode())
    except PharmaFlError as error:
        return {}, str(error)
    # Of two with the same name the one that is there counts.
    return {one.name: one for one in sorted(found, key=lambda one: one.status == "online")}, ""


def _partner(name: str, now: RunFolder, last: dict[str, Any], nodes: dict[str, Any]) -> dict[str, Any]:
    told, node = now.progress.get("partners", {}).get(name, {}), nodes.get(name)
    return {
        "node": told.get("node") or (node.node if node else None),
        "connection": node.status if node else None,
        "since": node.since or None if node else None,
        "state": told.get("state"),
        "code": told.get("code") or None,
        "last_answer": told.get("last_answer"),
        "epsilon_spent": last.get("epsilon_spent", {}).get(name),
        "epsilon_left": last.get("epsilon_left", {}).get(name),
    }


def _last_of(log: Path) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """Return the last answer and the last charge in a partner's audit log."""
    import json

    try:
        with log.open("rb") as stream:
            size = stream.seek(0, 2)
            stream.seek(max(0, size - _AUDIT_BYTES))
            lines = stream.read().split(b"\n")[:-1]
    except OSError:
        return None, None
    answered = charged = None
    for line in reversed(lines):
        try:
            found = json.loads(line)
            entry = json.loads(found["entry"]) if found.get("event") == "ledger" else None
        except (ValueError, KeyError, TypeError):
            # The first of them may be cut.
            continue
        if entry is None:
            answered = answered or found
        elif entry.get("kind") == "reserved":
            kept = ("time", "federation", "run", "round", "purpose")
            charged = charged or {key: entry[key] for key in kept if key in entry}
        if answered and charged:
            break
    return answered, charged


def _budget(partner: Partner) -> dict[str, Any]:
    from pharma_fl.cli.budget_show import finite
    from pharma_fl.clients.witnesses import ledger_of

    try:
        ledger = ledger_of(partner)
        ledger.look()
        spent = ledger.epsilon(partner.budget) if ledger.path.exists() else 0.0
    except PharmaFlError as error:
        return {"ledger": str(error), "epsilon_spent": None, "epsilon_left": None}
    left = max(0.0, partner.budget.epsilon - spent)
    found = {"ledger": "whole" if ledger.path.exists() else "none yet", "epsilon_spent": spent, "epsilon_left": left}
    return dict(finite(found))


def _print_coordinator(shown: dict[str, Any]) -> None:
    def line(text: str) -> None:
        console.print(text, soft_wrap=True, markup=False)

    line(f"Federation {shown['federation']}: {_state(shown)}")
    line(f"Round {shown['round']} of {shown['rounds']}{_seconds(shown['seconds'])}")
    line(f"ServerApp {shown['server_app']}. SuperLink: {shown['superlink']}")
    now = datetime.now(UTC)
    rows = [
        [
            name,
            f"{_text(one['connection'])} {_age(one['since'], now)}".strip(" -") or "-",
            _text(one["state"]) + (f" {one['code']}" if one["code"] else ""),
            _age(one["last_answer"], now),
            _number(one["epsilon_spent"]),
            _number(one["epsilon_left"]),
            _text(one["node"]),
        ]
        for name, one in shown["partners"].items()
    ]
    columns = ["partner", "connection", "in the run", "last answer", "epsilon", "left", "node"]
    console.print(table("Partners", columns, rows))
    if shown["model"]:
        line(f"Last good model: {shown['model']}")


def _state(shown: dict[str, Any]) -> str:
    state = shown["state"]
    if state == "running":
        return f"{shown['phase'] or 'starting'} (run {shown['run']}, Flower's {shown['flower_run']})"
    if state == "broke-off":
        return "the run broke off; pharma-fl run --resume goes on with it"
    if state == "stopped" and not shown["end"]:
        return "stopped by hand; pharma-fl run --resume goes on with it"
    if state in {"completed", "stopped"}:
        return f"{state} after {shown['end']['rounds']} rounds. {shown['end'].get('reason', '')}".strip()
    return "no run yet" if state == "none" else f"a run was submitted (Flower's {shown['flower_run']})"


def _seconds(seconds: list[float]) -> str:
    return f"; last rounds: {', '.join(f'{one:.1f}' for one in seconds)} s" if seconds else ""


def _print_partner(shown: dict[str, Any]) -> None:
    def line(text: str) -> None:
        console.print(text, soft_wrap=True, markup=False)

    process = f" (process {shown['process']})" if shown["process"] else ""
    line(f"Partner {shown['partner']}: the SuperNode {shown['supernode']}{process}")
    message, charged = shown["last_message"], shown["last_round"]
    if message:
        what = message.get("status") or message.get("error", "")
        line(f"Last message: {message['time'][:19]} {message.get('asked', '')}: {message['event']} ({what})")
    else:
        line("Last message: none yet")
    if charged:
        of = f"{charged.get('purpose', '')} round {charged.get('round', '-')} of {charged.get('run', '-')}"
        line(f"Last charge: {charged['time'][:19]} {of}")
    line(f"Ledger: {shown['ledger']}")
    if shown["epsilon_spent"] is not None:
        line(f"Epsilon spent {_number(shown['epsilon_spent'])}, left {_number(shown['epsilon_left'])}")


def _text(value: object) -> str:
    return "-" if value is None else str(value)


def _age(moment: str | None, now: datetime) -> str:
    """Return how long ago something was.

    Examples
    --------
    >>> _age("2026-11-29T05:45:04+00:00", datetime(2026, 11, 29, 7, 0, tzinfo=UTC))
    '74 min'
    """
    if moment is None:
        return "-"
    seconds = max(0, round((now - datetime.fromisoformat(moment)).total_seconds()))
    if seconds < 120:
        return f"{seconds} s"
    return f"{seconds // 60} min" if seconds < 7200 else f"{seconds // 3600} h"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
