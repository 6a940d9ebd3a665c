"""Matrices that MELLODDY-TUNER wrote for SparseChem, as a prepared folder."""

from __future__ import annotations

import hashlib
import importlib.metadata
import zipfile
import zlib
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.sparse import csr_array, load_npz

from pharma_fl.data.matrices import sha256
from pharma_fl.data.tasks import Kind, Task
from pharma_fl.data.tuner_export import AUXILIARY_TYPES, LAYOUT
from pharma_fl.data.writing import check_replaceable, write_prepared
from pharma_fl.errors import DataError

_COLUMNS = ("task_id", "task_type", "training_weight", "aggregation_weight", "catalog_id", "censored_weight")
_MOST_FOLDS = 64
_LEVELS = 4
_UNREADABLE = (
    *(OSError, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError, NotImplementedError),
    *(zipfile.BadZipFile, zlib.error),
)


@dataclass(frozen=True, kw_only=True)
class _DataSet:
    """One of TUNER's data sets: its kind, a key of `LAYOUT`, and the folder that holds its files."""

    kind: str
    folder: Path

    def paths(self) -> dict[str, Path]:
        return {key: self.folder / name for key, name in LAYOUT[self.kind].items()}


@dataclass
class _Problems:
    """All that is wrong in the files, told at once."""

    lines: list[str] = field(default_factory=list)

    def add(self, path: Path, message: str) -> None:
        self.lines.append(f"{path}: {message}.")

    def raise_if_any(self) -> None:
        if self.lines:
            count = f"{len(self.lines)} problem{'s' if len(self.lines) > 1 else ''}"
            raise DataError(
                "PFL-D16",
                f"{count} in the files to import; correct them and import again:\n  " + "\n  ".join(self.lines),
            )


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
    source = source.resolve()
    data_sets = _choose(source)
    paths = {key: path for data_set in reversed(data_sets) for key, path in data_set.paths().items()}
    problems = _Problems()
    x = _matrix(paths["x"], problems, allowed=(1,), what="bits")
    folds = _folds(paths["folds"], fold_count, problems)
    y_class = _labels(paths.get("y_class"), problems)
    y_regr, y_censor = _values(paths.get("y_regr"), paths.get("y_censor"), problems)
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
    problems = _Problems()
    first, second = (_matrix(path, problems, allowed=(1,), what="bits") for path in pairs[0])
    first_folds, second_folds = (_folds(path, _MOST_FOLDS, problems) for path in pairs[1])
    problems.raise_if_any()
    if first is None or second is None or first_folds is None or second_folds is None:
        return False
    return _same_pattern(first, second) and np.array_equal(first_folds, second_folds)


def _same_pattern(one: csr_array, other: csr_array) -> bool:
    same = np.array_equal(one.indptr, other.indptr) and np.array_equal(one.indices, other.indices)
    return same and one.shape == other.shape


def _matrix(path: Path, problems: _Problems, *, what: str, allowed: Sequence[int] | None = None) -> csr_array | None:
    """Read a CSR matrix, sorted; None after a problem. Stored zeros stay."""
    try:
        # It refuses pickled objects. A file that is opened here is closed whatever happens.
        with path.open("rb") as file:
            loaded = load_npz(file)
        if loaded.format != "csr" or len(loaded.shape) != 2:
            problems.add(path, f"expected a matrix in CSR format, got {loaded.format}: save it with tocsr()")
            return None
        matrix = csr_array(loaded)
        matrix.check_format(full_check=True)
    except FileNotFoundError:
        problems.add(path, "it is missing")
        return None
    except _UNREADABLE as error:
        problems.add(path, f"it is damaged or not a SciPy sparse matrix ({error})")
        return None
    matrix.sort_indices()
    if not matrix.has_canonical_format:
        problems.add(path, "some entries are stored twice: sum or remove them where they come from")
    elif matrix.dtype.kind not in "biuf" or not np.isfinite(matrix.data).all():
        problems.add(path, f"expected finite numbers as {what}")
    elif allowed is not None and not np.isin(matrix.data, allowed).all():
        expected = " and ".join(f"{value:+d}" if value else "0" for value in allowed)
        problems.add(path, f"expected {what} of {expected} only, got {_example(matrix.data, allowed)}")
    else:
        return matrix
    return None


