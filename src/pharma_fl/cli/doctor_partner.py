"""What `pharma-fl doctor partner.toml` asks."""

from __future__ import annotations

import shlex
from pathlib import Path

from pharma_fl.cli.doctor_package import package_check
from pharma_fl.config import Federation, Partner, PartnerKeys
from pharma_fl.deployment.cards import supernode_public
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
from pharma_fl.deployment.kit import partner_files
from pharma_fl.deployment.lines import partner_lines, supernode_of
from pharma_fl.deployment.processes import supernode_of as process_of
from pharma_fl.deployment.tls_checks import call, clock_check, days_check, superlink_check
from pharma_fl.errors import BudgetExceeded, PolicyViolation, PrivacyError

_STATE_BYTES = 256 << 20


def partner_checks(file: Path, plan: Path | None) -> list[Check]:
    """Return every answer for a partner's folder.

    Raises
    ------
    ConfigError
        partner.toml or the plan cannot be read, or partner.toml has no [supernode].
    """
    partner, folder = Partner.load(file), file.resolve().parent
    federation = None if plan is None else Federation.load(plan)
    node, shown = supernode_of(partner), shlex.quote(str(file))
    provision = f"pharma-fl provision {shown}"
    lines = partner_lines(folder, partner)
    roots, key = partner.path(node.root_certificates), partner.path(node.private_key)
    get_roots = f"Get ca.pem from the coordinator, and put it to {roots}"
    checks = [
        good("settings", f"{file}: partner {partner.name}"),
        version_check(),
        package_check(),
        kit_check(folder, partner_files(folder, partner), provision),
        start_check(folder, {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_HOME": lines.environment["FLWR_HOME"]}, provision),
        guarded("guard", lambda: _guard(folder, lines.environment["PATH"], provision), provision),
        days_check("root certificate", roots, get_roots),
    ]
    called = call(node.superlink, roots)
    checks += [
        superlink_check(node.superlink, called, roots),
        clock_check(called),
        guarded("SuperNode key", lambda: _supernode_key(key, provision), provision),
        guarded("identity key", lambda: identity_check(partner, shown), f"pharma-fl identity {shown}"),
        _consortium_key(partner.path(partner.key_file)),
        _process(file, folder),
        guarded("data", lambda: _data(partner, shown), f"pharma-fl prepare {shown}"),
        guarded("device", lambda: _device(partner), f"{shown}: compute.device"),
        guarded("disk", lambda: disk_check(partner.path(partner.state), _STATE_BYTES), "Free some space"),
        ledger_check(partner, shown),
        guarded("budget", lambda: budget_check(partner, shown), f"pharma-fl budget show {shown}"),
    ]
    if federation is not None:
        price = f"pharma-fl budget show {shown} --plan {shlex.quote(str(plan))}"
        checks.append(guarded("plan", lambda: plan_check(partner, federation, price), price))
    return checks


def identity_check(partner: Partner, shown: str) -> Check:
    """Whether the other partners' list has this partner's own key, and who else is on it."""
    from pharma_fl.signing_key import SigningKey

    public = SigningKey(partner.path(partner.identity_key), setting="identity_key").public
    path = partner.path(partner.partner_keys)
    listing = f"pharma-fl provision {shown} --cards {partner.path('cards')}/*.toml"
    if not path.exists():
        return doubtful("identity key", f"{path} is not there: needed where noise is shared", listing)
    known = PartnerKeys.load(path).partners
    if known.get(partner.name) != public:
        return bad("identity key", f"{path} has another key for {partner.name} than this partner's", listing)
    return good("identity key", f"{path} has it, and those of {', '.join(sorted(set(known) - {partner.name}))}")


def ledger_check(partner: Partner, shown: str) -> Check:
    """Whether the ledger verifies whole."""
    from pharma_fl.clients.witnesses import ledger_of
    from pharma_fl.privacy.verification import verified

    try:
        ledger = ledger_of(partner)
        if not ledger.path.exists():
            # What others remember of a ledger that is gone is noticed here.
            ledger.look()
            return good("ledger", "none yet: nothing was spent")
        found = verified(ledger, partner.budget)
    except PrivacyError as error:
        if error.code == "PFL-P19":
            return doubtful("ledger", f"in use by a round: {error}", f"Later: pharma-fl budget verify {shown}")
        return bad("ledger", str(error), f"pharma-fl budget verify {shown}; docs/budget.md")
    return good("ledger", f"{found['entries']} entries, each signed; {found['charges']} charges")


def budget_check(partner: Partner, shown: str) -> Check:
    """How much is left of the budget."""
    from pharma_fl.clients.witnesses import ledger_of
    from pharma_fl.privacy.limits import limits_of, loosened

    ledger = ledger_of(partner)
    history, spent = ledger.look(), 0.0
    if ledger.path.exists():
        spent = ledger.epsilon(partner.budget)
    wanted = limits_of(partner.budget, partner.policy)
    looser = loosened(history.limits.limits, wanted) if history.limits else []
    if looser:
        remedy = f"Put the limits back, or: pharma-fl budget loosen {shown}"
        return bad("budget", f"partner.toml is looser than the ledger's limits: {'; '.join(looser)}", remedy)
    left, total = max(0.0, partner.budget.epsilon - spent), partner.budget.epsilon
    if not left:
        return bad("budget", f"nothing is left of epsilon {total:g}", f"pharma-fl budget show {shown}")
    return good("budget", f"{left:.3g} of epsilon {total:g} is left")


def plan_check(partner: Partner, federation: Federation, remedy: str) -> Check:
    """Whether policy and budget allow a proposed run, all its rounds."""
    from pharma_fl.clients.witnesses import ledger_of
    from pharma_fl.privacy.contribution import contribution
    from pharma_fl.privacy.policy import check_policy
    from pharma_fl.strategies.proposal import proposed_plan

    plan = proposed_plan(federation)
    if partner.name not in federation.partners:
        return bad("plan", f"{federation.name} does not list {partner.name}", "Ask the coordinator: [partners]")
    try:
        check_policy(plan, partner.policy, partner.budget, federation=federation.name)
        ledger = ledger_of(partner)
        share = contribution(plan, ledger, budget=partner.budget, policy=partner.policy, run="")
    except (PolicyViolation, BudgetExceeded) as error:
        return bad("plan", str(error), remedy)
    rounds = ledger.affordable_rounds(plan, partner.budget, contribution=share)
    if rounds < plan.rounds:
        return bad("plan", f"the budget covers {rounds} of its {plan.rounds} rounds", remedy)
    return good("plan", f"{federation.name}: policy and budget allow all {plan.rounds} rounds")


def _guard(folder: Path, path: str, remedy: str) -> Check:
    return program_check("guard", folder / "bin" / "flwr-clientapp", "pharma_fl.clients.guard", path, remedy)


def _supernode_key(key: Path, remedy: str) -> Check:
    public = supernode_public(key)
    mode = secret_check("SuperNode key", key, remedy)
    return mode if mode.status == "fail" else good("SuperNode key", f"{key}, {public.split()[0]}, closed to others")


def _consortium_key(path: Path) -> Check:
    get = "Put the partners' common key there; chmod 600 it"
    if not path.exists():
        return doubtful("consortium key", f"{path} is not there: only pharma-fl prepare needs it", get)
    # As preparing has it: a group may share it.
    return secret_check("consortium key", path, get, closed_to=0o007)


def _process(file: Path, folder: Path) -> Check:
    process = process_of(file)
    if process is None:
        start = f"{folder / 'start'} (or systemctl start pharma-fl-supernode)"
        return doubtful("SuperNode", "it does not run", start)
    return good("SuperNode", f"it runs (process {process})")


def _data(partner: Partner, shown: str) -> Check:
    from pharma_fl.data.layout import AGREEMENT
    from pharma_fl.data.matrices import PreparedData

    folder = partner.path(partner.data)
    data = PreparedData.open(folder)
    if not (folder / AGREEMENT).is_file():
        return doubtful(
            "data",
            f"{folder} is prepared, without {AGREEMENT}: whether others prepared alike cannot be compared",
            f"pharma-fl prepare {shown}",
        )
    return good("data", f"{folder}: {data.n_compounds:,} compounds, prepared, with {AGREEMENT}")


def _device(partner: Partner) -> Check:
    from pharma_fl.model.devices import choose_device

    wanted = partner.compute.device
    return good("device", f"{choose_device(wanted)}, as compute.device = {wanted!r} asks")
