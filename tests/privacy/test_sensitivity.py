"""No record moves the sum by more than the clip: random and adversarial records, hostile weights, hostile settings.

Weights and settings come from the coordinator, who may choose them to break the arithmetic, and who may own some of
the records. What keeps him from it is that a record's gradient is, bit for bit, a function of that record and public
numbers alone: then a record more adds its own contribution and changes no other.
"""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tests.privacy import oracle
from tests.privacy.oracle import distance, size
from tests.privacy.setups import (
    BLOCK,
    CLIPS,
    clipped,
    excess,
    make_setup,
    network_of,
    records_of,
    step_sums,
)

from pharma_fl.config import ModelSettings
from pharma_fl.model.layers import SparseLinear
from pharma_fl.model.losses import network_losses
from pharma_fl.model.network import SparseMultitaskNetwork
from pharma_fl.privacy import clipping
from pharma_fl.privacy.clip import Clip
from pharma_fl.privacy.clipping import clipped_gradients
from pharma_fl.privacy.row_independence import independent_rows

ROUNDING = 1 + 1e-5


def block_sums(network, records, rows, clip):
    """Return the sums of one block, filled up with blank rows."""
    return clipped(network, records, rows, clip, size=BLOCK).gradients


PATHS = [block_sums, step_sums]


