"""Prepared data as MELLODDY-TUNER's matrices and back: entry by entry, zeros included."""

import hashlib
import json
import shutil
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_matrix, csr_array, csr_matrix, load_npz, random_array, save_npz

from pharma_fl.data import tuner_tables
from pharma_fl.data.matrices import PreparedData
from pharma_fl.data.tasks import Task
from pharma_fl.data.tuner_export import export_tuner
from pharma_fl.data.tuner_import import import_tuner
from pharma_fl.data.tuner_layout import LAYOUT
from pharma_fl.data.writing import write_prepared
from pharma_fl.errors import DataError

BITS = 40
SPARSECHEM_COLUMNS = {
    "task_id",
    "training_weight",
    "aggregation_weight",
    "task_type",
    "censored_weight",
    "catalog_id",
}


def class_task(column, **changes):
    facts = {
        "task": f"assay-{column}/high/5.5",
        "kind": "classification",
        "column": column,
        "assay": str(column),
        "assay_type": "OTHER",
        "direction": "high",
        "threshold": 5.5,
        "threshold_method": "expert",
        "auxiliary": False,
        "data_derived": False,
        "catalog_task_id": None,
        "training_weight": 1 / 3,
        "quorum_type": changes.get("assay_type", "OTHER"),
        "training_quorum": True,
        "evaluate": True,
        "quorum_weight": 1 / 3,
    }
    return Task(**(facts | changes))


def value_task(column, **changes):
    facts = {
        "task": f"assay-{column}/value",
        "kind": "regression",
        "direction": "",
        "threshold": None,
        "threshold_method": "",
        "quorum_weight": 1.0,
        "censored_weight": 0.4737,
        "values": 4,
        "censored": 1,
    }
    return class_task(column, **(facts | changes))


# One of each: kept; below quorum; binary; low; catalogue, passed and demoted; auxiliary threshold; auxiliary assays.
TASKS = (
    class_task(0),
    class_task(1, training_quorum=False, evaluate=False, quorum_weight=0.0),
    class_task(2, task="assay-2/binary", direction="", threshold=0.0, assay_type="ADME"),
    class_task(3, task="assay-3/low/-0.1", direction="low", threshold=-0.1, threshold_method="median"),
    class_task(4, assay_type="CATALOG-PANEL", catalog_task_id=17),
    class_task(5, assay_type="CATALOG-PANEL", quorum_type="NON-CATALOG-PANEL", catalog_task_id=18),
    class_task(6, assay="0", threshold=5.0, threshold_method="aux_low", auxiliary=True, evaluate=False),
    class_task(
        7,
        task="assay-hts/absolute/3.0",
        assay="hts",
        assay_type="AUX_HTS",
        direction="absolute",
        threshold=3.0,
        threshold_method="fixed",
        auxiliary=True,
        evaluate=False,
        quorum_weight=0.1,
    ),
    class_task(8, assay_type="AUX_PL", auxiliary=True, training_quorum=False, evaluate=False, quorum_weight=0.0),
    value_task(0),
    value_task(1, training_quorum=False, evaluate=False, quorum_weight=0.0),
    value_task(2, assay="hts", assay_type="AUX_HTS", auxiliary=True, evaluate=False),
    value_task(3, assay="0", evaluate=False, censored_weight=0.0),
)


def sparse(rng, rows, columns, density):
    matrix = csr_array(random_array((rows, columns), density=density, rng=rng, format="csr", dtype=np.float64))
    matrix.sort_indices()
    return matrix


def prepare(folder, tasks=TASKS, *, rows=60, density=0.2, seed=0, counts=False, fold_count=5):
    """Write prepared data of which half of the values and most censor codes are zero."""
    rng = np.random.default_rng(seed)
    x = sparse(rng, rows, BITS, 0.2)
    x.data = rng.integers(1, 9, x.nnz).astype(np.uint16) if counts else np.ones(x.nnz, np.int8)
    y_class = sparse(rng, rows, sum(task.kind == "classification" for task in tasks), density)
    y_class.data = rng.choice([-1, 1], y_class.nnz).astype(np.int8)
    y_regr = sparse(rng, rows, sum(task.kind == "regression" for task in tasks), density)
    y_regr.data = np.where(rng.random(y_regr.nnz) < 0.5, 0, rng.normal(size=y_regr.nnz)).astype(np.float32)
    codes = rng.choice([0, 0, 1, -1], y_regr.nnz).astype(np.int8)
    write_prepared(
        folder,
        x=x,
        y_class=y_class,
        y_regr=y_regr,
        y_censor=csr_array((codes, y_regr.indices, y_regr.indptr), shape=y_regr.shape),
        folds=rng.permutation(np.arange(rows) % fold_count).astype(np.int8),
        compounds=pd.DataFrame({"row": range(rows), "compound_id": [f"id{row:04}" for row in range(rows)]}),
        tasks=list(tasks),
        manifest={"data_derived_assays": [], "settings": {"folds": {"count": fold_count}}},
    )
    return PreparedData.open(folder)


def cells(matrix, rows=None, columns=None):
    """Return every stored entry, zeros included, in a dict by (row, column) or by the names given for them."""
    matrix = csr_array(matrix)
    found = {}
    for row, (start, end) in enumerate(pairwise(matrix.indptr.tolist())):
        for place in range(start, end):
            column = int(matrix.indices[place])
            key = (row if rows is None else rows[row], column if columns is None else columns[column])
            assert key not in found
            found[key] = float(matrix.data[place])
    return found


def names(tasks):
    return [task.task for task in tasks]


def kept(data, kind, *, auxiliary=False):
    return [
        task
        for task in data.tasks
        if task.kind == kind and task.training_quorum and (auxiliary or task.assay_type not in ("AUX_HTS", "AUX_PL"))
    ]


def expected(matrix, tasks_of_matrix, wanted):
    """Return the entries of the wanted tasks, by compound id and task name."""
    ids = [f"id{row:04}" for row in range(matrix.shape[0])]
    return {key: value for key, value in cells(matrix, ids, names(tasks_of_matrix)).items() if key[1] in names(wanted)}


