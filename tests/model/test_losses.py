"""Losses against written values, plain autograd, and the independence of records."""

import numpy as np
import pytest
import torch
from tests.conftest import losses_of, make_records

from pharma_fl.config import ModelSettings
from pharma_fl.model.batches import Cells
from pharma_fl.model.fit import new_network
from pharma_fl.model.losses import censored_squared_error


@pytest.mark.parametrize(
    ("measured", "predicted", "censor", "expected"),
    [
        (5.0, 4.0, 0, 1.0),
        (5.0, 7.0, 0, 4.0),
        (5.0, 4.0, 1, 1.0),  # the true value is above 5: predicting below is wrong
        (5.0, 7.0, 1, 0.0),
        (5.0, 4.0, -1, 0.0),
        (5.0, 7.0, -1, 4.0),
    ],
)
def test_censored_squared_error(measured, predicted, censor, expected):
    cells = Cells(
        columns=torch.tensor([0]),
        offsets=torch.tensor([0, 1]),
        values=torch.tensor([measured]),
        censor=torch.tensor([float(censor)]),
    )
    assert censored_squared_error(torch.tensor([predicted]), cells).item() == expected


def test_losses_equal_a_loop_over_cells():
    records = make_records(20, seed=4)
    network = new_network(ModelSettings(input_bits=64, hidden=(5,)), records, seed=0)
    batch = records.all()
    logits, values = network(batch.x)
    expected = torch.zeros(20)
    for row in range(20):
        for cell in range(records.classes.indptr[row], records.classes.indptr[row + 1]):
            label, logit = records.classes.data[cell], logits[row, records.classes.indices[cell]]
            p = torch.sigmoid(logit)
            expected[row] += 0.5 * -(torch.log(p) if label else torch.log(1 - p))
        for cell in range(records.values.indptr[row], records.values.indptr[row + 1]):
            d = records.values.data[cell] - values[row, records.values.indices[cell]]
            censor = records.censor.data[cell]
            error = d if censor == 0 else d.clamp(min=0) if censor > 0 else d.clamp(max=0)
            expected[row] += 0.25 * error**2
    torch.testing.assert_close(losses_of(network, batch, records), expected)


def test_a_records_loss_depends_on_that_record_alone():
    records = make_records(20, seed=4)
    network = new_network(ModelSettings(input_bits=64, hidden=(5,)), records, seed=0)
    whole = losses_of(network, records.all(), records)
    for row in (0, 7, 19):
        alone = losses_of(network, records.batch(np.array([row])), records)
        torch.testing.assert_close(alone[0], whole[row])


def test_an_empty_batch_has_no_losses():
    records = make_records(3)
    network = new_network(ModelSettings(input_bits=64, hidden=(5,)), records, seed=0)
    assert losses_of(network, records.batch(np.array([], dtype=np.int64)), records).shape == (0,)
