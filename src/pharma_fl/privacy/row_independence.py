"""Checking that a row's result does not depend on the rows beside it.

A matrix product picks its order of summation by its shape, and a row at the edge of a tile may be summed in another
order than one inside. Weights that cancel make that rounding as large as the clip, and then one compound more in a
batch changes what all others contribute. So the private step works on blocks of a fixed number of rows, filled up
with blank ones; what remains is where in a block a row stands, and that is measured here, once for each shape. The
order follows from the shape alone, never from the numbers, so random numbers show it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional

_LOG = logging.getLogger(__name__)
_TRIES = 8
"""Random rows for each check: an activation may differ in few numbers only."""
GRANULE = 32
"""Blocks are multiples of so many rows, and no smaller for want of memory."""

Act = Callable[[Tensor], Tensor]
Product = Callable[[Tensor, Tensor], Tensor]
_forward, _backward = functional.linear, torch.matmul
"""What `nn.Linear` computes, and its gradient by its input."""


def block_rows(expected_batch: float, most: int = 8192) -> int:
    """Return a number of rows that a Poisson sample rarely exceeds, from the public expectation alone.

    >>> block_rows(256)
    352
    """
    wanted = expected_batch + 4 * expected_batch**0.5
    return min(most, GRANULE * (int(wanted / GRANULE) + 1))


def independent_rows(network: nn.Module, wanted: int, *, dtype: torch.dtype = torch.float32) -> int:
    """Return the largest block of at most `wanted` rows in which no row's result depends on its place.

    Halves until every product and activation of the network's shapes gives the same bits in every place; a block of
    one row always does, and costs most.

    Parameters
    ----------
    network : Module
        Whose `nn.Linear` layers, PyTorch's activations, and own layers with ``dense_shapes()`` and
        ``dense_product(rows, weight)`` are measured; all others, and the losses, must compute each row by itself.
    wanted : int
        Rows of a block.
    dtype : torch.dtype
        Of the factors of products.
    """
    device = next(network.parameters()).device
    linear: set[tuple[int, int, bool]] = set()
    products: dict[tuple[int, int], Product] = {}
    widths: set[int] = set()
    activations: dict[str, nn.Module] = {}
    for module in network.modules():
        if type(module) is nn.Linear:
            linear.add((module.in_features, module.out_features, module.bias is not None))
        for shape in module.dense_shapes() if hasattr(module, "dense_shapes") else ():  # type: ignore[operator]
            products[shape] = module.dense_product  # type: ignore[assignment]
        if hasattr(module, "out_features"):
            widths.add(int(module.out_features))  # type: ignore[arg-type]
        if type(module).__module__ == nn.modules.activation.__name__ and not list(module.parameters()):
            activations[repr(module)] = module
    rows = wanted
    while rows > 1 and not (
        all(_same_linear(shape, rows, device, dtype, torch.get_num_threads()) for shape in sorted(linear))
        and all(_same_product(product, shape, rows, device) for shape, product in sorted(products.items()))
        and all(_same(act, width, rows, device) for act in activations.values() for width in sorted(widths))
    ):
        rows //= 2
    if rows < wanted // 2:
        _LOG.warning(
            "A step works on blocks of %d records instead of %d, which is slower: larger ones round a record by its "
            "place on this machine. Widths that are multiples of 16 help (federation.toml: model.hidden).",
            rows,
            wanted,
        )
    return rows


@lru_cache(maxsize=1024)
def _same_linear(
    shape: tuple[int, int, bool], rows: int, device: torch.device, dtype: torch.dtype, _threads: int
) -> bool:
    inputs, outputs, biased = shape
    generator = torch.Generator().manual_seed(rows)
    weight = torch.randn(outputs, inputs, generator=generator).to(device, dtype)
    bias = torch.randn(outputs, generator=generator).to(device, dtype) if biased else None
    forward = _same(lambda a: _forward(a.to(dtype), weight, bias), inputs, rows, device)
    return forward and _same(lambda d: _backward(d.to(dtype), weight), outputs, rows, device)


def _same_product(product: Product, shape: tuple[int, int], rows: int, device: torch.device) -> bool:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(rows)).to(device)
    return _same(lambda a: product(a, weight), shape[0], rows, device)


def _same(act: Act, width: int, rows: int, device: torch.device) -> bool:
    generator = torch.Generator().manual_seed(width)
    for _ in range(_TRIES):
        row = torch.randn(width, generator=generator)
        found = act(row.to(device).expand(rows, -1).contiguous())
        if not torch.equal(found, found[:1].expand_as(found)):
            return False
    return True
