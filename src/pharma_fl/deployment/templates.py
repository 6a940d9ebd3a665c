"""First federation.toml and partner.toml of a kit: a preset's text with its comments, and what a deployment adds."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pharma_fl.config import Federation, Partner
from pharma_fl.config.presets import preset_text

EVERYWHERE = "0.0.0.0"  # noqa: S104 - partners come from other companies
_NAME = re.compile(r'^name = ".*?"', re.MULTILINE)
_SEED = re.compile(r"^(seed = .*\n)", re.MULTILINE)
_PARTNERS = re.compile(r"^(\[partners\].*\n)(?:[a-z0-9-]+ = .*\n)+", re.MULTILINE)
_BUDGET = re.compile(r"^\[budget\]", re.MULTILINE)


def federation_text(*, preset: str, name: str, address: str, partners: Sequence[str], listen: str = EVERYWHERE) -> str:
    """Return a federation.toml.

    Raises
    ------
    ConfigError
        ``PFL-C06`` no such preset, ``PFL-C03`` a name or the address is none, or the preset needs more partners.
    """
    text = _once(_NAME, f'name = "{name}"', preset_text("strategies", preset))
    text = _once(_SEED, "", text, after=_ROSTER)
    lines = "".join(f"{partner} = 1.0\n" for partner in partners)
    text = _once(_PARTNERS, "", text, after=lines) + _SUPERLINK.format(address=address, listen=listen)
    Federation.parse(text, source="pharma-fl init")
    return text


def partner_text(*, preset: str, name: str, superlink: str, port: int = 9094) -> str:
    """Return a partner.toml; errors as `federation_text`."""
    text = _once(_NAME, f'name = "{name}"', preset_text("clients", preset))
    text = _once(_BUDGET, _SUPERNODE.format(superlink=superlink, port=port) + "[budget]", text)
    Partner.parse(text, source="pharma-fl init")
    return text


def _once(pattern: re.Pattern[str], replacement: str, text: str, *, after: str = "") -> str:
    # A function, as what people name their things is no regular expression.
    changed, count = pattern.subn(
        lambda match: replacement or match.group(1) + after,
        text,
        count=1,
    )
    assert count == 1, f"a preset has no {pattern.pattern}"
    return changed


_ROSTER = """\
roster = "roster.toml"      # by which keys each partner is known; written by pharma-fl provision --cards
"""
_SUPERLINK = """
[superlink]                 # after a change here: pharma-fl provision federation.toml
address = "{address}" # by which partners reach this machine; the certificate is made for it
listen = "{listen}" # address of this machine that it listens on; others are answered what SuperNodes ask alone
certificate = "tls/server.pem"
private_key = "tls/server.key"
root_certificates = "tls/ca.pem" # partners get a copy
database = "superlink.sqlite"
"""
_SUPERNODE = """\
[supernode]                 # after a change here: pharma-fl provision partner.toml
superlink = "{superlink}" # the coordinator's machine
root_certificates = "tls/ca.pem" # the coordinator sends it
private_key = "keys/supernode.key"
port = {port} # of this machine, on loopback alone; two partners on one machine need two

"""
