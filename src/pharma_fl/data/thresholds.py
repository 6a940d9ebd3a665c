"""Which cut-offs turn an assay's values into classification tasks.

A partner's expert thresholds, and a binary assay's zero, follow from T0 alone. Only for an assay without either
are cut-offs computed from the measurements, by the rules of MELLODDY-TUNER 3, and then they say so.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pharma_fl.data.labels import label
from pharma_fl.data.tables import EXPERT_THRESHOLDS

_TRIALS = (8.0, 7.0, 6.0, 5.0, 4.7, 4.4)
_TRIAL_SHARE = 0.2
_TRIAL_LABELS = 25
_SANDWICH = 0.5
_EXPERTS_WITHOUT_SANDWICH = 4


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """One cut-off of an assay: its value, whether it only helps training, and whether data decided it."""

    value: float
    auxiliary: bool = False
    data_derived: bool = False


def from_data(assay: Mapping[Hashable, Any]) -> bool:
    """Whether measurements would decide this assay's cut-offs. T0 alone says so, even where nothing is measured."""
    return not assay["is_binary"] and not _experts(assay)


def thresholds(
    assay: Mapping[Hashable, Any], values: npt.NDArray[np.float64], censor: npt.NDArray[np.int8]
) -> tuple[Threshold, ...]:
    """Return an assay's cut-offs, ascending.

    Parameters
    ----------
    assay : mapping
        A row of `Tables.assays`.
    values : float64 array (n,)
        The assay's aggregated values.
    censor : int8 array (n,)
        Their censor codes.

    Returns
    -------
    tuple of Threshold
        Binary: zero. ADME: the expert thresholds; without any, from the uncensored values (two at least) the
        median, and if a direction is given the quartile on its side where that differs. Other types: the
        expert thresholds, with up to three of them an auxiliary pair 0.5 outside; without any, the first of
        8, 7, 6, 5, 4.7, 4.4 that at least 25 and 20 % of labels reach and 25 do not, or else the median of
        values that are moved by a factor of two where they are censored, with an auxiliary pair.
    """
    if assay["is_binary"]:
        return (Threshold(value=0.0),)
    experts = _experts(assay)
    if assay["assay_type"] == "ADME":
        if experts:
            return tuple(Threshold(value=value) for value in experts)
        return _adme(values[censor == 0], str(assay["direction"]))
    if not experts:
        return _sandwich([_adaptive(values, censor)], data_derived=True) if len(values) else ()
    if len(experts) >= _EXPERTS_WITHOUT_SANDWICH:
        return tuple(Threshold(value=value) for value in experts)
    return _sandwich(experts, data_derived=False)


def _experts(assay: Mapping[Hashable, Any]) -> list[float]:
    return sorted({float(assay[name]) for name in EXPERT_THRESHOLDS if not math.isnan(assay[name])})


def _sandwich(inner: list[float], *, data_derived: bool) -> tuple[Threshold, ...]:
    return (
        Threshold(value=inner[0] - _SANDWICH, auxiliary=True, data_derived=data_derived),
        *(Threshold(value=value, data_derived=data_derived) for value in inner),
        Threshold(value=inner[-1] + _SANDWICH, auxiliary=True, data_derived=data_derived),
    )


def _adme(exact: npt.NDArray[np.float64], direction: str) -> tuple[Threshold, ...]:
    if len(exact) < 2:
        return ()
    shares = {"high": (0.5, 0.75), "low": (0.25, 0.5)}.get(direction, (0.5,))
    return tuple(Threshold(value=value, data_derived=True) for value in sorted({*np.quantile(exact, shares).tolist()}))


def _adaptive(values: npt.NDArray[np.float64], censor: npt.NDArray[np.int8]) -> float:
    for trial in _TRIALS:
        # The trial looks at the high side whatever the assay's direction, as the source does.
        labels = label(values, censor, trial, "high")
        above, below = int(np.count_nonzero(labels == 1)), int(np.count_nonzero(labels == -1))
        if min(above, below) >= _TRIAL_LABELS and above >= _TRIAL_SHARE * (above + below):
            return trial
    return float(np.median(values + censor * math.log10(2.0)))
