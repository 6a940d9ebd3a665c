"""Opening the prepared folder ``data/`` (see `layout`): mapped from disk, not loaded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from pharma_fl.data.layout import DTYPES, FORMAT, FORMAT_VERSION, in_column_order, lengths
from pharma_fl.data.tasks import Task, read_tasks
from pharma_fl.errors import DataError


@dataclass(frozen=True, kw_only=True, eq=False)
class PreparedData:
    """A prepared folder, opened. Arrays are read-only views of the files.

    Attributes
    ----------
    folder : Path
        Where it is.
    manifest : dict
        manifest.json.
    bits : int
        Columns of `x`.
    folds : int8 array (n,)
        Fold of each compound.
    data_derived_assays : tuple of str
        Assays whose thresholds measurements decide, by T0 alone.
    arrays : dict
        The mapped arrays by file name without ending.
    """

    folder: Path
    manifest: dict[str, Any]
    bits: int
    folds: npt.NDArray[np.int8]
    data_derived_assays: tuple[str, ...]
    arrays: dict[str, npt.NDArray[Any]]

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Map a prepared folder without reading its arrays or its tasks, so in milliseconds whatever its size.

        Raises
        ------
        DataError
            ``PFL-D04`` a file is missing, truncated, or does not belong to the manifest; it names the file.
        """
        try:
            manifest = _read_manifest(folder)
            sizes = {name: int(value) for name, value in manifest["sizes"].items()}
            _check_lengths_on_disk(folder, manifest["files"])
            expected = lengths(sizes)
            data_derived_assays = tuple(str(assay) for assay in manifest["data_derived_assays"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise _unusable(folder / "manifest.json", "it is not a manifest of this version") from error
        arrays = {name: _map(folder / f"{name}.npy", dtype, expected[name]) for name, dtype in DTYPES.items()}
        for name in ("x", "y_class", "y_regr"):
            ends = arrays[f"{name}_indptr"][[0, -1]].tolist()
            if ends != [0, expected[f"{name}_indices"]]:
                raise _unusable(folder / f"{name}_indptr.npy", f"its rows span {ends}")
        return cls(
            folder=folder,
            manifest=manifest,
            bits=sizes["bits"],
            folds=arrays["folds"],
            data_derived_assays=data_derived_assays,
            arrays=arrays,
        )

    @property
    def n_compounds(self) -> int:
        """Number of rows: compounds, which are the unit of privacy."""
        return len(self.folds)

    @property
    def series(self) -> npt.NDArray[np.int32] | None:
        """Number of each compound's scaffold family, int32 (n,), or None where it is not known."""
        return self.arrays["series"] if len(self.arrays["series"]) else None

    @property
    def days(self) -> npt.NDArray[np.int32] | None:
        """Earliest date of each compound, int32 (n,) days since 1970-01-01, or None where there are no dates."""
        return self.arrays["days"] if len(self.arrays["days"]) else None

    @cached_property
    def tasks(self) -> tuple[Task, ...]:
        """Classification tasks by column, then regression tasks by column.

        Raises
        ------
        DataError
            ``PFL-D04`` tasks.csv is not a table of this version, or its tasks are not those of the manifest.
        """
        return _read_tasks(self.folder / "tasks.csv", self.manifest["sizes"])

    @cached_property
    def classification_tasks(self) -> tuple[Task, ...]:
        """Tasks of `y_class`, by column."""
        return tuple(task for task in self.tasks if task.kind == "classification")

    @cached_property
    def regression_tasks(self) -> tuple[Task, ...]:
        """Tasks of `y_regr`, by column."""
        return tuple(task for task in self.tasks if task.kind == "regression")

    def x(self) -> csr_array:
        """Return the fingerprints: csr (n, bits) of int8 ones, or of uint16 counts where they were prepared."""
        counts = self.arrays["x_counts"]
        return self._csr("x", counts if len(counts) else np.ones(len(self.arrays["x_indices"]), np.int8), self.bits)

    def y_class(self) -> csr_array:
        """Return the labels: csr int8 (n, classification tasks), +1 and -1, nothing where not measured."""
        return self._csr("y_class", self.arrays["y_class_values"], len(self.classification_tasks))

    def y_regr(self) -> csr_array:
        """Return the values: csr float32 (n, regression tasks); a stored zero is a measurement."""
        return self._csr("y_regr", self.arrays["y_regr_values"], len(self.regression_tasks))

    def y_censor(self) -> csr_array:
        """Return the censor codes: csr int8 with the pattern of `y_regr`; a stored zero means exact."""
        return self._csr("y_regr", self.arrays["y_regr_censor"], len(self.regression_tasks))

    def rows_of(self, folds: Collection[int]) -> npt.NDArray[np.int64]:
        """Return the rows of the compounds in any of `folds`, ascending, int64."""
        return np.flatnonzero(np.isin(self.folds, list(folds))).astype(np.int64, copy=False)

    def verify(self) -> None:
        """Read every file and compare its SHA-256 with the manifest.

        Raises
        ------
        DataError
            ``PFL-D04`` names the first file that was changed.
        """
        for name, facts in self.manifest["files"].items():
            if sha256(self.folder / name) != facts["sha256"]:
                raise _unusable(self.folder / name, "its content was changed")

    def _csr(self, name: str, data: npt.NDArray[Any], columns: int) -> csr_array:
        indptr = self.arrays[f"{name}_indptr"]
        if len(data) <= np.iinfo(np.int32).max:
            # SciPy wants one index type. Row ends are few; with them at int64 it would copy all column indices.
            indptr = indptr.astype(np.int32)
        return csr_array((data, self.arrays[f"{name}_indices"], indptr), shape=(self.n_compounds, columns))


def _unusable(path: Path, why: str) -> DataError:
    return DataError("PFL-D04", f"Cannot use {path}: {why}. Run `pharma-fl prepare` again.")


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise _unusable(path, f"{error.strerror}") from error
    except ValueError as error:
        raise _unusable(path, "it is not JSON text") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise _unusable(path, "it is not a manifest of prepared data")
    if manifest["format_version"] != FORMAT_VERSION:
        raise _unusable(path, f"expected format version {FORMAT_VERSION}, got {manifest['format_version']!r}")
    return manifest


def _check_lengths_on_disk(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> None:
    for name, facts in files.items():
        path = folder / name
        try:
            found = path.stat().st_size
        except OSError as error:
            raise _unusable(path, f"{error.strerror}") from error
        if found != facts["bytes"]:
            raise _unusable(path, f"expected {facts['bytes']} bytes, got {found}")


def _map(path: Path, dtype: type[np.generic], length: int) -> npt.NDArray[Any]:
    try:
        array: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise _unusable(path, "it is missing, truncated or not an array") from error
    if array.dtype != dtype or array.shape != (length,):
        raise _unusable(path, f"expected {np.dtype(dtype)} ({length},), got {array.dtype} {array.shape}")
    return array


def _read_tasks(path: Path, sizes: Mapping[str, int]) -> tuple[Task, ...]:
    try:
        tasks = read_tasks(path)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise _unusable(path, "it is missing or not a task table of this version") from error
    if not in_column_order(tasks, sizes["classification_tasks"], sizes["regression_tasks"]):
        raise _unusable(path, "its tasks are not those of the manifest")
    return tasks


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
