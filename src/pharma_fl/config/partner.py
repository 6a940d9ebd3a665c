"""partner.toml: what one partner owns, prepares and permits. It never leaves the partner."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, PrivateAttr, model_validator

from pharma_fl.config.base import Settings
from pharma_fl.config.federation import Name, Probability

Files = Annotated[tuple[str, ...], Field(min_length=1)]


class TableSettings(Settings):
    """The partner's own tables, in MELLODDY-TUNER's columns; several files of a kind are read as one."""

    assays: Files = ("T0.csv",)
    activities: Files = ("T1.csv",)
    structures: Files = ("T2.csv",)


class StructureSettings(Settings):
    """How a SMILES becomes bits. Every partner of a federation must use the same values."""

    max_atoms: Annotated[int, Field(ge=1)] = 100
    """A molecule with this many heavy atoms or more, counter-ions included, goes to the side file."""
    max_tautomers: Annotated[int, Field(ge=1)] = 256
    radius: Annotated[int, Field(ge=0, le=8)] = 3
    bits: Annotated[int, Field(ge=8, le=1_048_576)] = 32_000


class FoldSettings(Settings):
    """Keyed scaffold folds: which are held out."""

    count: Annotated[int, Field(ge=3, le=64)] = 5
    test: Annotated[int, Field(ge=0)] = 0
    validation: Annotated[int, Field(ge=0)] = 4

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if self.test == self.validation or max(self.test, self.validation) >= self.count:
            raise ValueError(f"expected two different folds below count = {self.count}")
        return self


class RegressionSettings(Settings):
    """Public constants that bring regression targets to unit scale, the same for every task."""

    center: float = 0.0
    scale: Annotated[float, Field(gt=0)] = 1.0


class BudgetSettings(Settings):
    """What the partner is ready to spend on its data, over all runs."""

    epsilon: Annotated[float, Field(gt=0)]
    delta: Probability = 1e-5


class PolicySettings(Settings):
    """The limits that no coordinator can override."""

    min_noise_multiplier: Annotated[float, Field(gt=0)] = 0.5
    max_sample_rate: Annotated[float, Field(gt=0, le=1)] = 1.0
    max_clipping_norm: Annotated[float, Field(gt=0)] = 100.0
    report_budget: bool = False
    """Tell the coordinator epsilon spent and left over all runs, and how many rounds of a plan that pays for.
    These follow from public charges, but show that the partner takes part in other runs too."""
    allow_unprotected: bool = False
    """Take part in runs without any privacy. For simulations; every report then says "no epsilon"."""
    placebo: bool = False
    """Replace the data's part of every sum by zero: the partner sends noise alone. A control experiment."""


class Partner(Settings):
    """partner.toml, whole. Paths in it are relative to the file."""

    name: Name
    key_file: str = "consortium.key"
    """The secret that all partners share: bit permutation and folds follow from it."""
    data: str = "data"
    state: str = "state"
    ledger: str = "ledger.sqlite"
    audit_log: str = "audit.jsonl"
    model: str = "model"
    tables: TableSettings = TableSettings()
    structures: StructureSettings = StructureSettings()
    folds: FoldSettings = FoldSettings()
    regression: RegressionSettings = RegressionSettings()
    budget: BudgetSettings
    policy: PolicySettings = PolicySettings()

    _folder: Path = PrivateAttr(default=Path())

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read partner.toml and remember its folder; errors as `Settings.load`."""
        partner = super().load(path)
        partner._folder = path.resolve().parent  # noqa: SLF001 - pydantic keeps it out of the file's keys
        return partner

    def path(self, relative: str) -> Path:
        """Resolve a path of this file."""
        return self._folder / relative
