"""The three products of a sparse network, on any device, each with its gradient.

Each output row is computed from its own input row alone, in an order that does not depend on what else is in the
batch: the private step rests on that.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pharma_fl.model.batches import Cells, SparseRows

_ROWS_AT_ONCE = 512
"""Rows of a weight gradient that are summed before they are written: they stay in the processor's cache."""
_PAIRS_AT_ONCE = 1 << 14
"""Pairs of rows that are multiplied at a time: a series has as many as the square of its size."""

with warnings.catch_warnings():
    # PyTorch says once a process that its CSR tensors are beta; said here, it reaches nobody's log.
    warnings.simplefilter("ignore", UserWarning)
    torch.sparse.sampled_addmm(
        torch.sparse_csr_tensor(torch.tensor([0, 1]), torch.tensor([0]), torch.zeros(1), size=(1, 1)),
        torch.zeros(1, 1),
        torch.zeros(1, 1),
    )


def gather_sums(x: SparseRows, weight: Tensor) -> Tensor:
    """Return ``x @ weight``, float32 (b, h), from rows (b, f) and weights (f, h): sum the weights of the set bits."""
    found: Tensor = _GatherSums.apply(weight, x)  # type: ignore[no-untyped-call]
    return found


def scatter_sums(
    x: SparseRows, dense: Tensor, out: Tensor, *, factors: Tensor | None = None, add: bool = False
) -> None:
    """Write ``x.T @ (factors * dense)``, float32 (f, h), into `out`, or add it there.

    Sums over rows are taken in the rows' order. Nothing as large as `out` is allocated on the CPU.

    Parameters
    ----------
    x : SparseRows
        (b, f)
    dense : Tensor
        float32 (b, h)
    out : Tensor
        float32 (f, h); what was there is lost unless `add`.
    factors : Tensor, optional
        float32 (b,): what each row is multiplied with on the way.
    add : bool
        Keep what was there.
    """
    order = torch.argsort(x.indices, stable=True)
    offsets = torch.zeros(x.columns + 1, dtype=torch.int64, device=out.device)
    torch.cumsum(torch.bincount(x.indices, minlength=x.columns), 0, out=offsets[1:])
    rows, values = x.rows[order], None if x.values is None else x.values[order]
    if factors is not None:
        values = factors[rows] if values is None else factors[rows] * values
    if out.device.type != "cpu":
        ones = torch.ones_like(rows, dtype=dense.dtype) if values is None else values
        transposed = torch.sparse_csr_tensor(offsets, rows, ones, size=(x.columns, len(x)), check_invariants=False)
        torch.addmm(out, transposed, dense, beta=float(add), out=out)
        return
    for first in range(0, x.columns, _ROWS_AT_ONCE):
        part = out[first : first + _ROWS_AT_ONCE]
        bounds = offsets[first : first + len(part) + 1]
        begin, end = int(bounds[0]), int(bounds[-1])
        if begin == end:
            if not add:
                part.zero_()
            continue
        sums = functional.embedding_bag(
            rows[begin:end],
            dense,
            bounds - begin,
            mode="sum",
            include_last_offset=True,
            per_sample_weights=None if values is None else values[begin:end],
        )
        part.add_(sums) if add else part.copy_(sums)


def cell_products(features: Tensor, weight: Tensor, cells: Cells) -> Tensor:
    """Return ``(features @ weight.T)`` at the labelled cells alone.

    Parameters
    ----------
    features : Tensor
        float32 (b, f)
    weight : Tensor
        float32 (t, f)
    cells : Cells
        Of b rows and t columns.

    Returns
    -------
    Tensor
        float32 (cells,)
    """
    if not len(cells):
        return features.new_zeros(0)
    found: Tensor = _CellProducts.apply(features, weight, cells)  # type: ignore[no-untyped-call]
    return found


