"""Norms of rows, exact enough to clip by."""

from __future__ import annotations

import torch
from torch import Tensor

_ROWS_AT_ONCE = 128
"""PyTorch widens its whole input before it sums; so many rows at a time stay in the processor's cache."""


def row_squares(rows: Tensor) -> Tensor:
    """Return the squared norm of each row of a (b, n) tensor, float64 (b,), summed in float64."""
    norms = torch.empty(len(rows), dtype=torch.float64, device=rows.device)
    at_once = _ROWS_AT_ONCE if rows.device.type == "cpu" else max(1, len(rows))
    for first in range(0, len(rows), at_once):
        part = slice(first, first + at_once)
        torch.linalg.vector_norm(rows[part].detach(), dim=1, dtype=torch.float64, out=norms[part])
    return norms.square_()
