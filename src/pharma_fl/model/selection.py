"""Choosing among finished models by the validation fold."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from pharma_fl.errors import ModelError
from pharma_fl.model.batches import Records
from pharma_fl.model.ensemble import Ensemble, RecordsAt
from pharma_fl.model.metrics import auc_roc


def validation_score(logits: NDArray[np.float32], records: Records) -> float:
    """Mean AUC-ROC over classification tasks with both classes, weighted by their labels; NaN without any."""
    labels = records.classes.tocsc()
    total = weight = 0.0
    for column in range(labels.shape[1]):
        span = slice(labels.indptr[column], labels.indptr[column + 1])
        auc = auc_roc(labels.data[span], logits[labels.indices[span], column])
        if not math.isnan(auc):
            total += auc * (span.stop - span.start)
            weight += span.stop - span.start
    return total / weight if weight else math.nan


def choose(candidates: Mapping[str, Ensemble], validation: RecordsAt) -> tuple[str, float]:
    """Return the name and score of the candidate that is best on the validation fold; the first wins ties.

    Raises
    ------
    ModelError
        ``PFL-M04`` no classification task has both classes in the validation fold.
    """
    scores = {}
    for name, candidate in candidates.items():
        logits, _ = candidate.predict(validation)
        scores[name] = validation_score(logits, validation(candidate.members[0].network.settings))
    best = max(scores, key=lambda name: -math.inf if math.isnan(scores[name]) else scores[name])
    if math.isnan(scores[best]):
        raise ModelError(
            "PFL-M04",
            "The validation fold has no classification task with both classes, so nothing can be chosen. "
            "Prepare more compounds, or name another fold (partner.toml: folds.validation).",
        )
    return best, scores[best]
