"""What training takes of prepared data, and what it leaves."""

from dataclasses import fields, replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import csr_array
from tests.conftest import make_records
from tests.partners import a_task

from pharma_fl.config import ModelSettings
from pharma_fl.data.matrices import PreparedData
from pharma_fl.data.writing import write_prepared
from pharma_fl.errors import ModelError
from pharma_fl.model.devices import ResidentRecords, on_device
from pharma_fl.model.records import Records

TASKS = [a_task(0, "classification", training_weight=0.5), a_task(0, "regression", training_weight=0.25)]


def written(folder, x, tasks=TASKS, *, series=None, days=None, **model):
    rows = x.shape[0]
    every = csr_array((np.ones(rows, np.int8), np.zeros(rows, np.int32), np.arange(rows + 1)), shape=(rows, 1))
    write_prepared(
        folder,
        x=x,
        y_class=every,
        y_regr=every.astype(np.float32),
        y_censor=every,
        folds=np.zeros(rows, dtype=np.int8),
        compounds=pd.DataFrame({"row": range(rows)}),
        tasks=tasks,
        manifest={"data_derived_assays": []},
        series=series,
        days=days,
    )
    return Records.from_prepared(
        PreparedData.open(folder), np.arange(rows), ModelSettings(input_bits=8, regression_weight=2.0, **model)
    )


def test_nothing_that_is_computed_from_measurements_reaches_training(tmp_path):
    """Quorums, and the weights that follow from them, change with single compounds: no clip covers that."""
    x = csr_array(np.eye(3, 8, dtype=np.int8))
    plain = written(tmp_path / "plain", x)
    told = {"quorum_type": "OTHER", "training_quorum": False, "evaluate": False, "quorum_weight": 0.0}
    told |= {"actives": 7, "inactives": 9, "values": 3, "censored": 1, "censored_weight": 0.01}
    other = written(tmp_path / "other", x, [replace(task, **told) for task in TASKS])
    for records in (plain, other):
        assert records.weights.classes.tolist() == [0.5]
        assert records.weights.values.tolist() == [0.5]
        assert records.classes.nnz == 3
    assert plain.data_derived_assays == other.data_derived_assays


def counted(tmp_path, **model):
    x = csr_array(np.array([[9, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0]], dtype=np.uint16))
    return written(tmp_path / "data", x, **model)


@pytest.mark.parametrize(
    ("transform", "expected"),
    [("none", [10, 2]), ("binarize", [1, 1]), ("log1p", np.log1p([10, 2])), ("tanh", np.tanh([10, 2]))],
)
def test_counts_are_read_folded_and_transformed(tmp_path, transform, expected):
    records = counted(tmp_path, input_transform=transform)
    np.testing.assert_allclose(records.x.toarray()[0, [0, 4]], expected, rtol=1e-6)
    assert records.binary == (transform == "binarize")
    assert (records.batch(np.array([0])).x.values is None) == records.binary


def test_whether_bits_count_is_a_setting_and_no_look_at_the_data(tmp_path):
    """Counts that all happen to be one are still summed where they meet: another compound must not decide that."""
    x = csr_array(np.array([[1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]], dtype=np.uint16))
    assert written(tmp_path / "counts", x).x.toarray()[0, 0] == 2
    assert written(tmp_path / "bits", x.astype(np.int8)).x.toarray()[0, 0] == 1


def test_blank_rows_fill_a_batch_up():
    records = make_records(5)
    batch = records.batch(np.array([4, 1]), size=6)
    assert len(batch) == 6
    assert torch.equal(batch.x.dense()[:2], torch.from_numpy(records.x.toarray()[[4, 1]]))
    assert not batch.x.dense()[2:].any()
    assert int(batch.classes.rows.max()) < 2
    assert len(records.batch(np.array([], dtype=np.int64))) == 0
    assert len(records.batch(np.array([2]))) == 1


def test_series_and_days_follow_their_records():
    records = replace(
        make_records(6, seed=1),
        series=np.array([3, 0, 3, 1, 0, 9], dtype=np.int32),
        days=np.array([10, -4, 7, 0, 5, 2], dtype=np.int32),
    )
    some = records.select(np.array([5, 0, 2]))
    assert len(some) == 3
    assert some.series.tolist() == [9, 3, 3]
    assert some.days.tolist() == [2, 10, 7]
    for field in ("x", "classes", "values", "censor"):
        assert np.array_equal(getattr(some, field).toarray(), getattr(records, field).toarray()[[5, 0, 2]])
    assert some.weights is records.weights
    plain = make_records(4).select(np.array([], dtype=np.int64))
    assert len(plain) == 0
    assert plain.series is None
    assert plain.days is None


