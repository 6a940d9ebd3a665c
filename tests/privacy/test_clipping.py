"""Clipped sums against a loop over single records in float64, and against Opacus's own hooks."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus.grad_sample import GradSampleModule
from tests.privacy import oracle
from tests.privacy.oracle import distance, size
from tests.privacy.setups import (
    CLIPS,
    RecordedMasks,
    clipped,
    excess,
    longest_summand,
    make_setup,
    network_of,
    records_of,
    repeating_batch,
    step_sums,
    weights_of,
)
from torch import nn

from pharma_fl.errors import PrivacyError
from pharma_fl.model.layers import SparseLinear
from pharma_fl.model.losses import network_losses, record_losses
from pharma_fl.privacy.clip import Clip
from pharma_fl.privacy.clipping import clipped_gradients

HEADS = ["classes", "values", "both", "split", "catalogue"]


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Two threads for so little work wait for each other most of the time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def heads_of(kind, rng, features):
    """What `make_setup` needs for a kind of heads over so many trunk outputs."""
    classes, values = int(rng.integers(1, 5)), int(rng.integers(1, 4))
    found = {"class_tasks": 0 if kind == "values" else classes, "value_tasks": 0 if kind == "classes" else values}
    chosen = {}
    if kind == "split":
        left = int(rng.integers(1, features + 1))
        chosen = {"class_features": left, "value_features": int(rng.integers(max(1, features - left), features + 1))}
    elif kind == "catalogue":
        found |= {"class_tasks": classes + 1, "catalogue_columns": classes + 2}
        chosen = {
            "class_features": int(rng.integers(1, features + 1)),
            # Always two tasks of one column, and then own and shared columns as they come.
            "catalogue": (0, 0, *(int(c) for c in rng.integers(-1, classes + 2, classes - 1))),
        }
    return found, chosen


def a_setup(
    kind,
    seed,
    hidden,
    *,
    n=6,
    frozen_layers=0,
    adapter_rank=0,
    label_rate=0.6,
    counts=False,
    duplicates=False,
    without_weight=0.0,
    **chosen,
):
    """Make a problem with one kind of heads; each task's weight is 0 with a chance of `without_weight`."""
    rng = np.random.default_rng(seed)
    shape, of_heads = heads_of(kind, rng, hidden[-1])
    setup = make_setup(
        seed,
        n=n,
        hidden=hidden,
        bits=int(rng.integers(8, 17)),
        settings=oracle.Settings(**(of_heads | chosen)),
        frozen_layers=frozen_layers,
        adapter_rank=adapter_rank if frozen_layers else 0,
        label_rate=label_rate,
        counts=counts,
        duplicates=duplicates,
        **shape,
    )
    for weights in (setup.problem.class_weights, setup.problem.value_weights, setup.problem.censored_weights):
        weights[rng.random(len(weights)) < without_weight] = 0.0
    return setup


def set_kernel(network, kernel, dtype=torch.float32):
    for layer in network.modules():
        if isinstance(layer, SparseLinear):
            layer.kernel, layer.dtype = kernel, dtype


def assert_equal(found, expected, norms, clip, *, relative=1e-5):
    assert set(found) == set(expected)
    assert all(value.dtype == torch.float32 for value in found.values())
    scale = max(size(expected), longest_summand(norms, clip))
    assert distance(found, expected) <= relative * scale


@st.composite
def clips(draw):
    mode = draw(st.sampled_from(["flat", "groups", "automatic", "adaptive"]))
    sizes = st.sampled_from([0.05, 0.7, 3.0] + [math.inf] * (mode != "automatic"))
    return Clip(mode=mode, norm=draw(sizes), head_norm=draw(sizes) if mode == "groups" else math.nan)


