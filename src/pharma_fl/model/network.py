"""The network: a shared trunk over sparse fingerprints, and the partner's private heads."""

from __future__ import annotations

import hashlib
from itertools import pairwise
from typing import Self

import torch
from torch import Tensor, nn

from pharma_fl.config import ModelSettings
from pharma_fl.model.batches import Batch, SparseRows
from pharma_fl.model.elementwise import Tanh
from pharma_fl.model.layers import Head, SparseLinear

TRUNK_PREFIX = "trunk."
"""Parameters whose name starts so are shared; all others are private and never leave the partner."""


class Adapter(nn.Module):
    """A low-rank product beside a frozen layer: little travels and little is noised.

    It starts as zero: `up` is zero, and `down` is the public random start.

    Parameters
    ----------
    down : SparseLinear or Linear
        From the layer's input to `rank` numbers, without a bias.
    out_features, rank : int
        Width of the layer's output, and of what is between.
    """

    def __init__(self, down: SparseLinear | nn.Linear, out_features: int, rank: int) -> None:
        super().__init__()
        self.down = down
        self.up = nn.Linear(rank, out_features, bias=False)

    def forward(self, inputs: SparseRows | Tensor) -> Tensor:
        """Map the layer's input to what is added to its output, float32 (b, out_features)."""
        added: Tensor = self.up(self.down(inputs))
        return added


class Trunk(nn.Module):
    """Everything in front of the private heads: what the federation shares.

    Frozen layers are part of it and require no gradient; they stay as they started and do not travel. So are the
    catalogue's columns, which mean the same at every partner.
    """

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        bits, hidden, rank = settings.input_bits, settings.hidden, settings.adapter_rank
        self.input = SparseLinear(bits, hidden[0], scale=settings.input_scale)
        self.middle = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(hidden))
        self.activation: nn.Module = nn.ReLU() if settings.activation == "relu" else Tanh()
        self.dropout = nn.Dropout(settings.dropout)
        self.input_adapter: Adapter | None = None
        self.middle_adapters = nn.ModuleList()
        if rank:
            down = SparseLinear(bits, rank, scale=settings.input_scale, bias=False)
            self.input_adapter = Adapter(down, hidden[0], rank)
            adapted = list(pairwise(hidden))[: settings.frozen_layers - 1]
            self.middle_adapters.extend(Adapter(nn.Linear(a, rank, bias=False), b, rank) for a, b in adapted)
        class_features = settings.class_features or hidden[-1]
        self.catalogue = Head(class_features, len(settings.catalogue)) if settings.catalogue else None
        for layer in [self.input, *self.middle][: settings.frozen_layers]:
            layer.requires_grad_(requires_grad=False)

    def forward(self, x: SparseRows) -> Tensor:
        """Map b rows to float32 (b, features), after the last non-linearity and dropout."""
        out = self.input(x)
        if self.input_adapter is not None:
            out = out + self.input_adapter(x)
        features: Tensor = self.dropout(self.activation(out))
        for number, layer in enumerate(self.middle):
            out = layer(features)
            if number < len(self.middle_adapters):
                out = out + self.middle_adapters[number](features)
            features = self.dropout(self.activation(out))
        return features


class Heads(nn.Module):
    """The partner's private columns: one fused matrix for classification, one for regression."""

    def __init__(self, class_features: int, class_tasks: int, value_features: int, value_tasks: int) -> None:
        super().__init__()
        self.classes = Head(class_features, class_tasks)
        self.values = Head(value_features, value_tasks)


