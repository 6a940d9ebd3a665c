"""Some records as tensors: rows of fingerprints and their labelled cells."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class SparseRows:
    """Rows in compressed form, the input of the first layer.

    Attributes
    ----------
    indices : Tensor
        int64 (nnz,): positions of the set bits, row after row.
    offsets : Tensor
        int64 (b + 1,): where each row begins in `indices`; the last entry is nnz.
    values : Tensor or None
        float32 (nnz,): what stands at each position; None where all are 1.
    columns : int
        Width of a row.
    """

    indices: Tensor
    offsets: Tensor
    values: Tensor | None
    columns: int

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def counts(self) -> Tensor:
        """int64 (b,): set bits of each row."""
        return self.offsets.diff()

    @cached_property
    def rows(self) -> Tensor:
        """int64 (nnz,): the row of each set bit."""
        return torch.arange(len(self), device=self.offsets.device).repeat_interleave(self.counts)

    def take(self, rows: Tensor) -> SparseRows:
        """Return some rows, int64 (k,), in that order; a row may be asked for more than once."""
        lengths = self.counts[rows]
        offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        places = (self.offsets[rows] - offsets[:-1]).repeat_interleave(lengths)
        places = places + torch.arange(len(places), device=places.device)
        return SparseRows(
            indices=self.indices[places],
            offsets=offsets,
            values=None if self.values is None else self.values[places],
            columns=self.columns,
        )

    def dense(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the rows with their zeros, (b, columns)."""
        whole = torch.zeros(len(self), self.columns, dtype=dtype, device=self.offsets.device)
        values = torch.ones_like(self.indices, dtype=dtype) if self.values is None else self.values.to(dtype)
        return whole.index_put_((self.rows, self.indices), values)

    def to(self, device: torch.device) -> SparseRows:
        """Return the rows on another device."""
        return SparseRows(
            indices=self.indices.to(device),
            offsets=self.offsets.to(device),
            values=None if self.values is None else self.values.to(device),
            columns=self.columns,
        )

    # Opacus's hooks keep a layer's input by these two, as they do with a tensor.
    def detach(self) -> SparseRows:
        """Return the rows themselves: they never need a gradient."""
        return self

    @property
    def shape(self) -> torch.Size:
        """``(b, columns)``."""
        return torch.Size((len(self), self.columns))


@dataclass(frozen=True, kw_only=True)
class Cells:
    """The labelled cells of a batch, row after row: everything else is missing and contributes nothing.

    Attributes
    ----------
    columns : Tensor
        int64 (cells,): task column.
    offsets : Tensor
        int64 (b + 1,): where each row's cells begin; the last entry is the number of cells.
    values : Tensor
        float32 (cells,): 0 or 1 for classification, standardised value for regression.
    censor : Tensor
        float32 (cells,): -1 where the true value is below, +1 where it is above, else 0.
    """

    columns: Tensor
    offsets: Tensor
    values: Tensor
    censor: Tensor

    def __len__(self) -> int:
        return len(self.columns)

    @cached_property
    def rows(self) -> Tensor:
        """int64 (cells,): row within the batch of each cell."""
        count = len(self.offsets) - 1
        return torch.arange(count, device=self.offsets.device).repeat_interleave(self.offsets.diff())

    def select(self, kept: Tensor, columns: Tensor) -> Cells:
        """Return the cells where `kept` is true, with other column numbers; every row stays, maybe without cells."""
        before = torch.cat([kept.new_zeros(1, dtype=torch.int64), kept.cumsum(0)])
        return Cells(
            columns=columns[kept],
            offsets=before[self.offsets],
            values=self.values[kept],
            censor=self.censor[kept],
        )

    def to(self, device: torch.device) -> Cells:
        """Return the cells on another device."""
        return Cells(
            columns=self.columns.to(device),
            offsets=self.offsets.to(device),
            values=self.values.to(device),
            censor=self.censor.to(device),
        )

    def detach(self) -> Cells:
        """Return the cells themselves, as `SparseRows.detach`."""
        return self


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Some records with all their labels; blank rows (no bits, no labels) may follow them."""

    x: SparseRows
    classes: Cells
    values: Cells

    def __len__(self) -> int:
        return len(self.x)

    def to(self, device: torch.device) -> Batch:
        """Return the batch on another device."""
        return Batch(x=self.x.to(device), classes=self.classes.to(device), values=self.values.to(device))
