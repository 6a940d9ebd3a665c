"""Which device trains, and what is said where it cannot."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.conftest import make_records

from pharma_fl.config import ModelSettings
from pharma_fl.errors import ModelError
from pharma_fl.model.devices import ResidentRecords, choose_device, made_batch, on_device
from pharma_fl.model.network import SparseMultitaskNetwork


@pytest.fixture
def gpus(monkeypatch):
    def pretend(count):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    return pretend


@pytest.mark.parametrize(
    ("count", "wanted", "expected"),
    [
        (0, "auto", "cpu"),
        (0, "cpu", "cpu"),
        (1, "auto", "cuda:0"),
        (1, "cuda", "cuda:0"),
        (1, "cpu", "cpu"),
        (4, "cuda:3", "cuda:3"),
        (4, "cpu", "cpu"),
    ],
)
def test_the_device_that_is_named(gpus, count, wanted, expected):
    gpus(count)
    assert choose_device(wanted) == torch.device(expected)


@pytest.mark.parametrize(
    ("count", "wanted", "named"),
    [
        (0, "cuda", "0 GPUs"),
        (1, "cuda:1", "1 GPUs"),
        (4, "auto", '"cuda:0" to "cuda:3"'),
        (4, "cuda", "4 GPUs, and one network trains on one"),
    ],
)
def test_a_device_that_is_not_there_or_not_one_is_refused(gpus, count, wanted, named):
    gpus(count)
    with pytest.raises(ModelError, match=named) as caught:
        choose_device(wanted)
    assert caught.value.code == "PFL-M09"


def test_records_too_large_for_the_gpu_are_copied_batch_by_batch(monkeypatch, caplog):
    records = make_records(10)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (64, 1 << 30))
    # The meta device stands for a GPU: it has shapes and no memory.
    source = on_device(records, torch.device("meta"))
    assert not isinstance(source, ResidentRecords)
    assert "each batch is copied there" in caplog.text
    batch = source.batch(torch.arange(3).numpy(), 4)
    assert len(batch) == 4
    assert batch.x.indices.device.type == source.weights.classes.device.type == "meta"
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1 << 30, 1 << 30))
    assert isinstance(on_device(records, torch.device("meta")), ResidentRecords)


def test_series_stay_where_samples_are_drawn(monkeypatch):
    records = replace(make_records(5), series=np.array([0, 1, 1, 4, 0], dtype=np.int32))
    for free in (64, 1 << 30):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 1 << 30))
        assert on_device(records, torch.device("meta")).series is records.series
    assert on_device(records, torch.device("cpu")).series is records.series


def test_the_size_of_resident_records_is_not_underestimated():
    records = make_records(50)
    batch = records.all()
    tensors = [batch.x.indices, batch.x.values, batch.x.offsets]
    tensors += [
        t for cells in (batch.classes, batch.values) for t in (cells.columns, cells.values, cells.censor, cells.offsets)
    ]
    assert ResidentRecords.bytes_of(records) >= sum(t.numel() * t.element_size() for t in tensors) - 24


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_batch_gathered_on_the_gpu_equals_the_one_of_the_cpu():
    records = make_records(30)
    rows = torch.tensor([3, 0, 29]).numpy()
    found = ResidentRecords(records, torch.device("cuda")).batch(rows, 8)
    expected = records.batch(rows, 8)
    assert torch.equal(found.x.dense().cpu(), expected.x.dense())


def test_a_made_batch_has_more_bits_and_labels_than_most_compounds():
    batch = made_batch(ModelSettings(input_bits=512), (100, 3), 5)
    assert len(batch) == 5
    assert batch.x.dense().sum(1).tolist() == [256.0] * 5
    assert (len(batch.classes), len(batch.values)) == (5 * 64, 5 * 3)
    network = SparseMultitaskNetwork(ModelSettings(input_bits=512), class_tasks=100, value_tasks=3, seed=0)
    assert [part.shape for part in network.at_cells(batch)] == [(320,), (15,)]
