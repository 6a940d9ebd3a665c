"""Clipping each record's gradient without ever forming it.

For a linear layer seen once per record the gradient of record ``i`` is the outer product of its input
``a_i`` and its back-propagated ``d_i``, so its squared norm is ``(|a_i|^2 + 1) |d_i|^2`` with a bias. One
forward and one backward of data gradients therefore give exact norms; scaling each ``d_i`` by its clip
coefficient and forming the ordinary weight products gives the clipped sum.

Weights come from the coordinator, who may choose them to break the arithmetic. Norms are therefore taken in
float64, where the square of no float32 under- or overflows, and a record with numbers that no training makes
contributes nothing: what its products round to would no longer be near what its norm says. That a record's numbers
do not depend on how many others there are is the caller's part: see `row_independence`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from pharma_fl.errors import PrivacyError
from pharma_fl.norms import row_squares
from pharma_fl.privacy.clip import Clip
from pharma_fl.privacy.series import first_of_each, series_squares

Layer = tuple[nn.Module, tuple[str, ...]]
"""A layer, and the names of its own parameters that are trained."""

_LARGEST_INPUT = 1e6
_LARGEST_NORM = 1e12


class KeepMasks(Protocol):
    """Where dropout's masks come from."""

    def keep_mask(self, count: int, probability: float, device: torch.device) -> Tensor:
        """Return bool (count,), each true with that probability, independently."""


