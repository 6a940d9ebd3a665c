"""Rows of fingerprints and their labelled cells, as tensors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor

from pharma_fl.data.matrices import PreparedData
from pharma_fl.errors import ModelError


@dataclass(frozen=True, kw_only=True)
class SparseRows:
    """Binary rows in compressed form, the input of the first layer.

    Attributes
    ----------
    indices : Tensor
        int64 (nnz,): positions of the set bits, row after row.
    offsets : Tensor
        int64 (b + 1,): where each row begins in `indices`; the last entry is nnz.
    columns : int
        Width of a row.
    """

    indices: Tensor
    offsets: Tensor
    columns: int

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def counts(self) -> Tensor:
        """int64 (b,): set bits of each row, which is its squared norm."""
        return self.offsets.diff()


@dataclass(frozen=True, kw_only=True)
class Cells:
    """The labelled cells of a batch: everything else is missing and contributes nothing.

    Attributes
    ----------
    rows, columns : Tensor
        int64 (cells,): row within the batch and task column.
    values : Tensor
        float32 (cells,): 0 or 1 for classification, standardised value for regression.
    censor : Tensor
        float32 (cells,): -1 where the true value is below, +1 where it is above, else 0.
    """

    rows: Tensor
    columns: Tensor
    values: Tensor
    censor: Tensor


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Some records with all their labels."""

    x: SparseRows
    classes: Cells
    values: Cells

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True, kw_only=True)
class Records:
    """One partner's records in memory: one row is one compound with all its measurements there.

    Attributes
    ----------
    x : csr_array
        (n, bits) ones, folded to the network's input width.
    classes : csr_array
        (n, classification tasks) float32, 0 or 1 in the stored cells.
    values, censor : csr_array
        (n, regression tasks) float32 with one sparsity pattern; explicit zeros are measurements.
    class_weights, value_weights : Tensor
        float32 (tasks,): public task weights.
    data_derived_assays : tuple of str
        Assays whose thresholds are taken from the data, which no accounting covers.
    """

    x: sp.csr_array
    classes: sp.csr_array
    values: sp.csr_array
    censor: sp.csr_array
    class_weights: Tensor
    value_weights: Tensor
    data_derived_assays: tuple[str, ...] = ()

    def __len__(self) -> int:
        return int(self.x.shape[0])

    @classmethod
    def from_prepared(
        cls,
        data: PreparedData,
        rows: NDArray[np.int64],
        *,
        input_bits: int,
        regression_weight: float,
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
        input_bits : int
            Width after folding; at most the prepared width.
        regression_weight : float
            Public weight of a squared error against a cross-entropy.
        center, scale : float
            Public constants: a regression target becomes ``(value - center) / scale``.

        Raises
        ------
        ModelError
            ``PFL-M01`` the network is wider than the prepared fingerprints; ``PFL-M07`` they are counts.
        """
        if input_bits > data.bits:
            raise ModelError(
                "PFL-M01",
                f"Expected model.input_bits <= {data.bits} prepared bits, got {input_bits}. "
                "Lower model.input_bits in federation.toml, or prepare wider fingerprints.",
            )
        if len(data.arrays["x_counts"]):
            # The first layer and its norms know set bits alone; a count would pass the clip uncounted.
            raise ModelError(
                "PFL-M07",
                "Expected binary fingerprints, got counts, which the network does not read yet. "
                "Set fingerprint.counts = false in partner.toml and prepare again.",
            )
        classes = _float_rows(data.y_class(), rows)
        classes.data = (classes.data > 0).astype(np.float32)
        values = _float_rows(data.y_regr(), rows)
        values.data = (values.data - np.float32(center)) / np.float32(scale)
        return cls(
            x=fold_columns(data.x()[rows], input_bits),
            classes=classes,
            values=values,
            censor=_float_rows(data.y_censor(), rows),
            class_weights=torch.tensor([t.training_weight for t in data.classification_tasks], dtype=torch.float32),
            value_weights=regression_weight
            * torch.tensor([t.training_weight for t in data.regression_tasks], dtype=torch.float32),
            data_derived_assays=data.data_derived_assays,
        )

    def batch(self, rows: NDArray[np.int64]) -> Batch:
        """Gather some records; `rows` may be empty."""
        x = self.x[rows]
        return Batch(
            x=SparseRows(
                indices=torch.from_numpy(x.indices.astype(np.int64)),
                offsets=torch.from_numpy(x.indptr.astype(np.int64)),
                columns=int(x.shape[1]),
            ),
            classes=_cells(self.classes[rows], None),
            values=_cells(self.values[rows], self.censor[rows]),
        )

    def all(self) -> Batch:
        """Return every record as one batch."""
        return self.batch(np.arange(len(self)))


def fold_columns(x: sp.csr_array, width: int) -> sp.csr_array:
    """Fold rows to `width` columns: column ``j`` becomes ``j mod width``.

    The positions were permuted with the consortium's key, so the fold merges bits at random; a bit is set once.

    >>> fold_columns(sp.csr_array(np.array([[1, 0, 0, 1, 1, 0]])), 3).toarray()
    array([[1., 1., 0.]], dtype=float32)
    """
    folded = sp.csr_array((x.data.astype(np.float32), x.indices % width, x.indptr), shape=(x.shape[0], width))
    folded.sum_duplicates()
    folded.data[:] = 1.0
    return folded


def _float_rows(matrix: sp.csr_array, rows: NDArray[np.int64]) -> sp.csr_array:
    picked = matrix[rows]
    return sp.csr_array((picked.data.astype(np.float32), picked.indices, picked.indptr), shape=picked.shape)


def _cells(matrix: sp.csr_array, censor: sp.csr_array | None) -> Cells:
    rows = np.repeat(np.arange(matrix.shape[0], dtype=np.int64), np.diff(matrix.indptr))
    values = torch.from_numpy(matrix.data.astype(np.float32))
    return Cells(
        rows=torch.from_numpy(rows),
        columns=torch.from_numpy(matrix.indices.astype(np.int64)),
        values=values,
        censor=torch.zeros_like(values) if censor is None else torch.from_numpy(censor.data.astype(np.float32)),
    )
