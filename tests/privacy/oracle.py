"""The clipped sum of one private step, once more: float64, dense, one record at a time, and nothing of src/.

Everything is written as the definitions say it, with no thought for speed: a record is a dense row, a loss is a Python
loop over its labelled cells, its gradient is automatic differentiation of that loss alone, and the sum is a Python loop
over records. Numbers are made so that float32 holds them exactly, so that both sides start from the same ones.
"""

import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

LARGEST_NORM = 1e12
"""A record whose gradient is longer contributes nothing."""

LARGEST_INPUT = 1e6
"""A record that gives a layer with a trained parameter a longer input contributes nothing."""

STABILISER = 0.01
"""gamma of automatic clipping, relative to the clipping norm."""

NAMES = re.compile(
    r"trunk\.input\.(weight|bias)"
    r"|trunk\.middle\.\d+\.(weight|bias)"
    r"|trunk\.catalogue\.(weight|bias)"
    r"|trunk\.input_adapter\.(down|up)\.weight"
    r"|trunk\.middle_adapters\.\d+\.(down|up)\.weight"
    r"|heads\.(classes|values)\.(weight|bias)"
)


class Cell(NamedTuple):
    """One labelled cell; `value` is 0 or 1 for classification; `censor` +1: the true value is above it, -1: below."""

    row: int
    task: int
    value: float
    censor: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Records as plain arrays."""

    x: np.ndarray  # float64 (n, bits), not yet scaled
    class_cells: list[Cell]  # sorted by row, then task; a task may come twice in a row
    value_cells: list[Cell]
    class_weights: np.ndarray  # float64 (classification tasks,)
    value_weights: np.ndarray  # float64 (regression tasks,)
    censored_weights: np.ndarray  # float64 (regression tasks,)

    def __len__(self):
        return len(self.x)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What of a network its parameters do not tell."""

    activation: str = "relu"
    input_scale: float = 1.0
    class_features: int | None = None  # leftmost trunk outputs that classification reads; None: all
    value_features: int | None = None  # rightmost trunk outputs that regression reads; None: all
    catalogue: tuple[int, ...] | None = None  # catalogue column of each classification task, -1: its own column
    dropout: float = 0.0  # rate; counts only where masks are given: a kept unit is divided by 1 - rate


# --- random problems ---------------------------------------------------------------------------------------------


def make_problem(
    seed: int,
    *,
    n: int,
    bits: int,
    class_tasks: int,
    value_tasks: int,
    label_rate: float = 0.5,
    counts: bool = False,
    duplicates: bool = False,
    bit_rate: float = 0.15,
) -> Problem:
    """Random records.

    From three records on, one has no bits, one no labels, and one neither; the others have a bit at least. With
    `counts` a bit holds 1 to 5. With `duplicates` some cells come twice, the second time with a label of its own.
    """
    rng = np.random.default_rng(seed)
    x = (rng.random((n, bits)) < bit_rate).astype(np.float64)
    x[np.arange(n), rng.integers(0, bits, n)] = 1
    if counts:
        x *= rng.integers(1, 6, x.shape)
    mute: set[int] = set()
    if n >= 3:
        bare, unlabelled, blank = (int(row) for row in rng.permutation(n)[:3])
        x[[bare, blank]] = 0
        mute = {unlabelled, blank}

    def cells(tasks, draw):
        made = []
        for row in range(n):
            for task in range(tasks):
                if rng.random() >= label_rate or row in mute:
                    continue
                made += [Cell(row, task, *draw()) for _ in range(2 if duplicates and rng.random() < 0.5 else 1)]
        return made

    return Problem(
        x=x,
        class_cells=cells(class_tasks, lambda: (float(rng.integers(0, 2)),)),
        value_cells=cells(value_tasks, lambda: (_single(2 * rng.normal()), float(rng.integers(-1, 2)))),
        class_weights=_single(rng.uniform(0.2, 1.5, class_tasks)),
        value_weights=_single(rng.uniform(0.2, 1.5, value_tasks)),
        censored_weights=_single(rng.uniform(0.1, 2.0, value_tasks)),
    )


