"""Matrices that MELLODDY-TUNER wrote for SparseChem, as a prepared folder."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_array

from pharma_fl.data.exclusive import exclusive, lock_of
from pharma_fl.data.layout import AGREEMENT
from pharma_fl.data.matrices import sha256
from pharma_fl.data.tasks import Kind, Task
from pharma_fl.data.tuner_files import (
    MOST_BITS,
    MOST_FOLDS,
    ImportProblems,
    read_folds,
    read_labels,
    read_matrix,
    read_numbers,
    read_table,
    read_values,
    same_pattern,
)
from pharma_fl.data.tuner_layout import AUXILIARY_TYPES, LAYOUT
from pharma_fl.data.writing import check_replaceable, write_prepared
from pharma_fl.errors import DataError

_COLUMNS = ("task_id", "task_type", "training_weight", "aggregation_weight", "catalog_id", "censored_weight")
_LEVELS = 4


@dataclass(frozen=True, kw_only=True)
class _DataSet:
    """One of TUNER's data sets: its kind, a key of `LAYOUT`, and the folder that holds its files."""

    kind: str
    folder: Path

    def paths(self) -> dict[str, Path]:
        return {key: self.folder / name for key, name in LAYOUT[self.kind].items()}


def import_tuner(
    source: Path, folder: Path, *, fold_count: int | None = None, public_tasks: bool = False
) -> dict[str, Any]:
    """Make a prepared folder of MELLODDY-TUNER's matrices.

    Data sets are looked for in `source` and up to three folders below it, so a run's folder, its ``matrices/`` and the
    folder of one data set all will do. Of several, ``hyb`` is taken; without it ``cls`` with ``reg``, if they have the
    same fingerprints and folds. Rows and columns keep their order.

    Labels are -1 and +1, as SparseChem wants them; or 0 and +1 throughout the matrix, and then a stored 0 is an
    inactive (SparseChem would train it towards one half). Censor codes are -1, 0 and +1, in the pattern of the values.
    A stored value of 0.0 is a measurement. Weight tables have the columns that SparseChem allows, and no others.

    Assays, thresholds and directions come from T8c.csv and T8r.csv, if they lie in the data set's folder, in `source`,
    or in ``results/`` beside ``matrices/``. Without them tasks are ``cls-0`` or ``reg-0`` and so on, each an assay by
    itself and without a threshold. Structures are not known: a compound id is a hash of the row's number and bits,
    and the SMILES is empty.

    **Privacy.** TUNER decides from the measurements which tasks there are, by quorums in total and in each fold, and
    what they weigh, by how many tasks of an assay pass. So a single compound can add or remove a task, which no
    accounting covers. Therefore all assays are listed as data derived, and private training refuses them
    (``PFL-P04``). ``public_tasks=True`` lifts that. With it you vouch that the list of tasks, their thresholds and
    their training weights would be the same whichever compounds were added or removed, for example because the data
    are public, or because the list was agreed beforehand. The unit of privacy is then one row, into which TUNER has
    merged all structures of one fingerprint and fold. Censored and aggregation weights do not reach private training.

    Parameters
    ----------
    source : Path
        TUNER's output.
    folder : Path
        Where the prepared folder goes; replaced whole or not at all.
    fold_count : int, optional
        Number of folds, if some of them may have no row. Otherwise folds are 0 to k - 1 and each has rows.
    public_tasks : bool
        Vouch for the tasks as above.

    Returns
    -------
    dict
        The manifest as written.

    Raises
    ------
    DataError
        ``PFL-D16`` with all that is wrong in the files, or the data sets from which one must be chosen; ``PFL-D08``
        `folder` holds other files.
    """
    check_replaceable(folder)
    if (folder / AGREEMENT).exists():
        raise DataError(
            "PFL-D08", f"{folder} was prepared from tables. Move it, or name another folder (partner.toml: data)."
        )
    source = source.resolve()
    data_sets = _choose(source)
    paths = {key: path for data_set in reversed(data_sets) for key, path in data_set.paths().items()}
    problems = ImportProblems()
    x = read_matrix(paths["x"], problems, allowed=(1,), what="bits")
    folds = read_folds(paths["folds"], fold_count, problems)
    y_class = read_labels(paths.get("y_class"), problems)
    y_regr, y_censor = read_values(paths.get("y_regr"), paths.get("y_censor"), problems)
    if x is not None and x.shape[1] > MOST_BITS:
        problems.add(paths["x"], f"expected at most {MOST_BITS:,} columns, got {x.shape[1]:,}")
    _compare_rows(paths, {"x": x, "folds": folds, "y_class": y_class, "y_regr": y_regr}, problems)
    classification = _tasks("classification", paths.get("class_weights"), y_class, problems)
    regression = _tasks("regression", paths.get("regr_weights"), y_regr, problems)
    for kind, tasks in (("c", classification), ("r", regression)):
        table = _result_table(source, data_sets, f"T8{kind}.csv")
        if tasks and table is not None:
            paths[f"T8{kind}"] = table
            tasks[:] = _described(tasks, table, problems)
    problems.raise_if_any()
    assert x is not None
    assert folds is not None
    nothing = csr_array(np.zeros((x.shape[0], 0), dtype=np.int8))
    if y_class is not None:
        classification = _counted(classification, y_class, None)
    if y_regr is not None:
        regression = _counted(regression, y_regr, y_censor)
    tasks = [replace(task, data_derived=not public_tasks) for task in _distinct([*classification, *regression])]
    with exclusive(lock_of(folder)):
        return write_prepared(
            folder,
            x=x.astype(np.int8),
            y_class=nothing if y_class is None else y_class,
            y_regr=nothing if y_regr is None else y_regr,
            y_censor=nothing if y_censor is None else y_censor,
            folds=folds,
            compounds=_compounds(x),
            tasks=tasks,
            manifest={
                "versions": {"pharma_fl": importlib.metadata.version("pharma-fl"), "numpy": np.__version__},
                "imported": {
                    "format": "MELLODDY-TUNER",
                    "data_sets": [data_set.kind for data_set in data_sets],
                    "public_tasks": public_tasks,
                    "sha256": {path.name: sha256(path) for path in paths.values()},
                },
                "settings": {"folds": {"count": fold_count or int(folds.max()) + 1}},
                "data_derived_assays": list(dict.fromkeys(task.assay for task in tasks if task.data_derived)),
                "counts": {
                    "tasks": {
                        "classification": len(classification),
                        "regression": len(regression),
                        "auxiliary": sum(task.auxiliary for task in tasks),
                        "data_derived": sum(task.data_derived for task in tasks),
                        "evaluate": sum(task.evaluate for task in tasks),
                    }
                },
            },
        )


