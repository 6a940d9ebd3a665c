"""What `step_time.py` times: one training step of one network on one batch, in several ways.

Every variant starts from the same weights and has
    gradient()   compute the (clipped) sum of the records' gradients, and leave it where an optimizer would look
    step()       the same, then noise if it is private, and the optimizer
    sums()       the sums that `gradient` left, by the parameter names of our network
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from opacus import GradSampleModule
from opacus.grad_sample import GradSampleModuleFastGradientClipping
from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping
from torch import Tensor, nn
from torch.nn import functional

from pharma_fl.config import ModelSettings
from pharma_fl.model.batches import Batch, Cells, SparseRows
from pharma_fl.model.kernel_choice import choose_kernel
from pharma_fl.model.kernels import cell_matrix, scatter_sums
from pharma_fl.model.losses import network_losses, record_losses
from pharma_fl.model.network import SparseMultitaskNetwork
from pharma_fl.model.records import TaskWeights
from pharma_fl.privacy.clip import Clip
from pharma_fl.privacy.clipping import clipped_gradients
from pharma_fl.privacy.dp_sgd import DpSgd
from pharma_fl.privacy.noise import SystemNoise
from pharma_fl.privacy.opacus_engines import ghost_sums
from pharma_fl.privacy.plan import PrivacyPlan

LEARNING_RATE = 1e-4
NOISE_MULTIPLIER = 1.0
BFLOAT16_MARGIN = 0.99


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One batch and the network that sees it.

    Attributes
    ----------
    bits, hidden, tasks : int, tuple of int, int
        Shape of the network.
    batch : Batch
        Its records, no blank ones.
    norm : float
        Clipping norm, near the median norm of the records' gradients.
    kernel : {"gather", "dense", "fastest"}
        Of the first layer of our network.
    """

    bits: int
    hidden: tuple[int, ...]
    tasks: int
    batch: Batch
    norm: float
    precision: str
    kernel: str

    @property
    def device(self) -> torch.device:
        return self.batch.x.offsets.device

    @property
    def rows(self) -> int:
        return len(self.batch)

    @property
    def weights(self) -> TaskWeights:
        return TaskWeights(
            classes=torch.full((self.tasks,), 0.5),
            values=torch.zeros(0),
            censored=torch.zeros(0),
            catalogue=torch.full((self.tasks,), -1),
        ).to(self.device)

    @property
    def settings(self) -> ModelSettings:
        return ModelSettings(input_bits=self.bits, hidden=self.hidden, activation="relu")

    def network(self) -> SparseMultitaskNetwork:
        network = SparseMultitaskNetwork(self.settings, class_tasks=self.tasks, value_tasks=0, seed=1)
        network = network.to(self.device)
        network.trunk.input.kernel = "dense" if self.kernel == "dense" else "gather"
        if self.precision == "bfloat16" and self.device.type == "cuda":
            network.trunk.input.dtype = torch.bfloat16
        if self.kernel == "fastest":
            choose_kernel(network.trunk, rows=self.rows, precision=self.precision)
        return network

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16")


def make_batch(bits: int, tasks: int, rows: int, seed: int) -> Batch:
    """Make rows of 45 to 100 set bits of Zipf-like frequency, with 3 to 5 labelled cells each."""
    rng = np.random.default_rng(seed)
    frequency = np.cumsum(1.0 / (np.arange(bits) + 20.0))
    places = rng.permutation(bits)
    indices, columns = [], []
    for _ in range(rows):
        count = int(rng.integers(45, 101))
        drawn = np.searchsorted(frequency, rng.random(8 * count) * frequency[-1])
        _, first = np.unique(drawn, return_index=True)
        indices.append(np.sort(places[drawn[np.sort(first)[:count]]]))
        columns.append(np.sort(rng.choice(tasks, int(rng.integers(3, 6)), replace=False)))
    cells = np.concatenate(columns)
    values = torch.from_numpy(rng.integers(0, 2, len(cells)).astype(np.float32))
    return Batch(
        x=SparseRows(
            indices=torch.from_numpy(np.concatenate(indices)), offsets=offsets(indices), values=None, columns=bits
        ),
        classes=Cells(
            columns=torch.from_numpy(cells), offsets=offsets(columns), values=values, censor=torch.zeros_like(values)
        ),
        values=Cells(
            columns=torch.zeros(0, dtype=torch.int64),
            offsets=torch.zeros(rows + 1, dtype=torch.int64),
            values=torch.zeros(0),
            censor=torch.zeros(0),
        ),
    )


