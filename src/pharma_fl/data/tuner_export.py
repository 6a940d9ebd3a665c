"""Prepared data as the matrices and tables that MELLODDY-TUNER writes and SparseChem reads.

    matrices/wo_aux/{cls,reg,hyb}/    without the assay types AUX_HTS and AUX_PL; all three share rows, x and folds
    matrices/w_aux/clsaux/            classification with them; only where there are such assays
    results/                          of wo_aux: what columns, rows and entries are
    results/w_aux/                    the same of clsaux, whose ids are its own

A data set without a task is left out, and so is ``hyb`` where classification or regression has none.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.sparse import csr_array, csr_matrix, save_npz

from pharma_fl.atomic import flush
from pharma_fl.data.matrices import PreparedData
from pharma_fl.data.replacement import replacement
from pharma_fl.data.tasks import Task
from pharma_fl.errors import DataError

LAYOUT: dict[str, dict[str, str]] = {
    "cls": {
        "x": "cls_T11_x.npz",
        "folds": "cls_T11_fold_vector.npy",
        "y_class": "cls_T10_y.npz",
        "class_weights": "cls_weights.csv",
    },
    "reg": {
        "x": "reg_T11_x.npz",
        "folds": "reg_T11_fold_vector.npy",
        "y_regr": "reg_T10_y.npz",
        "y_censor": "reg_T10_censor_y.npz",
        "regr_weights": "reg_weights.csv",
    },
    "hyb": {
        "x": "hyb_T11_x.npz",
        "folds": "hyb_T11_fold_vector.npy",
        "y_class": "hyb_cls_T10_y.npz",
        "y_regr": "hyb_reg_T10_y.npz",
        "y_censor": "hyb_reg_T10_censor_y.npz",
        "class_weights": "hyb_cls_weights.csv",
        "regr_weights": "hyb_reg_weights.csv",
    },
    "clsaux": {
        "x": "clsaux_T11_x.npz",
        "folds": "clsaux_T11_fold_vector.npy",
        "y_class": "clsaux_T10_y.npz",
        "class_weights": "clsaux_weights.csv",
    },
}
"""The files of each data set, by TUNER's names. TUNER refuses a folder that holds any other."""

AUXILIARY_TYPES = frozenset({"AUX_HTS", "AUX_PL"})
"""Assay types that only ``clsaux`` holds."""

_PLACES = {"cls": "matrices/wo_aux", "reg": "matrices/wo_aux", "hyb": "matrices/wo_aux", "clsaux": "matrices/w_aux"}
_TABLES = ("T8c.csv", "T8r.csv", "T10c_cont.csv", "T10r_cont.csv", "T6_cont.csv", "compounds.csv")
_FILES = frozenset(
    {
        *(f"{_PLACES[kind]}/{kind}/{name}" for kind, files in LAYOUT.items() for name in files.values()),
        *(f"{place}/{name}" for place in ("results", "results/w_aux") for name in _TABLES),
    }
)
_QUALIFIERS = np.array(["<", "=", ">"], dtype=object)
_BATCH = 200_000


@dataclass(frozen=True, kw_only=True, eq=False)
class _Selection:
    """Some tasks, those of them that are kept, and the rows that have an entry in any kept one."""

    tasks: tuple[Task, ...]
    rows: npt.NDArray[np.int64]
    classification: tuple[Task, ...]
    regression: tuple[Task, ...]
    arrays: dict[str, Any]
    """By the keys of `LAYOUT`: csr arrays, and int64 ``folds``."""


