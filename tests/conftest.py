"""Fixtures and builders that several rooms share."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import torch

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

PROJECT = Path(__file__).parent.parent


class SeededNoise:
    """Reproducible randomness for tests; no configuration can choose it."""

    def __init__(self, seed: int = 0) -> None:
        self._generator = np.random.default_rng(seed)

    def uniform(self, count):
        return self._generator.random(count)

    def keep_mask(self, count, probability, device):
        return torch.from_numpy(self._generator.random(count) < probability).to(device)

    def add_normal(self, tensor, std, scale=1.0):
        tensor.add_(torch.from_numpy(self._generator.standard_normal(tuple(tensor.shape)) * std).to(tensor.dtype))
        tensor.mul_(scale)

    def add_discrete_gaussian(self, vector, std):
        from pharma_fl.privacy.discrete_gaussian import add_to

        add_to(self._generator, vector, std)


def make_records(
    n: int, *, bits: int = 64, class_tasks: int = 3, value_tasks: int = 1, seed: int = 0, label_rate: float = 0.6
):
    """Random records; some rows may have no bits and some no labels."""
    from pharma_fl.model.records import Records, TaskWeights

    rng = np.random.default_rng(seed)
    x = sp.csr_array((rng.random((n, bits)) < 0.1).astype(np.float32))

    def labels(tasks, values):
        mask = rng.random((n, tasks)) < label_rate
        rows, columns = np.nonzero(mask)
        indptr = np.concatenate([[0], np.cumsum(mask.sum(1))])
        return sp.csr_array((values(len(rows)).astype(np.float32), columns, indptr), shape=(n, tasks))

    values = labels(value_tasks, lambda k: rng.normal(size=k))
    censor = sp.csr_array(
        (rng.integers(-1, 2, len(values.data)).astype(np.float32), values.indices, values.indptr), shape=values.shape
    )
    return Records(
        x=x,
        classes=labels(class_tasks, lambda k: rng.integers(0, 2, k)),
        values=values,
        censor=censor,
        weights=TaskWeights(
            classes=torch.full((class_tasks,), 0.5),
            values=torch.full((value_tasks,), 0.25),
            censored=torch.ones(value_tasks),
            catalogue=torch.full((class_tasks,), -1),
        ),
    )


def losses_of(network, batch, records):
    from pharma_fl.model.losses import network_losses

    return network_losses(network, batch, weights=records.weights)


# Whoever starts the tests in the background ignores these, and every child of theirs would too.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture
def data_folder() -> Path:
    folder = Path(os.environ.get("PHARMA_FL_DATA", PROJECT.parent / "shared" / "data"))
    if not folder.exists():
        pytest.skip(f"no public data at {folder}; set PHARMA_FL_DATA")
    return folder


@pytest.fixture(autouse=True)
def _flower_identity():
    """Flower's Message constructor wants to know whose process this is."""
    from flwr.supercore.task_identity import TaskIdentity

    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
