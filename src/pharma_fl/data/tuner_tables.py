"""The tables of an export, ``results/``: what MELLODDY-TUNER's columns, rows and entries are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.sparse import csr_array

from pharma_fl.data.matrices import PreparedData
from pharma_fl.data.tasks import Task

TABLES = ("T8c.csv", "T8r.csv", "T10c_cont.csv", "T10r_cont.csv", "T6_cont.csv", "compounds.csv")
"""Their names."""

_QUALIFIERS = np.array(["<", "=", ">"], dtype=object)
_BATCH = 200_000


@dataclass(frozen=True, kw_only=True, eq=False)
class Selection:
    """Some tasks, those of them that are kept, and the rows that have an entry in any kept one."""

    tasks: tuple[Task, ...]
    rows: npt.NDArray[np.int64]
    classification: tuple[Task, ...]
    regression: tuple[Task, ...]
    arrays: dict[str, Any]
    """By the keys of `LAYOUT`: csr arrays, and int64 ``folds``."""


def catalogue_id(task: Task) -> int | None:
    """Return a task's number in T_cat; none where it was judged, and passed, as another type."""
    demoted = task.training_quorum and task.quorum_type != task.assay_type
    return None if demoted else task.catalog_task_id


def write_tables(place: Path, data: PreparedData, selection: Selection) -> None:
    """Write the tables of one selection into a new folder."""
    place.mkdir(parents=True)
    if selection.classification:
        to_csv(place / "T8c.csv", [_t8c(data, selection.tasks)])
        to_csv(place / "T10c_cont.csv", _t10c(selection))
    if selection.regression:
        to_csv(place / "T8r.csv", [_t8r([task for task in selection.tasks if task.kind == "regression"])])
        to_csv(place / "T10r_cont.csv", _t10r(selection))
    to_csv(place / "T6_cont.csv", _t6(selection))
    to_csv(place / "compounds.csv", _compounds(data, selection))


def _t8c(data: PreparedData, selected: Sequence[Task]) -> pd.DataFrame:
    tasks = [task for task in selected if task.kind == "classification"]
    in_regression = {task.assay for task in data.regression_tasks}
    inactives, actives = _counts(data)
    kept = Counter(task.assay for task in tasks if task.training_quorum)
    columns = {
        "cont_classification_task_id": _continuous(tasks),
        "classification_task_id": [task.column for task in tasks],
        "input_assay_id": [task.assay for task in tasks],
        "catalog_task_id": pd.array([catalogue_id(task) for task in tasks], dtype="Int64"),
        "assay_type": [task.quorum_type for task in tasks],
        "is_auxiliary": [task.auxiliary for task in tasks],
        "use_in_regression": [task.assay in in_regression for task in tasks],
        "is_binary": [task.direction == "" for task in tasks],
        "threshold": [task.threshold for task in tasks],
        "threshold_method": [task.threshold_method for task in tasks],
        "direction": [task.direction if task.direction in ("high", "low") else None for task in tasks],
        **_verdicts(tasks),
        "num_total_actives": [actives[task.column].sum() for task in tasks],
        "num_fold_min_actives": [actives[task.column].min() for task in tasks],
        "num_total_inactives": [inactives[task.column].sum() for task in tasks],
        "num_fold_min_inactives": [inactives[task.column].min() for task in tasks],
        "n_tasks": [kept[task.assay] or None for task in tasks],
        "retained_tasks": [kept[task.assay] for task in tasks],
    }
    return pd.DataFrame(columns).astype({"n_tasks": "Int64"})


def _counts(data: PreparedData) -> npt.NDArray[np.int64]:
    """Count inactives and actives: (2, classification tasks, folds)."""
    matrix = data.y_class()
    settings = data.manifest.get("settings", {}).get("folds", {})
    shape = (2, matrix.shape[1], int(settings.get("count", data.folds.max() + 1)))
    counts = np.zeros(shape, dtype=np.int64)
    for start in range(0, data.n_compounds, _BATCH):
        rows = slice(start, start + _BATCH)
        part = matrix[rows]
        folds = np.repeat(data.folds[rows], np.diff(part.indptr))
        cells = np.ravel_multi_index((part.data > 0, part.indices, folds), shape)
        counts += np.bincount(cells, minlength=counts.size).reshape(shape)
    return counts


def _t8r(tasks: Sequence[Task]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "cont_regression_task_id": _continuous(tasks),
            "input_assay_id": [task.assay for task in tasks],
            "assay_type": [task.quorum_type for task in tasks],
            "is_auxiliary": [task.auxiliary for task in tasks],
            "use_in_regression": True,
            "direction": [task.direction or None for task in tasks],
            **_verdicts(tasks),
            "censored_weight": [task.censored_weight for task in tasks],
            "fraction_censored": [_share(task.censored, of=task.values) for task in tasks],
        }
    )


