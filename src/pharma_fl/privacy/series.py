"""Exact norms for units of several records: the gradients of a series' records are summed before they are clipped.

With ``G_i = d_i a_i^T`` the squared norm of a sum over a series is ``sum_ij (a_i . a_j + 1)(d_i . d_j)``: the
element-wise product of two Gram blocks, for a bias too. The diagonal are the squared norms of single records, and the
rest is symmetric. Each product is of two rows alone and each sum is over one series in the rows' order, so on a CPU a
series' norm does not depend, bit for bit, on what else is in the block; on a GPU, where sums have no fixed order, it
does by less than 1e-11 of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pharma_fl.norms import pair_products

MOST_CANCELLED = {torch.float32: 100.0, torch.bfloat16: 10.0}
"""How much shorter than its parts together a sum may count, by the factors of products."""


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
    counts as no less than a hundredth of its records' norms together, and as no less than a tenth where factors are
    rounded to fewer bits: then rounding of the clipped products, relative to the clip, is at most a hundred times, or
    ten times, what it is for a single record.

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
    own = squares[:, kept]
    sums = torch.zeros(len(squares), len(numbers), dtype=torch.float64, device=series.device)
    norms = torch.zeros_like(sums).index_add_(1, inverse[kept], own.sqrt())
    sums.index_add_(1, inverse[kept], own)
    for group, members in calls.items():
        products = torch.zeros(len(left), dtype=torch.float64, device=series.device)
        for call in members if len(left) else ():
            inputs = _products(call.layer, "input_products", left, right, *call.inputs)
            factors = (inputs if "weight" in call.trained else 0.0) + float("bias" in call.trained)
            products += factors * _products(call.layer, "backprop_products", left, right, call.backprops, *call.inputs)
        sums[group].index_add_(0, inverse[left], products, alpha=2)
    exact = all(_dtype(call) == torch.float32 for members in calls.values() for call in members)
    most = MOST_CANCELLED[torch.float32 if exact else torch.bfloat16]
    return torch.maximum(sums, (norms / most).square())[:, inverse]


def first_of_each(kept: Tensor, series: Tensor) -> Tensor:
    """Mark one of the kept records of every series, bool (b,): what is counted is series, not records."""
    rows = torch.nonzero(kept).squeeze(1)
    numbers, inverse = torch.unique(series[rows], return_inverse=True)
    first = torch.full((len(numbers),), len(series), device=rows.device).scatter_reduce_(0, inverse, rows, "amin")
    marked = torch.zeros_like(kept)
    marked[first] = True
    return marked


def _pairs(kept: Tensor, series: Tensor) -> tuple[Tensor, Tensor]:
    """Return each two of the kept rows of one series, once."""
    rows = torch.nonzero(kept).squeeze(1)
    rows = rows[torch.argsort(series[rows], stable=True)]
    _, sizes = torch.unique_consecutive(series[rows], return_counts=True)
    places = torch.arange(len(rows), device=rows.device)
    # With all rows of its series that come behind it.
    behind = sizes.cumsum(0).repeat_interleave(sizes) - places - 1
    left = places.repeat_interleave(behind)
    within = torch.arange(len(left), device=rows.device) - (behind.cumsum(0) - behind).repeat_interleave(behind)
    return rows[left], rows[left + 1 + within]


def _dtype(call: Call) -> torch.dtype:
    own: torch.dtype = getattr(call.layer, "dtype", torch.float32)
    return own if call.backprops.dtype == torch.float32 else call.backprops.dtype


def _products(layer: nn.Module, name: str, left: Tensor, right: Tensor, *parts: Any) -> Tensor:
    if hasattr(layer, name):
        own: Tensor = getattr(layer, name)(left, right, *parts)
        return own
    return pair_products(parts[0], left, right)
