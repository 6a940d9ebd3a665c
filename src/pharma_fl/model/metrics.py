"""Metrics of one task on held-out records."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

Array = NDArray[np.float32]


def auc_roc(label: Array, score: Array) -> float:
    """Area under the ROC curve; NaN when one class is missing.

    >>> auc_roc(np.array([0, 1, 1], dtype=np.float32), np.array([0.1, 0.4, 0.9], dtype=np.float32))
    1.0
    """
    return float(roc_auc_score(label, score)) if _both_classes(label) else math.nan


def auc_pr(label: Array, score: Array) -> float:
    """Average precision; NaN when one class is missing."""
    return float(average_precision_score(label, score)) if _both_classes(label) else math.nan


def rmse(measured: Array, predicted: Array) -> float:
    """Root mean squared error over exact values; NaN without any.

    >>> rmse(np.array([1.0, 3.0], dtype=np.float32), np.array([2.0, 2.0], dtype=np.float32))
    1.0
    """
    return float(np.sqrt(np.mean(np.square(measured - predicted)))) if len(measured) else math.nan


def _both_classes(label: Array) -> bool:
    return bool(len(label)) and bool(label.min() != label.max())
