"""The prepared folder: what goes in comes out, and what is damaged is refused."""

import json
import mmap

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array, random_array

from pharma_fl.data.layout import DTYPES, FILES
from pharma_fl.data.matrices import PreparedData
from pharma_fl.data.tasks import Task
from pharma_fl.data.writing import write_prepared
from pharma_fl.errors import DataError


def task(column, kind="classification", **changes):
    facts = {
        "task": f"{kind}-{column}",
        "kind": kind,
        "column": column,
        "assay": "7",
        "assay_type": "ADME",
        "direction": "high" if kind == "classification" else "",
        "threshold": 0.1 if kind == "classification" else None,
        "threshold_method": "expert" if kind == "classification" else "",
        "auxiliary": False,
        "data_derived": False,
        "catalog_task_id": 71 if column == 1 else None,
        "training_weight": 1 / 3,
        "quorum_type": "ADME",
        "training_quorum": column != 1,
        "evaluate": True,
        "quorum_weight": 0.5,
        "censored_weight": 0.1 if kind == "regression" else None,
        "actives": 3 if kind == "classification" else None,
        "inactives": 4 if kind == "classification" else None,
        "values": 5 if kind == "regression" else None,
        "censored": 1 if kind == "regression" else None,
    }
    return Task(**(facts | changes))


def parts(*, rows=6, bits=40, classes=3, values=2, density=0.4, seed=0):
    rng = np.random.default_rng(seed)
    x = csr_array(random_array((rows, bits), density=density, rng=rng, format="csr", dtype=np.float64))
    x.sort_indices()
    y = csr_array(random_array((rows, classes), density=density, rng=rng, format="csr", dtype=np.float64))
    y.sort_indices()
    regr = csr_array(random_array((rows, values), density=density, rng=rng, format="csr", dtype=np.float64))
    regr.sort_indices()
    y.data = rng.choice([-1, 1], y.nnz).astype(np.int8)
    # Half of the values are zero, and so are most censor codes.
    regr.data = np.where(rng.random(regr.nnz) < 0.5, 0, rng.normal(size=regr.nnz)).astype(np.float32)
    censor = csr_array((rng.choice([0, 0, 1, -1], regr.nnz).astype(np.int8), regr.indices, regr.indptr), regr.shape)
    x.data = np.ones(x.nnz, np.int8)
    return {
        "x": x,
        "y_class": y,
        "y_regr": regr,
        "y_censor": censor,
        "folds": rng.integers(0, 5, rows).astype(np.int8),
        "compounds": pd.DataFrame({"row": range(rows)}),
        "tasks": [*(task(c) for c in range(classes)), *(task(c, "regression") for c in range(values))],
        "manifest": {"note": "made by a test", "data_derived_assays": [2]},
        "series": rng.integers(0, rows, rows).astype(np.int32),
        "days": rng.integers(-9000, 9000, rows).astype(np.int32),
    }


def same(one, other):
    assert one.shape == other.shape
    for name in ("indptr", "indices", "data"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name


@pytest.fixture
def folder(tmp_path):
    write_prepared(tmp_path / "data", **parts())
    return tmp_path / "data"


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.fixed_dictionaries(
        {
            "rows": st.integers(1, 12),
            "classes": st.integers(0, 4),
            "values": st.integers(0, 4),
            "density": st.floats(0, 1),
            "seed": st.integers(0, 99),
        }
    )
)
def test_round_trip(tmp_path_factory, sizes):
    given_parts = parts(bits=16, **sizes)
    folder = tmp_path_factory.mktemp("round") / "data"
    manifest = write_prepared(folder, **given_parts)
    data = PreparedData.open(folder)
    same(data.x(), given_parts["x"])
    same(data.y_class(), given_parts["y_class"])
    same(data.y_regr(), given_parts["y_regr"])
    same(data.y_censor(), given_parts["y_censor"])
    assert (data.x().dtype, data.y_class().dtype) == (np.int8, np.int8)
    assert (data.y_regr().dtype, data.y_censor().dtype) == (np.float32, np.int8)
    for name in ("folds", "series", "days"):
        assert np.array_equal(getattr(data, name), given_parts[name])
    assert list(data.tasks) == given_parts["tasks"]
    assert (len(data.classification_tasks), len(data.regression_tasks)) == (sizes["classes"], sizes["values"])
    assert (data.n_compounds, data.bits) == (sizes["rows"], 16)
    assert data.data_derived_assays == ("2",)
    assert data.manifest == manifest == json.loads((folder / "manifest.json").read_text())
    data.verify()


def test_what_is_not_known_is_none_and_not_zeros(tmp_path):
    write_prepared(tmp_path / "data", **{k: v for k, v in parts().items() if k not in {"series", "days"}})
    data = PreparedData.open(tmp_path / "data")
    assert data.series is None
    assert data.days is None


def test_explicit_zeros_survive(tmp_path):
    made = parts(rows=4, bits=8, classes=1, values=1)
    pattern = (np.array([0, 0, 0], np.int32), np.array([0, 1, 1, 2, 3], np.int64))
    made["y_regr"] = csr_array((np.zeros(3, np.float32), *pattern), shape=(4, 1))
    made["y_censor"] = csr_array((np.array([0, -1, 0], np.int8), *pattern), shape=(4, 1))
    write_prepared(tmp_path / "data", **made)
    data = PreparedData.open(tmp_path / "data")
    assert data.y_regr().nnz == data.y_censor().nnz == 3
    assert data.y_regr()[[0, 2, 3]].nnz == 3
    assert data.y_censor().data.tolist() == [0, -1, 0]


