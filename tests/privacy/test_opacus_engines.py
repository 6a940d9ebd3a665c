"""Opacus's clipped sums of our network, against our own."""

from functools import partial

import pytest
import torch
from opacus.validators import ModuleValidator
from tests.conftest import SeededNoise, make_records
from torch import nn

from pharma_fl.config import ModelSettings
from pharma_fl.errors import PrivacyError
from pharma_fl.model.fit import new_network
from pharma_fl.model.losses import network_losses
from pharma_fl.privacy.clip import Clip
from pharma_fl.privacy.clipping import clipped_gradients
from pharma_fl.privacy.dp_sgd import DpSgd
from pharma_fl.privacy.opacus_engines import ghost_sums, hooks_sums
from pharma_fl.privacy.plan import PrivacyPlan

ENGINES = [hooks_sums, ghost_sums]


def a_network(records, **changes):
    settings = {"input_bits": records.x.shape[1], "hidden": (8,)} | changes
    return new_network(ModelSettings(**settings), records, seed=3)


def losses_for(network, records, batch=None):
    batch = records.all() if batch is None else batch
    return partial(network_losses, network, batch, weights=records.weights, labelled_cells=False)


def assert_equal(found, expected):
    assert set(found.gradients) == set(expected.gradients)
    for name, value in expected.gradients.items():
        torch.testing.assert_close(
            found.gradients[name], value, rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}"
        )
    assert found.below == expected.below


def traces(network):
    """What Opacus or this module could have left behind."""
    found = [name for name, m in network.named_modules() if m._forward_hooks or m._backward_hooks]
    found += [name for name, m in network.named_modules() if m._forward_pre_hooks or m._backward_pre_hooks]
    kept = {"activations", "max_batch_len", "autograd_grad_sample_hooks"}
    found += [f"{name}: {kept & set(vars(m))}" for name, m in network.named_modules() if kept & set(vars(m))]
    return found + [f"{name}: {vars(p)}" for name, p in network.named_parameters() if vars(p)]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("hidden", [(8,), (8, 6)])
@pytest.mark.parametrize(("class_tasks", "value_tasks"), [(3, 0), (3, 2), (0, 2)])
@pytest.mark.parametrize("quantile", [0.5, 1.0])
def test_equals_our_sums(engine, hidden, class_tasks, value_tasks, quantile):
    records = make_records(40, class_tasks=class_tasks, value_tasks=value_tasks, seed=5)
    network = a_network(records, hidden=hidden)
    losses = losses_for(network, records)
    norm = 0.4 if quantile < 1 else 1e6
    expected = clipped_gradients(network, losses, Clip(norm=norm))
    assert (expected.below == 40) == (quantile == 1.0)
    assert_equal(engine(network, losses, Clip(norm=norm)), expected)
    assert not traces(network)


@pytest.mark.parametrize("engine", ENGINES)
def test_equals_our_sums_with_counts_catalogue_and_frozen_layers(engine):
    records = make_records(20, class_tasks=3, value_tasks=1, seed=6)
    records.x.data[:] = torch.rand(len(records.x.data)).numpy() + 0.5
    records.weights.catalogue[:] = torch.tensor([1, -1, 0])
    for frozen in (0, 1):
        network = a_network(records, hidden=(8, 6), catalogue=(11, 12), frozen_layers=frozen, input_scale=0.3)
        losses = losses_for(network, records)
        assert_equal(engine(network, losses, Clip(norm=0.5)), clipped_gradients(network, losses, Clip(norm=0.5)))


@pytest.mark.parametrize("engine", ENGINES)
def test_blank_rows_contribute_nothing_and_blocks_add_up(engine):
    records = make_records(30, seed=7)
    network = a_network(records)
    clip = Clip(norm=0.5)
    whole = clipped_gradients(network, losses_for(network, records), clip)
    into = {name: torch.full_like(p, 7.0) for name, p in network.named_parameters()}
    below = 0
    for first, last in ((0, 17), (17, 30)):
        batch = records.batch(torch.arange(first, last).numpy(), size=20)
        part = engine(
            network, losses_for(network, records, batch), clip, records=last - first, into=into, add=first > 0
        )
        assert part.gradients is into
        below += part.below
    assert_equal(type(whole)(gradients=into, below=below), whole)

    rows = torch.ones(4, 3)
    plain = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 1))
    # Blank rows of another kind may have losses, which must not count.
    found = engine(plain, lambda: plain(rows).square().sum(1), clip, records=3)
    assert_equal(found, clipped_gradients(plain, lambda: plain(rows).square().sum(1), clip, records=3))


