"""`pharma-fl provision`: keys, certificates and lists of keys. Private keys stay on the machine that made them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from pharma_fl.cli.output import console, print_json
from pharma_fl.cli.prepare import JsonOption
from pharma_fl.deployment.lines import FEDERATION_FILE, PARTNER_FILE
from pharma_fl.deployment.provision import Provisioned, provision_coordinator, provision_partner
from pharma_fl.errors import ConfigError


def provision(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="federation.toml, or partner.toml.")],
    others: Annotated[list[Path] | None, typer.Argument(metavar="[CARD...]", show_default=False)] = None,
    cards: Annotated[
        bool,
        typer.Option("--cards", help="The files that follow are the partners' cards: write the list of their keys."),
    ] = False,
    renew: Annotated[
        bool, typer.Option("--renew", help="At the coordinator: a new server certificate; its key stays.")
    ] = False,
    csr: Annotated[
        bool,
        typer.Option("--csr", help="At the coordinator: a request to the company's own authority, and no authority."),
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="With --cards: accept that a known partner has another identity key.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Make what is missing, keep every private key that is there, and bring scripts and units up to date.

    At a partner: the SuperNode's key, the identity key, card.toml. At the coordinator: an authority for this federation
    and the SuperLink's certificate. With --cards: partner-keys.toml at a partner, roster.toml at the coordinator.

    Example: `pharma-fl provision partner.toml`, later `pharma-fl provision partner.toml --cards cards/*.toml`
    """
    paths = others or []
    _check_together(file, paths, cards=cards, renew=renew, csr=csr, replace=replace)
    if file.name == PARTNER_FILE:
        done = provision_partner(file, cards=paths, replace=replace)
    else:
        done = provision_coordinator(file, cards=paths, renew=renew, csr=csr, replace=replace)
    if as_json:
        print_json(asdict(done) | {"folder": str(done.folder)})
        return
    _show(done)


def _check_together(file: Path, paths: list[Path], *, cards: bool, renew: bool, csr: bool, replace: bool) -> None:
    if file.name not in {FEDERATION_FILE, PARTNER_FILE}:
        raise ConfigError("PFL-C08", f"Expected {FEDERATION_FILE} or {PARTNER_FILE}, got {file}: a kit is found by it.")
    if cards != bool(paths):
        raise ConfigError("PFL-C09", "Expected --cards together with the partners' cards: FILE --cards a.toml b.toml.")
    if replace and not cards:
        raise ConfigError("PFL-C09", "Expected --cards with --replace.")
    if (renew or csr) and file.name == PARTNER_FILE:
        raise ConfigError("PFL-C12", "Expected federation.toml with --renew and --csr: a partner has no certificate.")
    if csr and (renew or cards):
        raise ConfigError(
            "PFL-C12", "Expected --csr alone: roster and certificate come when the authority has answered."
        )


def _show(done: Provisioned) -> None:
    def line(text: str) -> None:
        console.print(text, soft_wrap=True, markup=False)

    line(f"In {done.folder}")
    if done.made:
        line(f"  made  {', '.join(done.made)}")
    if done.kept:
        line(f"  kept  {', '.join(done.kept)}")
    if done.certificate_ends:
        line(f"  The server certificate ends on {done.certificate_ends}.")
    if done.keys:
        line("Identity keys")
        for name, key in done.keys.items():
            line(f"  {name:<16} {key}")
    line("Next")
    for step in done.next:
        line(f"  {step}")
