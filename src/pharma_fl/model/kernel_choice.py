"""Choosing the first layer's kernel by a measurement on the device that trains."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from pharma_fl.model.batches import SparseRows
from pharma_fl.model.layers import Kernel, SparseLinear
from pharma_fl.model.network import Trunk

_BITS = 60
"""Set bits of a made row, as many as a drug's fingerprint has about."""
_REPEATS = 3
_SAMPLE = 64
"""Rows of a first look; a kernel that loses here by far is not measured in full."""


def choose_kernel(trunk: Trunk, *, rows: int, precision: Literal["float32", "bfloat16"]) -> Kernel:
    """Set the kernel of a trunk's sparse layers to the faster one on its device, and return it.

    Both kernels are run forward and for the weight gradient on made rows of the network's size; the partner's own
    records are not looked at.

    Parameters
    ----------
    trunk : Trunk
        Whose sparse layers are set.
    rows : int
        Of a batch, a public number.
    precision : {"float32", "bfloat16"}
        Of the dense kernel's factors.
    """
    layer = trunk.input
    dtype = torch.bfloat16 if precision == "bfloat16" and layer.weight.is_cuda else torch.float32
    kernel: Kernel = "gather"
    device = layer.weight.device
    for count in (min(rows, _SAMPLE), rows):
        kernel = _faster(layer.in_features, layer.out_features, count, dtype, device)
        if kernel == "gather" and device.type == "cpu":
            break
    for module in trunk.modules():
        if isinstance(module, SparseLinear):
            module.kernel, module.dtype = kernel, dtype
    return kernel


@lru_cache(maxsize=64)
def _faster(bits: int, hidden: int, rows: int, dtype: torch.dtype, device: torch.device) -> Kernel:
    generator = torch.Generator().manual_seed(0)
    indices = torch.randint(bits, (rows, min(_BITS, bits)), generator=generator).sort(dim=1).values.flatten()
    offsets = torch.arange(rows + 1) * min(_BITS, bits)
    x = SparseRows(indices=indices, offsets=offsets, values=None, columns=bits).to(device)
    layer = SparseLinear(bits, hidden).to(device).requires_grad_(requires_grad=False)
    layer.weight.zero_()
    layer.bias.zero_()  # type: ignore[union-attr]
    layer.dtype = dtype
    backprops = torch.zeros(rows, hidden, device=device)
    into = {"weight": torch.empty_like(layer.weight)}
    ones = torch.ones(rows, device=device)
    seconds = {}
    kernels: tuple[Kernel, ...] = ("gather", "dense")
    for kernel in kernels:
        layer.kernel = kernel

        def once() -> Tensor:
            layer.gradient_sums(backprops, x, coefficients=ones, finite=True, into=into, add=False)
            found: Tensor = layer(x)
            return found

        try:
            seconds[kernel] = _seconds(once, device)
        except torch.OutOfMemoryError:
            seconds[kernel] = float("inf")
    return min(kernels, key=lambda kernel: seconds[kernel])


def _seconds(act: Callable[[], Tensor], device: torch.device) -> float:
    best = float("inf")
    for _ in range(_REPEATS):
        begun = time.perf_counter()
        act()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - begun)
    return best
