"""Exact norms for units of several records: the gradients of a series' records are summed before they are clipped.

With ``G_i = d_i a_i^T`` the squared norm of a sum over a series is ``sum_ij (a_i . a_j + 1)(d_i . d_j)``: the
element-wise product of two Gram blocks, for a bias too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

_MOST_CANCELLED = 100.0


class Call(Protocol):
    """One call of one layer, as `clipping.Seen`."""

    @property
    def layer(self) -> nn.Module:
        """The layer."""

    @property
    def inputs(self) -> tuple[Any, ...]:
        """What it was called with."""

    @property
    def backprops(self) -> Tensor:
        """What was propagated back to its output."""

    @property
    def trained(self) -> tuple[str, ...]:
        """Names of its own parameters that are trained."""


def series_squares(calls: Mapping[int, Sequence[Call]], squares: Tensor, kept: Tensor, series: Tensor) -> Tensor:
    """Return for each record the squared norm of its series' summed gradient.

    Gradients that cancel leave the rounding of each, which the norm of their exact sum knows nothing of. So a norm
    counts as no less than a hundredth of its records' norms together.

    Parameters
    ----------
    calls : mapping of int to sequence of Call
        The layers of each group of parameters, with their back-propagated errors.
    squares : Tensor
        float64 (groups, b): squared norms of single records.
    kept : Tensor
        bool (b,): records that contribute; the others are left out of their series' sum.
    series : Tensor
        int64 (b,): which series each record is of.

    Returns
    -------
    Tensor
        float64 (groups, b)
    """
    left, right = _pairs(kept, series)
    numbers, inverse = torch.unique(series, return_inverse=True)
    sums = torch.zeros(len(squares), len(numbers), dtype=torch.float64, device=series.device)
    norms = torch.zeros_like(sums).index_add_(1, inverse[kept], squares[:, kept].sqrt())
    for group, members in calls.items():
        products = torch.zeros(len(left), dtype=torch.float64, device=series.device)
        for call in members:
            inputs = _products(call.layer, "input_products", left, right, *call.inputs)
            own = (inputs if "weight" in call.trained else 0.0) + float("bias" in call.trained)
            products += own * _products(call.layer, "backprop_products", left, right, call.backprops, *call.inputs)
        sums[group].index_add_(0, inverse[left], products)
    return torch.maximum(sums, (norms / _MOST_CANCELLED).square())[:, inverse]


def first_of_each(kept: Tensor, series: Tensor) -> Tensor:
    """Mark one of the kept records of every series, bool (b,): what is counted is series, not records."""
    rows = torch.nonzero(kept).squeeze(1)
    numbers, inverse = torch.unique(series[rows], return_inverse=True)
    first = torch.full((len(numbers),), len(series), device=rows.device).scatter_reduce_(0, inverse, rows, "amin")
    marked = torch.zeros_like(kept)
    marked[first] = True
    return marked


def _pairs(kept: Tensor, series: Tensor) -> tuple[Tensor, Tensor]:
    rows = torch.nonzero(kept).squeeze(1)
    rows = rows[torch.argsort(series[rows], stable=True)]
    _, sizes = torch.unique_consecutive(series[rows], return_counts=True)
    first = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])[:-1]
    each = sizes.repeat_interleave(sizes)
    left = torch.arange(len(rows), device=rows.device).repeat_interleave(each)
    start = first.repeat_interleave(sizes).repeat_interleave(each)
    within = torch.arange(len(left), device=rows.device) - (each.cumsum(0) - each).repeat_interleave(each)
    return rows[left], rows[start + within]


def _products(layer: nn.Module, name: str, left: Tensor, right: Tensor, *parts: Any) -> Tensor:
    if hasattr(layer, name):
        own: Tensor = getattr(layer, name)(left, right, *parts)
        return own
    rows: Tensor = parts[0].double()
    return (rows[left] * rows[right]).sum(1)
