"""Assay by assay: tasks and labels from values, gathered on disk and sorted into rows."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pharma_fl.data.measurements import Values
from pharma_fl.data.rules import Rules
from pharma_fl.data.spool import Columns, Spool, grouped
from pharma_fl.data.tables import Tables
from pharma_fl.data.targets import assay_tasks
from pharma_fl.data.tasks import Task
from pharma_fl.data.writing import save_array

_LABELS = {"row": np.int32, "column": np.int32, "label": np.int8}
_NUMBERS = {"row": np.int32, "column": np.int32, "value": np.float32, "censor": np.int8}


@dataclass(frozen=True, eq=False)
class Targets:
    """Tasks, and their entries on disk, by column and row.

    Attributes
    ----------
    tasks : tuple of Task
        Classification tasks by column, then regression tasks by column.
    labels : Columns
        ``row``, ``column``, ``label`` (+1, -1).
    numbers : Columns
        ``row``, ``column``, ``value``, ``censor``; zeros are entries like any other.
    ambiguous : int
        Pairs of value and threshold that a qualifier leaves open.
    """

    tasks: tuple[Task, ...]
    labels: Columns
    numbers: Columns
    ambiguous: int


def targets(
    tables: Tables,
    values: Values,
    row: npt.NDArray[np.int32],
    folds: npt.NDArray[np.int8],
    count: int,
    rules: Rules,
    *,
    spool: Path,
    ambiguous_file: Path,
    compound_id: Callable[[int], str],
) -> Targets:
    """Make all tasks and labels.

    Parameters
    ----------
    tables : Tables
    values : Values
    row : int32 array
        The row that each record of `values` has in the matrices.
    folds : int8 array
        Fold of each record.
    count : int
        Number of folds.
    rules : Rules
    spool : Path
        A folder for what does not fit into memory.
    ambiguous_file : Path
        Written: the pairs of value and threshold that a qualifier leaves open.
    compound_id : callable
        The id of a record, as it is written there.
    """
    classification: list[Task] = []
    regression: list[Task] = []
    labels, numbers = Spool(spool / "labels", _LABELS), Spool(spool / "numbers", _NUMBERS)
    left_open = 0
    with ambiguous_file.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["compound_id", "assay", "threshold", "value", "censor"])
        for assay, facts in enumerate(tables.assays.to_dict("records")):
            entries = slice(int(values.begin[assay]), int(values.begin[assay + 1]))
            record, value, unrounded, censor = (
                np.asarray(values.columns[name][entries]) for name in ("record", "value", "unrounded", "censor")
            )
            made = assay_tasks(facts, record, value, censor, folds, count, rules, tables.catalogue, unrounded=unrounded)
            for task, marks in made:
                if marks is None:
                    column = np.full(len(record), len(regression))
                    numbers.append(row=row[record], column=column, value=value, censor=censor)
                    regression.append(replace(task, column=len(regression), data_derived=not tables.listed))
                    continue
                known, unknown = np.flatnonzero(marks), np.flatnonzero(marks == 0)
                column = np.full(len(known), len(classification))
                labels.append(row=row[record[known]], column=column, label=marks[known])
                derived = task.data_derived or not tables.listed
                classification.append(replace(task, column=len(classification), data_derived=derived))
                left_open += len(unknown)
                writer.writerows(
                    [
                        compound_id(int(record[n])),
                        task.assay,
                        repr(task.threshold),
                        repr(float(value[n])),
                        int(censor[n]),
                    ]
                    for n in unknown
                )
    return Targets((*classification, *regression), labels.finish(), numbers.finish(), left_open)


def save_targets(part: Path, target: Targets, rows: int, spool: Path) -> None:
    """Write the label matrices of a prepared folder: entries by row and, within a row, by column."""
    labels = _by_row(target.labels, rows, spool / "labels-by-row")
    for array, name in (("indptr", "begin"), ("indices", "column"), ("values", "label")):
        save_array(part, f"y_class_{array}", labels[name])
    numbers = _by_row(target.numbers, rows, spool / "numbers-by-row")
    for array, name in (("indptr", "begin"), ("indices", "column"), ("values", "value"), ("censor", "censor")):
        save_array(part, f"y_regr_{array}", numbers[name])


def _by_row(entries: Columns, rows: int, folder: Path) -> Columns:
    # Entries are in the order of columns, which grouping keeps within a row.
    rest = {name: values for name, values in entries.numbers.items() if name != "row"}
    return grouped(folder, entries["row"], rows, rest)
