"""Clipped sums against a loop over single records in float64, and against Opacus's own hooks."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus.grad_sample import GradSampleModule
from pydantic import ValidationError
from tests.conftest import losses_of, make_records
from torch import nn

from pharma_fl.config import ModelSettings
from pharma_fl.errors import PrivacyError
from pharma_fl.model.network import SparseMultitaskNetwork
from pharma_fl.privacy.clipping import clipped_gradients


def network_for(records, hidden=(8,), seed=0, activation="tanh", dropout=0.0):
    model = ModelSettings(input_bits=records.x.shape[1], hidden=hidden, activation=activation, dropout=dropout)
    tasks = records.classes.shape[1], records.values.shape[1]
    return SparseMultitaskNetwork(model, class_tasks=tasks[0], value_tasks=tasks[1], seed=seed)


def in_float64(records):
    double = make_records(1)
    double.__dict__.update(records.__dict__)
    double.__dict__["class_weights"] = records.class_weights.double()
    double.__dict__["value_weights"] = records.value_weights.double()
    return double


def loop(network, records, rows, clipping_norm):
    """The oracle: one record at a time, plain autograd, float64."""
    network = network.double()
    wide = in_float64(records)
    total = {name: torch.zeros_like(p) for name, p in network.named_parameters()}
    norms = []
    for row in rows:
        batch = records.batch(np.array([row]))
        for cells in (batch.classes, batch.values):
            cells.__dict__["values"] = cells.values.double()
            cells.__dict__["censor"] = cells.censor.double()
        network.zero_grad()
        losses_of(network, batch, wide).sum().backward()
        gradients = {
            n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in network.named_parameters()
        }
        norm = float(torch.sqrt(sum(g.square().sum() for g in gradients.values())))
        norms.append(norm)
        scale = min(1.0, clipping_norm / norm) if norm else 1.0
        for name, gradient in gradients.items():
            total[name] += scale * gradient
    network.float()
    return total, norms


def distance(a, b):
    return float(torch.sqrt(sum((a[n].double() - b[n].double()).square().sum() for n in a)))


def size(a):
    return float(torch.sqrt(sum(v.double().square().sum() for v in a.values())))


def clipped(network, records, rows, clipping_norm):
    batch = records.batch(np.asarray(rows, dtype=np.int64))
    return clipped_gradients(network, lambda: losses_of(network, batch, records), clipping_norm)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(0, 24),
    class_tasks=st.integers(0, 5),
    value_tasks=st.integers(0, 3),
    hidden=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    activation=st.sampled_from(["relu", "tanh"]),
    label_rate=st.sampled_from([0.0, 0.3, 1.0]),
    clipping_norm=st.sampled_from([0.05, 0.7, 3.0, float("inf")]),
    seed=st.integers(0, 10_000),
)
def test_equals_a_loop_over_single_records(
    n, class_tasks, value_tasks, hidden, activation, label_rate, clipping_norm, seed
):
    if class_tasks + value_tasks == 0:
        class_tasks = 1
    records = make_records(
        max(n, 1), class_tasks=class_tasks, value_tasks=value_tasks, seed=seed, label_rate=label_rate
    )
    network = network_for(records, hidden=tuple(hidden), seed=seed, activation=activation)
    rows = np.arange(n)
    expected, _ = loop(network, records, rows, clipping_norm)
    assert distance(clipped(network, records, rows, clipping_norm), expected) <= 1e-5 * max(size(expected), 1e-3)


@pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning")
def test_equals_opacus_hooks():
    records = make_records(32, seed=5, value_tasks=0)
    network = network_for(records)
    batch = records.all()

    class Dense(nn.Module):
        """The same network over dense rows, in layers that Opacus's hooks know."""

        def __init__(self):
            super().__init__()
            self.input = nn.Linear(64, 8)
            self.head = nn.Linear(8, 3)

        def forward(self, x):
            return self.head(torch.tanh(self.input(x)))

    dense = Dense()
    with torch.no_grad():
        dense.input.weight.copy_(network.trunk.input.weight.T)
        dense.input.bias.copy_(network.trunk.input.bias)
        dense.head.load_state_dict(network.head.state_dict())
    hooked = GradSampleModule(dense, loss_reduction="sum")
    logits = hooked(network.trunk.input.scale * torch.from_numpy(records.x.toarray()))
    from pharma_fl.model.losses import record_losses

    losses = record_losses(
        logits,
        logits.new_zeros(32, 0),
        batch,
        class_weights=records.class_weights,
        value_weights=records.value_weights,
    )
    losses.sum().backward()
    samples = {name: p.grad_sample for name, p in dense.named_parameters()}
    norms = torch.sqrt(sum(g.flatten(1).square().sum(1) for g in samples.values()))
    factors = (0.3 / norms).clamp(max=1.0)
    ours = clipped(network, records, np.arange(32), 0.3)
    assert (norms > 0.3).any()
    assert (norms < 0.3).any()
    summed = {name: torch.einsum("b,b...->...", factors, g) for name, g in samples.items()}
    torch.testing.assert_close(ours["trunk.input.weight"].T, summed["input.weight"], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(ours["head.weight"], summed["head.weight"], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(ours["trunk.input.bias"], summed["input.bias"], rtol=1e-4, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), clipping_norm=st.sampled_from([0.1, 1.0]), removed=st.integers(0, 11))
def test_removing_one_record_moves_the_sum_by_at_most_the_clip(seed, clipping_norm, removed):
    records = make_records(12, seed=seed, label_rate=0.8)
    network = network_for(records, hidden=(6, 5), seed=seed)
    rows = np.arange(12)
    whole = clipped(network, records, rows, clipping_norm)
    without = clipped(network, records, np.delete(rows, removed), clipping_norm)
    assert distance(whole, without) <= clipping_norm * (1 + 1e-5)


def test_the_neighbour_test_catches_a_loss_divided_by_the_batch():
    """The planted bug of masked multitask losses: dividing by the batch's label count."""
    records = make_records(12, seed=3, label_rate=0.2)
    records.classes.data[:] = 1
    network = network_for(records)
    rows = np.arange(12)

    def coupled(rows):
        batch = records.batch(rows)
        labels = len(batch.classes.rows) + len(batch.values.rows)
        return clipped_gradients(network, lambda: 40 * losses_of(network, batch, records) / labels, 5.0)

    moved = max(
        distance(coupled(rows), coupled(np.delete(rows, i)))
        - min(5.0, distance(coupled(np.array([i])), coupled(np.array([], dtype=np.int64))) if len(rows) else 0)
        for i in range(12)
    )
    honest = max(
        distance(clipped(network, records, rows, 5.0), clipped(network, records, np.delete(rows, i), 5.0))
        - distance(clipped(network, records, [i], 5.0), clipped(network, records, [], 5.0))
        for i in range(12)
    )
    assert honest < 1e-5
    assert abs(moved) > 1e-2


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_record_that_is_not_finite_contributes_nothing(bad):
    records = make_records(6, seed=1, label_rate=1.0)
    network = network_for(records, activation="relu")
    expected = clipped(network, records, [0, 1, 3, 4, 5], 1.0)
    records.values.data[records.values.indptr[2]] = bad
    records.censor.data[:] = 0
    expected = clipped(network, records, [0, 1, 3, 4, 5], 1.0)
    found = clipped(network, records, range(6), 1.0)
    assert all(torch.isfinite(v).all() for v in found.values())
    assert distance(found, expected) < 1e-6


def test_an_empty_batch_gives_zeros():
    records = make_records(3)
    network = network_for(records)
    assert size(clipped(network, records, [], 1.0)) == 0.0


def test_records_without_labels_contribute_nothing():
    records = make_records(4, label_rate=0.0)
    assert size(clipped(network_for(records), records, range(4), 1.0)) == 0.0


def test_batch_norm_is_refused():
    network = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3, affine=False))
    with pytest.raises(PrivacyError, match="mixes records"):
        clipped_gradients(network, lambda: network(torch.zeros(2, 3)).sum(1), 1.0)


