"""Rounds at a partner whose unit is a series, against a loop over single compounds."""

import numpy as np
import pytest
import torch
from tests.conftest import SeededNoise
from tests.partners import MODEL, TRAINING, a_partner, a_plan, a_request

from pharma_fl.clients.records import open_records, training_folds
from pharma_fl.clients.train import train_round
from pharma_fl.model.fit import new_network
from pharma_fl.model.losses import network_losses
from pharma_fl.model.network import load_trunk
from pharma_fl.privacy.charge import Charge
from pharma_fl.privacy.entries import Reserved
from pharma_fl.privacy.ledger import Ledger

N = 100
SERIES = np.random.default_rng(5).integers(0, 40, N)
SERIES_BUDGET = {"budget": {"epsilon": 5.0, "delta": 1e-5, "unit": "series", "series_size": 8}}


class Quiet(SeededNoise):
    """Adds nothing."""

    def add_normal(self, tensor, std, scale=1.0):
        tensor.mul_(scale)


def of_series(**changes):
    fields = {"unit": "series", "max_series_size": 8, "sample_rate": 1.0, "steps_per_round": 1, "clipping_norm": 0.3}
    return a_plan(**(fields | changes))


def gradient_of(network, records, row):
    """Return one compound's gradient over all parameters, in one long row."""
    network.zero_grad()
    network_losses(network, records.batch(np.array([row])), weights=records.weights).sum().backward()
    return torch.cat([p.grad.flatten() if p.grad is not None else torch.zeros(p.numel()) for p in network.parameters()])


@pytest.mark.parametrize("physical_batch", [None, 16])
def test_a_round_moves_the_trunk_by_the_clipped_sums_of_whole_series(tmp_path, physical_batch):
    compute = {} if physical_batch is None else {"compute": {"physical_batch": physical_batch}}
    partner = a_partner(tmp_path, n=N, series=SERIES, **SERIES_BUDGET, **compute)
    plan = of_series()
    request = a_request(plan=plan)
    reply = train_round(partner, request, noise=Quiet())

    records = open_records(partner, MODEL, training_folds(partner))
    assert np.array_equal(records.series, SERIES[np.isin(np.arange(N) % 5, training_folds(partner))])
    network = new_network(MODEL, records, 0)
    load_trunk(network, request.trunk)
    gradients = torch.stack([gradient_of(network, records, row) for row in range(len(records))]).double()
    whole = torch.zeros(gradients.shape[1], dtype=torch.float64)
    clipped = 0
    for number in np.unique(records.series):
        of_series_ = gradients[records.series == number]
        assert len(of_series_) <= 8
        total = of_series_.sum(0)
        clipped += bool(total.norm() > 0.3)
        whole += total * min(1.0, 0.3 / float(total.norm()))
    assert clipped > 5
    place = 0
    for name, parameter in network.named_parameters():
        part = whole[place : place + parameter.numel()].view_as(parameter)
        place += parameter.numel()
        if name.startswith("trunk."):
            expected = -TRAINING.trunk_learning_rate * part / plan.expected_batch
            torch.testing.assert_close(
                reply.released[name.removeprefix("trunk.")].double(), expected, rtol=1e-4, atol=1e-7
            )


def test_rounds_of_series_go_on_and_are_charged_as_such(tmp_path):
    partner = a_partner(tmp_path, n=N, series=SERIES, **SERIES_BUDGET)
    plan = of_series(sample_rate=0.2, steps_per_round=3, clipping="adaptive")
    replies = [train_round(partner, a_request(number, plan=plan)) for number in (1, 2)]
    assert any(replies[1].released[name].any() for name in replies[1].released)
    ledger = Ledger.of(partner)
    charged = [entry for entry in ledger.entries() if isinstance(entry, Reserved)]
    assert [(entry.unit, entry.steps, entry.sample_rate) for entry in charged] == [("series", 3, 0.2)] * 2
    assert plan.round_charge == Charge(0.2, 4.0, 3, "series")
    assert replies[1].epsilon_spent == pytest.approx(ledger.epsilon(partner.budget))


def test_dates_and_series_come_with_the_records(tmp_path):
    days = np.arange(N) * 10
    partner = a_partner(tmp_path, n=N, series=SERIES, days=days)
    some = open_records(partner, MODEL, (0, 3))
    kept = np.isin(np.arange(N) % 5, (0, 3))
    assert np.array_equal(some.series, SERIES[kept])
    assert np.array_equal(some.days, days[kept])
    plain = open_records(a_partner(tmp_path, "south"), MODEL, (0, 3))
    assert plain.series is None
    assert plain.days is None
