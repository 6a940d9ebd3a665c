"""Functions of single numbers whose bits do not depend on where in a tensor a number stands.

PyTorch computes most of a tensor with the processor's vector instructions and what is left at the end, or between two
threads, with others. The two may differ in the last bit, so how many labels the other records of a batch have would
decide about a bit of this one's gradient, and weights that cancel make that bit as large as the clip. Here every
number goes through the vector instructions: in pieces of a fixed length, one thread each, filled up with zeros. A
GPU computes every number alike.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

_PIECE = 2_048
"""Numbers at a time: a multiple of every vector's length, and no more than PyTorch leaves to one thread."""


class Tanh(nn.Module):
    """The hyperbolic tangent, as `nn.Tanh`."""

    def forward(self, x: Tensor) -> Tensor:
        """Map each number."""
        found: Tensor = _Tanh.apply(x)  # type: ignore[no-untyped-call]
        return found


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the binary cross-entropy of each logit against its label, 0 or 1, float32 (n,) all."""
    found: Tensor = _CrossEntropy.apply(logits, labels)  # type: ignore[no-untyped-call]
    return found


def steadily(function: Callable[..., Tensor], x: Tensor) -> Tensor:
    """Apply a function of single numbers that takes ``out``, as `torch.tanh`, to a tensor of any shape."""
    if x.device.type != "cpu":
        return function(x)
    count = x.numel()
    padded = torch.zeros(-(-count // _PIECE) * _PIECE, dtype=x.dtype)
    padded[:count] = x.reshape(-1)
    for piece in padded.view(-1, _PIECE).unbind():
        function(piece, out=piece)
    return padded[:count].view(x.shape)


class _Tanh(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = steadily(torch.tanh, x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        y: Tensor = ctx.saved_tensors[0]
        # One operation at a time: each of them is rounded correctly in every place.
        return grads[0] * (1.0 - y * y)


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor) -> Tensor:
        ctx.save_for_backward(logits, labels)
        return functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        logits, labels = ctx.saved_tensors
        return grads[0] * (steadily(torch.sigmoid, logits) - labels), None