def test_a_layer_without_an_exact_norm_is_refused():
    network = nn.Sequential(nn.Embedding(3, 3))
    with pytest.raises(PrivacyError, match="no exact per-record norm"):
        clipped_gradients(network, lambda: network(torch.zeros(2, dtype=torch.long)).sum(1), 1.0)


def test_a_layer_called_twice_is_refused():
    layer = nn.Linear(3, 3)
    with pytest.raises(PrivacyError, match="twice"):
        clipped_gradients(nn.Sequential(layer), lambda: layer(layer(torch.zeros(2, 3))).sum(1), 1.0)


def joint_norm(network, records, row, clipping_norm):
    return size(clipped(network, records, [row], clipping_norm))


@pytest.mark.parametrize("clipping_norm", [1e-9, 1e-6, 1e-3])
@pytest.mark.parametrize("scale", [1e3, 3e18])
def test_a_gradient_too_small_to_square_in_float32_is_clipped(scale, clipping_norm):
    """Backprops near 1e-23 square to 0 in float32, while their product with a huge input is far above the clip."""
    records = make_records(1, class_tasks=0, value_tasks=1, seed=2, label_rate=1.0)
    records.censor.data[:] = 0
    model = ModelSettings(input_bits=64, hidden=(4096,), activation="relu")
    network = SparseMultitaskNetwork(model, class_tasks=0, value_tasks=1, seed=0)
    network.trunk.input.scale = scale
    with torch.no_grad():
        network.trunk.input.weight.fill_(1e-30)
        network.head.weight.fill_(1.0)
        network.head.bias.fill_(1.0)
    for power in range(-30, -10):
        records.value_weights.fill_(10.0**power)
        assert joint_norm(network, records, 0, clipping_norm) <= clipping_norm * (1 + 1e-5)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1000),
    weights=st.integers(-38, 37),
    head=st.integers(-38, 37),
    loss=st.integers(-38, 37),
    clipping_norm=st.sampled_from([1e-9, 1e-3, 1.0, 1e9]),
    activation=st.sampled_from(["relu", "tanh"]),
)
def test_no_finite_weights_break_the_clip(seed, weights, head, loss, clipping_norm, activation):
    """Hostile trunks and settings: every sum is finite, and one record moves it by no more than the clip."""
    records = make_records(6, seed=seed, label_rate=0.9)
    network = network_for(records, hidden=(5, 4), seed=seed, activation=activation)
    with torch.no_grad():
        for parameter in network.trunk.parameters():
            parameter.mul_(10.0**weights)
        network.head.weight.mul_(10.0**head)
    records.class_weights.fill_(10.0**loss)
    records.value_weights.fill_(10.0**loss)
    whole = clipped(network, records, range(6), clipping_norm)
    assert all(torch.isfinite(v).all() for v in whole.values())
    for row in range(6):
        assert joint_norm(network, records, row, clipping_norm) <= clipping_norm * (1 + 1e-5)