@pytest.mark.parametrize("kind", HEADS)
@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(0, 6),
    seed=st.integers(0, 10_000),
    hidden=st.lists(st.integers(1, 7), min_size=1, max_size=4),
    activation=st.sampled_from(["relu", "tanh"]),
    input_scale=st.sampled_from([0.4, 1.0]),
    dropout=st.sampled_from([0.0, 0.0, 0.4]),
    label_rate=st.sampled_from([0.0, 0.3, 1.0]),
    counts=st.booleans(),
    without_weight=st.sampled_from([0.0, 0.3]),
    frozen_layers=st.sampled_from([0, 0, 1, 2]),
    adapter_rank=st.integers(0, 2),
    clip=clips(),
    filled=st.booleans(),
    kernel=st.sampled_from(["gather", "dense"]),
    labelled_cells=st.booleans(),
)
def test_equals_a_loop_over_single_records(
    kind, n, seed, hidden, frozen_layers, adapter_rank, clip, filled, kernel, labelled_cells, **chosen
):
    frozen_layers = min(frozen_layers, len(hidden))
    if frozen_layers == len(hidden) and not adapter_rank and kind != "catalogue":
        frozen_layers = 0
    setup = a_setup(kind, seed, hidden, n=n, frozen_layers=frozen_layers, adapter_rank=adapter_rank, **chosen)
    network, records = network_of(setup), records_of(setup)
    set_kernel(network, kernel)
    rows = np.random.default_rng(seed).permutation(n)
    expected, norms = setup.expected(rows, clip)
    found = clipped(
        network,
        records,
        rows,
        clip,
        size=n + 5 if filled else None,
        labelled_cells=labelled_cells,
        masks=setup.of_rows(rows),
    )
    assert_equal(found.gradients, expected, norms, clip)
    first = [np.atleast_1d(norm)[0] for norm in norms]
    assert sum(norm < clip.norm * 0.9999 for norm in first) <= found.below
    assert found.below <= sum(norm < clip.norm * 1.0001 for norm in first)
    assert all(parameter.requires_grad == (name in expected) for name, parameter in network.named_parameters())
    assert not any(module._forward_hooks for module in network.modules())


@pytest.mark.parametrize("clip", CLIPS, ids=lambda clip: clip.mode)
@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("hidden", [(8,), (8, 16), (8, 16, 8), (8, 16, 8, 4)])
def test_a_step_over_fixed_blocks_has_the_same_sum(kind, hidden, clip):
    """Blank rows, blocks and the optimizer's way to them change nothing; half of the records are clipped."""
    setup = a_setup(kind, 3, hidden, n=20, counts=True)
    network, records = network_of(setup), records_of(setup)
    rows = np.arange(20)
    _, norms = setup.expected(rows, clip)
    norms = np.array(norms).reshape(20, -1)
    middle = np.median(norms[norms[:, 0] > 0], axis=0)
    clip = replace(clip, norm=middle[0], head_norm=middle[-1])
    expected, norms = setup.expected(rows, clip)
    for block in (32, 8):
        assert_equal(step_sums(network, records, rows, clip, physical_batch=block), expected, norms, clip)


@pytest.mark.parametrize("labelled_cells", [True, False])
@pytest.mark.parametrize("clip", CLIPS, ids=lambda clip: clip.mode)
@pytest.mark.parametrize("kind", HEADS)
def test_a_task_that_comes_twice_in_a_record_adds_up_before_it_is_squared(kind, clip, labelled_cells):
    setup = a_setup(kind, 8, (6, 5), n=8, duplicates=True, label_rate=0.3)
    cells = setup.problem.class_cells + setup.problem.value_cells
    assert len({cell[:2] for cell in cells}) < len(cells)
    network, batch = network_of(setup), repeating_batch(setup, range(8))
    expected, norms = setup.expected(range(8), clip)
    found = clipped_gradients(
        network,
        lambda: network_losses(network, batch, weights=weights_of(setup), labelled_cells=labelled_cells),
        clip,
    )
    assert_equal(found.gradients, expected, norms, clip)


class DenseNetwork(nn.Module):
    """The same network over dense rows, in layers that Opacus's hooks know."""

    def __init__(self, setup):
        super().__init__()
        self.settings = setup.settings
        for name, value in setup.parameters.items():
            if name.endswith("weight") and len(value):
                weight = value.T if name.startswith("trunk.input") else value
                layer = nn.Linear(weight.shape[1], weight.shape[0])
                layer.load_state_dict({"weight": weight, "bias": setup.parameters[name.replace("weight", "bias")]})
                self.add_module(name.removesuffix(".weight").replace(".", "_"), layer)

    def forward(self, x):
        settings, layers = self.settings, dict(self.named_children())
        activation = {"relu": torch.relu, "tanh": torch.tanh}[settings.activation]
        features = settings.input_scale * x
        for name, layer in layers.items():
            if name.startswith("trunk") and name != "trunk_catalogue":
                features = activation(layer(features))
        left = features if settings.class_features is None else features[:, : settings.class_features]
        right = features if settings.value_features is None else features[:, -settings.value_features :]
        logits, values = (
            layers[name](given) if name in layers else given[:, :0]
            for name, given in (("heads_classes", left), ("heads_values", right))
        )
        if settings.catalogue is not None:
            columns = torch.tensor(settings.catalogue)
            logits = torch.where(columns >= 0, layers["trunk_catalogue"](left)[:, columns.clamp(min=0)], logits)
        return logits, values


@pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning")
@pytest.mark.parametrize("labelled_cells", [True, False])
@pytest.mark.parametrize("kind", HEADS)
def test_equals_opacus_hooks(kind, labelled_cells):
    setup = a_setup(kind, 5, (8, 6), n=24, counts=True, activation="tanh", input_scale=0.4)
    records = records_of(setup)
    batch = records.all()
    hooked = GradSampleModule(DenseNetwork(setup), loss_reduction="sum")
    logits, values = hooked(torch.from_numpy(setup.problem.x).float())
    losses = record_losses(
        logits[batch.classes.rows, batch.classes.columns],
        values[batch.values.rows, batch.values.columns],
        batch,
        weights=records.weights,
    )
    losses.sum().backward()
    samples = {name.replace("_module.", ""): p.grad_sample for name, p in hooked.named_parameters()}
    norms = torch.sqrt(sum(g.flatten(1).square().sum(1) for g in samples.values()))
    clip = Clip(norm=float(norms.median()))
    factors = (clip.norm / norms).clamp(max=1.0)
    ours = clipped(network_of(setup), records, range(24), clip, labelled_cells=labelled_cells).gradients
    summed = {name: torch.einsum("b,b...->...", factors, g) for name, g in samples.items()}
    compared = 0
    for name, value in ours.items():
        layer, part = name.rsplit(".", 1)
        key = f"{layer.replace('.', '_')}.{part}"
        if key in summed:
            torch.testing.assert_close(
                value.T if name == "trunk.input.weight" else value, summed[key], rtol=1e-4, atol=1e-6
            )
            compared += 1
    assert compared == len(summed)


@pytest.mark.parametrize("clip", CLIPS, ids=lambda clip: clip.mode)
@pytest.mark.parametrize("labelled_cells", [True, False])
@pytest.mark.parametrize("hidden", [(7,), (6, 5, 7, 6)])
@pytest.mark.parametrize("kind", HEADS)
def test_in_bfloat16_the_sum_is_near_and_no_contribution_above_the_clip(kind, hidden, labelled_cells, clip):
    setup = a_setup(kind, 11, hidden, n=16, counts=True, label_rate=0.8)
    network, records = network_of(setup), records_of(setup)
    set_kernel(network, "dense", torch.bfloat16)
    expected, norms = setup.expected(range(16), clip)
    options = {"size": 32, "labelled_cells": labelled_cells, "bfloat16": True}
    found = clipped(network, records, range(16), clip, **options).gradients
    assert_equal(found, expected, norms, clip, relative=0.1)
    assert distance(found, expected) > 1e-4 * size(expected)
    for row in range(16):
        one = clipped(network, records, [row], clip.tightened(0.99), **options).gradients
        assert excess(one, clip) <= 1


def test_in_bfloat16_rounding_exceeds_a_clip_that_is_not_tightened():
    """One factor for all bits: where that is rounded up, so is the whole contribution. Steps tighten their clip."""
    lengths = {1.0: [], 0.99: []}
    of_steps = []
    for seed in range(40):
        setup = make_setup(seed, n=1, hidden=(1,), bits=100, label_rate=1.0, bit_rate=1.0)
        network, records = network_of(setup), records_of(setup)
        set_kernel(network, "dense", torch.bfloat16)
        clip = Clip(norm=1e-3)
        for margin, found in lengths.items():
            found.append(size(clipped(network, records, [0], clip.tightened(margin), bfloat16=True).gradients))
        of_steps.append(size(step_sums(network, records, [0], clip, physical_batch=1, precision="bfloat16")))
    assert max(lengths[1.0]) > 1e-3 * 1.0005
    for tightened in (lengths[0.99], of_steps):
        assert max(tightened) <= 1e-3
        assert min(tightened) > 0.98e-3


@pytest.mark.parametrize("hidden", [(7,), (7, 6)])
def test_in_bfloat16_sums_are_not_rounded(hidden):
    """Eight bits for the sum of 300 records would hide one of them, or count it twice."""
    setup = make_setup(0, n=1, hidden=hidden, label_rate=1.0)
    network, records = network_of(setup), records_of(setup)
    set_kernel(network, "dense", torch.bfloat16)
    clip = Clip(norm=1e-3)
    many, fewer = (
        clipped(network, records, [0] * n, clip.tightened(0.99), size=320, bfloat16=True).gradients for n in (300, 299)
    )
    moved = {name: many[name].double() - fewer[name].double() for name in many}
    assert 0.97 < excess(moved, clip) <= 1


