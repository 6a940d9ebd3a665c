"""Our losses and metrics against the numbers that SparseChem's own tests expect."""

import dataclasses

import numpy as np
import pytest
import torch

from pharma_fl.model.batches import Cells
from pharma_fl.model.losses import censored_squared_error
from pharma_fl.model.metrics import calibration_errors, weighted_mean


def cells_of(**given):
    """One cell a row; fields that a test does not speak of are zeros."""
    count = len(given["values"])
    standard = {"rows": torch.arange(count), "columns": torch.zeros(count, dtype=torch.int64)}
    fields = (field.name for field in dataclasses.fields(Cells))
    return Cells(**{name: given.get(name, standard.get(name, torch.zeros(count))) for name in fields})


@pytest.mark.parametrize(
    ("censor", "expected"),
    [
        (1, [1.0, 0.25, 0.0, 0.0, 0.0, 0.0]),
        (0, [1.0, 0.25, 0.25, 1.0, 4.0, 6.25]),
        (-1, [0.0, 0.0, 0.25, 1.0, 4.0, 6.25]),
    ],
)
def test_s1_censored_squared_error(censor, expected):
    measured = torch.tensor([2.5, 2.0, 1.0, 0.5, -0.5, -1.0])
    cells = cells_of(values=measured, censor=torch.full((6,), float(censor)))
    assert censored_squared_error(torch.full((6,), 1.5), cells).tolist() == expected


@pytest.mark.parametrize(
    ("label", "probability", "ece", "ace"),
    [
        ([1, 0, 1, 1, 0], [0.12, 0.41, 0.61, 0.71, 0.94], 0.582, 0.582),
        (
            [0, 1, 0, 0, 1, 0, 1, 1, 1, 1, 0, 0],
            [0.01, 0.04, 0.21, 0.46, 0.46, 0.58, 0.61, 0.77, 0.86, 0.87, 0.89, 0.94],
            4 / 12,
            5.46 / 12,
        ),
        ([0, 1, 0, 1], [0.41, 0.56, 0.67, 0.90], 0.405, 0.405),
    ],
)
def test_s2_calibration_errors(label, probability, ece, ace):
    found = calibration_errors(np.array(label, dtype=np.float32), np.array(probability, dtype=np.float32))
    assert found == pytest.approx((ece, ace), abs=1e-7)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, 5.0, 7.0, 6.5], 5.578947368421),
        ([2.0, np.nan, 3.0, 8.0], 4.0),
        ([np.nan, 1.0, np.nan, np.nan], 1.0),
    ],
)
def test_s4_mean_over_tasks(values, expected):
    assert weighted_mean(values, [0.1, 1.0, 0.6, 0.2]) == pytest.approx(expected, abs=1e-12)