def export_tuner(data: PreparedData, folder: Path) -> dict[str, int]:
    """Write prepared data for MELLODDY-TUNER's and SparseChem's users, whole or not at all.

    Only tasks that pass the training quorum are written, in our order, as continuous ids from 0. Rows are the
    compounds with at least one entry in such a task, in our order. A stored 0.0 and a censor code 0 are entries.
    ``task_type`` and T8's ``assay_type`` name the type whose quorum applied, as TUNER does: a catalogue task that
    was judged as NON-CATALOG-PANEL says so, and loses its catalogue id where it passes.

    **One place where rows differ from TUNER's**: a row here is one standardised structure. TUNER merges structures
    that have the same fingerprint and fold into one row, so it has fewer. ``descriptor_vector_id`` is the row
    number in the prepared folder, and ``cont_descriptor_vector_id`` the row in the matrices; compounds.csv gives
    the compound id of each.

    The tables hold what is known. TUNER's columns ``variance_quorum_OK``, ``catalog_assay_id``,
    ``expert_threshold_*``, ``evaluation_stdv_quorum_OK`` and ``catalog_check_INFO`` are left out, and
    ``evaluation_quorum_OK`` is empty where a task is auxiliary or fails its training quorum. Fold minima count a
    fold without a label as zero.

    Parameters
    ----------
    data : PreparedData
        Binary fingerprints.
    folder : Path
        Replaced; may exist only with an earlier export in it.

    Returns
    -------
    dict
        Number of ``compounds``, ``classification_tasks`` and ``regression_tasks`` without auxiliary assays,
        ``aux_compounds`` and ``aux_classification_tasks`` with them (0 where there are none), and
        ``dropped_tasks``, those below their training quorum.

    Raises
    ------
    DataError
        ``PFL-D15`` the fingerprints are counts, a task weighs more than 1, or no task passes its training quorum;
        ``PFL-D08`` the folder holds other files.
    """
    _check_replaceable(folder)
    if data.x().dtype != np.int8:
        raise DataError(
            "PFL-D15",
            f"{data.folder} holds fingerprint counts, and the format has bits only. "
            "Set counts = false (partner.toml: fingerprint) and prepare again.",
        )
    heavy = [task for task in data.tasks if task.quorum_weight > 1]
    if heavy:
        raise DataError(
            "PFL-D15",
            f"Expected training weights of at most 1, which SparseChem demands, got {heavy[0].quorum_weight:g} for "
            f"{heavy[0].task}. Lower initial_weight in the rules file and prepare again.",
        )
    main = tuple(task for task in data.tasks if task.assay_type not in AUXILIARY_TYPES)
    plain = _select(data, main)
    auxiliary = _select(data, data.classification_tasks if len(main) < len(data.tasks) else ())
    if not (len(plain.rows) or len(auxiliary.rows)):
        raise DataError(
            "PFL-D15",
            f"None of the {len(data.tasks)} tasks of {data.folder} passes its training quorum, so there is nothing to "
            "export. tasks.csv shows the counts.",
        )
    with replacement(folder) as part:
        for selection, place, kinds in (
            (plain, "results", ("cls", "reg", "hyb")),
            (auxiliary, "results/w_aux", ("clsaux",)),
        ):
            if len(selection.rows):
                _write_matrices(part, selection, kinds)
                _write_tables(part / place, data, selection)
        # `replacement` flushes its own level only.
        for path in part.rglob("*"):
            flush(path)
    return {
        "compounds": len(plain.rows),
        "classification_tasks": len(plain.classification),
        "regression_tasks": len(plain.regression),
        "aux_compounds": len(auxiliary.rows),
        "aux_classification_tasks": len(auxiliary.classification),
        "dropped_tasks": sum(not task.training_quorum for task in data.tasks),
    }


def _check_replaceable(folder: Path) -> None:
    if not folder.exists():
        return
    remedy = "Move it, or name another folder."
    if not folder.is_dir():
        raise DataError("PFL-D08", f"{folder} is not a folder. {remedy}")
    known = _FILES | {parent.as_posix() for name in _FILES for parent in Path(name).parents}
    other = sorted(name for path in folder.rglob("*") if (name := path.relative_to(folder).as_posix()) not in known)
    if other:
        raise DataError("PFL-D08", f"{folder} holds {other[0]}, which is not an export and would be lost. {remedy}")


def _select(data: PreparedData, tasks: tuple[Task, ...]) -> _Selection:
    kept = [task for task in tasks if task.training_quorum]
    classification = tuple(task for task in kept if task.kind == "classification")
    regression = tuple(task for task in kept if task.kind == "regression")
    y_class = _columns(data.y_class(), classification)
    y_regr = _columns(data.y_regr(), regression)
    y_censor = _columns(data.y_censor(), regression)
    rows = np.flatnonzero((np.diff(y_class.indptr) > 0) | (np.diff(y_regr.indptr) > 0))
    return _Selection(
        tasks=tasks,
        rows=rows,
        classification=classification,
        regression=regression,
        arrays={
            "x": data.x()[rows],
            "folds": data.folds[rows].astype(np.int64),
            "y_class": y_class[rows],
            "y_regr": y_regr[rows],
            "y_censor": y_censor[rows],
        },
    )