@dataclass(frozen=True, kw_only=True)
class ClippedSums:
    """What one batch amounts to.

    Attributes
    ----------
    gradients : dict
        Name of each trained parameter to the sum of the clipped gradients, of the parameter's shape.
    below : int
        Records (or series) whose norm is at most the clip's first norm. It follows from the data: only noised may it
        be used.
    """

    gradients: Mapping[str, Tensor]
    below: int


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One call of one layer: its inputs, and what was propagated back to its output."""

    layer: nn.Module
    inputs: tuple[Any, ...]
    backprops: Tensor
    trained: tuple[str, ...]


def clipped_gradients(
    network: nn.Module,
    record_losses: Callable[[], Tensor],
    clip: Clip,
    *,
    records: int | None = None,
    masks: KeepMasks | None = None,
    into: Mapping[str, Tensor] | None = None,
    add: bool = False,
    series: Tensor | None = None,
) -> ClippedSums:
    """Return the sum over records of their clipped gradients.

    Each record's gradient over **all** trained parameters of the network is scaled to a norm of at most the clip's;
    adding or removing one record moves the sum by at most that much. Excepted is the rounding of
    sums in float32: relative to the clipping norm about 1e-5 with 1,000 records, growing with their number.

    ====================================  ===============================
    a record's gradient                   its contribution
    ====================================  ===============================
    norm n <= clipping norm               unchanged
    norm n > clipping norm                scaled by ``norm / n``
    infinite or NaN anywhere              0
    norm above 1e12                       0
    a layer's input of norm above 1e6     0
    ====================================  ===============================

    With ``clip.mode = "automatic"`` the first two lines read: scaled by ``norm / (n + 0.01 norm)``.

    Parameters
    ----------
    network : Module
        Its layers with trained parameters are `nn.Linear`, or compute each row by itself and have
        ``input_squares(*inputs)`` (float64 (b,), squared norm of each record's input),
        optionally ``backprop_squares(backprops, *inputs)``, and
        ``gradient_sums(backprops, *inputs, coefficients, finite, into, add)``, where a record of coefficient 0
        contributes nothing even if its numbers are not finite, which `finite` excludes; each is called at most once
        in a forward.
    record_losses : callable
        Runs the forward and returns float32 (b,): each entry depends on its own record alone.
    clip : Clip
        How, and to what; a norm of infinity clips nothing but still drops the records of the last three lines.
    records : int, optional
        The first so many rows are records; the rest are blank and contribute nothing. Left out, all are records.
    masks : KeepMasks, optional
        Randomness of the network's `nn.Dropout` layers, each of which is called at most once.
    into : mapping, optional
        Where the sums are put, by name of each trained parameter; left out, new tensors.
    add : bool
        Add to what `into` holds.
    series : Tensor, optional
        int64 (b,): rows of one number are one unit; the norm of their gradients' sum is clipped. All rows of a unit
        must be in one call. Memory grows with the square of a unit's size.

    Raises
    ------
    PrivacyError
        ``PFL-P01`` a layer has no exact norm, mixes records, or was called twice; or dropout has no masks.

    References
    ----------
    Goodfellow 2015, arXiv 1510.01799; Bu et al. 2022 ("book-keeping"), arXiv 2210.00038.
    """
    layers = _layers(network)
    if into is None:
        into = {name: torch.zeros_like(value) for name, value in network.named_parameters() if value.requires_grad}
    losses, seen = _forward(network, record_losses, layers, masks)
    count = len(losses) if records is None else records
    outputs = [output for _, _, output in seen.values()]
    found: tuple[Tensor | None, ...] = (None,) * len(outputs)
    if count and losses.requires_grad:
        found = torch.autograd.grad(losses.sum(), outputs, allow_unused=True)
    calls = {
        name: Seen(layer=layer, inputs=inputs, backprops=grad.detach(), trained=layers[name][1])
        for (name, (layer, inputs, _)), grad in zip(seen.items(), found, strict=True)
        if grad is not None
    }
    # Also of layers that nobody's loss reaches: whether a record is usable must not depend on the others' labels.
    inputs = {name: _input_squares(layer, called) for name, (layer, called, _) in seen.items() if len(losses)}
    rows = len(losses)
    # Outputs are done with, and as large as the rest.
    seen.clear()
    del outputs, found, losses
    coefficients, finite, below = _coefficients(calls, inputs, clip, (rows, count), series)
    for name, (_, trained) in layers.items():
        own = {key: into[f"{name}.{key}"] for key in trained}
        if name not in calls:
            _zero(own, add=add)
            continue
        call = calls[name]
        factors = coefficients[clip.group_of(name)].to(torch.float32)
        _gradient_sums(call, factors, own, finite=finite, add=add)
    return ClippedSums(gradients=into, below=below)


def _forward(
    network: nn.Module, record_losses: Callable[[], Tensor], layers: Mapping[str, Layer], masks: KeepMasks | None
) -> tuple[Tensor, dict[str, tuple[nn.Module, tuple[Any, ...], Tensor]]]:
    seen: dict[str, tuple[nn.Module, tuple[Any, ...], Tensor]] = {}

    def recorder(name: str) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
        def record(layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
            if name in seen:
                raise PrivacyError("PFL-P01", f"Layer {name} was called twice in one forward. Call each layer once.")
            if not output.requires_grad:
                output.requires_grad_()
            detached = tuple(part.detach() if isinstance(part, Tensor) else part for part in inputs)
            seen[name] = layer, detached, output

        return record

    hooks = [layer.register_forward_hook(recorder(name)) for name, (layer, _) in layers.items()]
    try:
        # Without gradients of its own a weight costs no product in the backward pass.
        with _frozen(layers), _dropout_from(network, masks), torch.enable_grad():
            losses = record_losses()
    finally:
        for hook in hooks:
            hook.remove()
    return losses, seen


def _coefficients(
    calls: Mapping[str, Seen],
    inputs: Mapping[str, Tensor],
    clip: Clip,
    size: tuple[int, int],
    series: Tensor | None,
) -> tuple[Tensor, bool, int]:
    """Return float64 (groups, rows), whether all rows are usable, and how many records are within the clip."""
    rows, records = size
    device = next(iter(inputs.values())).device if inputs else None
    squares = torch.zeros(clip.groups, rows, dtype=torch.float64, device=device)
    usable = torch.ones(rows, dtype=torch.bool, device=device)
    for squared in inputs.values():
        # Comparisons with NaN are false, so what is not finite is not kept.
        usable &= squared <= _LARGEST_INPUT**2
    for name, call in calls.items():
        own = (inputs[name] if "weight" in call.trained else 0.0) + float("bias" in call.trained)
        squares[clip.group_of(name)] += own * _backprop_squares(call.layer, call.backprops, call.inputs)
    usable &= (squares <= _LARGEST_NORM**2).all(0)
    kept = usable & (torch.arange(rows, device=device) < records)
    counted = kept
    if series is not None:
        members: dict[int, list[Seen]] = {group: [] for group in range(clip.groups)}
        for name, call in calls.items():
            members[clip.group_of(name)].append(call)
        squares = series_squares(members, squares, kept, series)
        counted = first_of_each(kept, series)
    found = torch.where(kept, clip.coefficients(squares), 0.0)
    return found, bool(usable.all()), int(((squares[0] <= clip.norm**2) & counted).sum())


@contextmanager
def _frozen(layers: Mapping[str, Layer]) -> Iterator[None]:
    trained = [getattr(layer, key) for layer, names in layers.values() for key in names]
    for parameter in trained:
        parameter.requires_grad_(False)  # noqa: FBT003 - torch's own signature
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)  # noqa: FBT003


@contextmanager
def _dropout_from(network: nn.Module, masks: KeepMasks | None) -> Iterator[None]:
    """Let dropout take its masks from `masks`: those of PyTorch's generator can be predicted."""
    layers = [m for m in network.modules() if isinstance(m, nn.modules.dropout._DropoutNd) and m.training and m.p > 0]  # noqa: SLF001
    if any(type(layer) is not nn.Dropout for layer in layers) or (layers and masks is None):
        raise PrivacyError("PFL-P01", "Dropout needs masks that nobody can predict. Use nn.Dropout, and give masks.")

    def masked(layer: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        assert masks is not None
        keep = 1.0 - float(layer.p)  # type: ignore[arg-type]
        mask = masks.keep_mask(output.numel(), keep, output.device).view(output.shape)
        return torch.where(mask, output / keep, 0.0)

    hooks = [layer.register_forward_hook(masked) for layer in layers]
    for layer in layers:
        layer.training = False
    try:
        yield
    finally:
        for layer, hook in zip(layers, hooks, strict=True):
            layer.training = True
            hook.remove()


def _layers(network: nn.Module) -> dict[str, Layer]:
    layers: dict[str, Layer] = {}
    for name, module in network.named_modules():
        if isinstance(module, _BatchNorm | _InstanceNorm):
            raise PrivacyError(
                "PFL-P01", f"Layer {name} ({type(module).__name__}) mixes records, so no clip bounds one. Remove it."
            )
        own = {key: value for key, value in module.named_parameters(recurse=False) if value.requires_grad}
        if not own:
            continue
        if type(module) is not nn.Linear and not hasattr(module, "gradient_sums"):
            raise PrivacyError(
                "PFL-P01",
                f"Layer {name} ({type(module).__name__}) has no exact per-record norm. "
                "Use nn.Linear, or give the layer input_squares and gradient_sums.",
            )
        # A head without tasks has nothing to clip.
        if any(value.numel() for value in own.values()):
            layers[name] = module, tuple(own)
    return layers


def _input_squares(layer: nn.Module, inputs: tuple[Any, ...]) -> Tensor:
    if type(layer) is nn.Linear:
        return row_squares(inputs[0])
    squares: Tensor = layer.input_squares(*inputs)  # type: ignore[operator]
    return squares


def _backprop_squares(layer: nn.Module, backprops: Tensor, inputs: tuple[Any, ...]) -> Tensor:
    if not hasattr(layer, "backprop_squares"):
        return row_squares(backprops)
    squares: Tensor = layer.backprop_squares(backprops, *inputs)  # type: ignore[operator]
    return squares


def _gradient_sums(call: Seen, coefficients: Tensor, into: Mapping[str, Tensor], *, finite: bool, add: bool) -> None:
    layer, backprops = call.layer, call.backprops
    if type(layer) is not nn.Linear:
        layer.gradient_sums(  # type: ignore[operator]
            backprops, *call.inputs, coefficients=coefficients, finite=finite, into=into, add=add
        )
        return
    factors = coefficients.unsqueeze(1)
    scaled, inputs = backprops.float() * factors, call.inputs[0].float()
    if not finite:
        # A dropped record's numbers may be infinite, and 0 times infinity is not 0.
        scaled, inputs = torch.where(factors > 0, scaled, 0.0), torch.where(factors > 0, inputs, 0.0)
    if "weight" in into:
        if backprops.dtype != torch.float32 and backprops.is_cuda:
            # Factors are rounded, sums are not: a rounded sum would hide or double one record's part.
            sums = torch.mm(scaled.t().to(backprops.dtype), inputs.to(backprops.dtype), out_dtype=torch.float32)
            into["weight"].add_(sums) if add else into["weight"].copy_(sums)
        else:
            torch.addmm(into["weight"], scaled.t(), inputs, beta=float(add), out=into["weight"])
    if "bias" in into:
        into["bias"].add_(scaled.sum(0)) if add else into["bias"].copy_(scaled.sum(0))


def _zero(into: Mapping[str, Tensor], *, add: bool) -> None:
    if not add:
        for value in into.values():
            value.zero_()
