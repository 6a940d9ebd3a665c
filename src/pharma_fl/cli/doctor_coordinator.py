"""What `pharma-fl doctor federation.toml` asks."""

from __future__ import annotations

import math
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from pharma_fl.cli.doctor_package import package_check
from pharma_fl.config import Federation, RosterKeys
from pharma_fl.config.base import read_text
from pharma_fl.config.roster import RosterEntry
from pharma_fl.deployment.checks import (
    Check,
    bad,
    disk_check,
    doubtful,
    good,
    guarded,
    kit_check,
    program_check,
    secret_check,
    start_check,
    version_check,
)
from pharma_fl.deployment.kit import coordinator_files
from pharma_fl.deployment.lines import certified_hosts, coordinator_lines, local_address, superlink_of
from pharma_fl.deployment.run_folder import RunFolder, look
from pharma_fl.deployment.supernode_keys import openssh, without_comment
from pharma_fl.deployment.tls_checks import Call, call, certificate_check, days_check, port_check

if TYPE_CHECKING:
    from pharma_fl.strategies.supernodes import SuperNode

_SPARE = 2
"""Checkpoints beside those that are kept: the public start, and the one that is written."""
_RECORDS = 16 << 20


def coordinator_checks(file: Path) -> list[Check]:
    """Return every answer for the coordinator's folder.

    Raises
    ------
    ConfigError
        federation.toml cannot be read, or has no [superlink].
    """
    federation, folder = Federation.load(file), file.resolve().parent
    link, shown = superlink_of(federation), shlex.quote(str(file))
    provision, renew = f"pharma-fl provision {shown}", f"pharma-fl provision {shown} --renew"
    start = f"{folder / 'start'} (or systemctl restart pharma-fl-superlink)"
    lines = coordinator_lines(folder, federation)
    certificate, key, roots = (folder / one for one in (link.certificate, link.private_key, link.root_certificates))
    hosts = certified_hosts(link)
    checks = [
        good("settings", f"{file}: federation {federation.name}, {len(federation.partners)} partners"),
        version_check(),
        package_check(),
        kit_check(folder, coordinator_files(folder, federation), provision),
        start_check(folder, {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_HOME": lines.environment["FLWR_HOME"]}, provision),
        guarded("gate", lambda: _gate(folder, lines.environment["PATH"], provision), provision),
        certificate_check(certificate=certificate, key=key, roots=roots, hosts=hosts[:2], remedy=renew),
        days_check("certificate days", certificate, f"{renew}; then {start}"),
        days_check(
            "authority days", roots, f"Move ca.key and ca.pem away, {renew}, and send every partner the new ca.pem"
        ),
        secret_check("certificate key", key, provision),
    ]
    authority = roots.with_name("ca.key")
    if authority.exists():
        checks.append(secret_check("authority key", authority, provision))
    called = call(local_address(link), roots)
    checks.append(guarded("port", lambda: port_check(local_address(link), called, certificate, start), provision))
    checks.append(guarded("roster", lambda: roster_check(folder, federation, file), provision))
    checks.append(_supernodes(folder, federation, called, start))
    checks.append(guarded("plan", lambda: plan_check(federation), "Change [privacy], [training] or [partners]"))
    now = look(folder / federation.output)
    checks.append(guarded("disk", lambda: disk_check(now.folder, needed_bytes(federation)), "Free some space"))
    checks.append(run_check(now, file))
    return checks


def roster_check(folder: Path, federation: Federation, file: Path) -> Check:
    """Whether the roster has exactly the partners of federation.toml."""
    remedy = f"pharma-fl provision {shlex.quote(str(file))} --cards {folder / 'cards'}/*.toml"
    if federation.roster is None:
        return bad("roster", "federation.toml names none: partners are believed who they say", 'roster = "roster.toml"')
    known, wanted = set(RosterKeys.load(folder / federation.roster).partners), set(federation.partners)
    said = []
    if wanted - known:
        said.append(f"without {', '.join(sorted(wanted - known))}")
    if known - wanted:
        said.append(f"with {', '.join(sorted(known - wanted))}, whom [partners] does not list")
    if said:
        return bad("roster", f"{federation.roster} is {' and '.join(said)}", remedy)
    return good("roster", f"{federation.roster} has the keys of {', '.join(sorted(wanted))}")


def supernode_check(nodes: list[SuperNode], roster: dict[str, RosterEntry], remedy: str) -> Check:
    """Whether each partner's SuperNode is registered, with the roster's key."""
    found = {openssh(one.public_key): one for one in nodes}
    missing = sorted(name for name, entry in roster.items() if without_comment(entry.supernode) not in found)
    if missing:
        return bad("SuperNodes", f"not registered: {', '.join(missing)}", remedy)
    own = {name: found[without_comment(entry.supernode)] for name, entry in roster.items()}
    strange = sorted(one.node for one in nodes if one not in own.values())
    if strange:
        numbers = " ".join(str(one) for one in strange)
        return doubtful(
            "SuperNodes",
            f"registered and in no roster: {numbers}; they are asked who they are, and take no part",
            f"flwr supernode unregister NODE pharma-fl, for each of {numbers}",
        )
    away = sorted(name for name, node in own.items() if node.status != "online")
    if away:
        said = ", ".join(f"{name} ({own[name].status})" for name in away)
        return doubtful("SuperNodes", f"not connected: {said}", "Ask these partners: pharma-fl doctor partner.toml")
    return good("SuperNodes", f"all {len(own)} are registered and connected")


def plan_check(federation: Federation) -> Check:
    """Whether the proposed plan can be solved, and what it costs each partner."""
    from pharma_fl.privacy.accountant import epsilon
    from pharma_fl.strategies.proposal import proposed_plan

    plan = proposed_plan(federation)
    costs = {
        against: epsilon([plan.charge_of(plan.rounds, against)], plan.delta, unit=plan.unit)
        for against in ("partners", "coordinator")
    }
    if math.isinf(costs["partners"]):
        return doubtful("plan", "it protects nothing (privacy.mechanism)", 'privacy.mechanism = "dp-sgd"')
    said = ", ".join(f"{value:.3g} against {against}" for against, value in costs.items())
    return good("plan", f"{plan.rounds} rounds cost each partner epsilon {said}, at delta {plan.delta:g}")


def needed_bytes(federation: Federation) -> int:
    """Return about how much the output folder takes."""
    from pharma_fl.model.pretrained import initial_trunk

    settings = federation.training
    values = sum(value.numel() for value in initial_trunk(federation.model, federation.seed).values())
    kept = 2 if settings.server_optimizer == "adam" else int(settings.server_momentum > 0)
    return 4 * values * (1 + kept) * (federation.keep_checkpoints + _SPARE) + _RECORDS


def run_check(now: RunFolder, file: Path) -> Check:
    """Whether the output folder is free, or what run is in it."""
    shown = shlex.quote(str(file))
    another = "federation.toml: output names another folder for a new run"
    if now.state == "none":
        return good("output", f"{now.folder} is free")
    if now.alive:
        return good("output", f"a run is in progress in {now.folder}")
    if now.state == "completed":
        return doubtful("output", f"{now.folder} holds a finished run", another)
    if now.state == "starting":
        return doubtful("output", f"a run was submitted to {now.folder}", f"pharma-fl run {shown}")
    return doubtful(
        "output", f"{now.folder} holds a run that {_how(now)}", f"pharma-fl run {shown} --resume; {another}"
    )


def _how(now: RunFolder) -> str:
    return "stopped" if now.state == "stopped" else "broke off"


def _gate(folder: Path, path: str, remedy: str) -> Check:
    return program_check("gate", folder / "bin" / "flower-superlink", "pharma_fl.strategies.superlink", path, remedy)


def _supernodes(folder: Path, federation: Federation, called: Call, start: str) -> Check:
    from pharma_fl.strategies.supernodes import supernodes

    link = superlink_of(federation)
    if not called.connected:
        return doubtful("SuperNodes", "not asked for: the SuperLink does not run", start)

    def ask() -> Check:
        nodes = supernodes(local_address(link), read_text(folder / link.root_certificates).encode())
        roster = RosterKeys.load(folder / (federation.roster or "roster.toml")).partners
        return supernode_check(nodes, roster, str(folder / "register"))

    return guarded("SuperNodes", ask, str(folder / "register"))