@pytest.mark.parametrize("engine", ENGINES)
def test_an_empty_batch_is_zero(engine):
    records = make_records(5, seed=8)
    network = a_network(records)
    empty = losses_for(network, records, records.batch(torch.arange(0).numpy(), size=0))
    blank = losses_for(network, records, records.batch(torch.arange(0).numpy(), size=4))
    into = {name: torch.ones_like(p) for name, p in network.named_parameters()}
    for losses in (empty, blank):
        assert engine(network, losses, Clip(norm=1.0), records=0, into=into, add=True).below == 0
        assert all(bool((value == 1).all()) for value in into.values())
    assert engine(network, empty, Clip(norm=1.0), records=0, into=into).below == 0
    assert not any(bool(value.any()) for value in into.values())
    assert not traces(network)


@pytest.mark.parametrize("engine", ENGINES)
def test_takes_a_step_of_the_mechanism(engine):
    records = make_records(40, seed=9)
    plan = PrivacyPlan(
        sample_rate=0.5,
        noise_multiplier=1e-6,
        clipping_norm=0.5,
        expected_batch=20.0,
        delta=1e-5,
        rounds=1,
        steps_per_round=2,
    )
    trained = []
    for which in (engine, clipped_gradients):
        network = a_network(records)
        mechanism = DpSgd(
            plan,
            network,
            torch.optim.SGD(network.parameters(), lr=0.5),
            record_losses=partial(network_losses, weights=records.weights, labelled_cells=False),
            noise=SeededNoise(1),
            physical_batch=16,
            engine=which,
        )
        mechanism.step(records)
        mechanism.step(records)
        assert mechanism.steps_taken == 2
        trained.append(torch.cat([p.detach().flatten() for p in network.parameters()]))
    torch.testing.assert_close(trained[0], trained[1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("engine", ENGINES)
def test_leaves_the_network_as_it_was(engine):
    records = make_records(12, seed=10)
    network = a_network(records).eval()
    for p in network.parameters():
        p.grad = torch.full_like(p, 3.0)
        p.summed_grad = "an optimizer's"
    engine(network, losses_for(network, records), Clip(norm=0.5))
    assert all(vars(p) == {"summed_grad": "an optimizer's"} for p in network.parameters())
    for p in network.parameters():
        del p.summed_grad
    assert not traces(network)
    assert not any(module.training for module in network.modules())
    assert all(bool((p.grad == 3).all()) for p in network.parameters())

    def broken():
        losses_for(network, records)()
        raise RuntimeError("after the forward")

    with pytest.raises(RuntimeError, match="after the forward"):
        engine(network, broken, Clip(norm=0.5))
    assert not traces(network)


@pytest.mark.parametrize("engine", ENGINES)
def test_what_opacus_cannot_do_is_refused(engine):
    records = make_records(12, seed=11)
    network = a_network(records, dropout=0.5)
    with pytest.raises(PrivacyError, match="dropout"):
        engine(network, losses_for(network, records), Clip(norm=0.5))
    network.eval()
    engine(network, losses_for(network, records), Clip(norm=0.5))
    for clip in (Clip(mode="automatic", norm=0.5), Clip(mode="groups", norm=0.5, head_norm=0.5)):
        with pytest.raises(PrivacyError, match="mode flat"):
            engine(network, losses_for(network, records), clip)
    at_cells = partial(network_losses, network, records.all(), weights=records.weights)
    with pytest.raises(PrivacyError, match="labelled_cells=False"):
        engine(network, at_cells, Clip(norm=0.5))
    assert not traces(network)
    with pytest.raises(PrivacyError, match="buffers"):
        engine(nn.BatchNorm1d(3), lambda: torch.zeros(1), Clip(norm=0.5))


@pytest.mark.parametrize("hidden", [(8,), (8, 6)])
def test_opacus_finds_nothing_wrong_with_the_network(hidden):
    assert ModuleValidator.validate(a_network(make_records(4), hidden=hidden).train(), strict=False) == []
