"""Scores of a finished model on the held-out test fold, which is looked at once."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from pharma_fl.data.tasks import Task
from pharma_fl.model.ensemble import Ensemble, RecordsAt
from pharma_fl.model.metrics import auc_pr, auc_roc, rmse


def held_out_scores(model: Ensemble, test: RecordsAt, tasks: Sequence[Task], *, headline: str) -> dict[str, float]:
    """Score a model on the test fold.

    Parameters
    ----------
    model : Ensemble
        The finished model.
    test : RecordsAt
        The test fold's records.
    tasks : sequence of Task
        The partner's tasks.
    headline : str
        Task whose metrics carry no suffix.

    Returns
    -------
    dict
        Metric to value. ``auc_roc`` and ``auc_pr`` belong to the headline task, ``<metric>/<task>`` to the
        others; metrics that are not defined are left out. Regression errors are in standardised units
        and over exact values.
    """
    logits, values = model.predict(test)
    records = test(model.members[0].network.settings)
    classes, targets, censor = records.classes.tocsc(), records.values.tocsc(), records.censor.tocsc()
    scores: dict[str, float] = {}
    for task in tasks:
        suffix = "" if task.task == headline else f"/{task.task}"
        if task.kind == "classification":
            span = slice(classes.indptr[task.column], classes.indptr[task.column + 1])
            label, score = classes.data[span], logits[classes.indices[span], task.column]
            scores |= {f"auc_roc{suffix}": auc_roc(label, score), f"auc_pr{suffix}": auc_pr(label, score)}
        else:
            span = slice(targets.indptr[task.column], targets.indptr[task.column + 1])
            exact = censor.data[span] == 0
            predicted = values[targets.indices[span], task.column]
            scores[f"rmse{suffix}"] = rmse(targets.data[span][exact], np.asarray(predicted)[exact])
    return {name: value for name, value in scores.items() if not math.isnan(value)}
