"""Server steps against PyTorch by hand."""

import pytest
import torch

from pharma_fl.config import TrainingSettings
from pharma_fl.strategies.server_optimizer import ServerOptimizer, norm, weighted_mean

TRUNK = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([[3.0]])}
CHANGE = {"a": torch.tensor([0.5, -1.0]), "b": torch.tensor([[2.0]])}


def settings(**changes):
    return TrainingSettings(**changes)


def test_the_default_adds_the_mean_change():
    optimizer = ServerOptimizer(TRUNK, settings())
    optimizer.step(CHANGE)
    for name, value in optimizer.trunk.items():
        torch.testing.assert_close(value, TRUNK[name] + CHANGE[name])


def test_momentum_remembers():
    optimizer = ServerOptimizer(TRUNK, settings(server_momentum=0.5))
    optimizer.step(CHANGE)
    optimizer.step(CHANGE)
    torch.testing.assert_close(optimizer.trunk["a"], TRUNK["a"] + 2.5 * CHANGE["a"])


def test_adam_steps_by_sign_first():
    optimizer = ServerOptimizer(TRUNK, settings(server_optimizer="adam", server_learning_rate=0.1, server_momentum=0.9))
    optimizer.step(CHANGE)
    torch.testing.assert_close(optimizer.trunk["a"], TRUNK["a"] + 0.1 * torch.tensor([1.0, -1.0]))


def test_the_trunk_given_is_not_changed():
    before = {name: value.clone() for name, value in TRUNK.items()}
    ServerOptimizer(TRUNK, settings()).step(CHANGE)
    assert all(torch.equal(TRUNK[name], value) for name, value in before.items())


def test_weights_are_normalised_over_who_answered():
    changes = {"x": {"a": torch.ones(2)}, "y": {"a": torch.zeros(2)}}
    mean = weighted_mean(changes, {"x": 3.0, "y": 1.0, "absent": 100.0})
    torch.testing.assert_close(mean["a"], torch.full((2,), 0.75))


def test_norm():
    assert norm({"a": torch.tensor([3.0]), "b": torch.tensor([[4.0]])}) == pytest.approx(5.0)