def read_table(path):
    return pd.read_csv(path, keep_default_na=False, na_values=[""])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("partner") / "data")


@pytest.fixture(scope="module")
def pristine(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "tuner"
    export_tuner(data, folder)
    return folder


@pytest.fixture
def exported(pristine, tmp_path):
    """Give an export that a test may change."""
    return shutil.copytree(pristine, tmp_path / "tuner")


# --- export ---------------------------------------------------------------------------------------------------


def test_files_have_the_names_of_tuner_and_no_others(exported):
    found = {path.relative_to(exported).as_posix() for path in exported.rglob("*") if path.is_file()}
    assert {name for name in found if name.startswith("matrices")} == {
        "matrices/wo_aux/cls/cls_T11_x.npz",
        "matrices/wo_aux/cls/cls_T11_fold_vector.npy",
        "matrices/wo_aux/cls/cls_T10_y.npz",
        "matrices/wo_aux/cls/cls_weights.csv",
        "matrices/wo_aux/reg/reg_T11_x.npz",
        "matrices/wo_aux/reg/reg_T11_fold_vector.npy",
        "matrices/wo_aux/reg/reg_T10_y.npz",
        "matrices/wo_aux/reg/reg_T10_censor_y.npz",
        "matrices/wo_aux/reg/reg_weights.csv",
        "matrices/wo_aux/hyb/hyb_T11_x.npz",
        "matrices/wo_aux/hyb/hyb_T11_fold_vector.npy",
        "matrices/wo_aux/hyb/hyb_cls_T10_y.npz",
        "matrices/wo_aux/hyb/hyb_reg_T10_y.npz",
        "matrices/wo_aux/hyb/hyb_reg_T10_censor_y.npz",
        "matrices/wo_aux/hyb/hyb_cls_weights.csv",
        "matrices/wo_aux/hyb/hyb_reg_weights.csv",
        "matrices/w_aux/clsaux/clsaux_T11_x.npz",
        "matrices/w_aux/clsaux/clsaux_T11_fold_vector.npy",
        "matrices/w_aux/clsaux/clsaux_T10_y.npz",
        "matrices/w_aux/clsaux/clsaux_weights.csv",
    }
    plain = {"T8c.csv", "T8r.csv", "T10c_cont.csv", "T10r_cont.csv", "T6_cont.csv", "compounds.csv"}
    auxiliary = {"T8c.csv", "T10c_cont.csv", "T6_cont.csv", "compounds.csv"}
    assert {name for name in found if name.startswith("results")} == {
        *(f"results/{name}" for name in plain),
        *(f"results/w_aux/{name}" for name in auxiliary),
    }


def sparsechem_reads(folder, x, y_class=None, y_regr=None, y_censor=None, *, weights_class=None, weights_regr=None):
    """Load and check a data set as SparseChem 1.0 does before it trains; written from its documented demands."""
    x = load_npz(folder / x).tocsr()
    folding = np.load(folder / f"{folder.name}_T11_fold_vector.npy")
    assert x.shape[0] == folding.shape[0]
    for name, weights in ((y_class, weights_class), (y_regr, weights_regr)):
        if name is None:
            continue
        y = load_npz(folder / name).tocsr()
        table = pd.read_csv(folder / weights)
        assert set(table.columns) <= SPARSECHEM_COLUMNS
        assert len(table) == y.shape[1]
        assert sorted(table["task_id"]) == list(range(y.shape[1]))
        assert table["training_weight"].between(0, 1).all()
        assert (table["aggregation_weight"] >= 0).all()
        assert y.shape[0] == x.shape[0]
        assert table["task_type"].notna().all()
    if y_class is not None:
        y_class = load_npz(folder / y_class).tocsr()
        # It counts with the sums of the older matrix class.
        positive, negative = (np.array((y_class == sign).sum(0)).flatten() for sign in (1, -1))
        assert (np.array((y_class != 0).sum(0)).flatten() == positive + negative).all()
        assert positive.shape == (y_class.shape[1],)
        assert ((y_class.astype(np.float32).data + 1) / 2 % 1 == 0).all()
    if y_regr is not None:
        y_regr, censor = load_npz(folder / y_regr).tocsr(), load_npz(folder / y_censor).tocsr()
        assert censor.shape == y_regr.shape
        assert (censor.indices == y_regr.indices).all()
        assert (censor.indptr == y_regr.indptr).all()
        assert set(censor.astype(np.float32).data) <= {-1.0, 0.0, 1.0}
        assert (pd.read_csv(folder / weights_regr)["censored_weight"] >= 0).all()
    # Its loader takes rows by number.
    assert x[np.flatnonzero(folding == 1)].shape == (int((folding == 1).sum()), BITS)
    return x, folding, y_class, y_regr


def test_sparsechem_can_read_every_data_set(exported):
    place = exported / "matrices"
    cls = sparsechem_reads(
        place / "wo_aux" / "cls", "cls_T11_x.npz", y_class="cls_T10_y.npz", weights_class="cls_weights.csv"
    )
    reg = sparsechem_reads(
        place / "wo_aux" / "reg",
        "reg_T11_x.npz",
        y_regr="reg_T10_y.npz",
        y_censor="reg_T10_censor_y.npz",
        weights_regr="reg_weights.csv",
    )
    hyb = sparsechem_reads(
        place / "wo_aux" / "hyb",
        "hyb_T11_x.npz",
        y_class="hyb_cls_T10_y.npz",
        y_regr="hyb_reg_T10_y.npz",
        y_censor="hyb_reg_T10_censor_y.npz",
        weights_class="hyb_cls_weights.csv",
        weights_regr="hyb_reg_weights.csv",
    )
    clsaux = sparsechem_reads(
        place / "w_aux" / "clsaux",
        "clsaux_T11_x.npz",
        y_class="clsaux_T10_y.npz",
        weights_class="clsaux_weights.csv",
    )
    for x, folding, *_ in (cls, reg, hyb, clsaux):
        assert isinstance(x, csr_matrix)
        assert (x.dtype, x.indices.dtype, folding.dtype) == (np.int8, np.int32, np.int64)
        assert set(x.data) == {1}
    assert (hyb[2].dtype, hyb[3].dtype) == (np.float32, np.float32)
    assert (hyb[2].shape[1], hyb[3].shape[1], clsaux[2].shape[1]) == (6, 2, 7)
    for other in (reg, hyb):
        assert (cls[0] != other[0]).nnz == 0
        assert np.array_equal(cls[1], other[1])


@pytest.mark.parametrize(("kind", "place", "auxiliary"), [("hyb", "results", False), ("clsaux", "results/w_aux", True)])
def test_every_entry_of_a_kept_task_is_exported_and_no_other(data, exported, kind, place, auxiliary):
    folder = exported / "matrices" / ("w_aux" if auxiliary else "wo_aux") / kind
    ids = read_table(exported / place / "compounds.csv")
    assert ids["cont_descriptor_vector_id"].tolist() == list(range(len(ids)))
    ids = ids["compound_id"].tolist()
    assert ids == sorted(ids)
    for y, kind_of_task, matrix in (
        ("y_class", "classification", data.y_class()),
        ("y_regr", "regression", data.y_regr()),
        ("y_censor", "regression", data.y_censor()),
    ):
        if y not in LAYOUT[kind]:
            continue
        wanted = kept(data, kind_of_task, auxiliary=auxiliary)
        all_tasks = [task for task in data.tasks if task.kind == kind_of_task]
        assert cells(load_npz(folder / LAYOUT[kind][y]), ids, names(wanted)) == expected(matrix, all_tasks, wanted)
    bits = {key: value for key, value in cells(data.x()).items() if f"id{key[0]:04}" in ids}
    assert cells(load_npz(folder / LAYOUT[kind]["x"]), [int(one[2:]) for one in ids]) == bits
    folds = np.load(folder / LAYOUT[kind]["folds"])
    assert folds.tolist() == [int(data.folds[int(one[2:])]) for one in ids]


def test_rows_are_the_compounds_with_an_entry_in_a_kept_task(tmp_path):
    data = prepare(tmp_path / "data", density=0.04, rows=50)
    counts = export_tuner(data, tmp_path / "tuner")
    for place, auxiliary in (("results", False), ("results/w_aux", True)):
        wanted = kept(data, "classification", auxiliary=auxiliary)
        with_entry = {key[0] for key in expected(data.y_class(), data.classification_tasks, wanted)}
        if not auxiliary:
            wanted = kept(data, "regression")
            with_entry |= {key[0] for key in expected(data.y_regr(), data.regression_tasks, wanted)}
        ids = read_table(tmp_path / "tuner" / place / "compounds.csv")["compound_id"].tolist()
        assert ids == sorted(with_entry)
        assert 0 < len(ids) < 50
        assert counts["aux_compounds" if auxiliary else "compounds"] == len(ids)
    assert counts["classification_tasks"] == 6
    assert counts["regression_tasks"] == 2
    assert counts["aux_classification_tasks"] == 7
    assert counts["dropped_tasks"] == 3


def test_explicit_zeros_survive(data, exported):
    for kind in ("reg", "hyb"):
        folder = exported / "matrices" / "wo_aux" / kind
        values, censor = (load_npz(folder / LAYOUT[kind][key]) for key in ("y_regr", "y_censor"))
        wanted = expected(data.y_regr(), data.regression_tasks, kept(data, "regression"))
        assert values.nnz == censor.nnz == len(wanted)
        assert np.count_nonzero(values.data == 0) == sum(value == 0 for value in wanted.values()) > 3
        assert np.count_nonzero(censor.data == 0) > 3


def test_weights(exported):
    folder = exported / "matrices"
    table = pd.read_csv(folder / "wo_aux/cls/cls_weights.csv")
    assert list(table.columns) == ["task_id", "catalog_id", "task_type", "training_weight", "aggregation_weight"]
    assert table["task_type"].tolist() == ["OTHER", "ADME", "OTHER", "CATALOG-PANEL", "NON-CATALOG-PANEL", "OTHER"]
    assert table["catalog_id"].fillna(-1).tolist() == [-1, -1, -1, 17, -1, -1]
    assert table["training_weight"].tolist() == [1 / 3] * 6
    assert table["aggregation_weight"].tolist() == [1, 1, 1, 1, 1, 0]
    assert ",17," in (folder / "wo_aux/cls/cls_weights.csv").read_text()
    table = pd.read_csv(folder / "wo_aux/reg/reg_weights.csv")
    assert list(table.columns) == [
        "task_id",
        "task_type",
        "training_weight",
        "aggregation_weight",
        "censored_weight",
    ]
    assert table.to_numpy().tolist() == [[0, "OTHER", 1.0, 1.0, 0.4737], [1, "OTHER", 1.0, 0.0, 0.0]]
    table = pd.read_csv(folder / "w_aux/clsaux/clsaux_weights.csv")
    assert table["task_type"].iloc[-1] == "AUX_HTS"
    assert table["training_weight"].iloc[-1] == 0.1
    assert table["aggregation_weight"].iloc[-1] == 0


def test_result_tables_describe_all_tasks_and_number_the_kept_ones(data, exported):
    table = read_table(exported / "results" / "T8c.csv")
    assert table["cont_classification_task_id"].fillna(-1).tolist() == [0, -1, 1, 2, 3, 4, 5]
    assert table["classification_task_id"].tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert table["input_assay_id"].tolist() == [0, 1, 2, 3, 4, 5, 0]
    assert table["catalog_task_id"].fillna(-1).tolist() == [-1, -1, -1, -1, 17, -1, -1]
    assert table["threshold"].tolist() == [5.5, 5.5, 0.0, -0.1, 5.5, 5.5, 5.0]
    assert table["threshold_method"].tolist() == ["expert"] * 3 + ["median", "expert", "expert", "aux_low"]
    assert table["direction"].fillna("").tolist() == ["high", "high", "", "low", "high", "high", "high"]
    assert table["is_binary"].tolist() == [False, False, True, False, False, False, False]
    assert table["is_auxiliary"].tolist() == [False] * 6 + [True]
    assert table["use_in_regression"].tolist() == [True, True, False, False, False, False, True]
    assert table["training_quorum_OK"].tolist() == [True, False, True, True, True, True, True]
    assert table["evaluation_quorum_OK"].fillna("?").tolist() == [True, "?", True, True, True, True, "?"]
    assert table["weight"].fillna(-1).tolist() == [1 / 3, -1, 1 / 3, 1 / 3, 1 / 3, 1 / 3, 1 / 3]
    assert table["n_tasks"].fillna(-1).tolist() == [2, -1, 1, 1, 1, 1, 2]
    assert table["retained_tasks"].tolist() == [2, 0, 1, 1, 1, 1, 2]
    dense = data.y_class().toarray()
    for side, sign in (("actives", 1), ("inactives", -1)):
        by_fold = [[int((dense[data.folds == fold, column] == sign).sum()) for fold in range(5)] for column in range(7)]
        assert table[f"num_total_{side}"].tolist() == [sum(counts) for counts in by_fold]
        assert table[f"num_fold_min_{side}"].tolist() == [min(counts) for counts in by_fold]
    table = read_table(exported / "results" / "T8r.csv")
    assert table["cont_regression_task_id"].fillna(-1).tolist() == [0, -1, 1]
    assert table["input_assay_id"].tolist() == [0, 1, 0]
    assert table["fraction_censored"].tolist() == [0.25] * 3
    assert table["censored_weight"].tolist() == [0.4737, 0.4737, 0.0]
    table = read_table(exported / "results" / "w_aux" / "T8c.csv")
    assert table["cont_classification_task_id"].fillna(-1).tolist() == [0, -1, 1, 2, 3, 4, 5, 6, -1]
    assert table["direction"].isna().tolist() == [False, False, True, False, False, False, False, True, False]


def test_long_tables_are_the_matrices(data, exported, monkeypatch, tmp_path):
    folder = exported / "matrices" / "wo_aux" / "hyb"
    labels = read_table(exported / "results" / "T10c_cont.csv")
    row, task = "cont_descriptor_vector_id", "cont_classification_task_id"
    assert labels[task].is_monotonic_increasing
    found = dict(zip(zip(labels[row], labels[task], strict=True), labels["class_label"], strict=True))
    assert found == cells(load_npz(folder / "hyb_cls_T10_y.npz"))
    values = read_table(exported / "results" / "T10r_cont.csv")
    keys = list(zip(values[row], values["cont_regression_task_id"], strict=True))
    exact = values["standard_value"].to_numpy().astype(np.float32).astype(float)
    assert dict(zip(keys, exact, strict=True)) == cells(load_npz(folder / "hyb_reg_T10_y.npz"))
    codes = values["standard_qualifier"].map({"<": -1, "=": 0, ">": 1})
    assert dict(zip(keys, codes, strict=True)) == cells(load_npz(folder / "hyb_reg_T10_censor_y.npz"))
    structures = read_table(exported / "results" / "T6_cont.csv")
    assert structures[row].tolist() == list(range(len(structures)))
    bits = {(int(at), bit): 1.0 for at, text in enumerate(structures["fp_feat"]) for bit in json.loads(text)}
    assert bits == cells(load_npz(folder / "hyb_T11_x.npz"))
    assert all(set(json.loads(text)) <= {1} for text in structures["fp_val"])
    folds = np.load(folder / "hyb_T11_fold_vector.npy")
    for table in (labels, values, structures):
        assert table["fold_id"].tolist() == folds[table[row]].tolist()
    ids = read_table(exported / "results" / "compounds.csv").set_index(row)
    assert ids["descriptor_vector_id"].to_dict() == structures.set_index(row)["descriptor_vector_id"].to_dict()
    # In small batches the same files come out.
    monkeypatch.setattr(tuner_tables, "_BATCH", 50)
    export_tuner(data, tmp_path / "batches")
    for path in (exported / "results").rglob("*.csv"):
        assert path.read_bytes() == (tmp_path / "batches" / path.relative_to(exported)).read_bytes()


@pytest.mark.parametrize(
    ("chosen", "places"),
    [
        ((0, 2), {"cls"}),
        ((9,), {"reg"}),
        ((0, 9), {"cls", "reg", "hyb"}),
        ((7,), {"clsaux"}),
        ((8, 9), {"reg"}),
        ((0, 8), {"cls", "clsaux"}),
    ],
)
def test_a_data_set_without_a_task_is_left_out(tmp_path, chosen, places):
    columns = {"classification": 0, "regression": 0}
    tasks = []
    for number in chosen:
        kind = TASKS[number].kind
        tasks.append(replace(TASKS[number], column=columns[kind]))
        columns[kind] += 1
    data = prepare(tmp_path / "data", tasks, density=0.5)
    export_tuner(data, tmp_path / "tuner")
    assert {path.name for path in (tmp_path / "tuner" / "matrices").glob("*/*")} == places


def test_nothing_to_export_is_refused(tmp_path):
    data = prepare(tmp_path / "data", [replace(task, training_quorum=False) for task in TASKS])
    with pytest.raises(DataError, match=r"None of the 13 tasks") as caught:
        export_tuner(data, tmp_path / "tuner")
    assert caught.value.code == "PFL-D15"
    assert not (tmp_path / "tuner").exists()


def test_counts_are_refused(tmp_path):
    data = prepare(tmp_path / "data", counts=True)
    with pytest.raises(DataError, match="counts = false") as caught:
        export_tuner(data, tmp_path / "tuner")
    assert caught.value.code == "PFL-D15"


def test_a_weight_above_one_is_refused(tmp_path):
    data = prepare(tmp_path / "data", [replace(task, quorum_weight=task.quorum_weight * 4) for task in TASKS])
    with pytest.raises(DataError, match=r"got 1\.33333 for assay-0/high/5\.5") as caught:
        export_tuner(data, tmp_path / "tuner")
    assert caught.value.code == "PFL-D15"


def test_an_export_replaces_an_export_and_nothing_else(data, exported):
    export_tuner(data, exported)
    (exported / "results" / "mine.txt").write_text("precious")
    with pytest.raises(DataError, match=r"results/mine\.txt") as caught:
        export_tuner(data, exported)
    assert caught.value.code == "PFL-D08"
    assert (exported / "results" / "mine.txt").read_text() == "precious"
    with pytest.raises(DataError, match=r"data holds") as caught:
        export_tuner(data, data.folder)
    data.verify()
    (exported.parent / "file").write_text("precious")
    with pytest.raises(DataError, match="not a folder"):
        export_tuner(data, exported.parent / "file")


def test_a_failure_leaves_the_older_export(data, exported, monkeypatch):
    before = {path: path.read_bytes() for path in exported.rglob("*") if path.is_file()}

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tuner_tables, "_t6", full)
    with pytest.raises(OSError, match="No space"):
        export_tuner(data, exported)
    assert before == {path: path.read_bytes() for path in exported.rglob("*") if path.is_file()}
    assert [path.name for path in exported.parent.iterdir()] == ["tuner"]


