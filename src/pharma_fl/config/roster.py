"""roster.toml: by which public keys the coordinator knows each partner."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from pharma_fl.config.base import Settings
from pharma_fl.config.federation import Name
from pharma_fl.config.partner_keys import PublicKey


class RosterEntry(Settings):
    """One partner's public keys."""

    identity: PublicKey
    """Ed25519 public key, raw, in hexadecimal: it signs what the partner says of itself when it joins."""
    supernode: Annotated[str, Field(min_length=1, max_length=4096)]
    """Public key of the partner's SuperNode, as OpenSSH writes it, to be registered at the SuperLink."""


class RosterKeys(Settings):
    """roster.toml, whole; written by pharma-fl provision from what partners sent."""

    partners: Annotated[dict[Name, RosterEntry], Field(min_length=1)]

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        for kind in ("identity", "supernode"):
            if len({getattr(entry, kind) for entry in self.partners.values()}) < len(self.partners):
                raise ValueError(f"expected a key of its own for each partner, and two have one {kind} key")
        return self
