"""Exact norms for units of several records: the gradients of a series' records are summed before they are clipped.

With ``G_i = d_i a_i^T`` the squared norm of a sum over a series is ``sum_ij (a_i . a_j + 1)(d_i . d_j)``: the
element-wise product of two Gram blocks, for a bias too.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import Tensor, nn


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


def series_squares(calls: Iterable[Call], kept: Tensor, series: Tensor) -> Tensor:
    """Return for each record the squared norm of its series' summed gradient.

    Parameters
    ----------
    calls : iterable of Call
        Of every layer, with its back-propagated errors.
    kept : Tensor
        bool (b,): records that contribute; the others are left out of their series' sum.
    series : Tensor
        int64 (b,): which series each record is of.

    Returns
    -------
    Tensor
        float64 (1, b)
    """
    left, right = _pairs(kept, series)
    products = torch.zeros(len(left), dtype=torch.float64, device=series.device)
    for call in calls:
        inputs = _products(call.layer, "input_products", left, right, *call.inputs)
        own = (inputs if "weight" in call.trained else 0.0) + float("bias" in call.trained)
        products += own * _products(call.layer, "backprop_products", left, right, call.backprops, *call.inputs)
    numbers, inverse = torch.unique(series, return_inverse=True)
    sums = torch.zeros(len(numbers), dtype=torch.float64, device=series.device)
    sums.index_add_(0, inverse[left], products)
    # What rounding leaves of a sum that cancels may be below zero.
    return sums.clamp(min=0)[inverse].unsqueeze(0)


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