# --- import ---------------------------------------------------------------------------------------------------


def back(exported, place="matrices/wo_aux/hyb", **options):
    folder = exported.parent / "back"
    manifest = import_tuner(exported / place, folder, **options)
    opened = PreparedData.open(folder)
    opened.verify()
    assert opened.manifest == manifest
    return opened


def same_entries(data, opened, ids, *, auxiliary=False):
    for kind, names_of in (("classification", ("y_class",)), ("regression", ("y_regr", "y_censor"))):
        wanted = kept(data, kind, auxiliary=auxiliary)
        tasks = [task for task in data.tasks if task.kind == kind]
        got_tasks = [task for task in opened.tasks if task.kind == kind]
        for name in names_of:
            want = expected(getattr(data, name)(), tasks, wanted)
            got = cells(getattr(opened, name)(), ids, names(wanted) if got_tasks else [])
            assert got == (want if got_tasks else {})
    rows = [int(one[2:]) for one in ids]
    assert cells(opened.x(), rows) == {key: value for key, value in cells(data.x()).items() if key[0] in set(rows)}
    assert opened.folds.tolist() == data.folds[rows].tolist()


@pytest.mark.parametrize(
    ("place", "results", "auxiliary"),
    [
        ("matrices/wo_aux/hyb", "results", False),
        ("matrices/w_aux/clsaux", "results/w_aux", True),
        ("matrices/wo_aux/cls", "results", False),
        ("matrices/wo_aux/reg", "results", False),
        ("matrices", "results", False),
        ("", "results", False),
    ],
)
def test_round_trip(data, exported, place, results, auxiliary):
    opened = back(exported, place, fold_count=5)
    ids = read_table(exported / results / "compounds.csv")["compound_id"].tolist()
    same_entries(data, opened, ids, auxiliary=auxiliary)
    assert opened.bits == BITS
    assert opened.x().dtype == np.int8
    assert opened.manifest["settings"]["folds"]["count"] == 5


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 999),
    density=st.floats(0.05, 0.9),
    rows=st.integers(5, 30),
    keeps=st.lists(st.booleans(), min_size=len(TASKS), max_size=len(TASKS)).filter(lambda keeps: keeps[0] and keeps[9]),
)
def test_round_trip_of_any_data(tmp_path_factory, seed, density, rows, keeps):
    base = tmp_path_factory.mktemp("any")
    tasks = [replace(task, training_quorum=keep) for task, keep in zip(TASKS, keeps, strict=True)]
    data = prepare(base / "data", tasks, rows=rows, density=density, seed=seed)
    export_tuner(data, base / "tuner")
    opened = back(base / "tuner", "matrices/wo_aux", fold_count=5)
    ids = read_table(base / "tuner" / "results" / "compounds.csv")["compound_id"].tolist()
    same_entries(data, opened, ids)