SPOILS = {
    "nan bit": math.nan,
    "infinite bit": math.inf,
    "huge count": 1e9,
    "nan class": math.nan,
    "nan value": math.nan,
    "infinite value": math.inf,
    "huge value": 1e30,
}


def spoil(problem: Problem, row: int, kind: str) -> Problem:
    """Return the same records but one, which no longer may contribute; `kind` is a key of `SPOILS`."""
    value = SPOILS[kind]
    if kind in {"nan bit", "infinite bit", "huge count"}:
        x = problem.x.copy()
        x[row, 0] = value
        return replace(problem, x=x)
    field = "class_cells" if kind == "nan class" else "value_cells"
    cells = [cell for cell in getattr(problem, field) if (cell.row, cell.task) != (row, 0)]
    return replace(problem, **{field: sorted([*cells, Cell(row, 0, value)], key=lambda cell: cell[:2])})


def make_parameters(
    seed: int,
    *,
    bits: int,
    hidden: Sequence[int],
    class_tasks: int,
    value_tasks: int,
    settings: Settings | None = None,
    catalogue_columns: int = 0,
    adapter_rank: int = 0,
    gain: float = 1.0,
) -> dict[str, Tensor]:
    """Random parameters of a network with the given layers; no bias is 0, and no adapter."""
    rng = np.random.default_rng(seed)
    settings = settings or Settings()

    def normal(*shape, fan):
        return torch.from_numpy(_single(gain * rng.normal(size=shape) / math.sqrt(fan)))

    first, last = hidden[0], hidden[-1]
    made = {"trunk.input.weight": normal(bits, first, fan=4), "trunk.input.bias": normal(first, fan=4)}
    for i, (fan, out) in enumerate(itertools.pairwise(hidden)):
        made[f"trunk.middle.{i}.weight"] = normal(out, fan, fan=fan)
        made[f"trunk.middle.{i}.bias"] = normal(out, fan=4)
    class_features = last if settings.class_features is None else settings.class_features
    value_features = last if settings.value_features is None else settings.value_features
    if catalogue_columns:
        made["trunk.catalogue.weight"] = normal(catalogue_columns, class_features, fan=class_features)
        made["trunk.catalogue.bias"] = normal(catalogue_columns, fan=4)
    made["heads.classes.weight"] = normal(class_tasks, class_features, fan=class_features)
    made["heads.classes.bias"] = normal(class_tasks, fan=4)
    made["heads.values.weight"] = normal(value_tasks, value_features, fan=value_features)
    made["heads.values.bias"] = normal(value_tasks, fan=4)
    if adapter_rank:
        made["trunk.input_adapter.down.weight"] = normal(bits, adapter_rank, fan=4)
        made["trunk.input_adapter.up.weight"] = normal(first, adapter_rank, fan=adapter_rank)
        for i, (fan, out) in enumerate(itertools.pairwise(hidden)):
            made[f"trunk.middle_adapters.{i}.down.weight"] = normal(adapter_rank, fan, fan=fan)
            made[f"trunk.middle_adapters.{i}.up.weight"] = normal(out, adapter_rank, fan=adapter_rank)
    return made


def make_masks(seed: int, rows: int, hidden: Sequence[int], *, rate: float) -> list[np.ndarray]:
    """Random dropout masks, one 0/1 array (rows, width) for each layer."""
    rng = np.random.default_rng(seed)
    return [(rng.random((rows, width)) >= rate).astype(np.float64) for width in hidden]


def _single(numbers):
    """Round to what float32 holds."""
    return np.float64(np.float32(numbers))


# --- one record --------------------------------------------------------------------------------------------------


