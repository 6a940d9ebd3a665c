"""A description says what a loop over dense matrices says, whatever the size of pieces."""

import json
from itertools import pairwise
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_array
from tests.partners import a_partner, a_task

from pharma_fl.data import distributions
from pharma_fl.data.activities import DropReason
from pharma_fl.data.compounds import REASONS
from pharma_fl.data.description import MEANINGS, NOTICE, description
from pharma_fl.data.distributions import column_values, distribution, of_counts, of_numbers, of_shares
from pharma_fl.data.matrices import PreparedData
from pharma_fl.data.writing import write_prepared

SETTINGS = {"folds": {"method": "scaffold", "count": 4, "test": 1, "validation": 3}}
COUNTS = {
    "assays": {"read": 9, "with_task": 8},
    "structures": {"read": 60, "kept": 50, "dropped": {"unparsable": 3, "too_long": 7}},
    "activities": {"read": 300, "kept": 290, "dropped": {"out_of_range": 10}, "aggregated": 250},
    "labels": {"read": 80, "kept": 80, "dropped": {"ambiguous": 0}},
}
MARKS = ["lowest", "quartile_1", "median", "quartile_3", "highest"]


def sparse(dense, there, dtype):
    rows, columns = np.nonzero(there)
    indptr = np.concatenate([[0], np.cumsum(there.sum(1))])
    return csr_array((dense[rows, columns].astype(dtype), columns, indptr), shape=there.shape)


class Case:
    """Random matrices: rows without anything, a task without labels, one with one class, one without values."""

    def __init__(self, folder, n=50, seed=3, *, series=True):
        rng = np.random.default_rng(seed)
        self.x = rng.random((n, 40)) < 0.2
        self.x[:, 39] = False
        self.labelled = rng.random((n, 6)) < 0.4
        self.measured = rng.random((n, 3)) < 0.5
        self.labelled[:, 2] = self.measured[:, 1] = False
        self.labelled[[0, 1, 17, 49]] = False
        self.measured[[0, 17]] = False
        self.active = rng.random((n, 6)) < 0.3
        self.active[:, 4] = False
        self.numbers = np.round(rng.normal(size=(n, 3)), 1).astype(np.float32)
        self.numbers[::7] = 0
        self.censor = rng.integers(-1, 2, (n, 3))
        self.folds = rng.integers(0, 3, n)
        self.folds[0] = 3
        self.series = rng.integers(0, 20, n) * 2
        self.tasks = [
            *(a_task(c, "classification", assay_type="OTHER" if c < 2 else "ADME", auxiliary=c == 0) for c in range(6)),
            *(a_task(c, "regression", training_quorum=c > 0, evaluate=c > 1) for c in range(3)),
        ]
        write_prepared(
            folder,
            x=sparse(self.x, self.x, np.int8),
            y_class=sparse(np.where(self.active, 1, -1), self.labelled, np.int8),
            y_regr=sparse(self.numbers, self.measured, np.float32),
            y_censor=sparse(self.censor, self.measured, np.int8),
            folds=self.folds.astype(np.int8),
            compounds=pd.DataFrame({"row": range(n)}),
            tasks=self.tasks,
            manifest={"data_derived_assays": ["3"], "settings": SETTINGS, "counts": COUNTS, "key_id": "ab" * 8},
            series=self.series.astype(np.int32) if series else None,
        )
        self.described = description(PreparedData.open(folder))


@pytest.fixture(params=[None, 7], ids=["one piece", "pieces of seven"])
def case(request, tmp_path, monkeypatch):
    if request.param:
        monkeypatch.setattr(distributions, "_PIECE", request.param)
    return Case(tmp_path / "data")


def same(found, numbers):
    numbers = np.asarray(numbers, dtype=float)
    assert [found[mark] for mark in MARKS] == pytest.approx(np.percentile(numbers, [0, 25, 50, 75, 100]))
    assert found["mean"] == pytest.approx(numbers.mean())
    edges, counts = found["histogram"]["edges"], found["histogram"]["counts"]
    assert len(edges) == len(counts) + 1
    for place, (low, high) in enumerate(pairwise(edges)):
        last = place == len(counts) - 1
        assert counts[place] == sum(low <= one < high or (last and one == high) for one in numbers)
    assert sum(counts) == len(numbers)


