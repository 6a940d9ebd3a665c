"""Which cut-offs turn an assay's values into classification tasks.

Expert thresholds, those of the catalogue, a screen's fixed one and a binary assay's zero follow from T0, T_cat and
rules.toml alone. Only for an assay without any of them are cut-offs computed from the measurements, and then they
say so.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from pharma_fl.data.labels import label
from pharma_fl.data.rules import (
    CatalogueThresholds,
    DoseResponseThresholds,
    FixedThreshold,
    QuantileThresholds,
    Rules,
)

EXPERT_THRESHOLDS = tuple(f"expert_threshold_{number}" for number in range(1, 6))

Method = Literal["expert", "aux_low", "aux_high", "fixed_adaptive", "median", "quartile", "fixed"]


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """One cut-off of an assay.

    Attributes
    ----------
    value : float
        The cut-off.
    method : str
        Where it comes from, in the words of MELLODDY-TUNER.
    auxiliary : bool
        It helps training and is not evaluated.
    data_derived : bool
        It was computed from measurements.
    catalog_task_id : int or None
        The task of T_cat with this assay, threshold and method.
    """

    value: float
    method: Method
    auxiliary: bool = False
    data_derived: bool = False
    catalog_task_id: int | None = None


def from_data(assay: Mapping[Hashable, Any], rules: Rules) -> bool:
    """Whether measurements would decide this assay's cut-offs. T0 alone says so, even where nothing is measured."""
    derives = isinstance(rules.of(assay["assay_type"]).thresholds, DoseResponseThresholds | QuantileThresholds)
    return derives and not assay["is_binary"] and not _experts(assay)


def thresholds(
    assay: Mapping[Hashable, Any],
    values: npt.NDArray[np.float64],
    censor: npt.NDArray[np.int8],
    rules: Rules,
    catalogue: pd.DataFrame | None,
) -> tuple[Threshold, ...]:
    """Return an assay's cut-offs, ascending and distinct.

    Parameters
    ----------
    assay : mapping
        A row of the assays: ``assay_type``, ``is_binary``, ``expert_threshold_1`` to ``_5`` (NaN = none),
        ``direction`` (``high``, ``low`` or empty), ``catalog_assay_id`` (NaN = none).
    values : float64 array (n,)
        The assay's aggregated values.
    censor : int8 array (n,)
        Their censor codes.
    rules : Rules
        Which rule each assay type follows, and its numbers.
    catalogue : DataFrame or None
        T_cat: ``catalog_assay_id``, ``catalog_task_id``, ``threshold``, ``threshold_method`` and the expert
        thresholds, the same in every row.

    Returns
    -------
    tuple of Threshold
        Binary: zero. Otherwise by the type's rule in rules.toml; Notes give them with the built-in numbers.

    Notes
    -----
    ``quantiles``
        The expert thresholds. Without any, the median of the exact values, of which there must be two, and with
        a direction the quartile on its side where that differs.
    ``dose_response``
        The expert thresholds, with up to three of them an auxiliary pair 0.5 outside. Without any, the first of
        8, 7, 6, 5, 4.7, 4.4 that at least 25 and 20 % of labels reach and 25 do not, or else the median of
        values that are moved by a factor of two where they are censored, with an auxiliary pair. The trials look
        at the high side whatever the assay's direction, as MELLODDY-TUNER does.
    ``catalogue``
        The expert thresholds of T_cat, of which 4.53 is auxiliary; those of T0 do not count.
    ``fixed``
        3, or where the direction is low -3.
    """
    kind = rules.of(assay["assay_type"])
    rule = kind.thresholds
    if assay["is_binary"]:
        cuts = [Threshold(value=rules.every_type.binary_threshold, method="expert")]
    elif isinstance(rule, FixedThreshold):
        sign = -1.0 if assay["direction"] == "low" else 1.0
        cuts = [Threshold(value=sign * rule.threshold, method="fixed")]
    elif isinstance(rule, CatalogueThresholds):
        cuts = _of_catalogue(catalogue, rule)
    elif experts := _experts(assay):
        cuts = [Threshold(value=value, method="expert") for value in experts]
        if isinstance(rule, DoseResponseThresholds) and len(experts) <= rule.sandwich_up_to:
            cuts = _sandwich(cuts, rule)
    elif isinstance(rule, QuantileThresholds):
        cuts = _quantiles(values[censor == 0], str(assay["direction"]), rule)
    elif isinstance(rule, DoseResponseThresholds) and len(values):
        cuts = _sandwich([_adaptive(values, censor, rule)], rule)
    else:
        cuts = []
    if kind.auxiliary:
        cuts = [replace(cut, auxiliary=True) for cut in cuts]
    if kind.otherwise is not None and catalogue is not None:
        cuts = [replace(cut, catalog_task_id=_task_of(catalogue, assay, cut)) for cut in cuts]
    return tuple(cuts)