def test_arrays_are_mapped_and_read_only(folder):
    data = PreparedData.open(folder)
    for name in DTYPES:
        array = data.arrays[name]
        assert isinstance(array, np.memmap)
        assert isinstance(array._mmap, mmap.mmap)
        assert not array.flags.writeable
    for matrix, name in (
        (data.x(), "x_indices"),
        (data.y_class(), "y_class_indices"),
        (data.y_regr(), "y_regr_values"),
    ):
        part = matrix.data if name.endswith("values") else matrix.indices
        assert np.shares_memory(part, data.arrays[name])


def test_rows_of(folder):
    data = PreparedData.open(folder)
    rows = data.rows_of({1, 3})
    assert rows.dtype == np.int64
    assert rows.tolist() == [row for row, fold in enumerate(data.folds) if fold in {1, 3}]
    assert data.rows_of(()).tolist() == []
    assert data.rows_of(range(5)).tolist() == list(range(6))


@pytest.mark.parametrize("name", sorted([*(f"{name}.npy" for name in DTYPES), "manifest.json", "tasks.csv"]))
@pytest.mark.parametrize("damage", ["missing", "truncated", "empty", "foreign"])
def test_a_damaged_file_is_named_with_the_remedy(folder, name, damage):
    path = folder / name
    content = path.read_bytes()
    path.unlink()
    if damage == "truncated":
        path.write_bytes(content[:-3])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "foreign":
        path.write_bytes(b'{"format": "another"}')
    with pytest.raises(DataError) as caught:
        PreparedData.open(folder)
    assert caught.value.code == "PFL-D04"
    assert str(path) in str(caught.value)
    assert "pharma-fl prepare" in str(caught.value)


def _record_size(folder, name):
    """Make the manifest agree with a file's length, so that only its content is wrong."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"][name]["bytes"] = (folder / name).stat().st_size
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("folds.npy", np.zeros(5, np.int8)),
        ("folds.npy", np.zeros(6, np.int64)),
        ("folds.npy", np.zeros((6, 1), np.int8)),
        ("x_indptr.npy", np.full(7, 3, np.int64)),
        ("y_class_indptr.npy", np.zeros(7, np.int64)),
        ("y_regr_values.npy", np.zeros(1, np.float32)),
    ],
)
def test_an_array_that_does_not_fit_is_refused(folder, name, array):
    np.save(folder / name, array)
    _record_size(folder, name)
    with pytest.raises(DataError, match=name) as caught:
        PreparedData.open(folder)
    assert caught.value.code == "PFL-D04"


def test_an_array_of_objects_is_not_unpickled(folder):
    np.save(folder / "folds.npy", np.array([print] * 6, dtype=object), allow_pickle=True)
    _record_size(folder, "folds.npy")
    with pytest.raises(DataError, match=r"folds\.npy"):
        PreparedData.open(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"format_version": 1},
        {"data_derived_assays": None},
        {"format": "x"},
        {"sizes": {}},
        {"sizes": None},
        {"files": []},
        {"sizes": {"compounds": "many"}},
    ],
)
def test_a_manifest_of_another_kind_is_refused(folder, change):
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DataError, match=r"manifest\.json") as caught:
        PreparedData.open(folder)
    assert caught.value.code == "PFL-D04"


def test_tasks_of_another_run_are_refused(folder):
    path = folder / "tasks.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    _record_size(folder, "tasks.csv")
    with pytest.raises(DataError, match=r"tasks\.csv"):
        _ = PreparedData.open(folder).tasks


def test_verify_finds_a_changed_byte(folder):
    path = folder / "x_indices.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    data = PreparedData.open(folder)
    with pytest.raises(DataError, match=r"x_indices\.npy"):
        data.verify()


def test_what_is_written_is_what_the_layout_lists(folder):
    assert {path.name for path in folder.iterdir()} <= FILES


def test_a_folder_with_other_files_is_not_replaced(folder):
    (folder / "T1.csv").write_text("precious")
    with pytest.raises(DataError, match=r"T1\.csv") as caught:
        write_prepared(folder, **parts())
    assert caught.value.code == "PFL-D08"
    assert (folder / "T1.csv").read_text() == "precious"


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "data").write_text("precious")
    with pytest.raises(DataError, match="not a folder"):
        write_prepared(tmp_path / "data", **parts())


def test_a_damaged_folder_can_be_prepared_again(folder):
    (folder / "manifest.json").write_text("{")
    write_prepared(folder, **parts(seed=1))
    PreparedData.open(folder).verify()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("folds", np.zeros(5, np.int8)),
        ("series", np.zeros(5, np.int32)),
        ("days", np.zeros(7, np.int32)),
        ("compounds", pd.DataFrame({"row": [0]})),
        ("tasks", [task(0)]),
        ("y_censor", csr_array((6, 2), dtype=np.int8)),
    ],
)
def test_parts_that_do_not_fit_are_refused_and_nothing_is_written(tmp_path, name, value):
    with pytest.raises(ValueError, match="expected"):
        write_prepared(tmp_path / "data", **(parts() | {name: value}))
    assert list(tmp_path.iterdir()) == []
