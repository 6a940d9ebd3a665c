"""Blocks in which a row's result does not depend on its place: what is kept, and what is found out."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import poisson
from tests.conftest import SeededNoise
from tests.privacy.oracle import Settings, distance, size
from tests.privacy.setups import Silence, make_setup, network_of, records_of, step_sums
from torch import nn
from torch.nn import functional

from pharma_fl.config import ModelSettings
from pharma_fl.model.losses import network_losses
from pharma_fl.model.network import SparseMultitaskNetwork
from pharma_fl.privacy import dp_sgd, row_independence
from pharma_fl.privacy.clip import Clip
from pharma_fl.privacy.clipping import clipped_gradients
from pharma_fl.privacy.dp_sgd import DpSgd
from pharma_fl.privacy.plan import PrivacyPlan
from pharma_fl.privacy.row_independence import block_rows, independent_rows


@pytest.fixture(autouse=True)
def _measured_anew():
    row_independence._same_linear.cache_clear()
    yield
    row_independence._same_linear.cache_clear()


def a_network(*hidden, activation="tanh"):
    model = ModelSettings(input_bits=64, hidden=hidden, activation=activation)
    return SparseMultitaskNetwork(model, class_tasks=3, value_tasks=1, seed=0)


# Widths are multiples of 4 where 64 rows shall be kept: rows of others begin at addresses of another alignment, and
# some products of MKL round by that.
def at_one_place(out):
    """Change the last bit of one row's last number, and nothing else."""
    out = out.clone()
    out[-1, -1] = torch.nextafter(out[-1, -1], torch.tensor(math.inf))
    return out


def plant(monkeypatch, kind, broken):
    """Let rows of a product differ by their place where `broken((inputs, outputs), rows)`."""
    name = {"product": "_forward", "back": "_backward"}[kind]
    real = getattr(row_independence, name)

    def planted(rows, weight, *bias):
        out = real(rows, weight, *bias)
        return at_one_place(out) if broken((weight.shape[1], weight.shape[0]), len(rows)) else out

    monkeypatch.setattr(row_independence, name, planted)


class PlacedTanh(nn.Tanh):
    """An activation of PyTorch's kind whose rows differ by their place, at some widths."""

    def __init__(self, widths):
        super().__init__()
        self.widths = widths

    def forward(self, x):
        out = super().forward(x)
        return at_one_place(out) if x.shape[1] in self.widths and len(x) > 1 else out


PlacedTanh.__module__ = nn.modules.activation.__name__


@pytest.mark.parametrize("hidden", [(8,), (512, 512), (512, 64, 32)])
@pytest.mark.parametrize("rows", [32, 96, 352])
def test_a_multiple_of_32_rows_is_kept(hidden, rows):
    kept = independent_rows(a_network(*hidden), rows)
    assert kept % 32 == 0
    assert 32 <= kept <= rows


@pytest.mark.parametrize("wanted", [1, 2, 7, 50, 64])
def test_what_is_kept_is_true(wanted):
    """Each product of the network, and its gradient, of rows other than those that were measured."""
    network = a_network(512, 300, 1)
    kept = independent_rows(network, wanted)
    assert 1 <= kept <= wanted
    generator = torch.Generator().manual_seed(7)
    for layer in network.trunk.middle:
        forward = torch.randn(layer.in_features, generator=generator)
        back = torch.randn(layer.out_features, generator=generator)
        for place in range(kept):
            rows = torch.randn(kept, layer.in_features, generator=generator)
            rows[place] = forward
            out = functional.linear(rows, layer.weight.detach(), layer.bias.detach())
            errors = torch.randn(kept, layer.out_features, generator=generator)
            errors[place] = back
            into = errors @ layer.weight.detach()
            if place == 0:
                first = out[place], into[place]
            assert torch.equal(out[place], first[0])
            assert torch.equal(into[place], first[1])


@pytest.mark.parametrize("kind", ["product", "back"])
def test_a_product_that_depends_on_the_place_leaves_one_row(monkeypatch, kind):
    network = a_network(16, 16)
    assert independent_rows(network, 64) == 64
    row_independence._same_linear.cache_clear()
    plant(monkeypatch, kind, lambda _, rows: rows > 1)
    assert independent_rows(network, 64) == 1


def test_the_largest_block_that_is_independent_is_kept(monkeypatch):
    plant(monkeypatch, "product", lambda _, rows: rows > 16)
    assert independent_rows(a_network(16, 16), 64) == 16


def test_one_layer_among_many_is_enough(monkeypatch):
    plant(monkeypatch, "back", lambda shape, _: shape == (24, 40))
    assert independent_rows(a_network(16, 24, 32), 64) == 64
    assert independent_rows(a_network(16, 24, 40), 64) == 1


@pytest.mark.parametrize(("hidden", "widths"), [((16, 16), {16}), ((16,), {16}), ((16, 8), {8}), ((16, 8), {16})])
def test_an_activation_that_depends_on_the_place_leaves_one_row(hidden, widths):
    network = a_network(*hidden)
    network.trunk.activation = PlacedTanh(set())
    assert independent_rows(network, 64) == 64
    network.trunk.activation = PlacedTanh(widths)
    assert independent_rows(network, 64) == 1


