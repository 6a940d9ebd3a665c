"""One partner's records in memory, and the batches that training gathers of them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor

from pharma_fl.config import ModelSettings
from pharma_fl.data.matrices import PreparedData
from pharma_fl.errors import ModelError
from pharma_fl.model.batches import Batch, Cells, SparseRows


@dataclass(frozen=True, kw_only=True)
class TaskWeights:
    """What is public about the tasks of one partner: nothing here is computed from measurements.

    Attributes
    ----------
    classes, values : Tensor
        float32 (classification tasks,) and (regression tasks,): weight of a cell's loss.
    censored : Tensor
        float32 (regression tasks,): what a censored cell's weight is multiplied with.
    catalogue : Tensor
        int64 (classification tasks,): the catalogue's column that computes the task, -1 where its own does.
    """

    classes: Tensor
    values: Tensor
    censored: Tensor
    catalogue: Tensor

    def to(self, device: torch.device) -> TaskWeights:
        """Return the weights on another device."""
        return TaskWeights(
            classes=self.classes.to(device),
            values=self.values.to(device),
            censored=self.censored.to(device),
            catalogue=self.catalogue.to(device),
        )


@dataclass(frozen=True, kw_only=True)
class Records:
    """One partner's records: one row is one compound with all its measurements there.

    Attributes
    ----------
    x : csr_array
        float32 (n, bits), folded to the network's input width: ones, or transformed counts.
    classes : csr_array
        (n, classification tasks) float32, 0 or 1 in the stored cells.
    values, censor : csr_array
        (n, regression tasks) float32 with one sparsity pattern; explicit zeros are measurements.
    weights : TaskWeights
        Public constants of the tasks.
    binary : bool
        Whether every stored entry of `x` is 1 by construction; a setting, never a look at the data.
    series : ndarray or None
        int32 (n,): number of each compound's series; None where it is not known.
    days : ndarray or None
        int32 (n,): each compound's date in days since 1970-01-01, `pharma_fl.data.cells.NO_DATE` where it has none;
        None where no compound has any.
    data_derived_assays : tuple of str
        Assays whose thresholds are taken from the data, which no accounting covers.

    Raises
    ------
    ModelError
        ``PFL-M08`` a label, weight or bit is not what a network can read.
    """

    x: sp.csr_array
    classes: sp.csr_array
    values: sp.csr_array
    censor: sp.csr_array
    weights: TaskWeights
    binary: bool = False
    series: NDArray[np.int32] | None = None
    days: NDArray[np.int32] | None = None
    data_derived_assays: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check(self)

    def __len__(self) -> int:
        return int(self.x.shape[0])

    @classmethod
    def from_prepared(
        cls,
        data: PreparedData,
        rows: NDArray[np.int64],
        model: ModelSettings,
        *,
        center: float = 0.0,
        scale: float = 1.0,
    ) -> Records:
        """Gather rows of a prepared data set.

        Parameters
        ----------
        data : PreparedData
            The partner's memory-mapped matrices.
        rows : ndarray
            int64 (n,): which compounds.
        model : ModelSettings
            Width after folding, what becomes of counts, the weight of a squared error, and the catalogue.
        center, scale : float
            Public constants: a regression target becomes ``(value - center) / scale``.

        Raises
        ------
        ModelError
            ``PFL-M01`` the network is wider than the prepared fingerprints; ``PFL-M08`` the data are damaged.
        """
        if model.input_bits > data.bits:
            raise ModelError(
                "PFL-M01",
                f"Expected model.input_bits <= {data.bits} prepared bits, got {model.input_bits}. "
                "Lower model.input_bits in federation.toml, or prepare wider fingerprints.",
            )
        classes = _float_rows(data.y_class(), rows)
        classes.data = (classes.data > 0).astype(np.float32)
        values = _float_rows(data.y_regr(), rows)
        values.data = (values.data - np.float32(center)) / np.float32(scale)
        catalogue = {task: column for column, task in enumerate(model.catalogue)}
        x = data.x()[rows]
        # Whether a fingerprint counts is a setting of its preparation; a look at the counts would let one compound
        # decide how all others are folded.
        counted = x.dtype != np.int8
        regression_weights = [task.training_weight for task in data.regression_tasks]
        return cls(
            x=transformed(fold_columns(x, model.input_bits, counted=counted), model.input_transform),
            binary=not counted or model.input_transform == "binarize",
            classes=classes,
            values=values,
            censor=_float_rows(data.y_censor(), rows),
            weights=TaskWeights(
                classes=torch.tensor([task.training_weight for task in data.classification_tasks], dtype=torch.float32),
                values=model.regression_weight * torch.tensor(regression_weights, dtype=torch.float32),
                censored=torch.full((len(regression_weights),), model.censored_weight),
                catalogue=torch.tensor(
                    [catalogue.get(task.catalog_task_id or -1, -1) for task in data.classification_tasks],
                    dtype=torch.int64,
                ),
            ),
            series=None if data.series is None else data.series[rows],
            days=None if data.days is None else data.days[rows],
            data_derived_assays=data.data_derived_assays,
        )

    def select(self, rows: NDArray[np.int64]) -> Records:
        """Return some of the records, int64 (k,), in that order."""
        return replace(
            self,
            x=self.x[rows],
            classes=self.classes[rows],
            values=self.values[rows],
            censor=self.censor[rows],
            series=None if self.series is None else self.series[rows],
            days=None if self.days is None else self.days[rows],
        )

    def batch(self, rows: NDArray[np.int64], size: int | None = None) -> Batch:
        """Gather some records, which may be none; blank rows fill the batch up to `size`."""
        x = self.x[rows]
        size = max(len(rows), size or 0)
        return Batch(
            x=SparseRows(
                indices=torch.from_numpy(x.indices.astype(np.int64)),
                offsets=_offsets(x, size),
                values=None if self.binary else torch.from_numpy(x.data),
                columns=int(x.shape[1]),
            ),
            classes=_cells(self.classes[rows], None, size),
            values=_cells(self.values[rows], self.censor[rows], size),
        )

    def all(self) -> Batch:
        """Return every record as one batch."""
        return self.batch(np.arange(len(self)))


def fold_columns(x: sp.csr_array, width: int, *, counted: bool = False) -> sp.csr_array:
    """Fold rows to `width` columns: column ``j`` becomes ``j mod width``.

    The positions were permuted with the consortium's key, so the fold merges bits at random. Of counts that meet the
    sum is kept; a bit is set once.

    >>> x = sp.csr_array(np.array([[2, 0, 0, 1, 1, 0]]))
    >>> fold_columns(x, 3).toarray()
    array([[1., 1., 0.]], dtype=float32)
    >>> fold_columns(x, 3, counted=True).toarray()
    array([[3., 1., 0.]], dtype=float32)
    """
    folded = sp.csr_array((x.data.astype(np.float32), x.indices % width, x.indptr.copy()), shape=(x.shape[0], width))
    folded.sum_duplicates()
    if not counted:
        folded.data[:] = 1.0
    return folded


def transformed(x: sp.csr_array, transform: str) -> sp.csr_array:
    """Apply the public `model.input_transform` to the stored entries, in place."""
    if transform == "binarize":
        x.data[:] = 1.0
    elif transform == "log1p":
        x.data = np.log1p(x.data)
    elif transform == "tanh":
        x.data = np.tanh(x.data)
    return x


def _check(records: Records) -> None:
    x, censor = records.x, records.censor
    tasks = records.classes.shape[1], records.values.shape[1]
    matrices = {
        "fingerprints": x,
        "classification labels": records.classes,
        "regression values": records.values,
        "censoring": censor,
    }
    wrong = [f"{name}: {problem}" for name, matrix in matrices.items() for problem in _problems(matrix, len(records))]
    wrong += _wrong_numbers(records)
    if bool((x.data < 0).any()) or (records.binary and not bool((x.data == 1).all())):
        wrong.append("fingerprints: values are negative, or declared binary and not 1")
    if not bool(np.isin(records.classes.data, (0.0, 1.0)).all()):
        wrong.append("classification labels: neither 0 nor 1")
    if not np.array_equal(records.values.indptr, censor.indptr) or not np.array_equal(
        records.values.indices, censor.indices
    ):
        wrong.append("regression values and their censoring name different cells")
    weights = records.weights
    for name, part, count in (
        ("classification", weights.classes, tasks[0]),
        ("regression", weights.values, tasks[1]),
        ("censored", weights.censored, tasks[1]),
    ):
        if len(part) != count or not bool(((part >= 0) & torch.isfinite(part)).all()):
            wrong.append(f"{name} task weights: expected {count} finite numbers of at least 0")
    used = weights.catalogue[weights.catalogue >= 0]
    if len(weights.catalogue) != tasks[0] or len(torch.unique(used)) != len(used):
        wrong.append("classification tasks: expected at most one for one catalogue task")
    if wrong:
        raise ModelError(
            "PFL-M08", f"The records cannot be trained on. {'; '.join(wrong)}. Run pharma-fl prepare again."
        )


def _wrong_numbers(records: Records) -> list[str]:
    found = [
        f"{name}: expected int32 ({len(records)},), got {numbers.dtype} {numbers.shape}"
        for name, numbers in (("series", records.series), ("days", records.days))
        if numbers is not None and (numbers.dtype != np.int32 or numbers.shape != (len(records),))
    ]
    if records.series is not None and bool((records.series < 0).any()):
        found.append("series: numbers are negative")
    return found


def _problems(matrix: sp.csr_array, rows: int) -> list[str]:
    found = []
    if matrix.shape[0] != rows:
        found.append(f"expected {rows} rows, got {matrix.shape[0]}")
    if not bool(np.isfinite(matrix.data).all()):
        found.append("values are not finite")
    if len(matrix.indices) and not 0 <= matrix.indices.min() <= matrix.indices.max() < matrix.shape[1]:
        found.append(f"columns outside 0 to {matrix.shape[1] - 1}")
    # Two entries at one place would be one to a product and two to a norm.
    elif not matrix.has_canonical_format:
        found.append("columns do not ascend within each row")
    return found


def _float_rows(matrix: sp.csr_array, rows: NDArray[np.int64]) -> sp.csr_array:
    picked = matrix[rows]
    return sp.csr_array((picked.data.astype(np.float32), picked.indices, picked.indptr), shape=picked.shape)


def _offsets(matrix: sp.csr_array, size: int) -> Tensor:
    blank = np.full(size - matrix.shape[0], matrix.indptr[-1], dtype=np.int64)
    return torch.from_numpy(np.concatenate([matrix.indptr.astype(np.int64), blank]))


def _cells(matrix: sp.csr_array, censor: sp.csr_array | None, size: int) -> Cells:
    values = torch.from_numpy(matrix.data)
    return Cells(
        columns=torch.from_numpy(matrix.indices.astype(np.int64)),
        offsets=_offsets(matrix, size),
        values=values,
        censor=torch.zeros_like(values) if censor is None else torch.from_numpy(censor.data),
    )