def _columns(matrix: csr_array, tasks: Sequence[Task]) -> csr_array:
    """Keep the columns of `tasks`, renumbered from 0; zeros stay stored."""
    if len(tasks) == matrix.shape[1]:
        return matrix
    number = np.full(matrix.shape[1] + 1, -1, dtype=np.int32)
    number[[task.column for task in tasks]] = np.arange(len(tasks))
    renumbered = number[matrix.indices]
    kept = renumbered >= 0
    indptr = np.concatenate([[0], np.cumsum(kept, dtype=np.int64)])[matrix.indptr]
    return csr_array((matrix.data[kept], renumbered[kept], indptr), shape=(matrix.shape[0], len(tasks)))


def _write_matrices(part: Path, selection: _Selection, kinds: Collection[str]) -> None:
    written: dict[str, Path] = {}
    for kind in kinds:
        files = LAYOUT[kind]
        if ("y_class" in files and not selection.classification) or ("y_regr" in files and not selection.regression):
            continue
        place = part / _PLACES[kind] / kind
        place.mkdir(parents=True)
        for key, name in files.items():
            if key in written:
                shutil.copyfile(written[key], place / name)
            else:
                _write_file(place / name, key, selection)
                written[key] = place / name


def _write_file(path: Path, key: str, selection: _Selection) -> None:
    if key == "class_weights":
        table = pd.DataFrame(
            [
                (number, _catalogue_id(task), task.quorum_type, task.quorum_weight, float(task.evaluate))
                for number, task in enumerate(selection.classification)
            ],
            columns=["task_id", "catalog_id", "task_type", "training_weight", "aggregation_weight"],
        )
        _to_csv(path, [table.astype({"catalog_id": "Int64"})])
    elif key == "regr_weights":
        table = pd.DataFrame(
            [
                (number, task.quorum_type, task.quorum_weight, float(task.evaluate), task.censored_weight)
                for number, task in enumerate(selection.regression)
            ],
            columns=["task_id", "task_type", "training_weight", "aggregation_weight", "censored_weight"],
        )
        _to_csv(path, [table])
    elif key == "folds":
        np.save(path, selection.arrays[key], allow_pickle=False)
    else:
        # TUNER's types: int8 bits, float32 labels and values, int64 codes. SparseChem counts on the older matrix
        # class and on one index type.
        dtype = {"x": np.int8, "y_censor": np.int64}.get(key, np.float32)
        save_npz(path, csr_matrix(selection.arrays[key].astype(dtype)))


def _catalogue_id(task: Task) -> int | None:
    demoted = task.training_quorum and task.quorum_type != task.assay_type
    return None if demoted else task.catalog_task_id


def _write_tables(place: Path, data: PreparedData, selection: _Selection) -> None:
    place.mkdir(parents=True)
    if selection.classification:
        _to_csv(place / "T8c.csv", [_t8c(data, selection.tasks)])
        _to_csv(place / "T10c_cont.csv", _t10c(selection))
    if selection.regression:
        _to_csv(place / "T8r.csv", [_t8r([task for task in selection.tasks if task.kind == "regression"])])
        _to_csv(place / "T10r_cont.csv", _t10r(selection))
    _to_csv(place / "T6_cont.csv", _t6(selection))
    _to_csv(place / "compounds.csv", _compounds(data, selection))


def _t8c(data: PreparedData, selected: Sequence[Task]) -> pd.DataFrame:
    tasks = [task for task in selected if task.kind == "classification"]
    in_regression = {task.assay for task in data.regression_tasks}
    inactives, actives = _counts(data)
    kept = Counter(task.assay for task in tasks if task.training_quorum)
    columns = {
        "cont_classification_task_id": _continuous(tasks),
        "classification_task_id": [task.column for task in tasks],
        "input_assay_id": [task.assay for task in tasks],
        "catalog_task_id": pd.array([_catalogue_id(task) for task in tasks], dtype="Int64"),
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


def _t10c(selection: _Selection) -> Iterator[pd.DataFrame]:
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


def _t10r(selection: _Selection) -> Iterator[pd.DataFrame]:
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


def _t6(selection: _Selection) -> Iterator[pd.DataFrame]:
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


def _compounds(data: PreparedData, selection: _Selection) -> Iterator[pd.DataFrame]:
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


def _to_csv(path: Path, frames: Iterable[pd.DataFrame]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        for number, frame in enumerate(frames):
            frame.to_csv(file, index=False, header=number == 0, lineterminator="\n")
