"""The layers that are ours: a first layer over sparse rows, and heads that compute labelled cells alone.

Both have exact norms of each record's gradient, by the protocol of `privacy.clipping`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from pharma_fl.model.batches import Cells, SparseRows
from pharma_fl.model.kernels import (
    cell_matrix,
    cell_products,
    gather_sums,
    row_products,
    scatter_sums,
    sparse_row_squares,
)
from pharma_fl.norms import pair_products, row_squares

Kernel = Literal["gather", "dense"]


class SparseLinear(nn.Module):
    """A linear layer over sparse rows: the scaled sum of the weight rows of the set bits, plus a bias.

    Parameters
    ----------
    in_features, out_features : int
        Width of a row and of the result.
    scale : float
        What every entry of a row is multiplied with.
    bias : bool
        Whether there is one.

    Attributes
    ----------
    weight : Parameter
        float32 (in_features, out_features): one contiguous row a bit, the transpose of `nn.Linear`.
    bias : Parameter or None
        float32 (out_features,)
    kernel : {"gather", "dense"}
        Sum the rows of the set bits, or multiply densified rows in `dtype`.
    dtype : torch.dtype
        Of the dense kernel's factors; sums are float32.
    """

    def __init__(self, in_features: int, out_features: int, *, scale: float = 1.0, bias: bool = True) -> None:
        super().__init__()
        self.in_features, self.out_features, self.scale = in_features, out_features, scale
        self.kernel: Kernel = "gather"
        self.dtype = torch.float32
        self.weight = nn.Parameter(torch.empty(in_features, out_features))
        self.bias = nn.Parameter(torch.empty(out_features)) if bias else None

    def forward(self, x: SparseRows) -> Tensor:
        """Map b rows to float32 (b, out_features)."""
        if self.kernel == "gather":
            # In place, as another tensor of this size costs more than the arithmetic.
            summed = gather_sums(x, self.weight).mul_(self.scale)
            return summed if self.bias is None else summed.add_(self.bias)
        summed = self.dense_product(x.dense(self.dtype), self.weight)
        return self.scale * summed if self.bias is None else self.scale * summed + self.bias

    def input_squares(self, x: SparseRows) -> Tensor:
        """Squared norm of each scaled input row as the kernel sees it, float64 (b,)."""
        return sparse_row_squares(self._rounded(x)) * self.scale**2

    def input_products(self, left: Tensor, right: Tensor, x: SparseRows) -> Tensor:
        """Scalar products of pairs of scaled input rows, int64 (p,) each, as float64 (p,)."""
        return row_products(self._rounded(x), left, right) * self.scale**2

    def dense_shapes(self) -> list[tuple[int, int]]:
        """Shapes of the products whose order of summation must not depend on a row's place."""
        return [(self.in_features, self.out_features)] if self.kernel == "dense" else []

    def dense_product(self, rows: Tensor, weight: Tensor) -> Tensor:
        """Multiply whole rows, (b, in), by weights, (in, out), as the dense kernel does."""
        return _product(rows.to(self.dtype), weight.to(self.dtype))

    def gradient_sums(
        self,
        backprops: Tensor,
        x: SparseRows,
        *,
        coefficients: Tensor,
        finite: bool,
        into: Mapping[str, Tensor],
        add: bool,
    ) -> None:
        """Put the gradients, each record's scaled by its coefficient and all summed, where `into` has a place."""
        if not finite:
            backprops = _finite(backprops, coefficients)
            if x.values is not None:
                x = replace(x, values=torch.where(coefficients[x.rows] > 0, x.values, 0.0))
        if "bias" in into:
            _put(coefficients @ backprops, into["bias"], add=add)
        if "weight" not in into:
            return
        factors = self.scale * coefficients
        if self.kernel == "gather":
            # The rows are scaled on the way: no pass over them, and no copy.
            scatter_sums(x, backprops, into["weight"], factors=factors, add=add)
        else:
            scaled = (backprops * factors.unsqueeze(1)).to(self.dtype)
            _put(_product(x.dense(self.dtype).t(), scaled), into["weight"], add=add)

    def _rounded(self, x: SparseRows) -> SparseRows:
        if self.kernel == "gather" or x.values is None:
            return x
        return replace(x, values=x.values.to(self.dtype).float())