def _choose(source: Path) -> tuple[_DataSet, ...]:
    found = [
        _DataSet(kind=kind, folder=path.parent)
        for kind, files in LAYOUT.items()
        for level in range(_LEVELS)
        for path in sorted(source.glob("*/" * level + files["x"]))
    ]
    if not found:
        names = ", ".join(files["x"] for files in LAYOUT.values())
        raise DataError("PFL-D16", f"None of {names} is in {source} or up to {_LEVELS - 1} folders below it.")
    if len(found) == 1:
        return tuple(found)
    by_kind = {kind: [one for one in found if one.kind == kind] for kind in LAYOUT}
    if len(by_kind["hyb"]) == 1:
        return tuple(by_kind["hyb"])
    why = ""
    if not by_kind["hyb"] and len(by_kind["cls"]) == len(by_kind["reg"]) == 1:
        pair = (*by_kind["cls"], *by_kind["reg"])
        if _same_rows(*pair):
            return pair
        why = " cls and reg have different fingerprints or folds, so they cannot be taken together."
    places = "\n  ".join(str(one.folder) for one in found)
    raise DataError("PFL-D16", f"Several data sets are in {source}.{why} Name the folder of one:\n  {places}")


def _same_rows(one: _DataSet, other: _DataSet) -> bool:
    pairs = [(one.paths()[key], other.paths()[key]) for key in ("x", "folds")]
    if all(all(path.is_file() for path in pair) and sha256(pair[0]) == sha256(pair[1]) for pair in pairs):
        return True
    problems = ImportProblems()
    first, second = (read_matrix(path, problems, allowed=(1,), what="bits") for path in pairs[0])
    first_folds, second_folds = (read_folds(path, MOST_FOLDS, problems) for path in pairs[1])
    problems.raise_if_any()
    if first is None or second is None or first_folds is None or second_folds is None:
        return False
    return same_pattern(first, second) and np.array_equal(first_folds, second_folds)