def test_counts_that_bfloat16_rounds_are_clipped_as_they_were_rounded():
    """259 becomes 260 in eight bits: a norm of the exact count would be too small."""
    setup = make_setup(1, n=1, hidden=(3,), label_rate=1.0)
    setup.problem.x[0] = 0
    setup.problem.x[0, 2] = 259
    setup.parameters["trunk.input.weight"].mul_(1e-3)
    network, records = network_of(setup), records_of(setup)
    set_kernel(network, "dense", torch.bfloat16)
    batch = records.all().x
    assert network.trunk.input.input_squares(batch).tolist() == [260.0**2]
    set_kernel(network, "gather", torch.bfloat16)
    assert network.trunk.input.input_squares(batch).tolist() == [259.0**2]


@pytest.mark.parametrize("kind", HEADS)
def test_blocks_add_up_to_one_batch(kind):
    setup = a_setup(kind, 2, (6, 5), n=21)
    network, records = network_of(setup), records_of(setup)
    clip = Clip(norm=0.4)
    whole = clipped(network, records, range(21), clip)
    into = {name: torch.full_like(value, math.nan) for name, value in whole.gradients.items()}
    places = {name: value.data_ptr() for name, value in into.items()}
    below = 0
    for first in (0, 8, 16):
        part = np.arange(first, min(first + 8, 21))
        sums = clipped(network, records, part, clip, size=8, into=into, add=first > 0)
        assert sums.gradients is into
        below += sums.below
    # A block of blank rows alone, and none at all.
    assert clipped(network, records, [], clip, size=8, into=into, add=True).below == 0
    assert clipped(network, records, [], clip, into=into, add=True).below == 0
    assert {name: value.data_ptr() for name, value in into.items()} == places
    assert distance(into, whole.gradients) <= 1e-6 * size(whole.gradients)
    assert below == whole.below
    assert 0 < below < 21


def test_a_layer_that_nobody_used_gets_zeros():
    setup = make_setup(0, n=6, hidden=(5,), settings=oracle.Settings(catalogue=(-1, -1, -1)), catalogue_columns=2)
    network = network_of(setup)
    expected, norms = setup.expected(range(6), CLIPS[0])
    into = {name: torch.full_like(value, math.nan) for name, value in network.named_parameters()}
    clipped(network, records_of(setup), range(6), CLIPS[0], into=into)
    assert_equal(into, expected, norms, CLIPS[0])
    assert size({"weight": into["trunk.catalogue.weight"]}) == 0.0
    before = {name: value.clone() for name, value in into.items()}
    clipped(network, records_of(setup), range(6), CLIPS[0], into=into, add=True)
    assert distance(into, {name: 2 * value for name, value in before.items()}) <= 1e-6 * size(before)


@pytest.mark.parametrize("rows", [0, 8])
def test_an_empty_batch_gives_zeros(rows):
    setup = a_setup("both", 0, (6, 5))
    network = network_of(setup)
    into = {name: torch.full_like(value, math.nan) for name, value in network.named_parameters()}
    found = clipped(network, records_of(setup), [], Clip(norm=1.0), size=rows, into=into)
    assert size(into) == 0.0
    assert found.below == 0


@pytest.mark.parametrize("labelled_cells", [True, False])
@pytest.mark.parametrize("clip", CLIPS, ids=lambda clip: clip.mode)
@pytest.mark.parametrize("kind", HEADS)
def test_records_without_labels_contribute_nothing_and_are_within_the_clip(kind, clip, labelled_cells):
    setup = a_setup(kind, 0, (6, 5), label_rate=0.0)
    found = clipped(network_of(setup), records_of(setup), range(6), clip, size=8, labelled_cells=labelled_cells)
    assert size(found.gradients) == 0.0
    assert found.below == 6