def doubles(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy named tensors (a state_dict, named_parameters, gradients) as float64 on the CPU."""
    return {name: tensor.detach().to("cpu", torch.float64).clone() for name, tensor in parameters.items()}


def forward(
    parameters: Mapping[str, Tensor], x, settings: Settings, *, masks: Sequence[np.ndarray] | None = None
) -> tuple[Tensor, Tensor]:
    """Return the logits (classification tasks,) and values (regression tasks,) of one dense row (bits,).

    `masks` holds one 0/1 array (width,) for each layer, or is None: no dropout.
    """
    logits, values, _ = _walk(parameters, x, settings, masks)
    return logits, values


def _walk(parameters, x, settings, masks):
    """Run one record; return logits, values, and what each layer was given: pairs of its name and its input."""
    for name in parameters:
        if not NAMES.fullmatch(name):
            raise KeyError(f"the oracle knows no parameter {name}")
    activation = {"relu": torch.relu, "tanh": torch.tanh}[settings.activation]
    depth = 1 + sum(re.fullmatch(r"trunk\.middle\.\d+\.weight", name) is not None for name in parameters)
    if masks is not None and len(masks) != depth:
        raise ValueError(f"expected a mask for each of {depth} layers, got {len(masks)}")
    given = []

    def layer(i, a):  # before its activation
        given.append(("trunk.input" if i == 0 else f"trunk.middle.{i - 1}", a))
        if i == 0:
            out = parameters["trunk.input.weight"].T @ a + parameters["trunk.input.bias"]
        else:
            out = parameters[f"trunk.middle.{i - 1}.weight"] @ a + parameters[f"trunk.middle.{i - 1}.bias"]
        adapter = "trunk.input_adapter" if i == 0 else f"trunk.middle_adapters.{i - 1}"
        if f"{adapter}.down.weight" in parameters:
            down = parameters[f"{adapter}.down.weight"]
            narrow = (down.T if i == 0 else down) @ a
            given.extend([(f"{adapter}.down", a), (f"{adapter}.up", narrow)])
            out = out + parameters[f"{adapter}.up.weight"] @ narrow
        return out

    a = settings.input_scale * torch.as_tensor(x, dtype=torch.float64)
    for i in range(depth):
        a = activation(layer(i, a))
        if masks is not None:
            mask = torch.as_tensor(masks[i], dtype=torch.float64)
            if mask.shape != a.shape:
                raise ValueError(f"expected a mask {tuple(a.shape)} for layer {i}, got {tuple(mask.shape)}")
            a = a * mask / (1 - settings.dropout)

    return (*_heads(parameters, a, settings, given), given)


def _heads(parameters, features, settings, given):
    width = len(features)
    left = features[: width if settings.class_features is None else settings.class_features]
    right = features[0 if settings.value_features is None else width - settings.value_features :]
    given += [("heads.classes", left), ("heads.values", right)]

    logits = parameters["heads.classes.weight"] @ left + parameters["heads.classes.bias"]
    if settings.catalogue is not None:
        given.append(("trunk.catalogue", left))
        shared = parameters["trunk.catalogue.weight"] @ left + parameters["trunk.catalogue.bias"]
        columns = list(settings.catalogue)
        if len(columns) != len(logits):
            raise ValueError(f"expected a catalogue column for each of {len(logits)} tasks, got {len(columns)}")
        chosen = [logits[task] if column < 0 else shared[column] for task, column in enumerate(columns)]
        logits = torch.stack(chosen) if chosen else logits
    values = parameters["heads.values.weight"] @ right + parameters["heads.values.bias"]
    return logits, values


def record_loss(
    parameters: Mapping[str, Tensor],
    problem: Problem,
    row: int,
    settings: Settings,
    *,
    masks: Sequence[np.ndarray] | None = None,
) -> Tensor:
    """Return the loss of one record: the weighted sum over its labelled cells."""
    return _loss(problem, row, *forward(parameters, problem.x[row], settings, masks=masks))


def _loss(problem, row, logits, values):
    loss = torch.zeros((), dtype=torch.float64)
    for cell in problem.class_cells:
        if cell.row == row:
            z = logits[cell.task]
            # -y log(p) - (1 - y) log(1 - p) with p = 1 / (1 + exp(-z)) is log(1 + exp(z)) - y z
            entropy = torch.logaddexp(torch.zeros_like(z), z) - cell.value * z
            loss = loss + float(problem.class_weights[cell.task]) * entropy
    for cell in problem.value_cells:
        if cell.row == row:
            difference = cell.value - values[cell.task]
            weight = float(problem.value_weights[cell.task])
            if cell.censor != 0:
                weight *= float(problem.censored_weights[cell.task])
            # above a value that is known to be exceeded, or below one that is not reached, a prediction is right
            if (cell.censor > 0 and difference < 0) or (cell.censor < 0 and difference > 0):
                continue
            loss = loss + weight * difference**2
    return loss


def record_gradient(
    parameters: Mapping[str, Tensor],
    problem: Problem,
    row: int,
    settings: Settings,
    *,
    masks: Sequence[np.ndarray] | None = None,
) -> dict[str, Tensor]:
    """Return the gradient of one record's loss, by name, whatever it is (not finite, huge)."""
    return _gradient(parameters, problem, row, settings, masks)[0]


def _gradient(parameters, problem, row, settings, masks, frozen=()):
    """Return a record's gradient and the longest input it gave a layer that is not frozen."""
    leaves = {name: tensor.requires_grad_() for name, tensor in doubles(parameters).items()}
    logits, values, given = _walk(leaves, problem.x[row], settings, masks)
    loss = _loss(problem, row, logits, values)
    names = list(leaves)
    if loss.requires_grad:
        grads = torch.autograd.grad(loss, [leaves[name] for name in names], allow_unused=True)
    else:  # no labelled cell
        grads = [None] * len(names)
    gradient = {
        name: torch.zeros_like(leaves[name]).detach() if grad is None else grad
        for name, grad in zip(names, grads, strict=True)
    }
    training = {name.rpartition(".")[0] for name in names if name not in frozen and leaves[name].numel()}
    norms = [float(a.detach().norm()) for layer, a in given if layer in training]
    return gradient, math.nan if any(math.isnan(norm) for norm in norms) else max(norms, default=0.0)


# --- clipped sums ------------------------------------------------------------------------------------------------


def coefficient(n: float, mode: str, norm: float) -> float:
    """Return what a gradient of norm `n` is multiplied with."""
    if mode == "automatic":
        return norm / (n + STABILISER * norm)
    return 1.0 if n <= norm else norm / n


def clipped(
    gradient: Mapping[str, Tensor],
    mode: str,
    norm: float,
    head_norm: float | None = None,
    frozen: Iterable[str] = (),
    *,
    usable: bool | None = None,
) -> tuple[dict[str, Tensor], float | tuple[float, float]]:
    """Return one gradient clipped, without the frozen parameters, and its norm before (groups: trunk's and the rest's).

    A norm not finite or above `LARGEST_NORM`, in one group or both, gives zeros, unless `usable` says otherwise.
    """
    frozen = set(frozen)
    if unknown := frozen - set(gradient):
        raise KeyError(f"frozen, yet no parameters: {sorted(unknown)}")
    parts = _parts({name: grad for name, grad in gradient.items() if name not in frozen}, mode, norm, head_norm)
    norms = [size(part) for part, _ in parts]
    if usable is None:
        usable = _fit(norms)
    result = {}
    for (part, limit), n in zip(parts, norms, strict=True):
        for name, grad in part.items():
            result[name] = coefficient(n, mode, limit) * grad if usable else torch.zeros_like(grad)
    return result, (norms[0], norms[1]) if mode == "groups" else norms[0]


def _parts(gradient, mode, norm, head_norm):
    """Return what is clipped by itself, each with its clipping norm."""
    if mode == "groups":
        if head_norm is None:
            raise ValueError("groups needs a head_norm")
        return [
            ({name: grad for name, grad in gradient.items() if name.startswith("trunk.")}, norm),
            ({name: grad for name, grad in gradient.items() if not name.startswith("trunk.")}, head_norm),
        ]
    if mode not in {"flat", "automatic", "adaptive"}:
        raise ValueError(f"no clip mode {mode}")
    return [(gradient, norm)]


def _fit(norms):
    return all(n <= LARGEST_NORM for n in norms)  # a NaN is not below anything


def clipped_sum(
    parameters: Mapping[str, Tensor],
    problem: Problem,
    rows: Iterable[int],
    settings: Settings,
    mode: str,
    norm: float,
    head_norm: float | None = None,
    frozen: Iterable[str] = (),
    *,
    masks: Sequence[np.ndarray] | None = None,
) -> tuple[dict[str, Tensor], list]:
    """Return the sum of the records' clipped gradients, and the norm of each before.

    Parameters
    ----------
    rows
        Record of each summand; one that comes twice counts twice.
    mode, norm, head_norm
        flat, adaptive: min(1, norm / n) over all parameters. groups: the same with `norm` for ``trunk.*`` and with
        `head_norm` for the rest. automatic: norm / (n + 0.01 norm).
    frozen
        Names of parameters that neither count in the norm nor are in the sum. What a layer is given counts no more
        where all its parameters are frozen.
    masks
        One 0/1 array (len(rows), width) for each layer: line i is for ``rows[i]``.

    Returns
    -------
    dict, list
        float64 sums, and norms in the order of `rows`: floats, in mode groups pairs (trunk, rest). The norm of a record
        that contributes nothing is given as it is.
    """
    rows, frozen = list(rows), list(frozen)
    total = {name: torch.zeros_like(p) for name, p in doubles(parameters).items() if name not in frozen}
    norms = []
    for gradient, longest in _gradients(parameters, problem, rows, settings, masks, frozen):
        usable = None if longest <= LARGEST_INPUT else False
        result, n = clipped(gradient, mode, norm, head_norm, frozen, usable=usable)
        norms.append(n)
        total = {name: total[name] + result[name] for name in total}
    return total, norms


def series_clipped_sum(
    parameters: Mapping[str, Tensor],
    problem: Problem,
    rows: Iterable[int],
    series_ids: Iterable[int],
    settings: Settings,
    mode: str,
    norm: float,
    head_norm: float | None = None,
    frozen: Iterable[str] = (),
    *,
    masks: Sequence[np.ndarray] | None = None,
) -> tuple[dict[str, Tensor], list]:
    """Return the same with series as units: the gradients of a series are added, and their sum is clipped.

    ``series_ids[i]`` is the series of ``rows[i]``. Norms come in the order in which the series first appear. A record
    that would contribute nothing by itself is left out, and what is left of its series is clipped as the series.
    """
    rows, series_ids, frozen = list(rows), list(series_ids), list(frozen)
    if len(rows) != len(series_ids):
        raise ValueError(f"expected a series for each of {len(rows)} rows, got {len(series_ids)}")
    nothing = {name: torch.zeros_like(p) for name, p in doubles(parameters).items()}
    sums = {series: dict(nothing) for series in series_ids}
    found = _gradients(parameters, problem, rows, settings, masks, frozen)
    for series, (gradient, longest) in zip(series_ids, found, strict=True):
        trained = {name: grad for name, grad in gradient.items() if name not in frozen}
        alone = [size(part) for part, _ in _parts(trained, mode, norm, head_norm)]
        if longest <= LARGEST_INPUT and _fit(alone):
            sums[series] = {name: sums[series][name] + gradient[name] for name in gradient}
    total = {name: zero for name, zero in nothing.items() if name not in frozen}
    norms = []
    for gradient in sums.values():
        result, n = clipped(gradient, mode, norm, head_norm, frozen, usable=True)
        norms.append(n)
        total = {name: total[name] + result[name] for name in total}
    return total, norms


def _gradients(parameters, problem, rows, settings, masks, frozen):
    if masks is not None and any(len(mask) != len(rows) for mask in masks):
        raise ValueError(f"expected masks of {len(rows)} lines, got {[len(mask) for mask in masks]}")
    for i, row in enumerate(rows):
        of_record = None if masks is None else [mask[i] for mask in masks]
        yield _gradient(parameters, problem, row, settings, of_record, frozen)


# --- comparison --------------------------------------------------------------------------------------------------


def size(a: Mapping[str, Tensor]) -> float:
    """Return the Euclidean norm over all tensors together."""
    return math.hypot(*(float(tensor.detach().to("cpu", torch.float64).norm()) for tensor in a.values()))


def distance(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    """Return the Euclidean distance over all tensors together; names and shapes must be the same."""
    if set(a) != set(b):
        raise KeyError(f"names on one side alone: {sorted(set(a) ^ set(b))}")
    first, second = doubles(a), doubles(b)
    for name in first:
        if first[name].shape != second[name].shape:
            raise ValueError(f"{name}: {tuple(first[name].shape)} against {tuple(second[name].shape)}")
    return size({name: first[name] - second[name] for name in first})