@pytest.fixture
def _one_thread():
    """Two threads for little work wait for each other most of the time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def difference(a, b):
    return {name: a[name].double() - b[name].double() for name in a}


def without(rows, row):
    return [other for other in rows if other != row]


def assert_bounded(sums_of, network, records, clip):
    """Remove each record in turn; return how far the longest moved the sum, in units of the clip."""
    rows = range(len(records))
    whole = sums_of(network, records, rows, clip)
    assert all(torch.isfinite(value).all() for value in whole.values())
    moves = [excess(difference(whole, sums_of(network, records, without(rows, row), clip)), clip) for row in rows]
    assert max(moves) <= ROUNDING
    return max(moves)


# --- records ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_one_thread")
@pytest.mark.parametrize("sums_of", PATHS)
@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    clip=st.sampled_from(CLIPS),
    scale=st.sampled_from([1e-3, 1.0, 1e3]),
    hidden=st.sampled_from([(8,), (8, 4), (8, 4, 12)]),
    activation=st.sampled_from(["relu", "tanh"]),
    kernel=st.sampled_from(["gather", "dense"]),
)
def test_removing_one_record_moves_the_sum_by_at_most_the_clip(sums_of, seed, clip, scale, hidden, activation, kernel):
    setup = make_setup(seed, n=7, hidden=hidden, counts=True, settings=oracle.Settings(activation=activation))
    network, records = network_of(setup), records_of(setup)
    network.trunk.input.kernel = kernel
    clip = replace(clip, norm=clip.norm * scale, head_norm=clip.head_norm * scale)
    assert assert_bounded(sums_of, network, records, clip) > 0


def spoil(records, row, kind):
    """Make a record what no record should be; `Records` was checked before."""
    field, value = {
        "huge count": ("x", 1e9),
        "infinite bit": ("x", math.inf),
        "nan bit": ("x", math.nan),
        "nan class": ("classes", math.nan),
        "infinite class": ("classes", math.inf),
        "class of a million": ("classes", 1e6),
        "nan value": ("values", math.nan),
        "infinite value": ("values", -math.inf),
        "huge value": ("values", 3e38),
        "large value": ("values", 1e11),
        "nan censor": ("censor", math.nan),
    }[kind]
    matrix = getattr(records, field)
    assert matrix.indptr[row + 1] > matrix.indptr[row]
    matrix.data[matrix.indptr[row]] = value


SPOILS = [
    "huge count",
    "infinite bit",
    "nan bit",
    "nan class",
    "infinite class",
    "class of a million",
    "nan value",
    "infinite value",
    "huge value",
    "large value",
    "nan censor",
]


@pytest.mark.usefixtures("_one_thread")
@pytest.mark.parametrize("clip", CLIPS, ids=lambda clip: clip.mode)
@pytest.mark.parametrize("kind", SPOILS)
def test_adversarial_records_move_the_sum_by_at_most_the_clip(kind, clip):
    """One of them beside honest ones, of which one has hundreds of labels; each of them is removed in turn."""
    setup = make_setup(5, n=8, hidden=(8, 4), class_tasks=300, value_tasks=40, counts=True, label_rate=0.02)
    many = [oracle.Cell(0, task, float(task % 2)) for task in range(300)]
    more = [oracle.Cell(0, task, 30.0) for task in range(40)]
    rows = range(1, 8)
    labels = [oracle.Cell(row, 0, 1.0) for row in rows]
    setup = replace(
        setup,
        problem=replace(
            setup.problem,
            x=np.maximum(setup.problem.x, np.eye(8, 12)),
            class_cells=many + labels + [cell for cell in setup.problem.class_cells if cell.row and cell.task],
            value_cells=more + labels + [cell for cell in setup.problem.value_cells if cell.row and cell.task],
        ),
    )
    network, records = network_of(setup), records_of(setup)
    spoil(records, 3, kind)
    assert assert_bounded(block_sums, network, records, clip) > 0.9
    network.trunk.activation = torch.nn.Tanh()
    assert assert_bounded(step_sums, network, records, clip) > 0.9


@pytest.mark.usefixtures("_one_thread")
@pytest.mark.parametrize("bug", ["divided", "weighted"])
def test_the_neighbour_test_catches_a_loss_that_mixes_records(bug):
    """The planted bug of masked multitask losses, dividing by the batch's label count; and weighing by its loss."""
    setup = make_setup(3, n=8, hidden=(6,), class_tasks=300, value_tasks=1, label_rate=0.02)
    many = [oracle.Cell(0, task, float(task % 2)) for task in range(300)]
    rest = [cell for cell in setup.problem.class_cells if cell.row]
    setup = replace(setup, problem=replace(setup.problem, class_cells=many + rest))
    network, records = network_of(setup), records_of(setup)
    clip = Clip(norm=0.05)

    def mixed(network, records, rows, clip):
        rows = np.asarray(rows, dtype=np.int64)
        batch = records.batch(rows, size=BLOCK)
        labels = len(batch.classes) + len(batch.values)

        def losses():
            own = network_losses(network, batch, weights=records.weights)
            return own / labels if bug == "divided" else own / own.detach().sum()

        return clipped_gradients(network, losses, clip, records=len(rows)).gradients

    with pytest.raises(AssertionError):
        assert_bounded(mixed, network, records, clip)
    assert_bounded(block_sums, network, records, clip)


class OverTheBatch(torch.nn.Module):
    """What batch normalisation does, under a name that nobody refuses."""

    def forward(self, rows):
        return (rows - rows.mean(0)) / (rows.std(0) + 1e-3)


def batch_norm(network, records, rows, clip):
    mixing = copy.deepcopy(network)
    mixing.trunk.activation = torch.nn.Sequential(mixing.trunk.activation, OverTheBatch())
    return block_sums(mixing, records, rows, clip)


def heads_unclipped(network, records, rows, clip):
    """The trunk clipped by its own norm, and the heads' gradient added as it is."""
    frozen = copy.deepcopy(network)
    frozen.heads.requires_grad_(requires_grad=False)
    whole = block_sums(network, records, rows, Clip(norm=math.inf))
    return whole | block_sums(frozen, records, rows, clip)


def heads_without_noise(network, records, rows, clip):
    """What a step releases of the trunk, after the heads took some steps of their own in the clear."""
    private = copy.deepcopy(network)
    batch = records.batch(np.asarray(rows, dtype=np.int64), size=BLOCK)
    optimizer = torch.optim.SGD(private.heads.parameters(), lr=0.5)
    for _ in range(100):
        optimizer.zero_grad()
        network_losses(private, batch, weights=records.weights).sum().backward()
        optimizer.step()
    private.zero_grad()
    sums = block_sums(private, records, rows, clip)
    return {name: value for name, value in sums.items() if name.startswith("trunk.")}


