"""The same clipped sums computed by Opacus: oracles for `clipping`, and something to measure it against.

Everything that decides a number here is Opacus's: its hooks, its norms, its clip ``min(1, C / (n + 1e-6))``. This
module only tells Opacus about layers of our own kind, and takes its hooks off again. Both engines can be given to
`dp_sgd.DpSgd(engine=...)`.

Unlike `clipping.clipped_gradients` they know neither extreme numbers (there a record of norm above 1e12 contributes
nothing; here the sum is what it is) nor predictable dropout, and they are slow.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from opacus.grad_sample import register_grad_sampler, register_norm_sampler
from opacus.grad_sample.grad_sample_module import GradSampleHooks
from opacus.grad_sample.grad_sample_module_fast_gradient_clipping import GradSampleHooksFastGradientClipping
from opacus.optimizers import DPOptimizer
from opacus.utils.fast_gradient_clipping_utils import DPTensorFastGradientClipping
from torch import Tensor, nn

from pharma_fl.errors import PrivacyError
from pharma_fl.privacy.clip import Clip
from pharma_fl.privacy.clipping import ClippedSums, KeepMasks


def hooks_sums(
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
    """Return the sum over records of their clipped gradients, from Opacus's gradient of every single record.

    It needs memory for as many copies of the network as there are records.

    Parameters
    ----------
    network : Module
        Of layers that Opacus knows, or that have ``gradient_sums`` (see `clipping`) and are called with one input
        alone: a dense one, or one with ``dense()``. Heads are therefore computed whole, not at the labelled cells.
    record_losses : callable
        Runs the forward and returns float32 (b,): each entry depends on its own record alone.
    clip : Clip
        In mode flat.
    records : int, optional
        The first so many rows are records; the rest are blank and contribute nothing.
    masks : KeepMasks, optional
        Taken for the sake of `dp_sgd.Engine`, and not used.
    into : mapping, optional
        Where the sums are put, by name of each trained parameter; left out, new tensors.
    add : bool
        Add to what `into` holds.
    series : None
        Opacus clips single records.

    Raises
    ------
    PrivacyError
        ``PFL-P01`` series, another mode of clipping, dropout, a layer with buffers, or a layer called with more than
        one input.
    """
    del masks
    _check(network, clip, series)
    trained = _trained(network)
    with _hooked(network, GradSampleHooks):
        losses = record_losses()
        count = len(losses) if records is None else records
        if not count:
            return _nothing(trained, into, add=add)
        _of_records(losses, count).sum().backward()  # type: ignore[no-untyped-call]
        reached = {name: value for name, value in trained.items() if value.grad_sample is not None}  # type: ignore[attr-defined]
        norms = [value.grad_sample.flatten(1).norm(dim=1) for value in reached.values()]  # type: ignore[attr-defined]
        below = int((torch.stack(norms).norm(dim=0)[:count] <= clip.norm).sum())
        optimizer = DPOptimizer(
            torch.optim.SGD(reached.values(), lr=0.0),
            noise_multiplier=0.0,
            max_grad_norm=clip.norm,
            expected_batch_size=None,
            loss_reduction="sum",
        )
        optimizer.clip_and_accumulate()
        sums = {name: value.summed_grad for name, value in reached.items()}  # type: ignore[attr-defined]
    return ClippedSums(gradients=_put(trained, sums, into, add=add), below=below)


def ghost_sums(
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
    """Return the sum over records of their clipped gradients, by Opacus's ghost clipping.

    A first backward gives norms (and a sum that is thrown away), a second one the gradient of the losses scaled by
    each record's coefficient. Parameters and errors are those of `hooks_sums`.

    References
    ----------
    Li et al. 2022, arXiv 2110.05679, section 4 ("ghost clipping").
    """
    del masks
    _check(network, clip, series)
    trained = _trained(network)
    with _hooked(network, GradSampleHooksFastGradientClipping, max_grad_norm=clip.norm) as hooks:
        losses = record_losses()
        count = len(losses) if records is None else records
        if not count:
            return _nothing(trained, into, add=add)
        for value in trained.values():
            # Opacus expects that every layer is reached by the backward pass; one that is not has no gradient.
            value._norm_sample = losses.new_zeros(len(losses))  # type: ignore[attr-defined]  # noqa: SLF001
        optimizer = torch.optim.SGD(trained.values(), lr=0.0)
        DPTensorFastGradientClipping(hooks, optimizer, _of_records(losses, count), loss_reduction="sum").backward()
        below = int((hooks.per_sample_gradient_norms[:count] <= clip.norm).sum())
        sums = {name: value.grad for name, value in trained.items() if value.grad is not None}
    return ClippedSums(gradients=_put(trained, sums, into, add=add), below=below)


def _check(network: nn.Module, clip: Clip, series: Tensor | None) -> None:
    if series is not None:
        raise PrivacyError("PFL-P01", "Opacus's engines clip single records, not series. Use clipped_gradients.")
    if clip.mode != "flat":
        raise PrivacyError("PFL-P01", f"Opacus's engines clip in mode flat, not {clip.mode}. Use clipped_gradients.")
    dropouts = (m for m in network.modules() if isinstance(m, nn.modules.dropout._DropoutNd))  # noqa: SLF001
    if any(module.training and module.p > 0 for module in dropouts):
        raise PrivacyError(
            "PFL-P01", "Opacus's engines have no dropout that nobody can predict. Use clipped_gradients."
        )
    if GradSampleHooks.validate(network):
        raise PrivacyError("PFL-P01", "A trained layer has buffers, which Opacus refuses. Remove the layer.")


def _trained(network: nn.Module) -> dict[str, nn.Parameter]:
    return {name: value for name, value in network.named_parameters() if value.requires_grad}


def _of_records(losses: Tensor, count: int) -> Tensor:
    return torch.where(torch.arange(len(losses), device=losses.device) < count, losses, 0.0)


@contextmanager
def _hooked(network: nn.Module, kind: Any, **options: Any) -> Iterator[Any]:
    """Attach Opacus's hooks; afterwards the network is as it was, `grad` of its parameters included."""
    layers = [m for m in network.modules() if any(p.requires_grad for p in m.parameters(recurse=False))]
    own = [layer for layer in layers if hasattr(layer, "gradient_sums")]
    for layer in own:
        if type(layer) not in kind.GRAD_SAMPLERS:
            register_grad_sampler(type(layer))(_gradient_of_each_record)
            register_norm_sampler(type(layer))(_norm_of_each_record)
    before = [(layer, layer.training) for layer in layers]
    kept = [(parameter, parameter.grad, dict(vars(parameter))) for parameter in network.parameters()]
    for layer in layers:
        layer.training = True  # Opacus watches no other; the layers themselves act alike in both modes
    for parameter, _, _ in kept:
        parameter.grad = None
    checks = [layer.register_forward_pre_hook(_check_inputs) for layer in own]
    hooks = kind(network, loss_reduction="sum", **options)
    try:
        with warnings.catch_warnings(), torch.enable_grad():
            # The first layer's input never requires a gradient, and PyTorch finds that remarkable.
            warnings.filterwarnings("ignore", "Full backward hook is firing", UserWarning)
            yield hooks
    finally:
        hooks.cleanup()
        for check in checks:
            check.remove()
        for layer, training in before:
            layer.training = training
            for name in ("activations", "max_batch_len"):
                vars(layer).pop(name, None)
        for parameter, grad, attributes in kept:
            parameter.grad = grad
            vars(parameter).clear()
            vars(parameter).update(attributes)


