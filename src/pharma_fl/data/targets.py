"""From aggregated values to the tasks and their label matrices."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.sparse import csr_array

from pharma_fl.data.labels import enough_classes, enough_values, label
from pharma_fl.data.tasks import Task
from pharma_fl.data.thresholds import Threshold, thresholds

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Targets:
    """Tasks and labels.

    Attributes
    ----------
    tasks : tuple of Task
        Classification tasks by column, then regression tasks by column.
    y_class : csr_array int8 (n, c)
        +1 active, -1 inactive.
    y_regr, y_censor : csr_array float32 and int8 (n, r)
        Values in the table's units and their censor codes, in one pattern. Zeros are stored entries.
    ambiguous : DataFrame
        Pairs of value and threshold that a qualifier leaves open: ``input_assay_id``, ``threshold``,
        ``record``, ``value``, ``censor``.
    """

    tasks: tuple[Task, ...]
    y_class: csr_array
    y_regr: csr_array
    y_censor: csr_array
    ambiguous: pd.DataFrame


def targets(assays: pd.DataFrame, values: pd.DataFrame, folds: npt.NDArray[np.int8], count: int) -> Targets:
    """Build all tasks and labels.

    Parameters
    ----------
    assays : DataFrame
        As in `Tables`; an assay without a single value still gets the tasks that T0 defines.
    values : DataFrame
        The table of `Activities`, with records 0 to n - 1.
    folds : int8 array (n,)
        Fold of each record.
    count : int
        Number of folds.
    """
    by_assay = dict(tuple(values.groupby("input_assay_id")))
    nothing = values.iloc[:0]
    classification: list[Task] = []
    regression: list[Task] = []
    class_parts: list[tuple[Rows, int, npt.NDArray[np.int8]]] = []
    value_parts: list[tuple[Rows, int, npt.NDArray[np.float64], npt.NDArray[np.int8]]] = []
    ambiguous: list[pd.DataFrame] = []
    for assay in assays.sort_values("input_assay_id").to_dict("records"):
        identity = int(assay["input_assay_id"])
        rows = by_assay.get(identity, nothing)
        records, value = rows["record"].to_numpy(np.int64), rows["value"].to_numpy(np.float64)
        censor = rows["censor"].to_numpy(np.int8)
        cuts = thresholds(assay, value, censor)
        for cut in cuts:
            labels = _labels(assay, cut, value, censor)
            known = labels != 0
            column = len(classification)
            classification.append(
                _class_task(
                    assay, cut, column=column, siblings=len(cuts), labels=labels, folds=folds[records], count=count
                )
            )
            class_parts.append((records[known], column, labels[known]))
            ambiguous.append(rows[~known].assign(threshold=cut.value))
        if assay["use_in_regression"]:
            column = len(regression)
            spread = assay["assay_type"] != "ADME"
            evaluate = enough_values(value, censor, folds[records], count, spread=spread)
            regression.append(_value_task(assay, column, evaluate=evaluate, values=len(value)))
            value_parts.append((records, column, value, censor))
    shape = (len(folds), len(classification))
    regr_shape = (len(folds), len(regression))
    regr_where = [(records, column) for records, column, _, _ in value_parts]
    return Targets(
        tasks=(*classification, *regression),
        y_class=_csr([part[:2] for part in class_parts], [part[2] for part in class_parts], shape, np.int8),
        y_regr=_csr(regr_where, [part[2] for part in value_parts], regr_shape, np.float32),
        y_censor=_csr(regr_where, [part[3] for part in value_parts], regr_shape, np.int8),
        ambiguous=pd.concat([nothing.assign(threshold=0.0), *ambiguous], ignore_index=True),
    )


def _labels(
    assay: Mapping[Hashable, Any], cut: Threshold, values: npt.NDArray[np.float64], censor: npt.NDArray[np.int8]
) -> npt.NDArray[np.int8]:
    if assay["is_binary"]:
        return values.astype(np.int8)
    return label(values, censor, cut.value, "low" if assay["direction"] == "low" else "high")


def _class_task(
    assay: Mapping[Hashable, Any],
    cut: Threshold,
    *,
    column: int,
    siblings: int,
    labels: npt.NDArray[np.int8],
    folds: npt.NDArray[np.int8],
    count: int,
) -> Task:
    identity = int(assay["input_assay_id"])
    side = "" if assay["is_binary"] else "low" if assay["direction"] == "low" else "high"
    return Task(
        task=f"assay-{identity}/{side}/{cut.value!r}" if side else f"assay-{identity}/binary",
        kind="classification",
        column=column,
        input_assay_id=identity,
        assay_type=str(assay["assay_type"]),
        direction=side,
        threshold=cut.value,
        auxiliary=cut.auxiliary,
        data_derived=cut.data_derived,
        training_weight=1.0 / siblings,
        evaluate=not cut.auxiliary and enough_classes(labels, folds, count),
        actives=int(np.count_nonzero(labels == 1)),
        inactives=int(np.count_nonzero(labels == -1)),
    )


def _value_task(assay: Mapping[Hashable, Any], column: int, *, evaluate: bool, values: int) -> Task:
    identity = int(assay["input_assay_id"])
    return Task(
        task=f"assay-{identity}/value",
        kind="regression",
        column=column,
        input_assay_id=identity,
        assay_type=str(assay["assay_type"]),
        direction="",
        threshold=None,
        auxiliary=False,
        data_derived=False,
        training_weight=1.0,
        evaluate=evaluate,
        values=values,
    )


def _csr(
    where: list[tuple[Rows, int]],
    entries: list[npt.NDArray[np.int8]] | list[npt.NDArray[np.float64]],
    shape: tuple[int, int],
    dtype: type[np.int8 | np.float32],
) -> csr_array:
    """Sort entries into rows without touching zeros, which are measurements like any other."""
    rows = np.concatenate([np.empty(0, np.int64), *(records for records, _ in where)])
    columns = np.concatenate(
        [np.empty(0, np.int32), *(np.full(len(records), column, np.int32) for records, column in where)]
    )
    data = np.concatenate([np.empty(0, dtype), *(part.astype(dtype) for part in entries)])
    order = np.lexsort((columns, rows))
    indptr = np.zeros(shape[0] + 1, dtype=np.int64)
    np.cumsum(np.bincount(rows, minlength=shape[0]), out=indptr[1:])
    return csr_array((data[order], columns[order], indptr), shape=shape)
