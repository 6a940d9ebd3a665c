"""partner-keys.toml: each partner's public identity key, as partners told each other without the coordinator."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from pharma_fl.config.base import Settings
from pharma_fl.config.federation import Name

PublicKey = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class PartnerKeys(Settings):
    """partner-keys.toml, whole. Each partner holds a file of its own, so that no coordinator can put a key in."""

    partners: Annotated[dict[Name, PublicKey], Field(min_length=2)]
    """Ed25519 public key, raw, in hexadecimal, by partner name; made by pharma-fl identity."""

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len(set(self.partners.values())) < len(self.partners):
            raise ValueError("expected a key of its own for each partner")
        return self