def _example(data: npt.NDArray[Any], allowed: Sequence[int]) -> str:
    return f"{data[~np.isin(data, allowed)][0]:g}"


def _folds(path: Path, count: int | None, problems: _Problems) -> npt.NDArray[np.int8] | None:
    try:
        with path.open("rb") as file:
            folds = np.load(file, allow_pickle=False)
    except FileNotFoundError:
        problems.add(path, "it is missing")
        return None
    except _UNREADABLE as error:
        problems.add(path, f"it is damaged or not an array ({error})")
        return None
    if not isinstance(folds, np.ndarray) or folds.ndim != 1 or folds.dtype.kind not in "iu" or not len(folds):
        problems.add(path, "expected one whole number for each row")
        return None
    present = np.unique(folds)
    most = len(present) if count is None else count
    if most > _MOST_FOLDS:
        problems.add(path, f"expected at most {_MOST_FOLDS} folds, got {most}")
        return None
    if present[0] < 0 or present[-1] >= most:
        remedy = "; give fold_count if some folds have no row" if count is None else ""
        problems.add(path, f"expected folds 0 to {most - 1}, got {present[0]} to {present[-1]}{remedy}")
        return None
    return folds.astype(np.int8)


def _labels(path: Path | None, problems: _Problems) -> csr_array | None:
    if path is None:
        return None
    matrix = _matrix(path, problems, what="labels")
    if matrix is None:
        return None
    zero_one = bool((matrix.data == 0).any())
    allowed = (0, 1) if zero_one else (-1, 1)
    if not np.isin(matrix.data, allowed).all():
        got = _example(matrix.data, allowed)
        problems.add(path, f"expected labels of -1 and +1, or of 0 and +1, got {'0 and ' if zero_one else ''}{got}")
        return None
    signs = np.where(matrix.data == 1, np.int8(1), np.int8(-1))
    return csr_array((signs, matrix.indices, matrix.indptr), shape=matrix.shape)


def _values(
    path: Path | None, censor_path: Path | None, problems: _Problems
) -> tuple[csr_array | None, csr_array | None]:
    if path is None or censor_path is None:
        return None, None
    values = _matrix(path, problems, what="values")
    censor = _matrix(censor_path, problems, allowed=(-1, 0, 1), what="censor codes")
    if values is not None:
        with np.errstate(over="ignore"):
            values = values.astype(np.float32)
        if not np.isfinite(values.data).all():
            problems.add(path, "some values are too large for float32: use another unit")
    if values is not None and censor is not None and not _same_pattern(values, censor):
        problems.add(
            censor_path, f"expected exactly the entries of {path.name}; a stored 0 (exact) must not be dropped"
        )
    return values, None if censor is None else censor.astype(np.int8)


def _compare_rows(paths: dict[str, Path], parts: dict[str, Any], problems: _Problems) -> None:
    rows = {paths[key].name: part.shape[0] for key, part in parts.items() if part is not None}
    if len(set(rows.values())) > 1:
        listed = ", ".join(f"{name} has {count}" for name, count in rows.items())
        problems.add(paths["x"].parent, f"expected as many rows in every file: {listed}")
    elif rows and not max(rows.values()):
        problems.add(paths["x"], "it has no rows")