def test_a_dropped_record_leaves_no_trace_of_its_bits():
    """Infinity times zero is NaN, and a NaN under a bit's weights would tell that some record has the bit."""
    records = make_records(4, seed=1, label_rate=1.0)
    network = network_for(records)
    with torch.no_grad():
        network.head.weight.fill_(3e38)
    found = clipped(network, records, range(4), 1.0)
    assert all(torch.equal(v, torch.zeros_like(v)) for v in found.values())
    with pytest.raises(ValidationError, match="input_scale"):
        ModelSettings(input_scale=1e100)


@pytest.mark.parametrize("n", [2, 3, 4, 5, 8, 9, 17, 33, 64, 65])
def test_weights_that_cancel_do_not_tell_how_many_records_there_are(n):
    """What is left of a - a is rounding alone, and an ordinary matrix product rounds by the size of the batch."""
    records = make_records(n, class_tasks=0, value_tasks=1, seed=3, label_rate=1.0)
    records.censor.data[:] = 0
    network = network_for(records, hidden=(512, 512))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        half = torch.randn((512, 256), generator=generator) * 1e8
        network.trunk.middle[0].weight.copy_(torch.cat([half, -half.flip(1)], 1))
        network.trunk.input.bias.fill_(100.0)
        network.head.weight.fill_(0.1)
    whole = clipped(network, records, range(n), 1.0)
    assert size(whole) > 0.5
    for removed in {0, n // 2, n - 1}:
        without = clipped(network, records, [row for row in range(n) if row != removed], 1.0)
        assert distance(whole, without) <= 1 + 1e-5


def test_a_layer_whose_input_is_too_large_for_exact_products_drops_the_record():
    records = make_records(4, seed=1, label_rate=1.0)
    network = network_for(records, activation="relu")
    network.trunk.input.scale = 1e7
    with torch.no_grad():
        network.trunk.input.weight.mul_(1e-7)
    assert size(clipped(network, records, range(4), 1.0)) == 0.0
