"""The rules by which measurements become tasks, read from a table that a chemist can read, rules.toml.

Every number of them stands there and nowhere in code. What the rules mean is written where they are applied:
`activities`, `thresholds`, `labels`, `quorums` and `weights`.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from pharma_fl.config.base import Settings
from pharma_fl.config.tables import AssayType

Replicates = Literal["largest", "median", "by_direction"]
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]


class EveryType(Settings):
    """What holds for every assay type."""

    binary_threshold: float
    least_spread: Annotated[float, Field(ge=0)]
    censored_share: Annotated[float, Field(ge=0, lt=1)]


class MeasurementRules(Settings):
    """Which values are believed, and how several of one compound become one."""

    lowest: float
    highest: float
    replicates: Replicates
    decimals: Annotated[int, Field(ge=0, le=15)] | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.lowest >= self.highest:
            raise ValueError("expected lowest below highest")
        return self


class DoseResponseThresholds(Settings):
    """Experts with an auxiliary sandwich; without experts, an adaptive threshold in one."""

    rule: Literal["dose_response"]
    trials: Annotated[tuple[float, ...], Field(min_length=1)]
    trial_share: Share
    trial_actives: Count
    trial_inactives: Count
    censored_factor: Annotated[float, Field(ge=1)]
    sandwich: Positive
    sandwich_up_to: Annotated[int, Field(ge=0)]


class QuantileThresholds(Settings):
    """Experts; without any, the median and a quantile on the active side."""

    rule: Literal["quantiles"]
    quantile_low: Share
    quantile_high: Share
    least_values: Count


class CatalogueThresholds(Settings):
    """The expert thresholds of T_cat."""

    rule: Literal["catalogue"]
    auxiliary: tuple[float, ...]


class FixedThreshold(Settings):
    """One threshold for every assay, whose labels ignore qualifiers."""

    rule: Literal["fixed"]
    threshold: Positive


ThresholdRules = Annotated[
    DoseResponseThresholds | QuantileThresholds | CatalogueThresholds | FixedThreshold, Field(discriminator="rule")
]


class ClassTraining(Settings):
    """Labels that training needs in total: of both classes together, or of each."""

    labels: Count | None = None
    actives: Count | None = None
    inactives: Count | None = None

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        each = (self.actives is not None, self.inactives is not None)
        if each != ((self.labels is None),) * 2:
            raise ValueError("expected either labels, or actives and inactives")
        return self


class ClassEvaluation(Settings):
    """Labels that evaluation needs in each fold."""

    actives_in_each_fold: Count
    inactives_in_each_fold: Count


class ClassRules(Settings):
    """Quorums of a classification task."""

    training: ClassTraining
    evaluation: ClassEvaluation | None = None


class ValueTraining(Settings):
    """Measured compounds that training needs in total, and exact ones among them."""

    measured: Count
    exact: Count


class ValueEvaluation(Settings):
    """Exact values that evaluation needs in each fold, and their sample standard deviation."""

    exact_in_each_fold: Count
    spread_in_each_fold: Positive | None = None


class RegressionRules(Settings):
    """Quorums of a regression task."""

    training: ValueTraining
    evaluation: ValueEvaluation | None = None


class AssayRules(Settings):
    """The rules of one assay type.

    Attributes
    ----------
    auxiliary : bool
        Tasks only help training; then, and only then, there are no evaluation quorums.
    initial_weight : float
        An assay's weight in training.
    otherwise : str or None
        For types of the catalogue: the type as which tasks are judged that do not pass as its own.
    measurements, thresholds : optional
        None where assays of the type are always binary.
    classification : ClassRules
    regression : RegressionRules or None
        None where assays of the type are always binary, or are judged as `otherwise`.
    """

    auxiliary: bool
    initial_weight: Positive
    otherwise: AssayType | None = None
    measurements: MeasurementRules | None = None
    thresholds: ThresholdRules | None = None
    classification: ClassRules
    regression: RegressionRules | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        # Every key has an effect: what would be ignored is an error.
        if (self.measurements is None) != (self.thresholds is None):
            raise ValueError("expected both measurements and thresholds, or, for a type that is always binary, neither")
        catalogue = isinstance(self.thresholds, CatalogueThresholds)
        if catalogue != (self.otherwise is not None):
            raise ValueError('expected otherwise exactly where thresholds.rule is "catalogue"')
        if (self.regression is not None) != (self.measurements is not None and not catalogue):
            raise ValueError("expected regression for every type that has measurements and no otherwise")
        evaluations = [self.classification.evaluation, *([self.regression.evaluation] if self.regression else [])]
        if any((evaluation is None) != self.auxiliary for evaluation in evaluations):
            raise ValueError("expected evaluation quorums exactly where auxiliary is false")
        return self


class Rules(Settings):
    """The rules of all assay types; equal at every partner of a federation.

    Examples
    --------
    >>> Rules.built_in().of("CATALOG-PANEL").classification.training.labels
    400
    """

    every_type: EveryType
    adme: AssayRules = Field(alias="ADME")
    other: AssayRules = Field(alias="OTHER")
    non_catalog_panel: AssayRules = Field(alias="NON-CATALOG-PANEL")
    catalog_panel: AssayRules = Field(alias="CATALOG-PANEL")
    aux_hts: AssayRules = Field(alias="AUX_HTS")
    aux_pl: AssayRules = Field(alias="AUX_PL")

    @model_validator(mode="after")
    def _fallbacks(self) -> Self:
        for assay in (self.adme, self.other, self.non_catalog_panel, self.catalog_panel, self.aux_hts, self.aux_pl):
            if assay.otherwise is not None and self.of(assay.otherwise).regression is None:
                raise ValueError(f"expected otherwise to name a type that has regression, got {assay.otherwise!r}")
        return self

    @staticmethod
    @cache
    def built_in() -> Rules:
        """Return the rules that the package brings, those of MELLODDY-TUNER 3."""
        text = files("pharma_fl.data").joinpath("rules.toml").read_text("utf-8")
        return Rules.parse(text, source="rules.toml")

    def of(self, assay_type: str) -> AssayRules:
        """Return the rules of one assay type, named as in T0."""
        rules: AssayRules = getattr(self, assay_type.lower().replace("-", "_"))
        return rules

    def settings(self) -> dict[str, dict[str, Any]]:
        """Return all rules by section, each flattened to dotted keys; JSON can hold it. Unset keys are left out."""
        content = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        return {section: dict(_flat(keys, "")) for section, keys in content.items()}


def _flat(content: dict[str, Any], prefix: str) -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for key, value in content.items():
        pairs.extend(_flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(prefix + key, value)])
    return pairs
