"""Clipping each record's gradient without ever forming it.

For a linear layer seen once per record the gradient of record ``i`` is the outer product of its input
``a_i`` and its back-propagated ``d_i``, so its squared norm is ``(|a_i|^2 + 1) |d_i|^2`` with a bias. One
forward and one backward of data gradients therefore give exact norms; scaling each ``d_i`` by its clip
coefficient and forming the ordinary weight products gives the clipped sum.

Weights come from the coordinator, who may choose them to break the arithmetic. Norms are therefore taken in
float64, where the square of no float32 under- or overflows, and a record with numbers that no training makes
contributes nothing: what its products round to would no longer be near what its norm says. And each row's product
is computed by itself: an ordinary matrix product rounds a row by how many others there are, and weights that cancel
can make that difference as large as the clip.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from pharma_fl.errors import PrivacyError

_LARGEST_INPUT = 1e6
_LARGEST_NORM = 1e12


def clipped_gradients(
    network: nn.Module, record_losses: Callable[[], Tensor], clipping_norm: float
) -> dict[str, Tensor]:
    """Return the sum over records of their clipped gradients.

    Each record's gradient over **all** parameters of the network is scaled to a norm of at most
    `clipping_norm`; adding or removing one record moves the sum by at most that much. Excepted is the rounding of
    sums in float32: relative to `clipping_norm` about 1e-5 with 1,000 records, growing with their number.

    ====================================  ===============================
    a record's gradient                   its contribution
    ====================================  ===============================
    norm n <= clipping_norm               unchanged
    norm n > clipping_norm                scaled by ``clipping_norm / n``
    infinite or NaN anywhere              0
    norm above 1e12                       0
    a layer's input of norm above 1e6     0
    ====================================  ===============================

    Parameters
    ----------
    network : Module
        Its layers with parameters are `nn.Linear`, or compute each row by itself and have a bias,
        ``squared_norms(input)`` (float64) and ``gradient_sums(input, backprops)``, finite for finite backprops;
        each is called at most once in a forward.
    record_losses : callable
        Runs the forward and returns float32 (b,): each entry depends on its own record alone.
    clipping_norm : float
        Positive; infinity clips nothing but still drops the records of the last three lines.

    Returns
    -------
    dict
        Parameter name to a tensor of its shape.

    Raises
    ------
    PrivacyError
        ``PFL-P01`` a layer has no exact norm, mixes records, or was called twice.

    References
    ----------
    Goodfellow 2015, arXiv 1510.01799; Bu et al. 2022 ("book-keeping"), arXiv 2210.00038.
    """
    layers = _layers(network)
    seen: dict[str, tuple[Any, Tensor]] = {}

    def recorder(name: str) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]:
        def record(layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
            if name in seen:
                raise PrivacyError("PFL-P01", f"Layer {name} was called twice in one forward. Call each layer once.")
            own = _row_products(layer, inputs[0]) if isinstance(layer, nn.Linear) else output
            seen[name] = inputs[0], own
            return own

        return record

    hooks = [layer.register_forward_hook(recorder(name)) for name, layer in layers.items()]
    try:
        losses = record_losses()
    finally:
        for hook in hooks:
            hook.remove()

    gradients = {name: torch.zeros_like(value) for name, value in network.named_parameters()}
    if len(losses) == 0 or not seen:
        return gradients
    names = list(seen)
    found = torch.autograd.grad(losses.sum(), [seen[name][1] for name in names], allow_unused=True)
    backprops = {name: grad.detach() for name, grad in zip(names, found, strict=True) if grad is not None}
    inputs = {name: _squared_norms(layers[name], seen[name][0]).detach() for name in backprops}
    squares = torch.stack([inputs[name] * _row_norms(d).square() for name, d in backprops.items()]).sum(0)
    # Comparisons with NaN are false, so what is not finite is not kept.
    kept = (squares <= _LARGEST_NORM**2) & torch.stack([n <= _LARGEST_INPUT**2 for n in inputs.values()]).all(0)
    coefficients = torch.where(kept, torch.clamp(clipping_norm / squares.sqrt(), max=1.0), 0.0)
    kept, coefficients = kept.unsqueeze(1), coefficients.to(losses.dtype).unsqueeze(1)
    for name, d in backprops.items():
        scaled = torch.where(kept, d * coefficients, 0.0)
        for key, value in _gradient_sums(layers[name], seen[name][0], scaled, kept).items():
            gradients[f"{name}.{key}"] = value
    return gradients


def _layers(network: nn.Module) -> dict[str, nn.Module]:
    layers = {}
    for name, module in network.named_modules():
        if isinstance(module, _BatchNorm | _InstanceNorm):
            raise PrivacyError(
                "PFL-P01", f"Layer {name} ({type(module).__name__}) mixes records, so no clip bounds one. Remove it."
            )
        if not list(module.parameters(recurse=False)):
            continue
        if type(module) is not nn.Linear and not hasattr(module, "gradient_sums"):
            raise PrivacyError(
                "PFL-P01",
                f"Layer {name} ({type(module).__name__}) has no exact per-record norm. "
                "Use nn.Linear, or give the layer squared_norms and gradient_sums.",
            )
        layers[name] = module
    return layers


def _squared_norms(layer: nn.Module, inputs: Any) -> Tensor:
    if type(layer) is nn.Linear:
        norms = _row_norms(inputs).square()
        return norms + 1 if layer.bias is not None else norms
    squared: Tensor = layer.squared_norms(inputs)  # type: ignore[operator]
    return squared + 1


def _row_products(layer: nn.Linear, inputs: Tensor) -> Tensor:
    weight = layer.weight.t().expand(len(inputs), -1, -1)
    products = torch.bmm(inputs.unsqueeze(1), weight).squeeze(1)
    return products if layer.bias is None else products + layer.bias


def _row_norms(rows: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(rows.detach(), dim=1, dtype=torch.float64)
    return norms


def _gradient_sums(layer: nn.Module, inputs: Any, backprops: Tensor, kept: Tensor) -> dict[str, Tensor]:
    if type(layer) is nn.Linear:
        # A dropped record's input may itself be infinite, and 0 times infinity is not 0.
        finite = torch.where(kept, inputs.detach(), 0.0)
        sums = {"weight": backprops.T @ finite}
        if layer.bias is not None:
            sums["bias"] = backprops.sum(0)
        return sums
    own: dict[str, Tensor] = layer.gradient_sums(inputs, backprops)  # type: ignore[operator]
    return own
