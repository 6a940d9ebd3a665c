"""The network: a shared trunk over sparse fingerprints, and the partner's private head."""

from __future__ import annotations

import hashlib
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from pharma_fl.config import ModelSettings
from pharma_fl.model.batches import SparseRows

TRUNK_PREFIX = "trunk."
"""Parameters whose name starts so are shared; all others are private and never leave the partner."""


class SparseLinear(nn.Module):
    """A linear layer over binary sparse rows: the scaled sum of the weight rows of the set bits, plus a bias.

    Parameters
    ----------
    in_features, out_features : int
        Width of a row and of the result.
    scale : float
        Value of a set bit.

    Attributes
    ----------
    weight : Parameter
        float32 (in_features, out_features): one contiguous row a bit, the transpose of `nn.Linear`.
    bias : Parameter
        float32 (out_features,)
    """

    def __init__(self, in_features: int, out_features: int, *, scale: float = 1.0) -> None:
        super().__init__()
        self.in_features, self.out_features, self.scale = in_features, out_features, scale
        self.weight = nn.Parameter(torch.empty(in_features, out_features))
        self.bias = nn.Parameter(torch.empty(out_features))

    def forward(self, x: SparseRows) -> Tensor:
        """Map b rows to float32 (b, out_features)."""
        summed = functional.embedding_bag(x.indices, self.weight, x.offsets, mode="sum", include_last_offset=True)
        return self.scale * summed + self.bias

    def squared_norms(self, x: SparseRows) -> Tensor:
        """Squared norm of each input row, float64 (b,)."""
        return x.counts.to(torch.float64) * self.scale**2

    def gradient_sums(self, x: SparseRows, backprops: Tensor) -> dict[str, Tensor]:
        """Return the gradients of weight and bias, summed over rows, from float32 (b, out) backprops."""
        weight = torch.zeros_like(self.weight)
        weight.index_add_(0, x.indices, (self.scale * backprops).repeat_interleave(x.counts, dim=0))
        return {"weight": weight, "bias": backprops.sum(0)}


class Trunk(nn.Module):
    """Everything in front of the heads: what the federation shares."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        self.input = SparseLinear(settings.input_bits, settings.hidden[0], scale=settings.input_scale)
        self.middle = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(settings.hidden))
        self.activation: nn.Module = nn.ReLU() if settings.activation == "relu" else nn.Tanh()
        self.dropout = nn.Dropout(settings.dropout)

    def forward(self, x: SparseRows) -> Tensor:
        """Map b rows to float32 (b, features), after the last non-linearity and dropout."""
        features: Tensor = self.dropout(self.activation(self.input(x)))
        for layer in self.middle:
            features = self.dropout(self.activation(layer(features)))
        return features


class SparseMultitaskNetwork(nn.Module):
    """Trunk and one fused private head: classification columns first, then regression columns.

    There is no batch normalisation, because it would make one record's gradient depend on the others
    in its batch and void the clip's sensitivity.

    Parameters
    ----------
    settings : ModelSettings
        Shape and start.
    class_tasks, value_tasks : int
        Columns of the head.
    seed : int
        Seeds the start, which is public and independent of any data. Two networks of one seed start with
        the same trunk, and with the same head in every column that both have.
    beside : Trunk, optional
        A finished trunk, kept frozen, whose features the head sees beside those of `trunk`.
    """

    def __init__(
        self, settings: ModelSettings, *, class_tasks: int, value_tasks: int, seed: int, beside: Trunk | None = None
    ) -> None:
        super().__init__()
        self.settings, self.class_tasks, self.value_tasks = settings, class_tasks, value_tasks
        self.trunk = Trunk(settings)
        self.beside = beside
        features = settings.hidden[-1]
        if beside is not None:
            beside.requires_grad_(requires_grad=False)
            last = beside.middle[-1] if len(beside.middle) else beside.input
            features += int(last.out_features)  # type: ignore[arg-type]
        self.head = nn.Linear(features, class_tasks + value_tasks)
        self._initialise(seed)

    def forward(self, x: SparseRows) -> tuple[Tensor, Tensor]:
        """Return logits float32 (b, class_tasks) and values float32 (b, value_tasks)."""
        features = self.trunk(x)
        if self.beside is not None:
            features = torch.cat([features, self.beside(x)], dim=1)
        out = self.head(features)
        return out[:, : self.class_tasks], out[:, self.class_tasks :]

    def _initialise(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        layers: list[nn.Module] = [self.trunk.input, *self.trunk.middle]
        with torch.no_grad():
            for layer in layers:
                assert isinstance(layer, nn.Linear | SparseLinear)
                _uniform(layer.weight, layer.in_features**-0.5, generator)
                layer.bias.zero_()
            for column in range(self.class_tasks + self.value_tasks):
                own = torch.Generator().manual_seed(_column_seed(seed, column))
                _uniform(self.head.weight[column], self.settings.head_start * self.head.in_features**-0.5, own)
            self.head.bias.zero_()


def _uniform(tensor: Tensor, bound: float, generator: torch.Generator) -> None:
    tensor.copy_((2 * torch.rand(tensor.shape, generator=generator) - 1) * bound)


def _column_seed(seed: int, column: int) -> int:
    return int.from_bytes(hashlib.sha256(f"head|{seed}|{column}".encode()).digest()[:8]) >> 1


def initial_trunk(settings: ModelSettings, seed: int) -> dict[str, Tensor]:
    """Return the public start of the trunk: what round 1 sends to every partner."""
    return trunk_of(SparseMultitaskNetwork(settings, class_tasks=1, value_tasks=0, seed=seed))


def trunk_of(network: nn.Module) -> dict[str, Tensor]:
    """Return copies of the shared parameters by name, without the prefix."""
    return {
        name.removeprefix(TRUNK_PREFIX): value.detach().clone()
        for name, value in network.state_dict().items()
        if name.startswith(TRUNK_PREFIX)
    }


def load_trunk(network: nn.Module, trunk: dict[str, Tensor]) -> None:
    """Set the shared parameters; names and shapes must be exactly the network's own."""
    own = {name: value for name, value in network.state_dict().items() if name.startswith(TRUNK_PREFIX)}
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(trunk[name.removeprefix(TRUNK_PREFIX)])