def _compare_rows(paths: dict[str, Path], parts: dict[str, Any], problems: ImportProblems) -> None:
    rows = {paths[key].name: part.shape[0] for key, part in parts.items() if part is not None}
    if len(set(rows.values())) > 1:
        listed = ", ".join(f"{name} has {count}" for name, count in rows.items())
        problems.add(paths["x"].parent, f"expected as many rows in every file: {listed}")
    elif rows and not max(rows.values()):
        problems.add(paths["x"], "it has no rows")


def _tasks(kind: Kind, path: Path | None, matrix: csr_array | None, problems: ImportProblems) -> list[Task]:
    """Read one task for each row of a weight table, in the order of ``task_id``; none after a problem."""
    if path is None:
        return []
    before = len(problems.lines)
    table = read_table(path, "task_id", ("training_weight", "aggregation_weight"), problems)
    if table is None:
        return []
    wrong = [name for name in table.columns if name not in _COLUMNS]
    if wrong:
        problems.add(path, f"unknown columns {', '.join(wrong)}: SparseChem refuses them")
    if matrix is not None and matrix.shape[1] != len(table):
        problems.add(path, f"expected a row for each of {matrix.shape[1]} columns of the matrix, got {len(table)}")
    regression = kind == "regression"
    training = read_numbers(path, table, "training_weight", problems, most=1.0)
    aggregation = read_numbers(path, table, "aggregation_weight", problems)
    censored = read_numbers(path, table, "censored_weight", problems, blank=not regression)
    catalogue = read_numbers(path, table, "catalog_id", problems, blank=True, whole=True)
    if len(problems.lines) > before:
        return []
    types = table["task_type"].tolist() if "task_type" in table.columns else [""] * len(table)
    return [
        Task(
            task=f"{'reg' if regression else 'cls'}-{number}",
            kind=kind,
            column=number,
            assay=f"{'reg' if regression else 'cls'}-{number}",
            assay_type=assay_type,
            direction="",
            threshold=None,
            threshold_method="",
            auxiliary=assay_type in AUXILIARY_TYPES,
            data_derived=True,
            catalog_task_id=None if np.isnan(catalogue[number]) else int(catalogue[number]),
            training_weight=float(training[number]),
            quorum_type=assay_type,
            training_quorum=True,
            evaluate=bool(aggregation[number] > 0),
            quorum_weight=float(training[number]),
            censored_weight=float(censored[number]) if regression and not np.isnan(censored[number]) else None,
        )
        for number, assay_type in enumerate(types)
    ]


def _result_table(source: Path, data_sets: Sequence[_DataSet], name: str) -> Path | None:
    places = []
    for data_set in data_sets:
        places.append(data_set.folder)
        if data_set.folder.parent.parent.name == "matrices":
            results = data_set.folder.parents[2] / "results"
            places += [results / data_set.folder.parent.name, results]
    places += [source, source / "results"]
    return next((place / name for place in places if (place / name).is_file()), None)


