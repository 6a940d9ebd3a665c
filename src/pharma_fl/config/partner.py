"""partner.toml: what one partner owns, prepares and permits. It never leaves the partner."""

from __future__ import annotations

import os
from datetime import date
from pathlib import Path, PurePath
from typing import Annotated, Literal, Self

from pydantic import Field, PrivateAttr, model_validator

from pharma_fl.config.base import Settings
from pharma_fl.config.deployment import SuperNodeSettings
from pharma_fl.config.federation import MOST_STEPS, Name, Probability, Unit
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
    secure_noise: bool = True
    """On a GPU: noise from ChaCha20, or faster from Philox, which is no cipher, seeded anew for each draw."""
    physical_batch: Annotated[int | None, Field(ge=1, le=1_048_576)] = None
    """Records in memory at a time; left out, as many as a sample rarely exceeds."""


Epsilon = Annotated[float, Field(gt=0)]
PlanDigest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class BudgetSettings(Settings):
    """What the partner is ready to spend on its data, over all runs, against each run's strongest adversary."""

    epsilon: Epsilon
    """For the ledger's whole life."""
    delta: Probability = 1e-5
    epsilon_per_year: Epsilon | None = None
    """For any 365 days."""
    epsilon_per_run: Epsilon | None = None
    epsilon_for_metrics: Epsilon | None = None
    """What noised metrics and statistics may take of all that; left out, nothing."""
    unit: Unit = "compound"
    """What the budget protects as one: a compound, or a series (all compounds of one scaffold family)."""
    series_size: Annotated[int | None, Field(ge=1, le=1024)] = None
    """With ``unit = "series"``, the most compounds of one family: runs that sampled compounds cost as for so many."""
    cohorts: tuple[date, ...] = ()
    """Ascending days that part the compounds by their date: each part has spent only since it is there."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if (self.unit == "series") != (self.series_size is not None):
            raise ValueError('expected series_size with unit = "series", and only there')
        if self.unit == "series" and self.cohorts:
            raise ValueError(
                "cohorts part single compounds, and a series may have some of each: remove cohorts or unit"
            )
        if list(self.cohorts) != sorted(set(self.cohorts)):
            raise ValueError("expected cohorts to ascend")
        return self

    @property
    def members(self) -> int:
        """How many compounds are priced together."""
        return self.series_size or 1


class PolicySettings(Settings):
    """The limits that no coordinator can override."""

    min_noise_multiplier: Annotated[float, Field(gt=0)] = 0.5
    max_sample_rate: Annotated[float, Field(gt=0, le=1)] = 1.0
    max_clipping_norm: Annotated[float, Field(gt=0)] = 100.0
    max_steps_per_run: Annotated[int, Field(ge=1)] = MOST_STEPS
    max_rounds_per_day: Annotated[int | None, Field(ge=1)] = None
    """Charged rounds in any 24 hours, over all runs; left out, no limit."""
    federations: tuple[Name, ...] | None = None
    """Names of the federations to take part in; left out, any that reaches this partner."""
    plans: tuple[PlanDigest, ...] | None = None
    """Digests of the plans to take part in, from pharma-fl budget show --plan; left out, any within the limits."""
    actions: tuple[Literal["train", "metrics"], ...] = ("train",)
    """What a coordinator may ask for: rounds of training, and noised metrics on held-out compounds."""
    min_metrics_noise_multiplier: Annotated[float, Field(gt=0)] = 10.0
    """Least noise of metrics, over their sensitivity."""
    report_budget: bool = False
    """Tell the coordinator epsilon spent and left over all runs, and how many rounds of a plan that pays for.
    These follow from public charges, but show that the partner takes part in other runs too."""
    min_tolerated_colluders: Annotated[int, Field(ge=1)] = 1
    """Under shared noise, fewest partners against whom, together with the coordinator, the guarantee must hold."""
    min_contributors: Annotated[int | None, Field(ge=2)] = None
    """Under shared noise, fewest partners whose sum this one is part of; left out, all that partner_keys lists."""
    min_contribution: Annotated[float, Field(gt=0, le=1)] = 0.25
    """Under shared noise, this partner lowers its clip as far as its own limits ask, so that the common noise counts
    for more; below this share of the plan's clip it does not take part. 1 never lowers it."""
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
    signing_key: str = "ledger.key"
    """The key that signs the ledger; made with it. Keep a copy apart from the ledger's."""
    identity_key: str = "identity.key"
    """The key that signs what this partner says of itself in a secure sum; made by pharma-fl identity."""
    partner_keys: str = "partner-keys.toml"
    """The public identity keys of all partners, as they told each other without the coordinator."""
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
    supernode: SuperNodeSettings | None = None
    budget: BudgetSettings
    policy: PolicySettings = PolicySettings()

    _folder: Path = PrivateAttr(default=Path())

    @model_validator(mode="after")
    def _dated(self) -> Self:
        if self.folds.method == "temporal" and self.tables.date is None:
            raise ValueError("temporal folds need tables.date, the column of each compound's date")
        if self.budget.cohorts and self.tables.date is None:
            raise ValueError("budget.cohorts need tables.date, the column of each compound's date")
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
