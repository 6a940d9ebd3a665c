"""Clipping each record's gradient without ever forming it.

For a linear layer seen once per record the gradient of record ``i`` is the outer product of its input
``a_i`` and its back-propagated ``d_i``, so its squared norm is ``(|a_i|^2 + 1) |d_i|^2`` with a bias. One
forward and one backward of data gradients therefore give exact norms; scaling each ``d_i`` by its clip
coefficient and forming the ordinary weight products gives the clipped sum.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from pharma_fl.errors import PrivacyError


def clipped_gradients(
    network: nn.Module, record_losses: Callable[[], Tensor], clipping_norm: float
) -> dict[str, Tensor]:
    """Return the sum over records of their clipped gradients.

    Each record's gradient over **all** parameters of the network is scaled to a norm of at most
    `clipping_norm`; adding or removing one record moves the sum by at most that much (relative rounding
    error of float32, about 1e-6, excepted).

    ============================  ======================================
    a record's gradient           its contribution
    ============================  ======================================
    norm 0                        0
    norm n < clipping_norm        unchanged
    norm n > clipping_norm        scaled by ``clipping_norm / (n + 1e-6)``
    infinite or NaN anywhere      0
    ============================  ======================================

    Parameters
    ----------
    network : Module
        Its layers with parameters are `nn.Linear`, or have ``squared_norms(input)`` and
        ``gradient_sums(input, backprops)``; each is called at most once in a forward.
    record_losses : callable
        Runs the forward and returns float32 (b,): each entry depends on its own record alone.
    clipping_norm : float
        Positive; infinity clips nothing but still drops records that are not finite.

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

    def recorder(name: str) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
        def record(_module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
            if name in seen:
                raise PrivacyError("PFL-P01", f"Layer {name} was called twice in one forward. Call each layer once.")
            seen[name] = inputs[0], output

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
    coefficients = _coefficients(
        sum(
            (_squared_norms(layers[name], seen[name][0]) * d.square().sum(1) for name, d in backprops.items()),
            start=losses.new_zeros(len(losses)),
        ).detach(),
        clipping_norm,
    )
    kept = coefficients.gt(0).unsqueeze(1)
    for name, d in backprops.items():
        scaled = torch.where(kept, d * coefficients.unsqueeze(1), 0.0)
        for key, value in _gradient_sums(layers[name], seen[name][0], scaled, kept).items():
            gradients[f"{name}.{key}"] = value
    return gradients


def _coefficients(squared_norms: Tensor, clipping_norm: float) -> Tensor:
    norms = squared_norms.sqrt()
    factors = torch.clamp(clipping_norm / (norms + 1e-6), max=1.0)
    return torch.where(torch.isfinite(norms), factors, 0.0)


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
        norms: Tensor = inputs.detach().square().sum(1)
        return norms + 1 if layer.bias is not None else norms
    squared: Tensor = layer.squared_norms(inputs)  # type: ignore[operator]
    return squared + 1


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