def test_tasks_come_back_as_they_were(data, exported):
    opened = back(exported)
    wanted = [*kept(data, "classification"), *kept(data, "regression")]
    for task, original in zip(opened.tasks, wanted, strict=True):
        for name in ("kind", "assay", "direction", "threshold", "threshold_method", "auxiliary", "evaluate"):
            assert getattr(task, name) == getattr(original, name), (task, name)
        assert (task.quorum_type, task.quorum_weight) == (original.quorum_type, original.quorum_weight)
        assert task.training_weight == original.quorum_weight
        assert task.censored_weight == (original.censored_weight if task.kind == "regression" else None)
        assert task.training_quorum
    assert [task.column for task in opened.tasks] == [0, 1, 2, 3, 4, 5, 0, 1]
    assert [task.catalog_task_id for task in opened.classification_tasks] == [None, None, None, 17, None, None]
    assert names(opened.tasks) == [
        "assay-0/high/5.5",
        "assay-2/binary",
        "assay-3/low/-0.1",
        "assay-4/high/5.5",
        "assay-5/high/5.5",
        "assay-0/high/5.0",
        "assay-0/value/0",
        "assay-0/value/1",
    ]
    dense = opened.y_class().toarray()
    for task in opened.classification_tasks:
        assert task.actives == (dense[:, task.column] == 1).sum()
        assert task.inactives == (dense[:, task.column] == -1).sum()
    for task in opened.regression_tasks:
        entries = [value for key, value in cells(opened.y_censor()).items() if key[1] == task.column]
        counts = (task.values, task.censored)
        assert counts == (len(entries), sum(value != 0 for value in entries))