def _check_inputs(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
    if len(inputs) != 1:
        raise PrivacyError(
            "PFL-P01",
            f"{type(layer).__name__} was called with {len(inputs)} inputs. Opacus's engines need heads that are "
            "computed whole: network_losses(..., labelled_cells=False).",
        )


def _gradient_of_each_record(layer: Any, activations: list[Any], backprops: Tensor) -> dict[nn.Parameter, Tensor]:
    (inputs,) = activations
    backprops = backprops.float()
    found = {}
    if layer.weight.requires_grad:
        if hasattr(inputs, "dense"):
            found[layer.weight] = torch.einsum("bi,bo->bio", layer.scale * inputs.dense(), backprops)
        else:
            found[layer.weight] = torch.einsum("bo,bi->boi", backprops, inputs.float())
    if layer.bias is not None and layer.bias.requires_grad:
        found[layer.bias] = backprops
    return found


def _norm_of_each_record(layer: Any, activations: list[Any], backprops: Tensor) -> dict[nn.Parameter, Tensor]:
    norms = torch.linalg.vector_norm(backprops.float(), dim=1)
    found = {}
    if layer.weight.requires_grad:
        found[layer.weight] = layer.input_squares(*activations).sqrt().float() * norms
    if layer.bias is not None and layer.bias.requires_grad:
        found[layer.bias] = norms
    return found


def _nothing(trained: Mapping[str, Tensor], into: Mapping[str, Tensor] | None, *, add: bool) -> ClippedSums:
    return ClippedSums(gradients=_put(trained, {}, into, add=add), below=0)


def _put(
    trained: Mapping[str, Tensor], sums: Mapping[str, Tensor], into: Mapping[str, Tensor] | None, *, add: bool
) -> Mapping[str, Tensor]:
    if into is None:
        return {name: sums[name] if name in sums else torch.zeros_like(value) for name, value in trained.items()}
    for name, target in into.items():
        if name not in sums:
            if not add:
                target.zero_()
        elif add:
            target.add_(sums[name])
        else:
            target.copy_(sums[name])
    return into
