"""Prepared data as the matrices and tables that MELLODDY-TUNER writes and SparseChem reads.

    matrices/wo_aux/{cls,reg,hyb}/    without the assay types AUX_HTS and AUX_PL; all three share rows, x and folds
    matrices/w_aux/clsaux/            classification with them; only where there are such assays
    results/                          of wo_aux: what columns, rows and entries are
    results/w_aux/                    the same of clsaux, whose ids are its own

A data set without a task is left out, and so is ``hyb`` where classification or regression has none.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import csr_array, csr_matrix, save_npz

from pharma_fl.atomic import flush
from pharma_fl.data.matrices import PreparedData
from pharma_fl.data.replacement import replacement
from pharma_fl.data.tasks import Task
from pharma_fl.data.tuner_layout import AUXILIARY_TYPES, LAYOUT
from pharma_fl.data.tuner_tables import TABLES, Selection, catalogue_id, to_csv, write_tables
from pharma_fl.errors import DataError

_PLACES = {"cls": "matrices/wo_aux", "reg": "matrices/wo_aux", "hyb": "matrices/wo_aux", "clsaux": "matrices/w_aux"}
_FILES = frozenset(
    {
        *(f"{_PLACES[kind]}/{kind}/{name}" for kind, files in LAYOUT.items() for name in files.values()),
        *(f"{place}/{name}" for place in ("results", "results/w_aux") for name in TABLES),
    }
)


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
    if folder.resolve().is_relative_to(data.folder.resolve()):
        raise DataError("PFL-D08", f"{folder} lies in the prepared data, which is replaced whole. Name another folder.")
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
                write_tables(part / place, data, selection)
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


def _select(data: PreparedData, tasks: tuple[Task, ...]) -> Selection:
    kept = [task for task in tasks if task.training_quorum]
    classification = tuple(task for task in kept if task.kind == "classification")
    regression = tuple(task for task in kept if task.kind == "regression")
    y_class = _columns(data.y_class(), classification)
    y_regr = _columns(data.y_regr(), regression)
    y_censor = _columns(data.y_censor(), regression)
    rows = np.flatnonzero((np.diff(y_class.indptr) > 0) | (np.diff(y_regr.indptr) > 0))
    return Selection(
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


def _write_matrices(part: Path, selection: Selection, kinds: Collection[str]) -> None:
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


def _write_file(path: Path, key: str, selection: Selection) -> None:
    if key == "class_weights":
        table = pd.DataFrame(
            [
                (number, catalogue_id(task), task.quorum_type, task.quorum_weight, float(task.evaluate))
                for number, task in enumerate(selection.classification)
            ],
            columns=["task_id", "catalog_id", "task_type", "training_weight", "aggregation_weight"],
        )
        to_csv(path, [table.astype({"catalog_id": "Int64"})])
    elif key == "regr_weights":
        table = pd.DataFrame(
            [
                (number, task.quorum_type, task.quorum_weight, float(task.evaluate), task.censored_weight)
                for number, task in enumerate(selection.regression)
            ],
            columns=["task_id", "task_type", "training_weight", "aggregation_weight", "censored_weight"],
        )
        to_csv(path, [table])
    elif key == "folds":
        np.save(path, selection.arrays[key], allow_pickle=False)
    else:
        # TUNER's types: int8 bits, float32 labels and values, int64 codes. SparseChem counts on the older matrix
        # class and on one index type.
        dtype = {"x": np.int8, "y_censor": np.int64}.get(key, np.float32)
        save_npz(path, csr_matrix(selection.arrays[key].astype(dtype)))
