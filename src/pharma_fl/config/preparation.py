"""partner.toml: how a SMILES becomes bits and a fold. Every partner of a federation uses the same."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pharma_fl.config.base import Settings


class StructureSettings(Settings):
    """How a SMILES becomes the structure that decides which measurements belong together."""

    max_atoms: Annotated[int, Field(ge=1)] = 100
    """A molecule with this many heavy atoms or more, counter-ions included, goes to the side file."""
    max_tautomers: Annotated[int, Field(ge=1)] = 256
    tautomer_rules: Literal["v1", "v2"] = "v1"
    """RDKit's tautomer rules: ``v1`` as MELLODDY-TUNER had them, ``v2`` the newer ones."""
    stereo: bool = False
    """Keep stereochemistry."""
    time_limit_s: Annotated[float, Field(gt=0)] = 60.0
    """A molecule that takes longer goes to the side file. It is a guard against a search without end, not a
    rule, and so no part of what partners compare."""


class FingerprintSettings(Settings):
    """The hashed Morgan fingerprint."""

    kind: Literal["ecfp", "fcfp"] = "ecfp"
    """Atoms told apart by element and bonds, or by pharmacophoric features."""
    radius: Annotated[int, Field(ge=0, le=8)] = 3
    bits: Annotated[int, Field(ge=8, le=1_048_576)] = 32_000
    counts: bool = False
    """Store how often a bit occurs, not only that it does."""


class FoldSettings(Settings):
    """Which compounds are held out."""

    method: Literal["scaffold", "lsh", "temporal"] = "scaffold"
    count: Annotated[int, Field(ge=3, le=64)] = 5
    test: Annotated[int, Field(ge=0)] = 0
    validation: Annotated[int, Field(ge=0)] = 4
    cutoffs: tuple[date, ...] = ()
    """For temporal folds: ascending dates; a compound's fold is the number of cutoffs that are not after its
    own date. Constants, never quantiles of the data."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.method == "temporal" and not {"test", "validation"} <= self.model_fields_set:
            raise ValueError(
                "temporal folds want test and validation set: fold 0 is the oldest, so mostly test = count - 1 and "
                "validation = count - 2"
            )
        if self.test == self.validation or max(self.test, self.validation) >= self.count:
            raise ValueError(f"expected two different folds below count = {self.count}")
        wanted = self.count - 1 if self.method == "temporal" else 0
        if len(self.cutoffs) != wanted or any(a >= b for a, b in zip(self.cutoffs, self.cutoffs[1:], strict=False)):
            raise ValueError(
                f"expected {wanted} ascending cutoffs for method = {self.method!r}, got {len(self.cutoffs)}"
            )
        return self