class Head(nn.Module):
    """A linear layer from features to tasks that can compute the labelled cells alone.

    Parameters
    ----------
    features, tasks : int
        Width of its input and number of its columns.

    Attributes
    ----------
    weight : Parameter
        float32 (tasks, features)
    bias : Parameter
        float32 (tasks,)
    """

    def __init__(self, features: int, tasks: int) -> None:
        super().__init__()
        self.in_features, self.out_features = features, tasks
        self.weight = nn.Parameter(torch.empty(tasks, features))
        self.bias = nn.Parameter(torch.empty(tasks))

    def forward(self, features: Tensor, cells: Cells | None = None) -> Tensor:
        """Map float32 (b, features) to (b, tasks), or to the labelled cells alone, (cells,)."""
        if cells is None:
            return functional.linear(features, self.weight, self.bias)
        return cell_products(features.float(), self.weight, cells) + self.bias[cells.columns]

    def input_squares(self, features: Tensor, cells: Cells | None = None) -> Tensor:
        """Squared norm of each row of features, float64 (b,)."""
        del cells
        return row_squares(features)

    def backprop_squares(self, backprops: Tensor, features: Tensor, cells: Cells | None = None) -> Tensor:
        """Squared norm of each record's back-propagated errors over its cells, float64 (b,)."""
        del features
        if cells is None:
            return row_squares(backprops)
        # Where a column comes twice in a row, the errors add up before they are squared.
        return sparse_row_squares(cell_matrix(cells, backprops, columns=self.out_features))

    def input_products(self, left: Tensor, right: Tensor, features: Tensor, cells: Cells | None = None) -> Tensor:
        """Scalar products of pairs of rows of features, float64 (p,)."""
        del cells
        return pair_products(features, left, right)

    def backprop_products(
        self, left: Tensor, right: Tensor, backprops: Tensor, features: Tensor, cells: Cells | None = None
    ) -> Tensor:
        """Scalar products of pairs of records' back-propagated errors, float64 (p,)."""
        del features
        if cells is None:
            return self.input_products(left, right, backprops)
        return row_products(cell_matrix(cells, backprops, columns=self.out_features), left, right)

    def gradient_sums(
        self,
        backprops: Tensor,
        features: Tensor,
        cells: Cells | None = None,
        *,
        coefficients: Tensor,
        finite: bool,
        into: Mapping[str, Tensor],
        add: bool,
    ) -> None:
        """Put the gradients, each record's scaled by its coefficient and all summed, where `into` has a place."""
        features = features.float() if finite else _finite(features.float(), coefficients)
        if cells is None:
            scaled = (backprops if finite else _finite(backprops, coefficients)) * coefficients.unsqueeze(1)
            if "weight" in into:
                _put(scaled.t() @ features, into["weight"], add=add)
            if "bias" in into:
                _put(scaled.sum(0), into["bias"], add=add)
            return
        factors = coefficients[cells.rows]
        scaled = torch.where(factors > 0, backprops * factors, 0.0)
        if "weight" in into:
            errors = cell_matrix(cells, scaled, columns=self.out_features)
            scatter_sums(errors, features, into["weight"], add=add)
        if "bias" in into:
            if not add:
                into["bias"].zero_()
            into["bias"].index_add_(0, cells.columns, scaled)


def _finite(rows: Tensor, coefficients: Tensor) -> Tensor:
    """Set rows of coefficient 0 to 0: a dropped record's numbers may be infinite, and 0 times that is NaN."""
    return torch.where(coefficients.unsqueeze(1) > 0, rows, 0.0)


def _product(left: Tensor, right: Tensor) -> Tensor:
    """Multiply with float32 sums: a sum rounded to 8 bits would hide or double one record's part."""
    if left.dtype == torch.float32:
        return left @ right
    if left.device.type == "cuda":
        return torch.mm(left, right, out_dtype=torch.float32)
    return left.float() @ right.float()


def _put(sums: Tensor, into: Tensor, *, add: bool) -> None:
    into.add_(sums) if add else into.copy_(sums)
