"""Choosing among finished models by the validation fold."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from pharma_fl.errors import ModelError
from pharma_fl.model.ensemble import Ensemble, RecordsAt
from pharma_fl.model.metrics import auc_roc, rmse, weighted_mean
from pharma_fl.model.records import Records

Array = NDArray[np.float32]


def validation_score(logits: Array, values: Array, records: Records) -> float:
    """Return how well predictions fit some records; more is better.

    Parameters
    ----------
    logits, values : ndarray
        float32 (n, classification tasks) and (n, regression tasks).
    records : Records
        The same n records.

    Returns
    -------
    float
        Mean AUC-ROC over classification tasks with both classes; without such a task, minus the mean RMSE over
        exact values of regression tasks; each task weighted by its number of cells. NaN without either.
    """
    score = weighted_mean(*_by_task(records.classes, logits, auc_roc))
    if not math.isnan(score):
        return score
    exact = records.values.copy()
    exact.data = np.where(records.censor.data == 0, exact.data, np.float32(np.nan))
    return -weighted_mean(*_by_task(exact, values, rmse))


def _by_task(
    measured: csr_array, predicted: Array, metric: Callable[[Array, Array], float]
) -> tuple[list[float], list[int]]:
    """Return a metric of each task, and how many cells it is of."""
    by_column = measured.tocsc()
    scores, cells = [], []
    for column in range(by_column.shape[1]):
        span = slice(by_column.indptr[column], by_column.indptr[column + 1])
        rows, target = by_column.indices[span], by_column.data[span]
        known = ~np.isnan(target)
        scores.append(metric(target[known], predicted[rows[known], column]))
        cells.append(int(known.sum()))
    return scores, cells


def choose(candidates: Mapping[str, Ensemble], validation: RecordsAt) -> tuple[str, float]:
    """Return the name and score of the candidate that is best on the validation fold; the first wins ties.

    Raises
    ------
    ModelError
        ``PFL-M04`` the validation fold has neither a classification task with both classes nor an exact value.
    """
    scores = {}
    for name, candidate in candidates.items():
        logits, values = candidate.predict(validation)
        scores[name] = validation_score(logits, values, validation(candidate.members[0].network.settings))
    best = max(scores, key=lambda name: -math.inf if math.isnan(scores[name]) else scores[name])
    if math.isnan(scores[best]):
        raise ModelError(
            "PFL-M04",
            "The validation fold has neither a classification task with both classes nor an exact regression value, "
            "so nothing can be chosen. "
            "Prepare more compounds, or name another fold (partner.toml: folds.validation).",
        )
    return best, scores[best]