def test_screens_without_direction_come_back(exported):
    last = back(exported, "matrices/w_aux").classification_tasks[-1]
    assert (last.task, last.direction, last.auxiliary) == ("assay-hts/absolute/3.0", "absolute", True)


def test_private_training_refuses_imported_tasks_unless_someone_vouches(exported):
    opened = back(exported)
    assert opened.data_derived_assays == ("0", "2", "3", "4", "5")
    assert all(task.data_derived for task in opened.tasks)
    assert opened.manifest["imported"]["public_tasks"] is False
    opened = back(exported, public_tasks=True)
    assert opened.data_derived_assays == ()
    assert not any(task.data_derived for task in opened.tasks)
    assert opened.manifest["imported"]["public_tasks"] is True


def test_without_result_tables_tasks_are_numbered(exported):
    for path in (exported / "results").glob("T8*.csv"):
        path.unlink()
    opened = back(exported)
    assert names(opened.tasks) == [*(f"cls-{number}" for number in range(6)), "reg-0", "reg-1"]
    assert [task.assay for task in opened.tasks] == names(opened.tasks)
    assert all(task.threshold is None for task in opened.tasks)
    assert opened.data_derived_assays == tuple(names(opened.tasks))


def test_compounds_are_hashes_of_row_and_bits(exported):
    opened = back(exported)
    table = pd.read_csv(opened.folder / "compounds.csv", keep_default_na=False)
    assert list(table.columns) == ["row", "compound_id", "input_compound_ids", "smiles"]
    x = opened.x()
    bits = x.indices[: x.indptr[1]].astype("<i4").tobytes()
    assert table["compound_id"][0] == hashlib.sha256(bytes(8) + bits).hexdigest()[:32]
    assert table["compound_id"].is_unique
    assert set(table["smiles"]) == {""}