def test_the_notice_comes_first_and_all_of_it_is_json(case):
    assert next(iter(case.described)) == "notice"
    assert case.described["notice"] == NOTICE
    assert json.loads(json.dumps(case.described, allow_nan=False)) == case.described


def test_compounds_and_bits(case):
    found = case.described["compounds"]
    assert found["count"] == 50
    assert found["without_label_or_value"] == sum(
        not (a.any() or b.any()) for a, b in zip(case.labelled, case.measured, strict=True)
    )
    assert found["without_label_or_value"] >= 2
    assert (found["bits"], found["bits_in_use"], found["counts_stored"]) == (40, 39, False)
    same(found["bits_per_compound"], case.x.sum(1))
    sizes = [sum(case.series == number) for number in set(case.series.tolist())]
    assert found["series"] == len(sizes)
    same(found["compounds_per_series"], sizes)


def test_series_that_are_not_known_are_not_told(tmp_path):
    found = Case(tmp_path / "data", series=False).described["compounds"]
    assert found["series"] is None
    assert found["compounds_per_series"] is None


def test_density(case):
    for name, there in (("labels", case.labelled), ("values", case.measured)):
        found = case.described[name]
        assert found["count"] == there.sum()
        assert found["filled_share"] == pytest.approx(there.mean())
        assert found["compounds"] == there.any(1).sum()
        same(found["per_compound"], there.sum(1))
        same(found["per_task"], there.sum(0))


def test_balance(case):
    found = case.described["balance"]
    shares = {c: case.active[case.labelled[:, c], c].mean() for c in range(6) if c != 2}
    assert (found["tasks"], found["without_labels"], found["one_class"]) == (5, 1, 1)
    same(found["actives_share"], list(shares.values()))
    assert case.described["labels"]["actives"] == (case.active & case.labelled).sum()
    # The first task is auxiliary, so it counts and is not listed.
    assert found["auxiliary_left_out"] == 1
    distance = {c: abs(shares[c] - 0.5) for c in set(shares) - {0}}
    most, least = ([int(one["task"][-1]) for one in found[f"{name}_balanced"]] for name in ("most", "least"))
    assert sorted([*most, *least]) == sorted(distance)
    assert [distance[c] for c in [*most, *reversed(least)]] == sorted(distance.values())
    for one in [*found["most_balanced"], *found["least_balanced"]]:
        column = int(one["task"][-1])
        assert one["actives_share"] == pytest.approx(shares[column])
        assert one["labels"] == case.labelled[:, column].sum()
        assert one["actives"] == (case.active & case.labelled)[:, column].sum()


def test_values_of_each_task(case):
    found = {one["task"]: one for one in case.described["values"]["by_task"]}
    assert list(found)[-1] == "regression-1"
    assert found["regression-1"]["distribution"] is None
    assert found["regression-1"]["censored_share"] is None
    for column in (0, 2):
        one, there = found[f"regression-{column}"], case.measured[:, column]
        assert one["values"] == there.sum()
        assert one["censored"] == (case.censor[there, column] != 0).sum()
        same(one["distribution"], case.numbers[there, column])
    codes = case.censor[case.measured]
    assert case.described["values"]["below"] == (codes == -1).sum()
    assert case.described["values"]["above"] == (codes == 1).sum()
    assert case.described["values"]["censored_share"] == pytest.approx((codes != 0).mean())


def test_folds(case):
    assert [one["role"] for one in case.described["folds"]] == ["training", "test", "training", "validation"]
    for fold, one in enumerate(case.described["folds"]):
        here = case.folds == fold
        assert one["compounds"] == here.sum()
        assert one["labels"] == case.labelled[here].sum()
        assert one["actives"] == (case.labelled & case.active)[here].sum()
        assert one["values"] == case.measured[here].sum()
    assert case.described["folds"][3]["actives_share"] is None
    assert sum(one["share"] for one in case.described["folds"]) == pytest.approx(1)