class SparseMultitaskNetwork(nn.Module):
    """A shared trunk and private heads over one input.

    There is no batch normalisation, because it would make one record's gradient depend on the others
    in its batch and void the clip's sensitivity.

    Parameters
    ----------
    settings : ModelSettings
        Shape and start.
    class_tasks, value_tasks : int
        Columns of the heads.
    seed : int
        Seeds the start, which is public and independent of any data. Two networks of one seed start with
        the same trunk, and with the same head in every column that both have.
    catalogue : Tensor, optional
        int64 (class_tasks,): the catalogue's column that computes a task, -1 where its private one does.
    beside : Trunk, optional
        A finished trunk, kept frozen, whose features the heads see beside those of `trunk`.
    """

    def __init__(
        self,
        settings: ModelSettings,
        *,
        class_tasks: int,
        value_tasks: int,
        seed: int,
        catalogue: Tensor | None = None,
        beside: Trunk | None = None,
    ) -> None:
        super().__init__()
        self.settings, self.class_tasks, self.value_tasks = settings, class_tasks, value_tasks
        self.trunk = Trunk(settings)
        self.beside = beside
        extra = 0
        if beside is not None:
            beside.requires_grad_(requires_grad=False)
            last = beside.middle[-1] if len(beside.middle) else beside.input
            extra = int(last.out_features)  # type: ignore[arg-type]
        features = settings.hidden[-1]
        self._class_features = settings.class_features or features
        self._value_features = settings.value_features or features
        self.heads = Heads(self._class_features + extra, class_tasks, self._value_features + extra, value_tasks)
        # A plain attribute: a network with buffers is refused by Opacus.
        self.catalogue = torch.full((class_tasks,), -1) if catalogue is None else catalogue
        self._catalogued = bool((self.catalogue >= 0).any())
        self._initialise(seed)

    def train(self, mode: bool = True) -> Self:  # noqa: FBT001, FBT002 - nn.Module's signature
        """Set training or evaluation; a frozen trunk beside stays in evaluation."""
        super().train(mode)
        if self.beside is not None:
            self.beside.eval()
        return self

    def forward(self, x: SparseRows) -> tuple[Tensor, Tensor]:
        """Return logits float32 (b, class_tasks) and values float32 (b, value_tasks)."""
        shared, classes, values = self._features(x)
        logits = self.heads.classes(classes)
        if self._catalogued:
            columns = self.catalogue.to(shared.device)
            common = self.trunk.catalogue(shared)  # type: ignore[misc]
            logits = torch.where(columns >= 0, common[:, columns.clamp(min=0)], logits)
        return logits, self.heads.values(values)

    def at_cells(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return logits and values of the labelled cells alone, float32, in the order of the batch's cells."""
        shared, classes, values = self._features(batch.x)
        cells = batch.classes
        if self._catalogued:
            columns = self.catalogue.to(shared.device)[cells.columns]
            common, own = columns >= 0, columns < 0
            logits = torch.zeros(len(cells), device=classes.device)
            in_catalogue = self.trunk.catalogue(shared, cells.select(common, columns))  # type: ignore[misc]
            logits = logits.masked_scatter(common, in_catalogue)
            logits = logits.masked_scatter(own, self.heads.classes(classes, cells.select(own, cells.columns)))
        else:
            logits = self.heads.classes(classes, cells)
        return logits, self.heads.values(values, batch.values)

    def _features(self, x: SparseRows) -> tuple[Tensor, Tensor, Tensor]:
        features = self.trunk(x)
        shared = features[:, : self._class_features]
        classes, values = shared, features[:, features.shape[1] - self._value_features :]
        if self.beside is not None:
            more = self.beside(x)
            classes, values = torch.cat([classes, more], dim=1), torch.cat([values, more], dim=1)
        return shared, classes, values

    def _initialise(self, seed: int) -> None:
        settings, trunk = self.settings, self.trunk
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for layer in (trunk.input, *trunk.middle):
                assert isinstance(layer, nn.Linear | SparseLinear)
                _uniform(layer.weight, layer.in_features**-0.5, generator)
                assert layer.bias is not None
                layer.bias.zero_()
            for number, adapter in enumerate([trunk.input_adapter, *trunk.middle_adapters]):
                if isinstance(adapter, Adapter):
                    own = torch.Generator().manual_seed(_own_seed("adapter", seed, number))
                    _uniform(adapter.down.weight, adapter.down.in_features**-0.5, own)
                    adapter.up.weight.zero_()
            _start_head(self.heads.classes, "head", seed, 0, settings.head_start)
            _start_head(self.heads.values, "head", seed, self.class_tasks, settings.head_start)
            if trunk.catalogue is not None:
                _start_head(trunk.catalogue, "catalogue", seed, 0, settings.head_start)


def _start_head(head: Head, name: str, seed: int, first: int, start: float) -> None:
    for column in range(head.out_features):
        own = torch.Generator().manual_seed(_own_seed(name, seed, first + column))
        _uniform(head.weight[column], start * head.in_features**-0.5, own)
    head.bias.zero_()


def _uniform(tensor: Tensor, bound: float, generator: torch.Generator) -> None:
    tensor.copy_((2 * torch.rand(tensor.shape, generator=generator) - 1) * bound)


def _own_seed(name: str, seed: int, number: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{name}|{seed}|{number}".encode()).digest()[:8]) >> 1


def trunk_of(network: nn.Module) -> dict[str, Tensor]:
    """Return copies of the parameters that travel, by name, without the prefix: those of the trunk that are trained."""
    return {name: value.detach().cpu().clone() for name, value in _travelling(network).items()}


def load_trunk(network: nn.Module, trunk: dict[str, Tensor]) -> None:
    """Set the parameters that travel; names and shapes must be exactly the network's own."""
    with torch.no_grad():
        for name, value in _travelling(network).items():
            value.copy_(trunk[name])


def _travelling(network: nn.Module) -> dict[str, nn.Parameter]:
    return {
        name.removeprefix(TRUNK_PREFIX): value
        for name, value in network.named_parameters()
        if name.startswith(TRUNK_PREFIX) and value.requires_grad
    }
