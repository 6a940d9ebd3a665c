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

_TRIES = 3
_GRANULE = 32


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
        Whose `nn.Linear` layers, activations and own layers with ``dense_shapes()`` are measured; all others compute
        each row by itself.
    wanted : int
        Rows of a block.
    """
    checks = _checks(network)
    device = next(network.parameters()).device
    rows = wanted
    while rows > 1 and not all(_same(kind, shape, rows, device, torch.get_num_threads()) for kind, shape in checks):
        rows //= 2
    return rows


def _checks(network: nn.Module) -> list[tuple[str, tuple[int, ...]]]:
    checks: list[tuple[str, tuple[int, ...]]] = []
    width = 0
    for module in network.modules():
        if type(module) is nn.Linear:
            shapes = [(module.in_features, module.out_features)]
        else:
            shapes = list(module.dense_shapes()) if hasattr(module, "dense_shapes") else []  # type: ignore[operator]
        for inputs, outputs in shapes:
            checks += [("product", (inputs, outputs)), ("back", (inputs, outputs))]
            width = max(width, inputs if inputs < (1 << 14) else 0, outputs)
    checks += [(name, (width,)) for name in ("tanh", "sigmoid", "loss") if width]
    return sorted(set(checks))


@lru_cache(maxsize=1024)
def _same(kind: str, shape: tuple[int, ...], rows: int, device: torch.device, _threads: int) -> bool:
    generator = torch.Generator().manual_seed(rows)
    for _ in range(_TRIES):
        row = torch.randn(shape[-1] if kind == "back" else shape[0], generator=generator)
        act = _OPERATIONS[kind](shape, generator, device)
        found = act(row.to(device).expand(rows, -1).contiguous())
        if not torch.equal(found, found[:1].expand_as(found)):
            return False
    return True


def _product(shape: tuple[int, ...], generator: torch.Generator, device: torch.device) -> Callable[[Tensor], Tensor]:
    weight = torch.randn(shape[1], shape[0], generator=generator).to(device)
    return lambda rows: functional.linear(rows, weight)


def _back(shape: tuple[int, ...], generator: torch.Generator, device: torch.device) -> Callable[[Tensor], Tensor]:
    weight = torch.randn(shape[1], shape[0], generator=generator).to(device)
    return lambda rows: rows @ weight


_OPERATIONS: dict[str, Callable[[tuple[int, ...], torch.Generator, torch.device], Callable[[Tensor], Tensor]]] = {
    "product": _product,
    "back": _back,
    "tanh": lambda *_: torch.tanh,
    "sigmoid": lambda *_: torch.sigmoid,
    "loss": lambda *_: lambda rows: torch.log1p(torch.exp(-rows.abs())),
}