def test_the_manifest_names_what_was_read(exported):
    imported = back(exported, "").manifest["imported"]
    assert imported["data_sets"] == ["hyb"]
    assert set(imported["sha256"]) == {*LAYOUT["hyb"].values(), "T8c.csv", "T8r.csv"}
    path = exported / "matrices/wo_aux/hyb/hyb_T11_x.npz"
    assert imported["sha256"]["hyb_T11_x.npz"] == hashlib.sha256(path.read_bytes()).hexdigest()


def remove(folder):
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


def test_classification_and_regression_are_taken_together_where_rows_agree(data, exported):
    remove(exported / "matrices/wo_aux/hyb")
    opened = back(exported, "")
    assert opened.manifest["imported"]["data_sets"] == ["cls", "reg"]
    same_entries(data, opened, read_table(exported / "results" / "compounds.csv")["compound_id"].tolist())
    # The same matrix in other bytes is the same.
    path = exported / "matrices/wo_aux/reg/reg_T11_x.npz"
    save_npz(path, load_npz(path), compressed=False)
    assert back(exported, "").manifest["imported"]["data_sets"] == ["cls", "reg"]


@pytest.mark.parametrize("name", ["reg_T11_x.npz", "reg_T11_fold_vector.npy"])
def test_where_rows_differ_one_must_be_named(exported, name):
    remove(exported / "matrices/wo_aux/hyb")
    path = exported / "matrices/wo_aux/reg" / name
    if name.endswith("npz"):
        matrix = load_npz(path)
        save_npz(path, matrix[::-1])
    else:
        np.save(path, np.load(path)[::-1])
    with pytest.raises(DataError, match="different fingerprints or folds") as caught:
        back(exported, "")
    assert caught.value.code == "PFL-D16"
    for kind in ("wo_aux/cls", "wo_aux/reg", "w_aux/clsaux"):
        assert f"matrices/{kind}" in str(caught.value)


def test_several_without_a_hybrid_are_named(exported):
    remove(exported / "matrices/wo_aux/hyb")
    remove(exported / "matrices/wo_aux/reg")
    with pytest.raises(DataError, match="Several data sets") as caught:
        back(exported, "")
    assert caught.value.code == "PFL-D16"


def test_a_folder_without_data_sets_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"cls_T11_x\.npz") as caught:
        import_tuner(tmp_path / "nowhere", tmp_path / "back")
    assert caught.value.code == "PFL-D16"


def change(folder, name, function):
    """Rewrite one file with a changed content."""
    path = folder / name
    if name.endswith(".npz"):
        save_npz(path, function(load_npz(path)))
    elif name.endswith(".npy"):
        np.save(path, function(np.load(path)))
    else:
        function(pd.read_csv(path, dtype=str, keep_default_na=False)).to_csv(path, index=False)


def with_data(**where):
    """Return a function that puts other values in a matrix, by position in its data."""

    def function(matrix):
        data = matrix.data.astype(np.float64)
        for place, value in where.items():
            data[int(place[1:])] = value
        return csr_matrix((data, matrix.indices, matrix.indptr), shape=matrix.shape)

    return function


def twice(matrix):
    """Store the first row's first entry twice."""
    entries = matrix.tocoo()
    order = np.concatenate([[0], np.arange(entries.nnz)])
    indptr = matrix.indptr + (np.arange(len(matrix.indptr)) > entries.row[0])
    return csr_matrix((entries.data[order], entries.col[order], indptr), shape=matrix.shape)


def out_of_range(matrix):
    broken = matrix.copy()
    broken.indices[0] = matrix.shape[1]
    return broken


def without_zeros(matrix):
    matrix.eliminate_zeros()
    return matrix


def objects(folder, name):
    """Write a file that runs code when it is unpickled."""
    array = np.array([print], dtype=object)
    if name.endswith(".npy"):
        np.save(folder / name, array, allow_pickle=True)
    else:
        matrix = load_npz(folder / name)
        np.savez(folder / name, format=b"csr", shape=matrix.shape, data=array, indices=array, indptr=array)


def set_column(name, row, value):
    def function(table):
        table.loc[row, name] = value
        return table

    return function