def test_tasks_by_kind_and_type(case):
    found = {(one["kind"], one["assay_type"]): one for one in case.described["tasks"]["by_type"]}
    assert set(found) == {("classification", "ADME"), ("classification", "OTHER"), ("regression", "ADME")}
    other, regression = found["classification", "OTHER"], found["regression", "ADME"]
    assert (other["tasks"], other["auxiliary"], other["training_quorum"]) == (2, 1, 2)
    assert other["entries"] == case.labelled[:, :2].sum()
    assert other["actives_share"] == pytest.approx(case.active[:, :2][case.labelled[:, :2]].mean())
    assert (regression["training_quorum"], regression["evaluate"]) == (2, 1)
    assert regression["filled_share"] == pytest.approx(case.measured.mean())
    assert regression["actives_share"] is None
    assert sum(one["tasks"] for one in found.values()) == 9


def test_what_was_dropped_adds_up(case):
    dropped = case.described["dropped"]
    assert dropped["structures"]["reasons"] == [
        {"reason": "too_long", "count": 7, "meaning": MEANINGS["structures"]["too_long"]},
        {"reason": "unparsable", "count": 3, "meaning": MEANINGS["structures"]["unparsable"]},
    ]
    assert [(one["read"], one["kept"], one["dropped"], one["adds_up"]) for one in dropped.values()] == [
        (60, 50, 10, True),
        (300, 290, 10, True),
        (80, 80, 0, True),
    ]
    assert case.described["merged"] == {"compounds": 50, "values": 250}


def test_counts_that_do_not_add_up_and_unknown_reasons_are_said(case):
    data = PreparedData.open(Path(case.described["folder"]))
    data.manifest["counts"]["structures"] = {"read": 60, "kept": 51, "dropped": {"moon_phase": 10}}
    found = description(data)["dropped"]["structures"]
    assert not found["adds_up"]
    assert found["reasons"][0]["meaning"] == "see docs/errors.md"


def test_every_reason_has_its_line():
    assert set(MEANINGS["structures"]) == set(REASONS) - {""}
    assert set(MEANINGS["activities"]) == set(get_args(DropReason))


def test_data_that_were_not_prepared_here(tmp_path):
    """An imported folder knows neither key nor counts, nor which fold is for what."""
    partner = a_partner(tmp_path, classes=0)
    found = description(PreparedData.open(partner.path("data")))
    assert found["dropped"] == {"structures": None, "activities": None, "labels": None}
    assert found["key"] == {"id": None, "scheme": None}
    assert found["labels"]["per_task"] is None
    assert found["labels"]["actives_share"] is None
    assert found["balance"]["actives_share"] is None
    assert [one["role"] for one in found["folds"]] == [None] * 5
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("piece", [1, 5, 100])
def test_columns_one_after_the_other(piece):
    rng = np.random.default_rng(0)
    indices, values = rng.integers(0, 9, 60).astype(np.int32), rng.normal(size=60).astype(np.float32)
    indices[indices == 4] = 5
    found = list(column_values(indices, values, 11, piece_length=piece))
    assert [one.tolist() for one in found] == [values[indices == column].tolist() for column in range(11)]


@pytest.mark.parametrize(
    ("made", "values", "scale", "bins"),
    [
        (of_numbers, [3.5], "linear", 1),
        (of_numbers, [2.0, 2.0], "linear", 1),
        (of_numbers, [-1e12, 0.0, 1e12], "linear", 20),
        (of_numbers, [0.001, 5.0, 1e6], "log", 20),
        (of_numbers, [0.0, 1e6], "linear", 20),
        (of_shares, [0.0, 0.05, 1.0], "linear", 20),
        (of_counts, [0], "linear", 1),
        (of_counts, [0, 24], "linear", 25),
        (of_counts, [3, 4, 5000], "doubling", 12),
        (of_counts, [900, 1000, 1234], "linear", 17),
    ],
)
def test_bins_hold_every_number(made, values, scale, bins):
    found = made(np.array(values))
    assert found["histogram"]["scale"] == scale
    assert len(found["histogram"]["counts"]) == bins
    same(found, values)


def test_nothing_has_no_distribution():
    nothing = np.empty(0)
    assert of_numbers(nothing) is of_shares(nothing) is of_counts(nothing.astype(int)) is None
    assert distribution(nothing, np.array([0.0, 1.0])) is None