def coalesced(x: SparseRows) -> SparseRows:
    """Return rows whose positions ascend and come once each: what stood at one position is summed, in float64."""
    keys, places = torch.unique(x.rows * x.columns + x.indices, return_inverse=True)
    values = torch.zeros(len(keys), dtype=torch.float64, device=keys.device)
    own = torch.ones_like(places, dtype=torch.float64) if x.values is None else x.values.double()
    counts = torch.bincount(keys // x.columns, minlength=len(x))
    return SparseRows(
        indices=keys % x.columns,
        offsets=torch.cat([counts.new_zeros(1), counts.cumsum(0)]),
        values=values.index_add_(0, places, own),
        columns=x.columns,
    )


def sparse_row_squares(x: SparseRows) -> Tensor:
    """Return the squared norm of each row, float64 (b,), also where a position comes twice in a row."""
    if len(x.indices) > 1:
        ascends = x.indices.diff() > 0
        # Rows of ascending positions need no sorting; between rows nothing has to ascend.
        begins = x.offsets[1:-1]
        begins = begins[(begins > 0) & (begins < len(x.indices))]
        ascends[begins - 1] = True
        if not bool(ascends.all()):
            x = coalesced(x)
    if x.values is None:
        return x.counts.double()
    squares = torch.zeros(len(x), dtype=torch.float64, device=x.values.device)
    return squares.index_add_(0, x.rows, x.values.double().square())


def row_products(x: SparseRows, first: Tensor, second: Tensor) -> Tensor:
    """Return the scalar product of each pair of rows, int64 (p,) each, float64 (p,)."""
    whole = coalesced(x)
    products = torch.zeros(len(first), dtype=torch.float64, device=x.offsets.device)
    for begin in range(0, len(first), _PAIRS_AT_ONCE):
        pairs = slice(begin, begin + _PAIRS_AT_ONCE)
        left, right = whole.take(first[pairs]), whole.take(second[pairs])
        of_left = left.rows * left.columns + left.indices
        of_right = right.rows * right.columns + right.indices
        if not len(of_right):
            continue
        places = torch.searchsorted(of_right, of_left).clamp(max=len(of_right) - 1)
        assert left.values is not None
        assert right.values is not None
        factors = torch.where(of_right[places] == of_left, left.values * right.values[places], 0.0)
        products[pairs].index_add_(0, left.rows, factors)
    return products


class _GatherSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, x: SparseRows) -> Tensor:
        ctx.x, ctx.shape = x, weight.shape
        return functional.embedding_bag(
            x.indices, weight, x.offsets, mode="sum", include_last_offset=True, per_sample_weights=x.values
        )

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None]:
        (grad,) = grads
        if not ctx.needs_input_grad[0]:
            return None, None
        out = grad.new_empty(ctx.shape)
        scatter_sums(ctx.x, grad, out)
        return out, None


class _CellProducts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, cells: Cells) -> Tensor:
        ctx.save_for_backward(features, weight)
        ctx.cells = cells
        pattern = torch.sparse_csr_tensor(
            cells.offsets,
            cells.columns,
            torch.zeros_like(cells.values),
            size=(len(features), len(weight)),
            check_invariants=False,  # Records were checked when they were made
        )
        sampled = torch.sparse.sampled_addmm(pattern, features, weight.t(), beta=0.0)
        values: Tensor = sampled.values()
        return values

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (grad,) = grads
        features, weight = ctx.saved_tensors
        errors = cell_matrix(ctx.cells, grad, columns=len(weight))
        back = into = None
        if ctx.needs_input_grad[0]:
            back = functional.embedding_bag(
                errors.indices,
                weight,
                errors.offsets,
                mode="sum",
                include_last_offset=True,
                per_sample_weights=errors.values,
            )
        if ctx.needs_input_grad[1]:
            into = torch.empty_like(weight)
            scatter_sums(errors, features, into)
        return back, into, None


def cell_matrix(cells: Cells, values: Tensor, *, columns: int) -> SparseRows:
    """Return the sparse matrix that has one value, float32 (cells,), at each labelled cell."""
    return SparseRows(indices=cells.columns, offsets=cells.offsets, values=values.contiguous(), columns=columns)
