"""Writing the prepared folder ``data/`` (see `layout`)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.sparse import csr_array

from pharma_fl.data.layout import DTYPES, FILES, FORMAT, FORMAT_VERSION, in_column_order
from pharma_fl.data.matrices import sha256
from pharma_fl.data.replacement import replacement
from pharma_fl.data.tasks import Task, write_tasks
from pharma_fl.errors import DataError


def check_replaceable(folder: Path) -> None:
    """Refuse a folder that holds anything but prepared data: to prepare is to replace it whole.

    Raises
    ------
    DataError
        ``PFL-D08`` names the first other file, or says that `folder` is none.
    """
    if not folder.exists():
        return
    remedy = "Move it, or name another folder (partner.toml: data)."
    if not folder.is_dir():
        raise DataError("PFL-D08", f"{folder} is not a folder. {remedy}")
    other = sorted(path.name for path in folder.iterdir() if path.name not in FILES)
    if other:
        raise DataError("PFL-D08", f"{folder} holds {other[0]}, which is not prepared data and would be lost. {remedy}")


def save_array(part: Path, name: str, array: npt.NDArray[Any]) -> None:
    """Write one of the folder's arrays; one that is mapped from disk is copied without being loaded."""
    np.save(part / f"{name}.npy", np.ascontiguousarray(array, dtype=DTYPES[name]), allow_pickle=False)


def seal(part: Path, manifest: Mapping[str, Any], sizes: Mapping[str, int]) -> dict[str, Any]:
    """Write manifest.json with format, sizes and a hash of every file that is there, and return it."""
    whole: dict[str, Any] = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        **manifest,
        "sizes": dict(sizes),
        "files": {path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in sorted(part.iterdir())},
    }
    text = json.dumps(whole, indent=2, ensure_ascii=False, allow_nan=False)
    (part / "manifest.json").write_text(text + "\n", encoding="utf-8")
    return whole


def write_prepared(
    folder: Path,
    *,
    x: csr_array,
    y_class: csr_array,
    y_regr: csr_array,
    y_censor: csr_array,
    folds: npt.NDArray[np.int8],
    compounds: pd.DataFrame,
    tasks: Sequence[Task],
    manifest: Mapping[str, Any],
    series: npt.NDArray[np.int32] | None = None,
    days: npt.NDArray[np.int32] | None = None,
) -> dict[str, Any]:
    """Write matrices that are in memory as a prepared folder, whole or not at all (see `replacement`).

    Parameters
    ----------
    folder : Path
        Where ``data/`` goes.
    x, y_class, y_regr, y_censor : csr_array
        (n, bits), (n, classification tasks), and twice (n, regression tasks) in one pattern; column indices
        ascending in each row. Data of `x` is not stored unless it is uint16, which are counts: every entry is 1.
    folds : int8 array (n,)
        Fold of each row.
    compounds : DataFrame
        One row for each compound, for compounds.csv.
    tasks : sequence of Task
        Classification tasks by column, then regression tasks by column.
    manifest : mapping
        What else manifest.json says; format, sizes and file hashes are added.
    series, days : int32 array (n,), optional
        Scaffold family and earliest date of each row, where they are known; see `layout`.

    Returns
    -------
    dict
        The manifest as written.

    Raises
    ------
    ValueError
        Sizes do not fit each other, or a row is not sorted.
    DataError
        ``PFL-D08`` the folder holds a file that is not prepared data; see `check_replaceable`.
    """
    check_replaceable(folder)
    facts = {name: known for name, known in (("series", series), ("days", days)) if known is not None}
    _check_sizes(
        x=x,
        y_class=y_class,
        y_regr=y_regr,
        y_censor=y_censor,
        rows=[len(folds), len(compounds), *map(len, facts.values())],
        tasks=tasks,
    )
    arrays = {
        **{f"{name}_indptr": matrix.indptr for name, matrix in (("x", x), ("y_class", y_class), ("y_regr", y_regr))},
        **{f"{name}_indices": matrix.indices for name, matrix in (("x", x), ("y_class", y_class), ("y_regr", y_regr))},
        "x_counts": x.data if x.dtype == np.uint16 else np.empty(0, dtype=np.uint16),
        "y_class_values": y_class.data,
        "y_regr_values": y_regr.data,
        "y_regr_censor": y_censor.data,
        "folds": folds,
        **{name: facts.get(name, np.empty(0, dtype=np.int32)) for name in ("series", "days")},
    }
    with replacement(folder) as part:
        for name, array in arrays.items():
            save_array(part, name, array)
        write_tasks(part / "tasks.csv", tasks)
        compounds.to_csv(part / "compounds.csv", index=False, lineterminator="\n")
        sizes = {
            "compounds": len(folds),
            "bits": x.shape[1],
            "x_entries": int(x.nnz),
            "x_counts": len(arrays["x_counts"]),
            "classification_tasks": y_class.shape[1],
            "class_labels": int(y_class.nnz),
            "regression_tasks": y_regr.shape[1],
            "regression_values": int(y_regr.nnz),
            **{name: len(arrays[name]) for name in ("series", "days")},
        }
        return seal(part, manifest, sizes)


def _check_sizes(
    *,
    x: csr_array,
    y_class: csr_array,
    y_regr: csr_array,
    y_censor: csr_array,
    rows: Sequence[int],
    tasks: Sequence[Task],
) -> None:
    found = {x.shape[0], y_class.shape[0], y_regr.shape[0], *rows}
    if len(found) != 1:
        raise ValueError(f"expected as many rows everywhere, got {sorted(found)}")
    if not in_column_order(tasks, y_class.shape[1], y_regr.shape[1]):
        raise ValueError("expected classification tasks by column, then regression tasks by column")
    if not all(matrix.has_sorted_indices for matrix in (x, y_class, y_regr)):
        raise ValueError("expected ascending column indices in each row")
    same = np.array_equal(y_regr.indptr, y_censor.indptr) and np.array_equal(y_regr.indices, y_censor.indices)
    if not same:
        raise ValueError("expected y_regr and y_censor to have one pattern")