PROBLEMS = [
    ("hyb_T11_x.npz", with_data(_3=2), "bits of +1 only, got 2"),
    ("hyb_T11_x.npz", with_data(_3=0), "bits of +1 only, got 0"),
    ("hyb_T11_x.npz", twice, "stored twice"),
    ("hyb_T11_x.npz", out_of_range, "damaged"),
    ("hyb_T11_x.npz", lambda matrix: matrix.tocsc(), "CSR format, got csc"),
    ("hyb_T11_x.npz", coo_matrix, "CSR format, got coo"),
    ("hyb_T11_x.npz", lambda matrix: matrix[:-1], "as many rows"),
    ("hyb_T11_fold_vector.npy", lambda folds: folds[1:], "as many rows"),
    ("hyb_T11_fold_vector.npy", lambda folds: folds.astype(float), "whole number"),
    ("hyb_T11_fold_vector.npy", lambda folds: folds[:, None], "whole number"),
    ("hyb_T11_fold_vector.npy", lambda folds: folds[:0], "whole number"),
    ("hyb_T11_fold_vector.npy", lambda folds: folds - 1, "expected folds 0 to 4, got -1 to 3"),
    ("hyb_T11_fold_vector.npy", lambda folds: folds + 1, "expected folds 0 to 4, got 1 to 5; give fold_count"),
    ("hyb_cls_T10_y.npz", with_data(_3=2), "labels of -1 and +1, or of 0 and +1, got 2"),
    ("hyb_cls_T10_y.npz", with_data(_3=0), "got 0 and -1"),
    ("hyb_cls_T10_y.npz", with_data(_3=np.nan), "finite numbers"),
    ("hyb_cls_T10_y.npz", twice, "stored twice"),
    ("hyb_cls_T10_y.npz", lambda matrix: matrix[:, 1:], "each of 5 columns of the matrix, got 6"),
    ("hyb_reg_T10_y.npz", with_data(_3=np.inf), "finite numbers"),
    ("hyb_reg_T10_y.npz", with_data(_3=1e39), "too large for float32"),
    ("hyb_reg_T10_y.npz", lambda matrix: matrix * 1j, "finite numbers"),
    ("hyb_reg_T10_y.npz", without_zeros, "stored 0"),
    ("hyb_reg_T10_censor_y.npz", with_data(_3=0.5), "-1 and 0 and +1 only, got 0.5"),
    ("hyb_reg_T10_censor_y.npz", without_zeros, "stored 0"),
    ("hyb_cls_weights.csv", lambda table: table.assign(name="x"), "unknown columns name"),
    ("hyb_cls_weights.csv", lambda table: table.drop(columns="training_weight"), "training_weight are missing"),
    ("hyb_cls_weights.csv", lambda table: table.iloc[:-1], "each of 6 columns"),
    ("hyb_cls_weights.csv", set_column("task_id", 0, "1"), "each task_id from 0 to 5 once"),
    ("hyb_cls_weights.csv", set_column("task_id", 5, "6"), "each task_id from 0 to 5 once"),
    ("hyb_cls_weights.csv", set_column("training_weight", 1, "1.5"), "line 3, column training_weight"),
    ("hyb_cls_weights.csv", set_column("training_weight", 1, ""), "line 3, column training_weight"),
    ("hyb_cls_weights.csv", set_column("aggregation_weight", 1, "-1"), "line 3, column aggregation_weight"),
    ("hyb_cls_weights.csv", set_column("catalog_id", 3, "1.5"), "line 5, column catalog_id"),
    ("hyb_reg_weights.csv", set_column("censored_weight", 0, "inf"), "line 2, column censored_weight"),
    ("hyb_reg_weights.csv", set_column("censored_weight", 0, ""), "line 2, column censored_weight"),
]


@pytest.mark.parametrize(("name", "function", "message"), PROBLEMS)
def test_what_is_wrong_in_a_file_is_named(exported, name, function, message):
    folder = exported / "matrices" / "wo_aux" / "hyb"
    change(folder, name, function)
    with pytest.raises(DataError) as caught:
        back(exported)
    assert caught.value.code == "PFL-D16"
    assert str(caught.value).startswith("[PFL-D16] 1 problem in the files to import;")
    assert message in str(caught.value)
    assert str(folder) in str(caught.value)
    assert not (exported.parent / "back").exists()