@pytest.mark.usefixtures("_one_thread")
@pytest.mark.parametrize("bug", [batch_norm, heads_unclipped, heads_without_noise])
def test_the_neighbour_test_catches_what_spoils_a_private_network(bug):
    """Planted bugs of networks with private heads: each lets one record move the sum by more than the clip."""
    setup = make_setup(4, n=16, hidden=(8, 4), class_tasks=6, value_tasks=0, label_rate=0.9)
    network, records = network_of(setup), records_of(setup)
    clip = Clip(norm=0.01)
    with pytest.raises(AssertionError, match=" <= 1.00001"):
        assert_bounded(bug, network, records, clip)
    assert assert_bounded(block_sums, network, records, clip) > 0.9


# --- weights ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_one_thread")
@pytest.mark.parametrize("sums_of", PATHS)
@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000),
    weights=st.integers(-38, 37),
    head=st.integers(-38, 37),
    loss=st.integers(-38, 37),
    size_of_clip=st.sampled_from([1e-9, 1e-3, 1.0, 1e9]),
    clip=st.sampled_from(CLIPS),
    activation=st.sampled_from(["relu", "tanh"]),
)
def test_no_finite_weights_break_the_clip(sums_of, seed, weights, head, loss, size_of_clip, clip, activation):
    """Hostile trunks and settings, gradients and losses that overflow or vanish."""
    setup = make_setup(seed, n=6, hidden=(8, 4), label_rate=0.9, settings=oracle.Settings(activation=activation))
    network, records = network_of(setup), records_of(setup)
    with torch.no_grad():
        for parameter in network.trunk.parameters():
            parameter.mul_(10.0**weights)
        network.heads.classes.weight.mul_(10.0**head)
        network.heads.values.weight.mul_(10.0**head)
    records.weights.classes.fill_(10.0**loss)
    records.weights.values.fill_(10.0**loss)
    assert_bounded(sums_of, network, records, replace(clip, norm=size_of_clip, head_norm=size_of_clip))


@pytest.mark.usefixtures("_one_thread")
@pytest.mark.parametrize("labelled_cells", [True, False])
@pytest.mark.parametrize("layer", ["trunk", "heads"])
@pytest.mark.parametrize("size_of_clip", [1e-18, 1e-9, 1e-3])
def test_a_gradient_too_small_to_square_in_float32_is_clipped(size_of_clip, layer, labelled_cells):
    """Backprops near 1e-23 square to 0 in float32, while their product with a large input is above such a clip."""
    setup = make_setup(2, n=1, hidden=(1024,), class_tasks=0, value_tasks=2, label_rate=1.0)
    network, records = network_of(setup), records_of(setup)
    records.censor.data[:] = 0
    with torch.no_grad():
        network.trunk.input.weight.fill_(1e-30)
        if layer == "trunk":
            network.trunk.input.scale = 1e5
            network.trunk.input.bias.zero_()
            network.heads.values.weight.fill_(1.0)
        else:
            network.trunk.input.bias.fill_(1e4)
            network.heads.values.weight.zero_()
        network.heads.values.bias.fill_(1.0)
    lengths = []
    for power in range(-30, -4):
        records.weights.values.fill_(10.0**power)
        found = clipped(network, records, [0], Clip(norm=size_of_clip), labelled_cells=labelled_cells)
        lengths.append(size(found.gradients))
    assert max(lengths) <= size_of_clip * ROUNDING
    assert max(lengths) > 0.99 * size_of_clip