@pytest.mark.parametrize(
    "change",
    [
        {"series": np.zeros(3, dtype=np.int32)},
        {"series": np.zeros(4, dtype=np.int64)},
        {"series": np.array([0, 1, -1, 2], dtype=np.int32)},
        {"days": np.zeros(5, dtype=np.int32)},
    ],
)
def test_series_and_days_that_do_not_fit_are_refused(change):
    with pytest.raises(ModelError, match=next(iter(change))) as caught:
        replace(make_records(4), **change)
    assert caught.value.code == "PFL-M08"


def test_series_and_days_come_from_prepared_data(tmp_path):
    x = csr_array(np.eye(4, 8, dtype=np.int8))
    facts = {"series": np.array([2, 0, 0, 1], dtype=np.int32), "days": np.array([5, 6, 7, 8], dtype=np.int32)}
    written(tmp_path / "data", x, **facts)
    some = Records.from_prepared(PreparedData.open(tmp_path / "data"), np.array([3, 0]), ModelSettings(input_bits=8))
    assert some.series.tolist() == [1, 2]
    assert some.days.tolist() == [8, 5]
    assert type(some.series) is np.ndarray
    assert written(tmp_path / "other", x).series is None


def without(matrix):
    return csr_array(matrix.shape, dtype=np.float32)


def spoiled(matrix, value):
    matrix = matrix.copy()
    matrix.data[0] = value
    return matrix


def shifted(matrix):
    matrix = matrix.copy()
    matrix.indices[-1] = matrix.shape[1]
    return matrix


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda r: {"classes": spoiled(r.classes, np.nan)}, "classification labels: values are not finite"),
        (lambda r: {"classes": spoiled(r.classes, -1)}, "neither 0 nor 1"),
        (lambda r: {"values": spoiled(r.values, np.inf)}, "regression values: values are not finite"),
        (lambda r: {"x": spoiled(r.x, -1)}, "negative"),
        (lambda r: {"x": spoiled(r.x, 2), "binary": True}, "declared binary"),
        (lambda r: {"x": shifted(r.x)}, "columns outside 0 to 63"),
        (lambda r: {"x": r.x[:4]}, "expected 4 rows"),
        (lambda r: {"censor": without(r.censor)}, "different cells"),
        (lambda r: {"weights": replace(r.weights, classes=torch.tensor([1, np.nan, 1]))}, "3 finite numbers"),
        (lambda r: {"weights": replace(r.weights, values=torch.tensor([-1.0]))}, "1 finite numbers"),
        (lambda r: {"weights": replace(r.weights, values=torch.ones(2))}, "1 finite numbers"),
        (lambda r: {"weights": replace(r.weights, catalogue=torch.tensor([0, 2, 2]))}, "one catalogue task"),
        (lambda r: {"weights": replace(r.weights, catalogue=torch.tensor([0]))}, "one catalogue task"),
    ],
)
def test_records_that_cannot_be_trained_on_are_refused(change, named):
    records = make_records(5, label_rate=1.0)
    with pytest.raises(ModelError, match=named) as caught:
        replace(records, **change(records))
    assert caught.value.code == "PFL-M08"


def test_a_place_named_twice_in_a_row_is_refused():
    """It would be one entry to a product and two to a norm."""
    records = make_records(1)
    twice = csr_array((np.ones(2, np.float32), np.array([3, 3]), np.array([0, 2])), shape=(1, 64))
    with pytest.raises(ModelError, match="columns do not ascend"):
        replace(records, x=twice)


def test_records_on_a_device_give_the_same_batches():
    records = make_records(30, seed=3)
    for source in (ResidentRecords(records, torch.device("cpu")), on_device(records, torch.device("cpu"))):
        assert len(source) == 30
        for rows, size in (([], None), ([], 4), ([7], 3), ([29, 0, 0, 13], None), (list(range(30)), 32)):
            found, expected = (s.batch(np.array(rows, dtype=np.int64), size) for s in (source, records))
            for a, b in ((found.x, expected.x), (found.classes, expected.classes), (found.values, expected.values)):
                for field in fields(a):
                    one, other = getattr(a, field.name), getattr(b, field.name)
                    assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