def _tasks(kind: Kind, path: Path | None, matrix: csr_array | None, problems: _Problems) -> list[Task]:
    """Read one task for each row of a weight table, in the order of ``task_id``; none after a problem."""
    if path is None:
        return []
    before = len(problems.lines)
    table = _table(path, "task_id", ("training_weight", "aggregation_weight"), problems)
    if table is None:
        return []
    wrong = [name for name in table.columns if name not in _COLUMNS]
    if wrong:
        problems.add(path, f"unknown columns {', '.join(wrong)}: SparseChem refuses them")
    if matrix is not None and matrix.shape[1] != len(table):
        problems.add(path, f"expected a row for each of {matrix.shape[1]} columns of the matrix, got {len(table)}")
    regression = kind == "regression"
    training = _numbers(path, table, "training_weight", problems, most=1.0)
    aggregation = _numbers(path, table, "aggregation_weight", problems)
    censored = _numbers(path, table, "censored_weight", problems, blank=not regression)
    catalogue = _numbers(path, table, "catalog_id", problems, blank=True, whole=True)
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


def _table(path: Path, key: str, needed: Sequence[str], problems: _Problems) -> pd.DataFrame | None:
    """Read a table as text, in the order of its `key`, which counts its rows from 0; None after a problem."""
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except FileNotFoundError:
        problems.add(path, "it is missing")
        return None
    except (OSError, ValueError) as error:
        problems.add(path, f"it is not a CSV table ({error})")
        return None
    lacking = [name for name in (key, *needed) if name not in table.columns]
    if lacking or not isinstance(table.index, pd.RangeIndex):
        wrong = f"columns {', '.join(lacking)} are missing" if lacking else "rows have more fields than the header"
        problems.add(path, wrong)
        return None
    # T8 lists tasks below their quorum too, without an id.
    table = table[table[key].str.strip() != ""] if path.name.startswith("T8") else table
    numbers = pd.to_numeric(table[key], errors="coerce").to_numpy(np.float64)
    order = np.argsort(numbers, kind="stable")
    if not np.array_equal(numbers[order], np.arange(len(numbers))):
        problems.add(path, f"expected each {key} from 0 to {len(numbers) - 1} once")
        return None
    return table.iloc[order]


def _numbers(
    path: Path,
    table: pd.DataFrame,
    name: str,
    problems: _Problems,
    *,
    most: float = np.inf,
    blank: bool = False,
    whole: bool = False,
) -> npt.NDArray[np.float64]:
    """Return a column as numbers of at least 0, NaN where it may be blank; all NaN without the column."""
    if name not in table.columns:
        return np.full(len(table), np.nan)
    numbers = pd.to_numeric(table[name], errors="coerce").to_numpy(np.float64)
    wrong = ~((numbers >= 0) & (numbers <= most) & np.isfinite(numbers))
    if whole:
        wrong |= numbers % 1 != 0
    if blank:
        wrong &= (table[name].str.strip() != "").to_numpy()
    if wrong.any():
        first = int(np.flatnonzero(wrong)[0])
        limit = f"from 0 to {most:g}" if np.isfinite(most) else "of at least 0"
        got = table[name].iloc[first]
        problems.add(path, f"line {table.index[first] + 2}, column {name}: expected a number {limit}, got {got!r}")
    return numbers


def _result_table(source: Path, data_sets: Sequence[_DataSet], name: str) -> Path | None:
    places = []
    for data_set in data_sets:
        places.append(data_set.folder)
        if data_set.folder.parent.parent.name == "matrices":
            results = data_set.folder.parents[2] / "results"
            places += [results / data_set.folder.parent.name, results]
    places += [source, source / "results"]
    return next((place / name for place in places if (place / name).is_file()), None)


def _described(tasks: list[Task], path: Path, problems: _Problems) -> list[Task]:
    """Give tasks the assay, threshold and direction that T8c.csv or T8r.csv tells."""
    classification = path.name == "T8c.csv"
    key = "cont_classification_task_id" if classification else "cont_regression_task_id"
    table = _table(path, key, ("input_assay_id", *(("threshold",) if classification else ())), problems)
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
