"""What training takes of prepared data, and what it leaves."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_array
from tests.partners import a_task

from pharma_fl.data.matrices import PreparedData
from pharma_fl.data.writing import write_prepared
from pharma_fl.errors import ModelError
from pharma_fl.model.batches import Records

TASKS = [a_task(0, "classification", training_weight=0.5), a_task(0, "regression", training_weight=0.25)]


def written(folder, x, tasks=TASKS):
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
    )
    return Records.from_prepared(PreparedData.open(folder), np.arange(rows), input_bits=8, regression_weight=2.0)


def test_nothing_that_is_computed_from_measurements_reaches_training(tmp_path):
    """Quorums, and the weights that follow from them, change with single compounds: no clip covers that."""
    x = csr_array(np.eye(3, 8, dtype=np.int8))
    plain = written(tmp_path / "plain", x)
    told = {"quorum_type": "OTHER", "training_quorum": False, "evaluate": False, "quorum_weight": 0.0}
    told |= {"actives": 7, "inactives": 9, "values": 3, "censored": 1, "censored_weight": 0.01}
    other = written(tmp_path / "other", x, [replace(task, **told) for task in TASKS])
    for records in (plain, other):
        assert records.class_weights.tolist() == [0.5]
        assert records.value_weights.tolist() == [0.5]
        assert records.classes.nnz == 3
    assert plain.data_derived_assays == other.data_derived_assays


def test_counts_are_refused_as_long_as_no_norm_knows_them(tmp_path):
    x = csr_array(np.eye(3, 8, dtype=np.uint16) * 9)
    with pytest.raises(ModelError, match=r"fingerprint\.counts = false") as caught:
        written(tmp_path / "data", x)
    assert caught.value.code == "PFL-M07"