@pytest.mark.parametrize("name", LAYOUT["hyb"].values())
@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "objects"])
def test_a_damaged_file_is_named_and_never_unpickled(exported, name, damage):
    folder = exported / "matrices" / "wo_aux" / "hyb"
    path = folder / name
    content = path.read_bytes()
    if damage == "objects":
        if name.endswith(".csv"):
            path.write_bytes(b"\x80\x04\x95")
        else:
            objects(folder, name)
    elif damage == "missing":
        path.unlink()
    else:
        path.write_bytes(b"" if damage == "empty" else content[: len(content) // 2])
    with pytest.raises(DataError) as caught:
        back(exported)
    assert caught.value.code == "PFL-D16"
    assert name in str(caught.value)


def test_a_header_that_claims_a_terabyte_is_refused(exported):
    path = exported / "matrices" / "wo_aux" / "hyb" / "hyb_T11_fold_vector.npy"
    content = path.read_bytes()
    length = content[content.index(b"(") : content.index(b",)")]
    claimed = b"(" + b"9" * 13
    grown = content.replace(length + b",)", claimed + b",)", 1).replace(b" " * (len(claimed) - len(length)), b"", 1)
    path.write_bytes(grown)
    with pytest.raises(DataError) as caught:
        back(exported)
    assert caught.value.code == "PFL-D16"


def test_more_columns_than_bits_can_be_are_refused(exported):
    folder = exported / "matrices" / "wo_aux" / "hyb"
    x = load_npz(folder / "hyb_T11_x.npz")
    wide = csr_matrix((x.data, x.indices, x.indptr), shape=(x.shape[0], 1_048_577))
    save_npz(folder / "hyb_T11_x.npz", wide)
    with pytest.raises(DataError, match="at most 1,048,576 columns"):
        back(exported)


def test_an_export_into_the_prepared_data_is_refused(data):
    with pytest.raises(DataError, match="lies in the prepared data") as caught:
        export_tuner(data, data.folder / "tuner")
    assert caught.value.code == "PFL-D08"


def test_all_problems_are_told_together(exported):
    folder = exported / "matrices" / "wo_aux" / "hyb"
    change(folder, "hyb_T11_x.npz", with_data(_0=3))
    change(folder, "hyb_T11_fold_vector.npy", lambda folds: folds + 1)
    change(folder, "hyb_cls_T10_y.npz", with_data(_0=3))
    change(folder, "hyb_reg_T10_censor_y.npz", with_data(_0=3))
    change(folder, "hyb_reg_weights.csv", set_column("training_weight", 0, "2"))
    (folder / "hyb_cls_weights.csv").unlink()
    with pytest.raises(DataError, match="6 problems") as caught:
        back(exported)
    for name in set(LAYOUT["hyb"].values()) - {"hyb_reg_T10_y.npz"}:
        assert name in str(caught.value)


def test_a_problem_leaves_the_older_folder(exported):
    before = back(exported).manifest
    change(exported / "matrices" / "wo_aux" / "hyb", "hyb_T11_x.npz", with_data(_0=3))
    with pytest.raises(DataError):
        back(exported)
    assert PreparedData.open(exported.parent / "back").manifest == before


def test_a_folder_with_other_files_is_not_replaced(exported, tmp_path):
    (tmp_path / "back").mkdir()
    (tmp_path / "back" / "thesis.docx").write_text("precious")
    with pytest.raises(DataError, match=r"thesis\.docx") as caught:
        back(exported)
    assert caught.value.code == "PFL-D08"


def test_labels_may_be_zero_and_one(data, exported):
    def zero_one(matrix):
        return csr_matrix(((matrix.data + 1) / 2, matrix.indices, matrix.indptr), shape=matrix.shape)

    change(exported / "matrices" / "wo_aux" / "hyb", "hyb_cls_T10_y.npz", zero_one)
    same_entries(data, back(exported), read_table(exported / "results" / "compounds.csv")["compound_id"].tolist())


def test_other_types_and_orders_of_the_same_numbers_are_read(data, exported):
    """Unsigned bits are no counts; unsorted columns and weight rows are sorted; codes may be floats."""

    def unsorted(matrix):
        order = np.lexsort((-matrix.indices, np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))))
        return csr_matrix((matrix.data[order], matrix.indices[order], matrix.indptr), shape=matrix.shape)

    folder = exported / "matrices" / "wo_aux" / "hyb"
    change(folder, "hyb_T11_x.npz", lambda matrix: csr_array(matrix.astype(np.uint16)))
    for name in ("hyb_cls_T10_y.npz", "hyb_reg_T10_y.npz", "hyb_reg_T10_censor_y.npz"):
        change(folder, name, lambda matrix: unsorted(matrix.astype(np.float64)))
    change(folder, "hyb_cls_weights.csv", lambda table: table.iloc[::-1])
    change(exported / "results", "T8c.csv", lambda table: table.iloc[::-1])
    opened = back(exported)
    same_entries(data, opened, read_table(exported / "results" / "compounds.csv")["compound_id"].tolist())
    assert opened.x().dtype == np.int8
    assert [task.catalog_task_id for task in opened.classification_tasks] == [None, None, None, 17, None, None]
    assert [task.threshold for task in opened.classification_tasks] == [5.5, 0.0, -0.1, 5.5, 5.5, 5.0]


def test_folds_without_rows_need_their_number(exported):
    folder = exported / "matrices" / "wo_aux" / "hyb"
    change(folder, "hyb_T11_fold_vector.npy", lambda folds: np.where(folds == 2, 1, folds))
    with pytest.raises(DataError, match="give fold_count"):
        back(exported)
    assert back(exported, fold_count=5).manifest["settings"]["folds"]["count"] == 5
    with pytest.raises(DataError, match="expected folds 0 to 3, got 0 to 4") as caught:
        back(exported, fold_count=4)
    assert "fold_count" not in str(caught.value)
    with pytest.raises(DataError, match="at most 64 folds, got 65"):
        back(exported, fold_count=65)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda table: table.drop(columns="threshold"), "columns threshold are missing"),
        (set_column("cont_classification_task_id", 0, "1"), "task_id from 0 to 5 once"),
        (set_column("threshold", 0, ""), "finite threshold"),
        (set_column("weight", 0, "0.25"), "another run"),
        (set_column("assay_type", 0, "ADME"), "another run"),
        (lambda table: table.iloc[:-1], "another run"),
    ],
)
def test_a_result_table_of_another_run_is_refused(exported, function, message):
    change(exported / "results", "T8c.csv", function)
    with pytest.raises(DataError, match="T8c.csv") as caught:
        back(exported)
    assert message in str(caught.value)


def test_weights_without_optional_columns(exported):
    for path in (exported / "results").glob("T8*.csv"):
        path.unlink()
    folder = exported / "matrices" / "wo_aux" / "hyb"
    for name in ("hyb_cls_weights.csv", "hyb_reg_weights.csv"):
        change(folder, name, lambda table: table[["task_id", "training_weight", "aggregation_weight"]])
    opened = back(exported)
    assert {(task.assay_type, task.catalog_task_id, task.censored_weight) for task in opened.tasks} == {
        ("", None, None)
    }


def test_data_prepared_from_tables_are_not_imported_over(exported, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "agreement.json").write_text("{}")
    with pytest.raises(DataError, match="prepared from tables") as caught:
        import_tuner(exported, tmp_path / "data")
    assert caught.value.code == "PFL-D08"
    assert (tmp_path / "data" / "agreement.json").exists()
