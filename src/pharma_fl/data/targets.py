"""From an assay's aggregated values to its tasks and their labels.

A task that appeared, vanished or changed its weight with single compounds would tell about them. So every task that
T0, T_cat and rules.toml define exists whatever is measured; quorums are reported with it and not applied.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from pharma_fl.data.labels import Side, label
from pharma_fl.data.quorums import Verdict, class_quorum, value_quorum, variance_ok
from pharma_fl.data.rules import FixedThreshold, Rules
from pharma_fl.data.tasks import Task
from pharma_fl.data.thresholds import Threshold, thresholds
from pharma_fl.data.weights import censored_weight, class_weights

Labels = npt.NDArray[np.int8]
NO_COLUMN = -1
"""Column of a task that has no place in a matrix yet."""


def assay_tasks(
    assay: Mapping[Hashable, Any],
    record: npt.NDArray[np.int32],
    value: npt.NDArray[np.float64],
    censor: npt.NDArray[np.int8],
    folds_of_record: npt.NDArray[np.int8],
    count: int,
    rules: Rules,
    catalogue: pd.DataFrame | None,
    *,
    unrounded: npt.NDArray[np.float64],
) -> list[tuple[Task, Labels | None]]:
    """Return one assay's tasks, each with its labels.

    Parameters
    ----------
    assay : mapping
        A row of the assays: ``assay``, ``assay_type``, ``use_in_regression`` and what `thresholds` reads.
    record : int32 array (n,)
        The record of each value.
    value, censor, unrounded : arrays (n,)
        The columns of `Activities.table`.
    folds_of_record : int8 array
        Fold of every record, 0 to `count` - 1; `record` points into it.
    count : int
        Number of folds.
    rules : Rules
        Thresholds, quorums, weights.
    catalogue : DataFrame or None
        T_cat, as in `thresholds`.

    Returns
    -------
    list of (Task, int8 array (n,) or None)
        Classification tasks by ascending threshold, with +1 active, -1 inactive, 0 left open by a qualifier;
        then the regression task, if any, with None: all of `value` are its labels. A binary assay has no
        regression task. Columns are `NO_COLUMN`.
    """
    folds = folds_of_record[record]
    kind = rules.of(assay["assay_type"])
    varied = variance_ok(unrounded, folds, count, rules)
    found: list[tuple[Task, Labels | None]] = []

    cuts = thresholds(assay, value, censor, rules, catalogue)
    labels = [_labels(assay, cut, value, censor, rules) for cut in cuts]
    verdicts = [
        class_quorum(
            marks,
            folds,
            count,
            assay_type=assay["assay_type"],
            in_catalogue=cut.catalog_task_id is not None,
            rules=rules,
        )
        for cut, marks in zip(cuts, labels, strict=True)
    ]
    # A catalogue assay without variance loses its regression task alone.
    trains = [verdict.training and (varied or kind.otherwise is not None) for verdict in verdicts]
    weights = class_weights([verdict.quorum_type for verdict in verdicts], trains, rules)
    for cut, marks, verdict, passes, weight in zip(cuts, labels, verdicts, trains, weights, strict=True):
        public = kind.initial_weight / len(cuts)
        task = _class_task(assay, cut, marks, verdict, rules, training_weight=public, passes=passes, weight=weight)
        found.append((task, marks))

    if assay["use_in_regression"] and not assay["is_binary"]:
        verdict = value_quorum(value, censor, folds, count, assay_type=assay["assay_type"], rules=rules)
        found.append((_value_task(assay, censor, verdict, rules, passes=varied and verdict.training), None))
    return found


def _side(assay: Mapping[Hashable, Any], rules: Rules) -> Side:
    if isinstance(rules.of(assay["assay_type"]).thresholds, FixedThreshold) and not assay["direction"]:
        return "absolute"
    return "low" if assay["direction"] == "low" else "high"


def _labels(
    assay: Mapping[Hashable, Any],
    cut: Threshold,
    value: npt.NDArray[np.float64],
    censor: npt.NDArray[np.int8],
    rules: Rules,
) -> Labels:
    if assay["is_binary"]:
        return value.astype(np.int8)
    if cut.method == "fixed":
        censor = np.zeros_like(censor)
    return label(value, censor, cut.value, _side(assay, rules))


def _class_task(
    assay: Mapping[Hashable, Any],
    cut: Threshold,
    labels: Labels,
    verdict: Verdict,
    rules: Rules,
    *,
    training_weight: float,
    passes: bool,
    weight: float,
) -> Task:
    side = "" if assay["is_binary"] else _side(assay, rules)
    return Task(
        task=f"assay-{assay['assay']}/{side}/{cut.value!r}" if side else f"assay-{assay['assay']}/binary",
        kind="classification",
        column=NO_COLUMN,
        assay=str(assay["assay"]),
        assay_type=str(assay["assay_type"]),
        direction=side,
        threshold=cut.value,
        threshold_method=cut.method,
        auxiliary=cut.auxiliary,
        data_derived=cut.data_derived,
        catalog_task_id=cut.catalog_task_id,
        training_weight=training_weight,
        quorum_type=verdict.quorum_type,
        training_quorum=passes,
        evaluate=passes and verdict.evaluation and not cut.auxiliary,
        quorum_weight=weight,
        actives=int(np.count_nonzero(labels == 1)),
        inactives=int(np.count_nonzero(labels == -1)),
    )


def _value_task(
    assay: Mapping[Hashable, Any], censor: npt.NDArray[np.int8], verdict: Verdict, rules: Rules, *, passes: bool
) -> Task:
    kind = rules.of(assay["assay_type"])
    weight = kind.initial_weight if kind.auxiliary else 1.0
    censored = int(np.count_nonzero(censor))
    return Task(
        task=f"assay-{assay['assay']}/value",
        kind="regression",
        column=NO_COLUMN,
        assay=str(assay["assay"]),
        assay_type=str(assay["assay_type"]),
        direction="",
        threshold=None,
        threshold_method="",
        auxiliary=kind.auxiliary,
        data_derived=False,
        catalog_task_id=None,
        training_weight=weight,
        quorum_type=verdict.quorum_type,
        training_quorum=passes,
        evaluate=passes and verdict.evaluation and not kind.auxiliary,
        quorum_weight=weight if passes else 0.0,
        censored_weight=censored_weight(censored, len(censor), rules),
        values=len(censor),
        censored=censored,
    )
