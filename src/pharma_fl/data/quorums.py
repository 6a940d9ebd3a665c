"""Whether an assay holds enough to train on and to evaluate, as MELLODDY-TUNER would decide.

These verdicts depend on single compounds. They are reported and decide the export for MELLODDY-TUNER; private
training never sees them. A fold without any value counts as zero.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pharma_fl.data.rules import ClassRules, Rules


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a task's labels suffice for.

    Attributes
    ----------
    quorum_type : str
        The assay type whose quorum was applied.
    training : bool
        Enough to train.
    evaluation : bool
        Enough to train and to evaluate; False for auxiliary types, which have no such quorum.
    """

    quorum_type: str
    training: bool
    evaluation: bool


def class_quorum(
    labels: npt.NDArray[np.int8],
    folds: npt.NDArray[np.int8],
    count: int,
    *,
    assay_type: str,
    in_catalogue: bool,
    rules: Rules,
) -> Verdict:
    """Judge a classification task.

    Parameters
    ----------
    labels : int8 array (n,)
        +1 active, -1 inactive, 0 open; the open ones do not count.
    folds : int8 array (n,)
        Fold of each label, 0 to `count` - 1.
    count : int
        Number of folds.
    assay_type : str
        The assay's type in T0.
    in_catalogue : bool
        The task is in T_cat. A catalogue assay's task that is not, or that fails its own training quorum, is
        judged as the type that ``otherwise`` names in rules.toml.
    rules : Rules
        The quorums.
    """
    sides = [np.bincount(folds[labels == side], minlength=count) for side in (1, -1)]
    actives, inactives = sides
    otherwise = rules.of(assay_type).otherwise
    if otherwise is not None and not (
        in_catalogue and _trains(actives, inactives, rules.of(assay_type).classification)
    ):
        assay_type = otherwise
    needed = rules.of(assay_type).classification
    training = _trains(actives, inactives, needed)
    return Verdict(
        quorum_type=assay_type,
        training=training,
        evaluation=training
        and needed.evaluation is not None
        and int(actives.min()) >= needed.evaluation.actives_in_each_fold
        and int(inactives.min()) >= needed.evaluation.inactives_in_each_fold,
    )


def _trains(actives: npt.NDArray[np.intp], inactives: npt.NDArray[np.intp], needed: ClassRules) -> bool:
    of_actives, of_inactives = int(actives.sum()), int(inactives.sum())
    if needed.training.labels is not None:
        return of_actives + of_inactives >= needed.training.labels
    return of_actives >= (needed.training.actives or 0) and of_inactives >= (needed.training.inactives or 0)


def value_quorum(
    values: npt.NDArray[np.float64],
    censor: npt.NDArray[np.int8],
    folds: npt.NDArray[np.int8],
    count: int,
    *,
    assay_type: str,
    rules: Rules,
) -> Verdict:
    """Judge a regression task; arguments as in `class_quorum`, and the values with their censor codes.

    A catalogue assay is judged as the type that ``otherwise`` names in rules.toml.
    """
    assay_type = rules.of(assay_type).otherwise or assay_type
    needed = rules.of(assay_type).regression
    assert needed is not None, f"assays of type {assay_type} have no regression task"
    exact, where = values[censor == 0], folds[censor == 0]
    training = len(values) >= needed.training.measured and len(exact) >= needed.training.exact
    evaluation = needed.evaluation
    return Verdict(
        quorum_type=assay_type,
        training=training,
        evaluation=training
        and evaluation is not None
        and int(np.bincount(where, minlength=count).min()) >= evaluation.exact_in_each_fold
        and (
            evaluation.spread_in_each_fold is None
            or float(spread(exact, where, count).min()) >= evaluation.spread_in_each_fold
        ),
    )


def variance_ok(unrounded: npt.NDArray[np.float64], folds: npt.NDArray[np.int8], count: int, rules: Rules) -> bool:
    """Whether an assay's values, before rounding, differ in every fold.

    If not, MELLODDY-TUNER drops the assay; of a catalogue assay it drops the regression task alone.
    """
    return float(spread(unrounded, folds, count).min()) > rules.every_type.least_spread


def spread(values: npt.NDArray[np.float64], folds: npt.NDArray[np.int8], count: int) -> npt.NDArray[np.float64]:
    """Return the sample standard deviation in each fold; 0 where there are fewer than two values.

    Examples
    --------
    >>> spread(np.array([5.0, 7.0, 9.0, 6.0]), np.array([0, 0, 0, 1], dtype=np.int8), 3).tolist()
    [2.0, 0.0, 0.0]
    """
    # Measured from the fold's smallest value, equal values have a spread of exactly zero, however large they are.
    # Sums in ascending order do not depend on the order of compounds.
    order = np.argsort(values)
    values, folds = values[order], folds[order]
    smallest = np.full(count, np.inf)
    np.minimum.at(smallest, folds, values)
    above = values - smallest[folds]
    size = np.bincount(folds, minlength=count)
    mean = np.bincount(folds, weights=above, minlength=count) / np.maximum(size, 1)
    squares = np.bincount(folds, weights=(above - mean[folds]) ** 2, minlength=count)
    deviation: npt.NDArray[np.float64] = np.sqrt(squares / np.maximum(size - 1, 1))
    return deviation