@pytest.mark.parametrize("labelled_cells", [True, False])
def test_whether_a_record_counts_as_within_the_clip_does_not_depend_on_others(labelled_cells):
    """A record without labels, whose input is too long for a layer that only labels make anyone train."""
    setup = make_setup(0, n=6, hidden=(5, 4), label_rate=1.0)
    setup.parameters["trunk.input.bias"].fill_(1e8)
    setup.parameters["trunk.middle.0.weight"].mul_(1e-10)
    quiet = replace(
        setup.problem,
        class_cells=[cell for cell in setup.problem.class_cells if cell.row == 5],
        value_cells=[cell for cell in setup.problem.value_cells if cell.row == 5],
    )
    setup = replace(setup, problem=quiet)
    assert quiet.class_cells
    network, records = network_of(setup), records_of(setup)
    counts = [
        clipped(network, records, range(n), Clip(norm=1.0), size=8, labelled_cells=labelled_cells).below for n in (5, 6)
    ]
    assert abs(counts[0] - counts[1]) <= 1


@pytest.mark.parametrize("clip", CLIPS, ids=lambda clip: clip.mode)
@pytest.mark.parametrize("kernel", ["gather", "dense"])
@pytest.mark.parametrize("kind", oracle.SPOILS)
def test_a_record_that_is_not_finite_or_huge_contributes_nothing(kind, kernel, clip):
    setup = make_setup(1, n=6, hidden=(5, 4), label_rate=1.0, counts=True)
    spoilt = replace(setup, problem=oracle.spoil(setup.problem, 2, kind))
    network, records = network_of(setup), records_of(replace(setup, problem=place_for(setup.problem)))
    mutate(records, spoilt.problem)
    set_kernel(network, kernel)
    expected, norms = spoilt.expected(range(6), clip)
    found = clipped(network, records, range(6), clip, size=8)
    assert all(torch.isfinite(value).all() for value in found.gradients.values())
    usable = [norm for row, norm in enumerate(norms) if row != 2]
    assert_equal(found.gradients, expected, usable, clip)
    assert size(expected) > 0


def place_for(problem):
    """Make room in a problem for what `oracle.spoil` puts in record 2."""
    for kind in ("huge count", "nan class", "huge value"):
        problem = oracle.spoil(problem, 2, kind)
    return replace(
        problem,
        class_cells=[cell._replace(value=0.0) if math.isnan(cell.value) else cell for cell in problem.class_cells],
    )


def mutate(records, problem):
    """Put a problem's numbers into records that were checked before."""
    dense = torch.from_numpy(problem.x).float().numpy()
    rows = np.repeat(np.arange(len(problem)), np.diff(records.x.indptr))
    records.x.data[:] = dense[rows, records.x.indices]
    for matrix, cells in ((records.classes, problem.class_cells), (records.values, problem.value_cells)):
        values = {cell[:2]: cell.value for cell in cells}
        rows = np.repeat(np.arange(len(problem)), np.diff(matrix.indptr))
        for place, key in enumerate(zip(rows.tolist(), matrix.indices.tolist(), strict=True)):
            matrix.data[place] = values.get(key, 0.0)
    censors = {cell[:2]: cell.censor for cell in problem.value_cells}
    rows = np.repeat(np.arange(len(problem)), np.diff(records.censor.indptr))
    records.censor.data[:] = [
        censors.get(key, 0.0) for key in zip(rows.tolist(), records.censor.indices.tolist(), strict=True)
    ]


@pytest.mark.parametrize("scale", [0.5, 2.0])
@pytest.mark.parametrize("layer", ["trunk.input", "trunk.middle.0", "heads.values"])
def test_an_input_above_a_million_drops_the_record(layer, scale):
    """One record on either side of the limit, of each layer; the first layer's limit is after `input_scale`."""
    settings = oracle.Settings(input_scale=0.25)
    setup = make_setup(3, n=1, hidden=(4, 5), class_tasks=0, value_tasks=1, settings=settings, label_rate=1.0)
    parameters = setup.parameters
    setup.problem.x[0] = 0
    for name in ("trunk.input.bias", "trunk.middle.0.bias"):
        parameters[name].fill_(1.0)
    for name in ("trunk.input.weight", "trunk.middle.0.weight"):
        parameters[name].fill_(1e-20)
    if layer == "trunk.input":
        setup.problem.x[0, 3] = 4e6 * scale
    else:
        name, width = {"trunk.middle.0": ("trunk.input.bias", 4), "heads.values": ("trunk.middle.0.bias", 5)}[layer]
        parameters[name].fill_(1e6 * scale / math.sqrt(width))
    network, records = network_of(setup), records_of(setup)
    expected, norms = setup.expected([0], Clip(norm=1.0))
    assert (size(expected) > 0) == (scale < 1)
    found = clipped(network, records, [0], Clip(norm=1.0))
    if scale < 1:
        assert_equal(found.gradients, expected, norms, Clip(norm=1.0))
    else:
        assert size(found.gradients) == 0.0
        assert found.below == 0


