"""Checking that a row's result does not depend on the rows beside it.

A matrix product picks its order of summation by its shape, and a row at the edge of a tile may be summed in another
order than one inside. Weights that cancel make that rounding as large as the clip, and then one compound more in a
batch changes what all others contribute. So the private step works on blocks of a fixed number of rows, filled up
with blank ones; what remains is where in a block a row stands, and that is measured here, once for each shape. The
order follows from the shape alone, never from the numbers, so random numbers show it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional

_TRIES = 8
"""Random rows for each check: an activation may differ in few numbers only."""
_GRANULE = 32

Act = Callable[[Tensor], Tensor]
_forward, _backward = functional.linear, torch.matmul
"""What `nn.Linear` computes, and its gradient by its input."""


def block_rows(expected_batch: float, most: int = 8192) -> int:
    """Return a number of rows that a Poisson sample rarely exceeds, from the public expectation alone.

    >>> block_rows(256)
    352
    """
    wanted = expected_batch + 4 * expected_batch**0.5
    return min(most, _GRANULE * (int(wanted / _GRANULE) + 1))


def independent_rows(network: nn.Module, wanted: int) -> int:
    """Return the largest block of at most `wanted` rows in which no row's result depends on its place.

    Halves until every product and activation of the network's shapes gives the same bits in every place; a block of
    one row always does, and costs most.

    Parameters
    ----------
    network : Module
        Whose `nn.Linear` layers, PyTorch's activations, and own layers with ``dense_shapes()`` are measured; all
        others, and the losses, must compute each row by itself.
    wanted : int
        Rows of a block.
    """
    device = next(network.parameters()).device
    shapes: set[tuple[int, int]] = set()
    widths: set[int] = set()
    activations: dict[str, nn.Module] = {}
    for module in network.modules():
        own = [(module.in_features, module.out_features)] if type(module) is nn.Linear else []
        shapes |= set(module.dense_shapes() if hasattr(module, "dense_shapes") else own)  # type: ignore[operator]
        if hasattr(module, "out_features"):
            widths.add(int(module.out_features))  # type: ignore[arg-type]
        if type(module).__module__ == nn.modules.activation.__name__ and not list(module.parameters()):
            activations[repr(module)] = module
    rows = wanted
    while rows > 1 and not (
        all(_same_product(shape, rows, device, torch.get_num_threads()) for shape in sorted(shapes))
        and all(_same(act, width, rows, device) for act in activations.values() for width in sorted(widths))
    ):
        rows //= 2
    return rows


@lru_cache(maxsize=1024)
def _same_product(shape: tuple[int, int], rows: int, device: torch.device, _threads: int) -> bool:
    inputs, outputs = shape
    generator = torch.Generator().manual_seed(rows)
    weight = torch.randn(outputs, inputs, generator=generator).to(device)
    forward = _same(lambda a: _forward(a, weight), inputs, rows, device)
    return forward and _same(lambda d: _backward(d, weight), outputs, rows, device)


def _same(act: Act, width: int, rows: int, device: torch.device) -> bool:
    generator = torch.Generator().manual_seed(width)
    for _ in range(_TRIES):
        row = torch.randn(width, generator=generator)
        found = act(row.to(device).expand(rows, -1).contiguous())
        if not torch.equal(found, found[:1].expand_as(found)):
            return False
    return True