def offsets(parts: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.concatenate([[0], np.cumsum([len(part) for part in parts])]))


def part_of(batch: Batch, first: int, last: int, size: int) -> Batch:
    """Return some rows of a batch, and blank rows up to `size`."""

    def bounds(whole: Tensor) -> tuple[slice, Tensor]:
        inner = whole[first : last + 1]
        blank = inner[-1:].expand(max(0, size - (last - first)))
        return slice(int(inner[0]), int(inner[-1])), torch.cat([inner, blank]) - inner[0]

    def cells(whole: Cells) -> Cells:
        where, own = bounds(whole.offsets)
        return Cells(columns=whole.columns[where], offsets=own, values=whole.values[where], censor=whole.censor[where])

    where, own = bounds(batch.x.offsets)
    x = SparseRows(indices=batch.x.indices[where], offsets=own, values=None, columns=batch.x.columns)
    return Batch(x=x, classes=cells(batch.classes), values=cells(batch.values))


class FixedRecords:
    """As many records as the batch has, and blocks of them that are made once."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self._made: dict[tuple[int, int, int], Batch] = {}

    def __len__(self) -> int:
        return len(self._batch)

    def batch(self, rows: np.ndarray, size: int) -> Batch:
        key = int(rows[0]), int(rows[-1]) + 1, size
        if key not in self._made:
            self._made[key] = part_of(self._batch, *key)
        return self._made[key]


def named(network: nn.Module) -> dict[str, nn.Parameter]:
    return {name: value for name, value in network.named_parameters() if value.numel()}


# Without privacy.


class PlainAutograd:
    """Our network, its kernels and autograd."""

    def __init__(self, problem: Problem, *, set_to_none: bool = True, labelled_cells: bool = True) -> None:
        self.problem, self.weights, self.set_to_none = problem, problem.weights, set_to_none
        self.labelled_cells = labelled_cells
        self.network = problem.network()
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=LEARNING_RATE)

    def gradient(self) -> None:
        self.optimizer.zero_grad(set_to_none=self.set_to_none)
        with self.problem.autocast():
            losses = network_losses(
                self.network, self.problem.batch, weights=self.weights, labelled_cells=self.labelled_cells
            )
        (losses.sum() / self.problem.rows).backward()

    def step(self) -> None:
        self.gradient()
        self.optimizer.step()

    def sums(self) -> dict[str, Tensor]:
        return {name: value.grad * self.problem.rows for name, value in named(self.network).items()}


class PlainHand:
    """The same arithmetic without autograd: in place where that is possible, products into persistent buffers.

    Parameters
    ----------
    whole_heads : bool
        Compute the heads of all tasks in dense products, not the labelled cells alone.
    touched_rows : bool
        Compute and update only those rows of the first layer whose bits occur in the batch.
    """

    def __init__(self, problem: Problem, *, whole_heads: bool = False, touched_rows: bool = False) -> None:
        self.problem, self.whole_heads, self.touched_rows = problem, whole_heads, touched_rows
        self.network = problem.network().requires_grad_(requires_grad=False)
        self.weights = problem.weights.classes / problem.rows
        self.grads = {name: torch.empty_like(value) for name, value in named(self.network).items()}
        self.touched = torch.zeros(0)

    def gradient(self) -> None:
        trunk, head, grads = self.network.trunk, self.network.heads.classes, self.grads
        x, cells = self.problem.batch.x, self.problem.batch.classes
        out = functional.embedding_bag(x.indices, trunk.input.weight, x.offsets, mode="sum", include_last_offset=True)
        seen = [out.mul_(trunk.input.scale).add_(trunk.input.bias).relu_()]
        for layer in trunk.middle:
            seen.append(torch.addmm(layer.bias, seen[-1], layer.weight.t()).relu_())
        back = self._heads(head, seen[-1], cells)
        for number in reversed(range(len(trunk.middle))):
            back = torch.ops.aten.threshold_backward(back, seen[number + 1], 0.0)
            torch.mm(back.t(), seen[number], out=grads[f"trunk.middle.{number}.weight"])
            torch.sum(back, 0, out=grads[f"trunk.middle.{number}.bias"])
            back = back @ trunk.middle[number].weight
        back = torch.ops.aten.threshold_backward(back, seen[0], 0.0)
        torch.sum(back, 0, out=grads["trunk.input.bias"])
        back.mul_(trunk.input.scale)
        if self.touched_rows:
            self.touched, places = torch.unique(x.indices, return_inverse=True)
            narrow = SparseRows(indices=places, offsets=x.offsets, values=None, columns=len(self.touched))
            scatter_sums(narrow, back, grads["trunk.input.weight"][: len(self.touched)])
        else:
            scatter_sums(x, back, grads["trunk.input.weight"])

    def _heads(self, head: nn.Module, features: Tensor, cells: Cells) -> Tensor:
        weight, bias = self.grads["heads.classes.weight"], self.grads["heads.classes.bias"]
        if self.whole_heads:
            rows = cells.rows
            logits = torch.addmm(head.bias, features, head.weight.t())[rows, cells.columns]
            found = logits.sigmoid_().sub_(cells.values).mul_(self.weights[cells.columns])
            errors = torch.zeros(len(features), len(head.weight), device=found.device)
            errors.index_put_((rows, cells.columns), found)
            torch.mm(errors.t(), features, out=weight)
            torch.sum(errors, 0, out=bias)
            return errors @ head.weight
        pattern = torch.sparse_csr_tensor(
            cells.offsets,
            cells.columns,
            torch.zeros_like(cells.values),
            size=(len(features), len(head.weight)),
            check_invariants=False,
        )
        logits = torch.sparse.sampled_addmm(pattern, features, head.weight.t(), beta=0.0).values()
        logits += head.bias[cells.columns]
        found = logits.sigmoid_().sub_(cells.values).mul_(self.weights[cells.columns])
        errors = cell_matrix(cells, found, columns=len(head.weight))
        scatter_sums(errors, features, weight)
        bias.zero_().index_add_(0, cells.columns, found)
        return functional.embedding_bag(
            errors.indices,
            head.weight,
            errors.offsets,
            mode="sum",
            include_last_offset=True,
            per_sample_weights=errors.values,
        )

    def step(self) -> None:
        self.gradient()
        for name, value in named(self.network).items():
            if self.touched_rows and name == "trunk.input.weight":
                value.index_add_(0, self.touched, self.grads[name][: len(self.touched)], alpha=-LEARNING_RATE)
            else:
                value.add_(self.grads[name], alpha=-LEARNING_RATE)

    def sums(self) -> dict[str, Tensor]:
        found = {name: value * self.problem.rows for name, value in self.grads.items()}
        if self.touched_rows:
            narrow = found["trunk.input.weight"][: len(self.touched)]
            found["trunk.input.weight"] = torch.zeros_like(found["trunk.input.weight"]).index_copy_(
                0, self.touched, narrow
            )
        return found


class SparseChemLike:
    """A network of SparseChem's design: a COO matrix times dense weights, all tasks of all rows, autograd."""

    def __init__(self, problem: Problem) -> None:
        self.problem, self.weights = problem, problem.weights.classes
        self.network = problem.network()  # for its weights; its layers compute nothing here
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=LEARNING_RATE)
        x = problem.batch.x
        self.places = torch.stack([x.rows, x.indices])
        self.ones = torch.full_like(x.indices, self.network.trunk.input.scale, dtype=torch.float32)
        self.cells = problem.batch.classes.rows, problem.batch.classes.columns

    def gradient(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        trunk, head = self.network.trunk, self.network.heads.classes
        x = torch.sparse_coo_tensor(
            self.places, self.ones, (self.problem.rows, self.problem.bits), check_invariants=False
        )
        # SparseChem leaves its first layer out of autocast.
        out = torch.sparse.mm(x, trunk.input.weight) + trunk.input.bias
        with self.problem.autocast():
            for layer in trunk.middle:
                out = layer(functional.relu(out))
            logits = functional.linear(functional.relu(out), head.weight, head.bias)
            logits = logits[self.cells].float()
            crossed = functional.binary_cross_entropy_with_logits(
                logits, self.problem.batch.classes.values, reduction="none"
            )
        loss = (crossed * self.weights[self.cells[1]]).sum() / self.problem.rows
        loss.backward()

    def step(self) -> None:
        self.gradient()
        self.optimizer.step()

    def sums(self) -> dict[str, Tensor]:
        return {name: value.grad * self.problem.rows for name, value in named(self.network).items()}


# With privacy.


class Ours:
    """`DpSgd` over fixed blocks; `gradient` is what it computes before it adds noise."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.network = problem.network()
        self.losses = partial(network_losses, weights=problem.weights)
        self.source = FixedRecords(problem.batch)
        self.mechanism = DpSgd(
            plan_of(problem),
            self.network,
            torch.optim.SGD(self.network.parameters(), lr=LEARNING_RATE),
            record_losses=self.losses,
            noise=SystemNoise(),
            precision=problem.precision,
        )
        self.clip = self.mechanism.clip
        if problem.precision == "bfloat16":
            self.clip = self.clip.tightened(BFLOAT16_MARGIN)
        # The mechanism's own sums, so that memory is counted once.
        self.into = self.mechanism._sums  # noqa: SLF001
        self.below = 0

    def gradient(self) -> None:
        size = self.mechanism.physical_batch
        rows = np.arange(self.problem.rows)
        self.below = 0
        for first in range(0, len(rows), size):
            part = rows[first : first + size]
            found = clipped_gradients(
                self.network,
                partial(self._losses, part, size),
                self.clip,
                records=len(part),
                into=self.into,
                add=first > 0,
            )
            self.below += found.below

    def _losses(self, part: np.ndarray, size: int) -> Tensor:
        with self.problem.autocast():
            return self.losses(self.network, self.source.batch(part, size))

    def step(self) -> None:
        self.mechanism.step(self.source)

    def sums(self) -> dict[str, Tensor]:
        return {name: self.into[name] for name in named(self.network)}

    @contextlib.contextmanager
    def unclipped(self) -> Iterator[None]:
        kept, self.clip = self.clip, Clip(norm=math.inf)
        yield
        self.clip = kept


def plan_of(problem: Problem) -> PrivacyPlan:
    return PrivacyPlan(
        sample_rate=1.0,
        noise_multiplier=NOISE_MULTIPLIER,
        clipping_norm=problem.norm,
        expected_batch=float(problem.rows),
        delta=1e-5,
        rounds=1,
        steps_per_round=1,
    )


class OpacusGhostSparse:
    """`opacus_engines.ghost_sums`: our layers under Opacus's ghost clipping, and Opacus's optimizer and noise."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.network = problem.network()
        self.losses = partial(network_losses, weights=problem.weights, labelled_cells=False)
        self.optimizer = opacus_optimizer(DPOptimizerFastGradientClipping, problem, self.network)

    def gradient(self) -> None:
        def losses() -> Tensor:
            with self.problem.autocast():
                return self.losses(self.network, self.problem.batch)

        self.optimizer.zero_grad(set_to_none=True)
        found = ghost_sums(self.network, losses, Clip(norm=self.problem.norm))
        for name, value in self.network.named_parameters():
            value.grad = found.gradients[name]

    def step(self) -> None:
        self.gradient()
        self.optimizer.step()

    def sums(self) -> dict[str, Tensor]:
        return {name: value.grad for name, value in named(self.network).items()}


class OpacusDense:
    """Opacus as its users know it, on densified rows that are made before the clock starts."""

    def __init__(self, problem: Problem, *, ghost: bool) -> None:
        self.problem, self.ghost, self.weights = problem, ghost, problem.weights
        start = problem.network()
        self.dense = start.trunk.input.scale * problem.batch.x.dense()
        self.cells = problem.batch.classes.rows, problem.batch.classes.columns
        layers: list[nn.Module] = []
        self.names: dict[str, str] = {}
        sizes = [problem.bits, *problem.hidden, problem.tasks]
        sources = [start.trunk.input, *start.trunk.middle, start.heads.classes]
        owners = ["trunk.input", *(f"trunk.middle.{n}" for n in range(len(start.trunk.middle))), "heads.classes"]
        for number, (source, owner) in enumerate(zip(sources, owners, strict=True)):
            layer = nn.Linear(sizes[number], sizes[number + 1], device=problem.device)
            with torch.no_grad():
                layer.weight.copy_(source.weight.t() if number == 0 else source.weight)
                layer.bias.copy_(source.bias)
            self.names |= {f"{owner}.{key}": f"_module.{len(layers)}.{key}" for key in ("weight", "bias")}
            layers += [layer, nn.ReLU()]
        network = nn.Sequential(*layers[:-1])
        if ghost:
            self.network = GradSampleModuleFastGradientClipping(network, max_grad_norm=problem.norm)
            self.optimizer = opacus_optimizer(DPOptimizerFastGradientClipping, problem, self.network)
            self.criterion = DPLossFastGradientClipping(self.network, self.optimizer, _RecordLosses(self._losses))
        else:
            self.network = GradSampleModule(network)
            self.optimizer = opacus_optimizer(DPOptimizer, problem, self.network)

    def _losses(self, logits: Tensor) -> Tensor:
        labelled = logits[self.cells].float()
        return record_losses(labelled, labelled.new_zeros(0), self.problem.batch, weights=self.weights)

    def backward(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        with self.problem.autocast():
            logits = self.network(self.dense)
        if self.ghost:
            self.network.enable_hooks()
            self.criterion(logits, logits[:, 0]).backward()
        else:
            self._losses(logits).mean().backward()

    def gradient(self) -> None:
        self.backward()
        if not self.ghost:
            self.optimizer.clip_and_accumulate()

    def step(self) -> None:
        self.backward()
        self.optimizer.step()

    def sums(self) -> dict[str, Tensor]:
        own = dict(self.network.named_parameters())
        key = "grad" if self.ghost else "summed_grad"
        found = {name: getattr(own[inner], key) for name, inner in self.names.items()}
        return found | {"trunk.input.weight": found["trunk.input.weight"].t()}


class _RecordLosses(nn.Module):
    """A loss in the form that Opacus's criterion wants."""

    def __init__(self, losses: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.losses, self.reduction = losses, "mean"

    def forward(self, logits: Tensor, _target: Tensor) -> Tensor:
        return self.losses(logits)


def opacus_optimizer(kind: type[DPOptimizer], problem: Problem, network: nn.Module) -> DPOptimizer:
    return kind(
        torch.optim.SGD(network.parameters(), lr=LEARNING_RATE),
        noise_multiplier=NOISE_MULTIPLIER,
        max_grad_norm=problem.norm,
        expected_batch_size=problem.rows,
        loss_reduction="mean",
    )


PLAIN: dict[str, Callable[[Problem], Any]] = {
    "plain autograd": PlainAutograd,
    "plain autograd, kept": partial(PlainAutograd, set_to_none=False),
    "plain autograd, whole": partial(PlainAutograd, labelled_cells=False),
    "plain by hand": PlainHand,
    "plain by hand, whole": partial(PlainHand, whole_heads=True),
}
"""Whichever is fastest is what the private step is measured against."""
OTHERS: dict[str, Callable[[Problem], Any]] = {
    "plain, touched rows": partial(PlainHand, touched_rows=True),
    "SparseChem-like": SparseChemLike,
    "ours": Ours,
    "Opacus ghost, sparse": OpacusGhostSparse,
    "Opacus ghost, dense": partial(OpacusDense, ghost=True),
    "Opacus hooks, dense": partial(OpacusDense, ghost=False),
}
VARIANTS = PLAIN | OTHERS
