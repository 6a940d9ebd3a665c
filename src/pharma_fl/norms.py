"""Norms of rows, exact enough to clip by."""

from __future__ import annotations

import torch
from torch import Tensor

_ROWS_AT_ONCE = 128
"""PyTorch widens its whole input before it sums; so many rows at a time stay in the processor's cache."""
_NUMBERS_OF_PAIRS = 1 << 18
"""As many as stay in a processor's cache; a GPU has room for more."""


def row_squares(rows: Tensor) -> Tensor:
    """Return the squared norm of each row of a (b, n) tensor, float64 (b,), summed in float64."""
    norms = torch.empty(len(rows), dtype=torch.float64, device=rows.device)
    at_once = _ROWS_AT_ONCE if rows.device.type == "cpu" else max(1, len(rows))
    for first in range(0, len(rows), at_once):
        part = slice(first, first + at_once)
        torch.linalg.vector_norm(rows[part].detach(), dim=1, dtype=torch.float64, out=norms[part])
    return norms.square_()


def pair_products(rows: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Return the scalar product of each pair of rows of a (b, n) tensor, int64 (p,) each, as float64 (p,)."""
    rows = rows.detach().double()
    products = torch.empty(len(left), dtype=torch.float64, device=rows.device)
    numbers = _NUMBERS_OF_PAIRS if rows.device.type == "cpu" else 128 * _NUMBERS_OF_PAIRS
    at_once = max(1, numbers // max(1, rows.shape[1]))
    for first in range(0, len(left), at_once):
        part = slice(first, first + at_once)
        torch.sum(rows[left[part]] * rows[right[part]], dim=1, out=products[part])
    return products