def test_what_a_frozen_layer_is_given_does_not_count():
    setup = make_setup(3, n=2, hidden=(4, 5), frozen_layers=1, label_rate=1.0)
    setup.problem.x[0, 3] = 1e8
    setup.parameters["trunk.input.weight"][3] = 1e-9
    expected, norms = setup.expected(range(2), CLIPS[0])
    found = clipped(network_of(setup), records_of(setup), range(2), CLIPS[0])
    assert_equal(found.gradients, expected, norms, CLIPS[0])
    assert min(norms) > 0.1
    assert "trunk.input.weight" not in found.gradients


@pytest.mark.parametrize("too_long", ["trunk", "heads"])
def test_one_group_above_the_limit_drops_the_record(too_long):
    """What is left of it would be a record of its own kind: heads whose trunk no training makes, or the other way."""
    setup = make_setup(3, n=1, hidden=(4,), class_tasks=0, value_tasks=1, settings=oracle.Settings(activation="tanh"))
    setup.parameters["trunk.input.weight"].zero_()
    setup.parameters["trunk.input.bias"].zero_()
    setup.parameters["heads.values.weight"].fill_({"trunk": 1e13, "heads": 1e-10}[too_long])
    value = {"trunk": 5.0, "heads": 1e13}[too_long]
    setup = replace(setup, problem=replace(setup.problem, value_cells=[oracle.Cell(0, 0, value)]))
    clip = CLIPS[1]
    expected, ((trunk, heads),) = setup.expected([0], clip)
    assert min(trunk, heads) < 1e6
    assert max(trunk, heads) > 1e12
    assert size(expected) == 0.0
    found = clipped(network_of(setup), records_of(setup), [0], clip)
    assert size(found.gradients) == 0.0
    assert found.below == 0


def test_dropout_takes_its_masks_from_the_source_alone():
    setup = a_setup("both", 3, (6, 5), dropout=0.5, label_rate=1.0)
    network, records = network_of(setup), records_of(setup)
    clip = Clip(norm=0.5)

    def once(seed):
        torch.manual_seed(seed)
        return clipped(network, records, range(6), clip, masks=setup.masks).gradients

    assert distance(once(0), once(1)) == 0
    assert network.trunk.dropout.training
    with pytest.raises(PrivacyError, match="PFL-P01"):
        clipped(network, records, range(6), clip)
    network.eval()
    with_all, norms = replace(setup, masks=None).expected(range(6), clip)
    assert_equal(clipped(network, records, range(6), clip).gradients, with_all, norms, clip)


@pytest.mark.parametrize("layer", [nn.AlphaDropout(0.5), nn.Dropout1d(0.5)])
def test_dropout_of_another_kind_is_refused(layer):
    network = nn.Sequential(nn.Linear(3, 3), layer)
    with pytest.raises(PrivacyError, match="PFL-P01"):
        clipped_gradients(network, lambda: network(torch.ones(2, 3)).sum(1), Clip(norm=1.0), masks=RecordedMasks([], 2))


def test_batch_norm_is_refused():
    for mixing in (nn.BatchNorm1d(3, affine=False), nn.InstanceNorm1d(3)):
        network = nn.Sequential(nn.Linear(3, 3), mixing)
        with pytest.raises(PrivacyError, match="mixes records"):
            clipped_gradients(network, lambda n=network: n(torch.zeros(2, 3)).sum(1), Clip(norm=1.0))


def test_a_layer_without_an_exact_norm_is_refused():
    network = nn.Sequential(nn.Embedding(3, 3))
    with pytest.raises(PrivacyError, match="no exact per-record norm"):
        clipped_gradients(network, lambda: network(torch.zeros(2, dtype=torch.long)).sum(1), Clip(norm=1.0))


def test_a_layer_called_twice_is_refused():
    layer = nn.Linear(3, 3)
    with pytest.raises(PrivacyError, match="twice"):
        clipped_gradients(nn.Sequential(layer), lambda: layer(layer(torch.zeros(2, 3))).sum(1), Clip(norm=1.0))


def test_a_refusal_leaves_the_network_as_it_was():
    layer = nn.Linear(3, 3)
    with pytest.raises(PrivacyError):
        clipped_gradients(nn.Sequential(layer), lambda: layer(layer(torch.zeros(2, 3))).sum(1), Clip(norm=1.0))
    assert all(parameter.requires_grad for parameter in layer.parameters())
    assert not layer._forward_hooks
