"""partner.toml: what one partner owns, prepares and permits. It never leaves the partner."""

from __future__ import annotations

import os
from pathlib import Path, PurePath
from typing import Annotated, Literal, Self

from pydantic import Field, PrivateAttr, model_validator

from pharma_fl.config.base import Settings
from pharma_fl.config.federation import Name, Probability
from pharma_fl.config.preparation import FingerprintSettings, FoldSettings, StructureSettings
from pharma_fl.config.tables import TableSettings, TunerTables


class RegressionSettings(Settings):
    """Public constants that bring regression targets to unit scale, the same for every task."""

    center: float = 0.0
    scale: Annotated[float, Field(gt=0)] = 1.0


class ComputeSettings(Settings):
    """Where and how this partner computes. It changes no guarantee and is told to nobody."""

    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:[0-9]{1,3})?)$")] = "auto"
    """``auto``: the GPU where there is exactly one, else the CPU."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of matrix products on a GPU; norms and sums stay float32 or better."""
    physical_batch: Annotated[int | None, Field(ge=1, le=1_048_576)] = None
    """Records in memory at a time; left out, as many as a sample rarely exceeds."""


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
    key_scheme: Literal["hkdf", "tuner"] = "hkdf"
    """A sub-key for each use of the secret, or the raw secret for all of them as in MELLODDY-TUNER."""
    rules: str | None = None
    """A file in the place of the built-in rules for activities; equal at every partner."""
    data: str = "data"
    cache: str = "cache"
    """Structures that were worked out before, so that they are not worked out again."""
    state: str = "state"
    ledger: str = "ledger.sqlite"
    audit_log: str = "audit.jsonl"
    model: str = "model"
    pretrained: str | None = None
    """This partner's copy of the public checkpoint that the federation starts from."""
    tables: TableSettings = TunerTables()
    structures: StructureSettings = StructureSettings()
    fingerprint: FingerprintSettings = FingerprintSettings()
    folds: FoldSettings = FoldSettings()
    regression: RegressionSettings = RegressionSettings()
    compute: ComputeSettings = ComputeSettings()
    budget: BudgetSettings
    policy: PolicySettings = PolicySettings()

    _folder: Path = PrivateAttr(default=Path())

    @model_validator(mode="after")
    def _dated(self) -> Self:
        if self.folds.method == "temporal" and self.tables.date is None:
            raise ValueError("temporal folds need tables.date, the column of each compound's date")
        return self

    @model_validator(mode="after")
    def _apart(self) -> Self:
        data, cache = PurePath(os.path.normpath(self.data)), PurePath(os.path.normpath(self.cache))
        if cache.is_relative_to(data) or data.is_relative_to(cache):
            raise ValueError(
                f"expected data and cache in folders of their own, as data is replaced whole, got {self.cache}"
            )
        return self

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read partner.toml and remember its folder; errors as `Settings.load`."""
        partner = super().load(path)
        partner._folder = path.resolve().parent  # noqa: SLF001 - pydantic keeps it out of the file's keys
        return partner

    def path(self, relative: str) -> Path:
        """Resolve a path of this file."""
        return self._folder / relative
