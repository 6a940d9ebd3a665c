"""`pharma-fl identity`: the key by which the other partners know this one in a secure sum."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated

import tomli_w
import typer

from pharma_fl.atomic import write_atomic
from pharma_fl.cli.output import console, print_json, say
from pharma_fl.cli.prepare import JsonOption
from pharma_fl.config import Partner, PartnerKeys
from pharma_fl.errors import ConfigError
from pharma_fl.signing_key import SigningKey


def identity(
    files: Annotated[list[Path], typer.Argument(metavar="PARTNER.TOML...", help="Usually one: your own.")],
    write: Annotated[
        bool, typer.Option("--write", help="Several partners of this machine, for simulations: write their lists too.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Make this partner's identity key where there is none, and show the line that the others put into their lists.

    Send the line to the other partners by a way that the coordinator does not control, and put theirs, and your own,
    under [partners] of partner-keys.toml. In a secure sum each partner believes these keys alone.

    Example: `pharma-fl identity partners/north/partner.toml`
    """
    partners = [Partner.load(path) for path in files]
    keys = make_keys(partners)
    if len(keys) < len(partners):
        raise ConfigError("PFL-C03", "Two of the files name the same partner. Give each partner a name of its own.")
    if write:
        write_keys(partners, keys)
        for partner in partners:
            say(f"Wrote {partner.path(partner.partner_keys)}")
    if as_json:
        print_json({"partners": keys})
        return
    for name, public in keys.items():
        console.print(f'{name} = "{public}"', soft_wrap=True)


def make_keys(partners: Iterable[Partner]) -> dict[str, str]:
    """Make the identity keys that are not there, and return the public ones by partner."""
    return {
        partner.name: SigningKey.make(partner.path(partner.identity_key), setting="identity_key").public
        for partner in partners
    }


def write_keys(partners: Iterable[Partner], keys: Mapping[str, str]) -> None:
    """Write the same list of keys for each of the partners of one machine."""
    content = tomli_w.dumps({"partners": dict(keys)})
    PartnerKeys.parse(content, source="the partners of this machine")
    for partner in partners:
        write_atomic(partner.path(partner.partner_keys), content.encode())