def _described(tasks: list[Task], path: Path, problems: ImportProblems) -> list[Task]:
    """Give tasks the assay, threshold and direction that T8c.csv or T8r.csv tells."""
    classification = path.name == "T8c.csv"
    key = "cont_classification_task_id" if classification else "cont_regression_task_id"
    table = read_table(path, key, ("input_assay_id", *(("threshold",) if classification else ())), problems)
    if table is None:
        return tasks
    if not _same_run(tasks, table):
        problems.add(path, "its tasks, assay types or weights differ from the weight table's, so it is of another run")
        return tasks
    rows = table.to_dict("records")
    if not classification:
        return [_value_task(task, row) for task, row in zip(tasks, rows, strict=True)]
    thresholds = pd.to_numeric(table["threshold"], errors="coerce").to_numpy(np.float64)
    if not np.isfinite(thresholds).all():
        problems.add(path, "expected a finite threshold for each task that has an id")
        return tasks
    return [_class_task(*facts) for facts in zip(tasks, rows, thresholds.tolist(), strict=True)]


def _same_run(tasks: Sequence[Task], table: pd.DataFrame) -> bool:
    if len(table) != len(tasks):
        return False
    types = [task.assay_type for task in tasks]
    if any(types) and "assay_type" in table.columns and table["assay_type"].tolist() != types:
        return False
    weights = pd.to_numeric(table["weight"], errors="coerce").to_numpy() if "weight" in table.columns else None
    return weights is None or np.allclose(weights, [task.training_weight for task in tasks], rtol=1e-9, atol=0)


def _class_task(task: Task, row: Mapping[Hashable, Any], threshold: float) -> Task:
    assay = row["input_assay_id"]
    binary = row.get("is_binary", "").lower() in ("true", "1")
    side = row.get("direction", "") or ("absolute" if task.assay_type == "AUX_HTS" else "high")
    return replace(
        task,
        task=f"assay-{assay}/binary" if binary else f"assay-{assay}/{side}/{threshold!r}",
        assay=assay,
        direction="" if binary else side,
        threshold=threshold,
        threshold_method=row.get("threshold_method", ""),
        auxiliary=task.auxiliary or row.get("is_auxiliary", "").lower() in ("true", "1"),
    )


def _value_task(task: Task, row: Mapping[Hashable, Any]) -> Task:
    return replace(task, task=f"assay-{row['input_assay_id']}/value", assay=row["input_assay_id"])


def _distinct(tasks: Sequence[Task]) -> list[Task]:
    """Add the column to names that several tasks have."""
    count = Counter(task.task for task in tasks)
    return [replace(task, task=f"{task.task}/{task.column}") if count[task.task] > 1 else task for task in tasks]


def _counted(tasks: Sequence[Task], matrix: csr_array, censor: csr_array | None) -> list[Task]:
    columns = matrix.shape[1]
    if censor is None:
        actives = np.bincount(matrix.indices[matrix.data > 0], minlength=columns)
        inactives = np.bincount(matrix.indices[matrix.data < 0], minlength=columns)
        return [
            replace(task, actives=int(actives[task.column]), inactives=int(inactives[task.column])) for task in tasks
        ]
    values = np.bincount(matrix.indices, minlength=columns)
    censored = np.bincount(censor.indices[censor.data != 0], minlength=columns)
    return [replace(task, values=int(values[task.column]), censored=int(censored[task.column])) for task in tasks]


def _compounds(x: csr_array) -> pd.DataFrame:
    bits = x.indices.astype("<i4", copy=False)
    identities = [
        hashlib.sha256(row.to_bytes(8, "little") + bits[start:end].tobytes()).hexdigest()[:32]
        for row, (start, end) in enumerate(zip(x.indptr[:-1].tolist(), x.indptr[1:].tolist(), strict=True))
    ]
    rows = np.arange(len(identities))
    return pd.DataFrame({"row": rows, "compound_id": identities, "input_compound_ids": "", "smiles": ""})