class OwnLayer(nn.Module):
    """A layer with a product of its own, which rounds by place at one shape."""

    def __init__(self, shapes, broken=None):
        super().__init__()
        self.shapes, self.broken = shapes, broken
        self.weight = nn.Parameter(torch.zeros(1))

    def dense_shapes(self):
        return self.shapes

    def dense_product(self, rows, weight):
        out = rows @ weight
        return at_one_place(out) if tuple(weight.shape) == self.broken and len(rows) > 1 else out


def test_products_of_own_layers_are_measured_as_they_are_run():
    assert independent_rows(nn.Sequential(OwnLayer([(12, 32)], broken=(12, 36)), nn.Tanh()), 64) == 64
    assert independent_rows(nn.Sequential(OwnLayer([(12, 32), (12, 36)], broken=(12, 36)), nn.Tanh()), 64) == 1


@pytest.mark.parametrize("width", [5, 7, 8, 9, 32])
def test_the_first_layers_product_is_measured_where_its_kernel_is_dense(width):
    """Widths beside the vectors' length are rounded by place on some machines: then blocks must be smaller."""
    network = a_network(width)
    assert independent_rows(network, 352) == 352
    layer = network.trunk.input
    layer.kernel = "dense"
    kept = independent_rows(network, 352)
    row = (torch.rand(64) < 0.3).float()
    found = layer.dense_product(row.expand(kept, -1).contiguous(), layer.weight.detach())
    assert torch.equal(found, found[:1].expand_as(found))


def test_a_step_uses_one_row_where_places_matter_and_has_the_same_sum(monkeypatch):
    setup = make_setup(0, n=12, hidden=(16, 16), settings=Settings(activation="tanh"))
    network, records = network_of(setup), records_of(setup)
    clip = Clip(norm=0.5)
    whole = step_sums(network, records, range(12), clip, physical_batch=32)
    row_independence._same_linear.cache_clear()
    plant(monkeypatch, "product", lambda _, rows: rows > 1)
    sizes = []

    class Watched:
        def __len__(self):
            return 12

        def batch(self, rows, size):
            sizes.append(size)
            return records.batch(rows, size=size)

    private = a_mechanism(network, records, physical_batch=32)
    assert private.physical_batch == 1
    private.step(Watched())
    assert sizes == [1] * 12
    assert distance(step_sums(network, records, range(12), clip, physical_batch=32), whole) <= 1e-6 * size(whole)


def a_mechanism(network, records, **options):
    plan = PrivacyPlan(
        sample_rate=1.0,
        noise_multiplier=1.0,
        clipping_norm=0.5,
        expected_batch=12.0,
        delta=1e-5,
        rounds=1,
        steps_per_round=1,
    )
    return DpSgd(
        plan,
        network,
        torch.optim.SGD(network.parameters(), lr=0.0),
        record_losses=lambda network, batch: network_losses(network, batch, weights=records.weights),
        **({"noise": SeededNoise()} | options),
    )


def test_a_smaller_block_after_running_out_of_memory_is_measured_too(monkeypatch):
    setup = make_setup(0, n=12, hidden=(16, 16))
    network, records = network_of(setup), records_of(setup)
    plant(monkeypatch, "product", lambda _, rows: rows == 64)
    blocks = []

    def engine(network, record_losses, clip, **options):
        def losses():
            found = record_losses()
            blocks.append(len(found))
            if len(found) > 64:
                raise torch.OutOfMemoryError
            return found

        return clipped_gradients(network, losses, clip, **options)

    private = a_mechanism(network, records, physical_batch=128, engine=engine, noise=Silence())
    assert private.physical_batch == 128
    private.rehearse(lambda rows: records.batch(np.arange(12), rows))
    assert blocks[0] == 128
    assert blocks[-1] == private.physical_batch
    assert 64 not in blocks


def test_a_step_measures_what_it_was_asked_for(monkeypatch):
    asked = []
    monkeypatch.setattr(dp_sgd, "independent_rows", lambda _, wanted, dtype: asked.append(wanted) or 3)
    setup = make_setup(0, n=7, hidden=(6,))
    network, records = network_of(setup), records_of(setup)
    assert a_mechanism(network, records).physical_batch == 3
    assert a_mechanism(network, records, physical_batch=50).physical_batch == 3
    assert asked == [block_rows(12.0), 50]


def test_a_block_holds_nearly_every_sample():
    for expected in (0.5, 3.0, 10.0, 256.0, 1000.0, 4096.0):
        rows = block_rows(expected)
        assert rows % 32 == 0
        assert rows >= expected
        assert poisson.sf(rows, expected) < 1e-3
        assert rows <= expected + 4 * math.sqrt(expected) + 32
    assert block_rows(1e6) == 8192
    assert block_rows(1e6, most=96) == 96
    assert np.all(np.diff([block_rows(float(expected)) for expected in range(1, 3000)]) >= 0)