def _experts(assay: Mapping[Hashable, Any]) -> list[float]:
    # Adding zero makes -0.0 an ordinary zero, which names the task.
    return sorted({float(assay[name]) + 0.0 for name in EXPERT_THRESHOLDS if not math.isnan(assay[name])})


def _of_catalogue(catalogue: pd.DataFrame | None, rule: CatalogueThresholds) -> list[Threshold]:
    if catalogue is None or catalogue.empty:
        return []
    experts = _experts({name: catalogue[name].iloc[0] for name in EXPERT_THRESHOLDS})
    return [
        Threshold(value=value, method="aux_low", auxiliary=True)
        if value in rule.auxiliary
        else Threshold(value=value, method="expert")
        for value in experts
    ]


def _task_of(catalogue: pd.DataFrame, assay: Mapping[Hashable, Any], cut: Threshold) -> int | None:
    found = (
        (catalogue["catalog_assay_id"].to_numpy() == assay["catalog_assay_id"])
        & (catalogue["threshold"].to_numpy() == cut.value)
        & (catalogue["threshold_method"].to_numpy(dtype=object) == cut.method)
    )
    return int(catalogue["catalog_task_id"].to_numpy()[found][0]) if found.any() else None


def _sandwich(inner: list[Threshold], rule: DoseResponseThresholds) -> list[Threshold]:
    lowest, highest = inner[0], inner[-1]
    return [
        replace(lowest, value=lowest.value - rule.sandwich, method="aux_low", auxiliary=True),
        *inner,
        replace(highest, value=highest.value + rule.sandwich, method="aux_high", auxiliary=True),
    ]


def _quantiles(exact: npt.NDArray[np.float64], direction: str, rule: QuantileThresholds) -> list[Threshold]:
    if len(exact) < rule.least_values:
        return []
    median = float(np.quantile(exact, 0.5))
    cuts = [Threshold(value=median, method="median", data_derived=True)]
    share = {"high": rule.quantile_high, "low": rule.quantile_low}.get(direction)
    if share is not None and (quartile := float(np.quantile(exact, share))) != median:
        cuts.append(Threshold(value=quartile, method="quartile", data_derived=True))
    return sorted(cuts, key=lambda cut: cut.value)


def _adaptive(values: npt.NDArray[np.float64], censor: npt.NDArray[np.int8], rule: DoseResponseThresholds) -> Threshold:
    for trial in rule.trials:
        labels = label(values, censor, trial, "high")
        active, inactive = int(np.count_nonzero(labels == 1)), int(np.count_nonzero(labels == -1))
        enough = active >= rule.trial_actives and inactive >= rule.trial_inactives
        if enough and active / (active + inactive) >= rule.trial_share:
            return Threshold(value=trial, method="fixed_adaptive", data_derived=True)
    moved = values + censor * math.log10(rule.censored_factor)
    return Threshold(value=float(np.quantile(moved, 0.5)), method="median", data_derived=True)
