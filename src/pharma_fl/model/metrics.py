"""Metrics of one task on held-out records, and their mean over tasks."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import pearsonr
from sklearn.metrics import (
    auc,
    average_precision_score,
    brier_score_loss,
    precision_recall_curve,
    r2_score,
    roc_auc_score,
    roc_curve,
)

Array = NDArray[np.float32]
Wide = NDArray[np.float64]

_REFERENCE_SHARE = 0.1
"""Share of positives at which `calibrated_auc_pr` compares tasks."""


def auc_roc(label: Array, score: Array) -> float:
    """Area under the ROC curve; NaN when one class is missing.

    >>> auc_roc(np.array([0, 1, 1], dtype=np.float32), np.array([0.1, 0.4, 0.9], dtype=np.float32))
    1.0
    """
    return float(roc_auc_score(label, score)) if _both_classes(label) else math.nan


def auc_pr(label: Array, score: Array) -> float:
    """Average precision; NaN when one class is missing."""
    return float(average_precision_score(label, score)) if _both_classes(label) else math.nan


def calibrated_auc_pr(label: Array, score: Array) -> float:
    """Area under the precision-recall curve as if a tenth of the records were positive.

    Precision rises with the share of positives, so plain areas of unequally balanced tasks do not compare. With
    ``p`` the share of positives and ``r`` the reference share, the odds of a false positive are multiplied by
    ``p (1 - r) / (r (1 - p))``, which leaves a curve that depends on the two rates of the ROC curve alone.

    Parameters
    ----------
    label : ndarray
        float32 (n,), 0 or 1.
    score : ndarray
        float32 (n,); more is more positive.

    Returns
    -------
    float
        Trapezoidal area; NaN when one class is missing.

    References
    ----------
    Siblini et al. 2020, arXiv 1909.02827; SparseChem 1.0, ``auc_pr_cal``, which also caps ``p`` at 0.99.
    """
    if not _both_classes(label):
        return math.nan
    precision, recall, _ = precision_recall_curve(label, score)
    share = min(float(label.mean(dtype=np.float64)), 0.99)
    odds = share * (1 - _REFERENCE_SHARE) / (_REFERENCE_SHARE * (1 - share))
    return float(auc(recall, precision / (precision + (1 - precision) * odds)))


def calibration_errors(label: Array, probability: Array, bins: int = 10) -> tuple[float, float]:
    """Return the expected and the adaptive calibration error.

    Both are ``sum over bins of count * |share of positives - mean probability|``, divided by n.

    Parameters
    ----------
    label : ndarray
        float32 (n,), 0 or 1; one class is enough.
    probability : ndarray
        float32 (n,) in [0, 1].
    bins : int
        Number of bins; an empty one adds nothing.

    Returns
    -------
    ece : float
        Over bins of equal width, each without its lower and with its upper bound; a probability of 0 joins the
        first. NaN without records.
    ace : float
        Over bins of equal count in order of probability, the first ones larger by one where n does not divide;
        records of equal probability keep their order. NaN without records.

    References
    ----------
    Nixon et al. 2019, arXiv 1904.01685; SparseChem 1.0, ``calcCalibrationErrors``.

    Examples
    --------
    >>> label, probability = np.array([0, 1], dtype=np.float32), np.array([0.25, 0.75], dtype=np.float32)
    >>> calibration_errors(label, probability)
    (0.25, 0.25)
    """
    count = len(label)
    if not count:
        return math.nan, math.nan
    # Bounds in the precision of the probabilities: float32(0.1) is above 0.1 and would leave its bin.
    bounds = (np.arange(1, bins) / bins).astype(probability.dtype)
    gap = label.astype(np.float64) - probability
    by_width = np.bincount(np.digitize(probability, bounds, right=True), weights=gap)
    by_count = [part.sum() for part in np.array_split(gap[np.argsort(probability, kind="stable")], bins)]
    return float(np.abs(by_width).sum() / count), float(np.abs(by_count).sum() / count)


def brier(label: Array, probability: Array) -> float:
    """Mean squared error of a probability in [0, 1]; NaN without records, one class is enough.

    References
    ----------
    Brier 1950, Monthly Weather Review 78(1), for two classes and with one term a record.

    Examples
    --------
    >>> brier(np.array([0, 1], dtype=np.float32), np.array([0.5, 1.0], dtype=np.float32))
    0.125
    """
    return float(brier_score_loss(label, probability, pos_label=1)) if len(label) else math.nan


def f1_max(label: Array, probability: Array) -> tuple[float, float]:
    """Largest F1 over all cutoffs, and the cutoff.

    Parameters
    ----------
    label : ndarray
        float32 (n,), 0 or 1.
    probability : ndarray
        float32 (n,)

    Returns
    -------
    value : float
        NaN when one class is missing.
    probability : float
        The highest of the given probabilities at which calling it and everything above positive reaches the
        value; NaN when one class is missing.

    References
    ----------
    SparseChem 1.0, ``f1_max`` and ``p_f1_max``, which takes the lowest of equally good cutoffs.

    Examples
    --------
    >>> f1_max(np.array([0, 1, 1], dtype=np.float32), np.array([0.25, 0.5, 0.75], dtype=np.float32))
    (1.0, 0.5)
    """
    if not _both_classes(label):
        return math.nan, math.nan
    true, false, cutoffs = _positives_by_cutoff(label, probability)
    return _largest(2 * true / (true[-1] + true + false), cutoffs)


def kappa_max(label: Array, probability: Array) -> tuple[float, float]:
    """Largest Cohen's kappa over all cutoffs, and the cutoff.

    Parameters
    ----------
    label : ndarray
        float32 (n,), 0 or 1.
    probability : ndarray
        float32 (n,)

    Returns
    -------
    value : float
        At least 0, which calling every record positive reaches; NaN when one class is missing.
    probability : float
        As in `f1_max`.

    References
    ----------
    Cohen 1960, Educational and Psychological Measurement 20(1); SparseChem 1.0, ``kappa_max`` and ``p_kappa_max``,
    which may also call no record positive, at a cutoff of 1.

    Examples
    --------
    >>> kappa_max(np.array([0, 1, 1], dtype=np.float32), np.array([0.25, 0.5, 0.75], dtype=np.float32))
    (1.0, 0.5)
    """
    if not _both_classes(label):
        return math.nan, math.nan
    true, false, cutoffs = _positives_by_cutoff(label, probability)
    positives, negatives, called = true[-1], false[-1], true + false
    agreement = 2 * (true * negatives - false * positives)
    return _largest(agreement / (called * negatives + positives * (len(label) - called)), cutoffs)


def rmse(measured: Array, predicted: Array) -> float:
    """Root mean squared error over exact values; NaN without any.

    >>> rmse(np.array([1.0, 3.0], dtype=np.float32), np.array([2.0, 2.0], dtype=np.float32))
    1.0
    """
    return float(np.sqrt(np.mean(np.square(measured - predicted)))) if len(measured) else math.nan


def r_squared(measured: Array, predicted: Array) -> float:
    """Coefficient of determination over exact values, ``1 - MSE / variance``; NaN when they do not vary.

    Negative where the mean would predict better.

    References
    ----------
    SparseChem 1.0, ``rsquared``.

    Examples
    --------
    >>> r_squared(np.array([1.0, 3.0], dtype=np.float32), np.array([2.0, 2.0], dtype=np.float32))
    0.0
    """
    if not _varies(measured):
        return math.nan
    return float(r2_score(measured.astype(np.float64), predicted.astype(np.float64)))


def pearson(measured: Array, predicted: Array) -> float:
    """Pearson correlation over exact values; NaN when either side does not vary.

    References
    ----------
    SparseChem 1.0, ``corrcoef``.

    Examples
    --------
    >>> pearson(np.array([1.0, 3.0], dtype=np.float32), np.array([0.0, 1.0], dtype=np.float32))
    1.0
    """
    if not (_varies(measured) and _varies(predicted)):
        return math.nan
    # float64, because scipy takes float32 predictions that differ in their last digits for constant ones
    return float(pearsonr(measured.astype(np.float64), predicted.astype(np.float64)).statistic)


def weighted_mean(values: ArrayLike, weights: ArrayLike) -> float:
    """Mean of one metric over tasks, without the tasks where it is NaN.

    Parameters
    ----------
    values : array_like
        float (tasks,): the metric of each task.
    weights : array_like
        float (tasks,), at least 0: how much each task counts.

    Returns
    -------
    float
        NaN when no task is left, or only tasks of weight 0.

    References
    ----------
    SparseChem 1.0, ``aggregate_results``.

    Examples
    --------
    >>> weighted_mean([0.5, np.nan, 1.0], [1, 5, 3])
    0.875
    """
    value, weight = np.asarray(values, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    found = ~np.isnan(value)
    return float(np.average(value[found], weights=weight[found])) if weight[found].any() else math.nan


def _positives_by_cutoff(label: Array, probability: Array) -> tuple[Wide, Wide, Wide]:
    """Count the true and the false positives at each distinct probability, from the highest down."""
    false, true, cutoffs = roc_curve(label, probability, drop_intermediate=False)
    positives = np.count_nonzero(label)
    # Whole counts, so that equally good cutoffs are equal; the first, infinite cutoff calls nothing positive.
    return np.rint(true * positives)[1:], np.rint(false * (len(label) - positives))[1:], cutoffs[1:]


def _largest(scores: Wide, cutoffs: Wide) -> tuple[float, float]:
    best = scores.argmax()
    return float(scores[best]), float(cutoffs[best])


def _varies(values: Array) -> bool:
    return len(np.unique(values)) > 1


def _both_classes(label: Array) -> bool:
    return bool(len(label)) and bool(label.min() != label.max())