@pytest.mark.usefixtures("_one_thread")
def test_a_dropped_record_leaves_no_trace_of_its_bits():
    """Infinity times zero is NaN, and a NaN under a bit's weights would tell that some record has the bit."""
    setup = make_setup(1, n=4, hidden=(6,), label_rate=1.0, settings=oracle.Settings(activation="tanh"))
    network, records = network_of(setup), records_of(setup)
    with torch.no_grad():
        network.heads.classes.weight.fill_(3e38)
        network.heads.values.weight.fill_(3e38)
    for sums_of in PATHS:
        found = sums_of(network, records, range(4), Clip(norm=1e-9))
        assert all((value.abs() < 1e-18).all() for value in found.values())
    exact = block_sums(network, records, range(4), Clip(norm=1.0))
    assert all(torch.equal(value, torch.zeros_like(value)) for value in exact.values())
    with pytest.raises(ValidationError, match="input_scale"):
        ModelSettings(input_scale=1e100)


@pytest.mark.usefixtures("_one_thread")
def test_a_layer_whose_input_is_too_large_for_exact_products_drops_the_record():
    setup = make_setup(1, n=4, hidden=(6,), label_rate=1.0)
    network, records = network_of(setup), records_of(setup)
    assert size(block_sums(network, records, range(4), Clip(norm=1.0))) > 0
    network.trunk.input.scale = 1e7
    with torch.no_grad():
        network.trunk.input.weight.mul_(1e-7)
    labelled_and_bare = [row for row in range(4) if not setup.problem.x[row].any()]
    assert len(labelled_and_bare) == 2
    found = block_sums(network, records, range(4), Clip(norm=1.0))
    bare = block_sums(network, records, labelled_and_bare, Clip(norm=1.0))
    assert distance(found, bare) == 0


def cancelling(activation):
    """A network of which rounding is all that is left, and everything: a - a, a hundred million times."""
    setup = make_setup(
        3,
        n=66,
        hidden=(512, 512),
        class_tasks=0,
        value_tasks=1,
        label_rate=1.0,
        settings=oracle.Settings(activation=activation),
    )
    network, records = network_of(setup), records_of(setup)
    records.censor.data[:] = 0
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        # With ReLU larger weights would make gradients so long that every record is dropped.
        half = torch.randn((512, 256), generator=generator) * {"tanh": 1e8, "relu": 1e4}[activation]
        network.trunk.middle[0].weight.copy_(torch.cat([half, -half.flip(1)], 1))
        network.trunk.middle[0].bias.zero_()
        network.trunk.input.weight.zero_()
        network.trunk.input.bias.fill_({"tanh": 100.0, "relu": 1.0}[activation])
        network.heads.values.weight.fill_(0.1)
    rows = [row for row in range(66) if records.values.indptr[row + 1] > records.values.indptr[row]]
    return network, records, rows


