"""Columns on disk come back as they were, and grouping is a stable sort."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pharma_fl.data import spool as module
from pharma_fl.data.spool import Spool, grouped

TEXTS = st.text(max_size=5)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.tuples(st.integers(-5, 5), TEXTS), max_size=6), max_size=5), st.integers(1, 4))
def test_what_is_appended_comes_back(tmp_path_factory, parts, flushed_at):
    folder = tmp_path_factory.mktemp("spool")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_FLUSHED_AT", flushed_at)
        spool = Spool(folder, {"n": np.int8}, ["t"])
        for part in parts:
            spool.append(n=[n for n, _ in part], t=[t for _, t in part])
        columns = spool.finish()
    rows = [row for part in parts for row in part]
    assert len(columns) == len(rows)
    assert columns["n"].tolist() == [n for n, _ in rows]
    assert columns.texts["t"].between(0, 99) == [t for _, t in rows]
    assert [columns.texts["t"][row] for row in range(len(rows))] == [t for _, t in rows]


def test_columns_of_different_lengths_are_refused(tmp_path):
    spool = Spool(tmp_path, {"a": np.int8, "b": np.int8})
    with pytest.raises(ValueError, match="one length"):
        spool.append(a=[1], b=[1, 2])
    with pytest.raises(ValueError, match="every column"):
        spool.append(a=[1])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 6), max_size=40), st.integers(1, 9))
def test_grouping_is_a_stable_sort(tmp_path_factory, keys, piece):
    key = np.array(keys, dtype=np.int32)
    values = np.arange(len(keys), dtype=np.int64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "pieces", lambda length: module_pieces(length, piece))
        found = grouped(tmp_path_factory.mktemp("grouped"), key, 7, {"v": values})
    order = np.argsort(key, kind="stable")
    assert found["v"].tolist() == values[order].tolist()
    assert found["begin"].tolist() == np.searchsorted(key[order], np.arange(8)).tolist()


module_pieces = module.pieces