def _share(part: int | None, *, of: int | None) -> float | None:
    return (part or 0) / of if of else None


def _continuous(tasks: Sequence[Task]) -> pd.Series[int]:
    kept = pd.Series([task.training_quorum for task in tasks], dtype=bool)
    return (kept.cumsum() - 1).where(kept).astype("Int64")


def _verdicts(tasks: Sequence[Task]) -> dict[str, list[Any]]:
    known = [task.training_quorum and not task.auxiliary for task in tasks]
    return {
        "training_quorum_OK": [task.training_quorum for task in tasks],
        "evaluation_quorum_OK": [task.evaluate if there else None for task, there in zip(tasks, known, strict=True)],
        "aggregation_weight": [float(task.evaluate) for task in tasks],
        "weight": [task.quorum_weight if task.training_quorum else None for task in tasks],
    }


def _t10c(selection: Selection) -> Iterator[pd.DataFrame]:
    for columns, rows, entries in _by_task(selection.arrays["y_class"]):
        yield pd.DataFrame(
            {
                "cont_classification_task_id": columns,
                "descriptor_vector_id": selection.rows[rows],
                "fold_id": selection.arrays["folds"][rows],
                "class_label": selection.arrays["y_class"].data[entries],
                "cont_descriptor_vector_id": rows,
            }
        )


def _t10r(selection: Selection) -> Iterator[pd.DataFrame]:
    assays = np.array([task.assay for task in selection.regression], dtype=object)
    for columns, rows, entries in _by_task(selection.arrays["y_regr"]):
        yield pd.DataFrame(
            {
                "input_assay_id": assays[columns],
                "descriptor_vector_id": selection.rows[rows],
                "fold_id": selection.arrays["folds"][rows],
                "standard_qualifier": _QUALIFIERS[selection.arrays["y_censor"].data[entries] + 1],
                "standard_value": selection.arrays["y_regr"].data[entries],
                "cont_regression_task_id": columns,
                "cont_descriptor_vector_id": rows,
            }
        )


def _by_task(matrix: csr_array) -> Iterator[tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]]:
    """Yield (columns, rows, positions in `matrix.data`) of all entries, task by task, in batches."""
    number = csr_array((np.arange(matrix.nnz), matrix.indices, matrix.indptr), shape=matrix.shape).tocsc()
    columns = np.repeat(np.arange(matrix.shape[1], dtype=np.int32), np.diff(number.indptr))
    for start in range(0, matrix.nnz, _BATCH):
        part = slice(start, start + _BATCH)
        yield columns[part], number.indices[part], number.data[part]


def _t6(selection: Selection) -> Iterator[pd.DataFrame]:
    x = selection.arrays["x"]
    for start in range(0, len(selection.rows), _BATCH // 50):
        rows = np.arange(start, min(start + _BATCH // 50, len(selection.rows)))
        bits = [x.indices[x.indptr[row] : x.indptr[row + 1]].tolist() for row in rows]
        yield pd.DataFrame(
            {
                "descriptor_vector_id": selection.rows[rows],
                "fp_feat": [str(row) for row in bits],
                "fp_val": [str([1] * len(row)) for row in bits],
                "fold_id": selection.arrays["folds"][rows],
                "cont_descriptor_vector_id": rows,
            }
        )


def _compounds(data: PreparedData, selection: Selection) -> Iterator[pd.DataFrame]:
    number = np.full(data.n_compounds, -1, dtype=np.int64)
    number[selection.rows] = np.arange(len(selection.rows))
    source = data.folder / "compounds.csv"
    first = 0
    with pd.read_csv(source, usecols=["compound_id"], dtype=str, keep_default_na=False, chunksize=_BATCH) as chunks:
        for chunk in chunks:
            rows = np.arange(first, first + len(chunk))
            first += len(chunk)
            kept = number[rows] >= 0
            yield pd.DataFrame(
                {
                    "cont_descriptor_vector_id": number[rows][kept],
                    "descriptor_vector_id": rows[kept],
                    "compound_id": chunk["compound_id"].to_numpy(dtype=object)[kept],
                }
            )


def to_csv(path: Path, frames: Iterable[pd.DataFrame]) -> None:
    """Write frames of the same columns as one CSV file."""
    with path.open("w", encoding="utf-8", newline="") as file:
        for number, frame in enumerate(frames):
            frame.to_csv(file, index=False, header=number == 0, lineterminator="\n")
