"""The oracle's problems as records and networks of src/, and their clipped sums: directly, and by a whole step."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import scipy.sparse as sp
import torch
from tests.conftest import SeededNoise
from tests.privacy import oracle

from pharma_fl.config import ModelSettings
from pharma_fl.model.batches import Batch, Cells, SparseRows
from pharma_fl.model.losses import network_losses
from pharma_fl.model.network import SparseMultitaskNetwork
from pharma_fl.model.records import Records, TaskWeights
from pharma_fl.privacy.clip import Clip
from pharma_fl.privacy.clipping import clipped_gradients
from pharma_fl.privacy.dp_sgd import DpSgd
from pharma_fl.privacy.plan import PrivacyPlan

BLOCK = 64
"""Rows of a block where nothing else is said."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """One problem and one network, as the oracle knows them."""

    problem: oracle.Problem
    parameters: dict
    settings: oracle.Settings
    hidden: Sequence[int]
    frozen_layers: int = 0
    adapter_rank: int = 0
    frozen: list = field(default_factory=list)  # names of parameters
    masks: list | None = None  # of each row of the problem

    def of_rows(self, rows):
        return None if self.masks is None else [mask[rows] for mask in self.masks]

    def expected(self, rows, clip, series=None):
        arguments = self.settings, clip.mode, clip.norm, clip.head_norm, self.frozen
        masks = self.of_rows(rows)
        if series is None:
            return oracle.clipped_sum(self.parameters, self.problem, rows, *arguments, masks=masks)
        return oracle.series_clipped_sum(self.parameters, self.problem, rows, series, *arguments, masks=masks)


def make_setup(
    seed,
    *,
    n,
    hidden,
    class_tasks=3,
    value_tasks=2,
    bits=12,
    settings=None,
    catalogue_columns=0,
    frozen_layers=0,
    adapter_rank=0,
    gain=1.0,
    **options,
):
    settings = settings or oracle.Settings()
    parameters = oracle.make_parameters(
        seed + 1,
        bits=bits,
        hidden=hidden,
        class_tasks=class_tasks,
        value_tasks=value_tasks,
        settings=settings,
        catalogue_columns=catalogue_columns,
        adapter_rank=adapter_rank,
        gain=gain,
    )
    for i in range(max(frozen_layers - 1, 0), len(hidden) - 1):  # adapters stand beside frozen layers alone
        for part in ("down", "up"):
            parameters.pop(f"trunk.middle_adapters.{i}.{part}.weight", None)
    layers = ["trunk.input", *(f"trunk.middle.{i}" for i in range(len(hidden) - 1))]
    return Setup(
        problem=oracle.make_problem(seed, n=n, bits=bits, class_tasks=class_tasks, value_tasks=value_tasks, **options),
        parameters=parameters,
        settings=settings,
        hidden=hidden,
        frozen_layers=frozen_layers,
        adapter_rank=adapter_rank,
        frozen=[f"{layer}.{part}" for layer in layers[:frozen_layers] for part in ("weight", "bias")],
        masks=oracle.make_masks(seed + 2, n, hidden, rate=settings.dropout) if settings.dropout else None,
    )


def records_of(setup) -> Records:
    problem = setup.problem
    n = len(problem)

    def matrix(cells, tasks, values):
        data = np.array(values, dtype=np.float32)
        places = [cell.row for cell in cells], [cell.task for cell in cells]
        made = sp.csr_array((np.arange(1, len(cells) + 1), places), shape=(n, tasks))  # explicit zeros must stay
        return sp.csr_array((data[made.data - 1], made.indices, made.indptr), shape=(n, tasks))

    classes, values = problem.class_cells, problem.value_cells
    tasks = len(problem.class_weights), len(problem.value_weights)
    return Records(
        x=sp.csr_array(problem.x.astype(np.float32)),
        classes=matrix(classes, tasks[0], [cell.value for cell in classes]),
        values=matrix(values, tasks[1], [cell.value for cell in values]),
        censor=matrix(values, tasks[1], [cell.censor for cell in values]),
        weights=weights_of(setup),
        binary=bool(np.isin(problem.x, (0, 1)).all()),
    )


def weights_of(setup) -> TaskWeights:
    problem = setup.problem
    return TaskWeights(
        classes=torch.from_numpy(problem.class_weights).float(),
        values=torch.from_numpy(problem.value_weights).float(),
        censored=torch.from_numpy(problem.censored_weights).float(),
        # The network knows the catalogue's columns; records refuse two tasks of one, which networks compute.
        catalogue=torch.full((len(problem.class_weights),), -1),
    )


def repeating_batch(setup, rows) -> Batch:
    """Gather rows of a problem in which a task may come twice in a row, which `Records` refuses."""
    x = sp.csr_array(setup.problem.x[rows].astype(np.float32))

    def of_rows(cells):
        mine = [[cell for cell in cells if cell.row == row] for row in rows]
        flat = list(itertools.chain(*mine))
        return Cells(
            columns=torch.tensor([cell.task for cell in flat], dtype=torch.int64),
            offsets=torch.tensor(np.cumsum([0, *map(len, mine)])),
            values=torch.tensor([cell.value for cell in flat], dtype=torch.float32),
            censor=torch.tensor([cell.censor for cell in flat], dtype=torch.float32),
        )

    return Batch(
        x=SparseRows(
            indices=torch.from_numpy(x.indices.astype(np.int64)),
            offsets=torch.from_numpy(x.indptr.astype(np.int64)),
            values=torch.from_numpy(x.data),
            columns=x.shape[1],
        ),
        classes=of_rows(setup.problem.class_cells),
        values=of_rows(setup.problem.value_cells),
    )


def network_of(setup) -> SparseMultitaskNetwork:
    settings, weights = setup.settings, weights_of(setup)
    columns = len(setup.parameters.get("trunk.catalogue.bias", ()))
    network = SparseMultitaskNetwork(
        ModelSettings(
            input_bits=setup.problem.x.shape[1],
            input_scale=settings.input_scale,
            hidden=tuple(setup.hidden),
            activation=settings.activation,
            dropout=settings.dropout,
            class_features=settings.class_features,
            value_features=settings.value_features,
            catalogue=tuple(range(1, columns + 1)),
            frozen_layers=setup.frozen_layers,
            adapter_rank=setup.adapter_rank,
        ),
        class_tasks=len(weights.classes),
        value_tasks=len(weights.values),
        seed=0,
        catalogue=None if settings.catalogue is None else torch.tensor(settings.catalogue),
    )
    network.load_state_dict({name: value.float() for name, value in setup.parameters.items()})
    return network


class RecordedMasks:
    """Hands out masks that were made before, one (rows, width) a layer; blank rows keep all."""

    def __init__(self, masks, size):
        self._left = [np.pad(mask, ((0, size - len(mask)), (0, 0)), constant_values=1) for mask in masks]

    def keep_mask(self, count, probability, device):
        mask = torch.from_numpy(self._left.pop(0) > 0).flatten()
        assert len(mask) == count
        return mask.to(device)


def clipped(network, records, rows, clip, *, size=None, labelled_cells=True, bfloat16=False, masks=None, **options):
    """Return `ClippedSums` of some records, in a batch filled up to `size` rows."""
    rows = np.asarray(rows, dtype=np.int64)
    batch = records.batch(rows, size=size)

    def losses():
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            return network_losses(network, batch, weights=records.weights, labelled_cells=labelled_cells)

    if masks is not None:
        options["masks"] = RecordedMasks(masks, len(batch))
    return clipped_gradients(network, losses, clip, records=len(rows), **options)


def step_sums(network, records, rows, clip, *, physical_batch=BLOCK, **options):
    """Return the sums that one step of `DpSgd` over exactly these records hands to its optimizer, without noise."""
    plan = PrivacyPlan(
        sample_rate=1.0,
        noise_multiplier=1e-12,
        clipping=clip.mode,
        clipping_norm=clip.norm,
        head_clipping_norm=clip.head_norm if clip.mode == "groups" else None,
        expected_batch=1.0,
        delta=1e-5,
        rounds=1,
        steps_per_round=1,
    )
    trained = {name: value for name, value in network.named_parameters() if value.requires_grad}
    optimizer = torch.optim.SGD(trained.values(), lr=0.0)
    found = {}

    def keep(*_):
        found.update({name: value.grad.clone() for name, value in trained.items()})

    optimizer.register_step_pre_hook(keep)
    private = DpSgd(
        plan,
        network,
        optimizer,
        record_losses=lambda network, batch: network_losses(network, batch, weights=records.weights),
        noise=Silence(),
        physical_batch=physical_batch,
        **options,
    )
    private.step(Some(records, rows))
    return found


class Silence(SeededNoise):
    """Samples, and adds nothing."""

    def add_normal(self, tensor, std, scale=1.0):
        tensor.mul_(scale)


class Some:
    """Some of the records, as if there were no others."""

    def __init__(self, records, rows):
        self._records, self._rows = records, np.asarray(rows, dtype=np.int64)

    def __len__(self):
        return len(self._rows)

    def batch(self, rows, size):
        return self._records.batch(self._rows[rows], size=size)


CLIPS = [
    Clip(norm=0.5),
    Clip(mode="groups", norm=0.5, head_norm=0.3),
    Clip(mode="automatic", norm=0.5),
    Clip(mode="adaptive", norm=0.5),
]


def longest_summand(norms, clip):
    """Return the length of the longest contribution, from the oracle's norms before clipping: sums may cancel."""
    limits = (clip.norm, clip.head_norm)
    usable = [n for n in map(np.atleast_1d, norms) if (n <= oracle.LARGEST_NORM).all()]
    return max(
        (
            float(np.hypot.reduce([v * oracle.coefficient(v, clip.mode, c) for v, c in zip(n, limits, strict=False)]))
            for n in usable
        ),
        default=0.0,
    )


def excess(difference, clip):
    """Return how long a sum, or what one record moved it by, is in units of the clip; of two groups the longer."""
    limits = {"trunk.": clip.norm, "heads.": clip.head_norm} if clip.mode == "groups" else {"": clip.norm}
    return max(
        oracle.size({name: value for name, value in difference.items() if name.startswith(prefix)}) / limit
        for prefix, limit in limits.items()
    )