@pytest.mark.usefixtures("_one_thread")
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_weights_that_cancel_do_not_tell_how_many_records_there_are(activation):
    """What is left of a - a is rounding alone, and an ordinary matrix product rounds by the size of the batch."""
    network, records, rows = cancelling(activation)
    clip, kept = Clip(norm=1.0), independent_rows(network, BLOCK)
    previous = step_sums(network, records, [], clip)
    assert size(previous) == 0.0
    for n in range(1, len(rows)):  # one record more each time, over the edge of a block
        whole = step_sums(network, records, rows[:n], clip)
        assert size(whole) > 0.5
        assert distance(whole, previous) <= ROUNDING
        if n <= kept:
            in_one = clipped(network, records, rows[:n], clip, size=kept).gradients
            assert distance(whole, in_one) < 1e-5
        previous = whole
    assert len(rows) > BLOCK - 1


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("n", [31, 63])
def test_weights_that_cancel_do_not_tell_which_record_is_gone(n, activation):
    """Here all that come behind it move up by one row, some into another block."""
    network, records, rows = cancelling(activation)
    clip = Clip(norm=1.0)
    for block in (BLOCK, 32):
        whole = step_sums(network, records, rows[:n], clip, physical_batch=block)
        for removed in (0, n // 2):
            left = step_sums(network, records, without(rows[:n], rows[removed]), clip, physical_batch=block)
            assert distance(whole, left) <= ROUNDING


@pytest.mark.usefixtures("_one_thread")
@pytest.mark.parametrize("sums_of", PATHS)
@pytest.mark.parametrize("mode", ["flat", "groups"])
def test_rounding_of_the_loss_does_not_tell_how_many_labels_there_are(mode, sums_of):
    """Two errors of one record cancel exactly, if each is rounded the same way wherever its label stands in the batch.

    The first label has the logit 0 and the error 1/2; the second has an error of s, its weight is 2^30 and the first's
    2 s 2^30. Where the second's error is rounded to another number than s, the record's gradient is far above the clip.
    """
    # On a CPU torch.sigmoid rounds by the place of a number in its tensor: vectors first, then single numbers. Used as
    # it is, it lets one record more move the sum by 20 clips here.
    logits = torch.linspace(0.001, 3, 3000)
    in_vectors = torch.sigmoid(logits.repeat_interleave(BLOCK))[::BLOCK]
    alone = torch.cat([torch.sigmoid(one) for one in logits.split(1)])
    differ = torch.nonzero(in_vectors != alone).flatten().tolist() or [0]
    logit, error = float(logits[differ[0]]), float(in_vectors[differ[0]])
    weight = 2.0**30
    n, bits = 34, 8
    full = np.arange(n * bits) % bits
    empty = sp.csr_array((n, 0), dtype=np.float32)
    setup = make_setup(0, n=n, hidden=(4,), class_tasks=2, value_tasks=0, bits=bits, catalogue_columns=2)
    records = replace(
        records_of(setup),
        x=sp.csr_array((np.ones(n * bits, np.float32), full, np.arange(0, n * bits + 1, bits)), shape=(n, bits)),
        classes=sp.csr_array(
            (np.zeros(2 * n, np.float32), np.tile([0, 1], n), np.arange(0, 2 * n + 1, 2)), shape=(n, 2)
        ),
        values=empty,
        censor=empty,
    )
    records.weights.classes.fill_(1.0)
    network = network_of(replace(setup, settings=oracle.Settings(catalogue=(0, 1))))
    trunk = network.trunk
    with torch.no_grad():
        trunk.input.weight.zero_()
        trunk.input.bias.copy_(torch.tensor([0.0, 0.0, 1.0, 1.0]))
        trunk.catalogue.weight.zero_()
        trunk.catalogue.weight[0, 2:] = torch.tensor([2 * weight * error, -2 * weight * error])
        trunk.catalogue.weight[1, 2:] = torch.tensor([-weight, weight])
        trunk.catalogue.bias.copy_(torch.tensor([0.0, logit]))
    clip = Clip(norm=1.0, mode=mode, head_norm=1.0)
    previous = sums_of(network, records, [], clip)
    for count in range(1, n):
        whole = sums_of(network, records, range(count), clip)
        assert excess(difference(whole, previous), clip) <= ROUNDING
        previous = whole


# --- bit for bit --------------------------------------------------------------------------------------------------


def parts_of(monkeypatch, network, records, rows, place, size):
    """Return every number of which the contribution of one row of a block is made."""
    found = {}
    real = clipping._gradient_sums

    def spy(call, coefficients, into, *, finite, add):
        layer, backprops, inputs = call.layer, call.backprops, call.inputs
        cells = inputs[1] if len(inputs) > 1 else None
        own = slice(place, place + 1) if cells is None else slice(*cells.offsets[place : place + 2].tolist())
        name = next(name for name, module in network.named_modules() if module is layer)
        found[name] = {"backprops": backprops[own], "coefficient": coefficients[place]}
        if cells is not None:
            found[name]["columns"] = cells.columns[own]
        if isinstance(inputs[0], torch.Tensor):
            found[name]["inputs"] = inputs[0][place]
        real(call, coefficients, into, finite=finite, add=add)

    with monkeypatch.context() as patch:
        patch.setattr(clipping, "_gradient_sums", spy)
        clipped(network, records, rows, Clip(mode="groups", norm=0.3, head_norm=0.2), size=size)
    return {f"{name}, {part}": value.clone() for name, parts in found.items() for part, value in parts.items()}


HEADS = {"values": (0, 40), "classes": (60, 0), "catalogue": (60, 40)}


@pytest.mark.usefixtures("_one_thread")
@pytest.mark.parametrize("kernel", ["gather", "dense"])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("hidden", [(48,), (48, 33), (256, 512)])
@pytest.mark.parametrize("heads", HEADS)
def test_a_record_contributes_the_same_bits_whatever_the_others_are(monkeypatch, heads, hidden, activation, kernel):
    """Alone, among few and many, with few and many bits and labels, first and last and between."""
    assert_same_bits(monkeypatch, heads, hidden, activation, kernel)


def test_a_record_contributes_the_same_bits_with_all_threads(monkeypatch):
    """Threads share the rows among them, and here there are enough to share."""
    assert_same_bits(monkeypatch, "catalogue", (256, 512), "tanh", "gather")


def assert_same_bits(monkeypatch, heads, hidden, activation, kernel):
    class_tasks, value_tasks = HEADS[heads]
    columns = tuple(range(20)) + (-1,) * 40 if heads == "catalogue" else None
    shape = {"class_tasks": class_tasks, "value_tasks": value_tasks, "bits": 200, "counts": True}
    chosen = oracle.Settings(activation=activation, catalogue=columns, input_scale=0.4)
    of_all = [
        make_setup(
            seed, n=40, hidden=hidden, settings=chosen, catalogue_columns=20, label_rate=rate, bit_rate=rate, **shape
        )
        for seed, rate in ((0, 0.5), (1, 0.02), (2, 0.95))
    ]
    network = network_of(of_all[0])
    every = [records_of(setup) for setup in of_all]
    records = replace(
        every[0],
        **{field: sp.vstack([getattr(one, field) for one in every]) for field in ("x", "classes", "values", "censor")},
    )
    for layer in network.modules():
        if isinstance(layer, SparseLinear):
            layer.kernel = kernel
    size = independent_rows(network, BLOCK)
    rng = np.random.default_rng(4)
    target = next(row for row in range(40) if np.diff(every[0].x.indptr)[row] and label_count(every[0], row) > 15)
    alone = parts_of(monkeypatch, network, records, [target], 0, size)
    assert any(value.any() for name, value in alone.items() if "backprops" in name)
    for neighbours in sorted({1, 2, 7, 16, 31, 32, 33, 62, 63, *rng.integers(1, 64, 8)} & set(range(size))):
        rows = rng.permutation(without(range(len(records)), target))[:neighbours]
        place = int(rng.choice([0, neighbours, rng.integers(0, neighbours + 1)]))
        among = parts_of(monkeypatch, network, records, np.insert(rows, place, target), place, size)
        assert set(among) == set(alone)
        for name, value in alone.items():
            assert torch.equal(among[name], value), f"{name} with {neighbours} others at {place}"


def label_count(records, row):
    return sum(matrix.indptr[row + 1] - matrix.indptr[row] for matrix in (records.classes, records.values))


@pytest.mark.usefixtures("_one_thread")
def test_a_record_of_a_wide_network_that_nobody_chose_is_clipped():
    """The public start of a network as it is trained, with a hundred tasks."""
    network = SparseMultitaskNetwork(
        ModelSettings(input_bits=2048, hidden=(64,)), class_tasks=100, value_tasks=20, seed=1
    )
    setup = make_setup(0, n=5, hidden=(64,), bits=2048, class_tasks=100, value_tasks=20, bit_rate=0.03, label_rate=0.8)
    for clip in CLIPS:
        assert assert_bounded(step_sums, network, records_of(setup), clip) > 0.9
