"""Aggregation, thresholds and labels against a plain loop over rows."""

import math
import statistics
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pharma_fl.data.activities import aggregate
from pharma_fl.data.labels import enough_classes, enough_values, label
from pharma_fl.data.tables import EXPERT_THRESHOLDS
from pharma_fl.data.targets import targets
from pharma_fl.data.thresholds import thresholds

CODES = {"": 0, "=": 0, "~": 0, "<": -1, "<=": -1, "<<": -1, ">": 1, ">=": 1, ">>": 1}
FOLDS = 3


def assay(identity=1, kind="OTHER", *, binary=False, regression=True, experts=(), direction="high"):
    filled = [*experts, *[math.nan] * 5][:5]
    return {
        "input_assay_id": identity,
        "assay_type": kind,
        "use_in_regression": regression and not binary,
        "is_binary": binary,
        **dict(zip(EXPERT_THRESHOLDS, filled, strict=True)),
        "direction": direction,
    }


def frames(assays, rows):
    """Tables of the assays and of rows (assay, record, qualifier, value)."""
    activities = pd.DataFrame(
        {
            "input_compound_id": np.array([record for _, record, _, _ in rows], dtype=np.int64),
            "input_assay_id": np.array([one for one, _, _, _ in rows], dtype=np.int64),
            "standard_qualifier": pd.Series([qualifier for _, _, qualifier, _ in rows], dtype="str"),
            "standard_value": np.array([value for _, _, _, value in rows], dtype=np.float64),
        }
    )
    return pd.DataFrame(assays), activities, activities["input_compound_id"].to_numpy()


# --- the oracle: one row at a time, no arrays -------------------------------------------------------------------


def oracle_values(assays, rows):
    """Return {assay: {record: (value, code)}} and the reasons of dropped rows, in their order."""
    by_id = {one["input_assay_id"]: one for one in assays}
    reasons = []
    groups = {}
    for position, (identity, record, qualifier, value) in enumerate(rows):
        one = by_id[identity]
        if record < 0:
            reasons.append((position, "structure_failed"))
        elif one["is_binary"]:
            if value in {1, -1}:
                groups.setdefault((identity, record), []).append((position, value, 0))
            else:
                reasons.append((position, "not_plus_minus_one"))
        elif (one["assay_type"] == "ADME" and abs(value) > 1e12) or (
            one["assay_type"] != "ADME" and not 3 <= value <= 10
        ):
            reasons.append((position, "out_of_range"))
        else:
            groups.setdefault((identity, record), []).append((position, value, CODES[qualifier]))
    result = {identity: {} for identity in by_id}
    for (identity, record), members in groups.items():
        one = by_id[identity]
        codes = Counter(code for _, _, code in members)
        if one["is_binary"]:
            plus = sum(value == 1 for _, value, _ in members)
            answer = (1.0 if 2 * plus >= len(members) else -1.0, 0)
        elif one["assay_type"] == "ADME":
            top = max(codes.values())
            winners = {code for code, count in codes.items() if count == top}
            if winners == {-1, 1}:
                reasons.extend((position, "qualifier_tie") for position, _, _ in members)
                continue
            answer = (statistics.median(value for _, value, _ in members), 0 if 0 in winners else winners.pop())
        else:
            pool = [(value, code) for _, value, code in members if code != -1]
            pool = pool or [(value, code) for _, value, code in members]
            best = max(value for value, _ in pool)
            answer = (round(best, 2), min(code for value, code in pool if value == best))
        result[identity][record] = answer
    return result, [reason for _, reason in sorted(reasons)]


def oracle_label(value, code, threshold, direction):
    if direction == "low":
        value, code, threshold = -value, -code, -threshold
    if value > threshold:
        return None if code == -1 else 1
    if value == threshold:
        return -1 if code == -1 else 1
    return None if code == 1 else -1


def quantile(values, share):
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def oracle_thresholds(one, measured):  # noqa: C901 - one rule a line, as in the source
    """Return {threshold: (auxiliary, data_derived)}."""
    if one["is_binary"]:
        return {0.0: (False, False)}
    experts = {one[name] for name in EXPERT_THRESHOLDS if not math.isnan(one[name])}
    if one["assay_type"] == "ADME":
        if experts:
            return dict.fromkeys(experts, (False, False))
        exact = [value for value, code in measured if code == 0]
        if len(exact) < 2:
            return {}
        found = {quantile(exact, 0.5)}
        if one["direction"] in {"high", "low"}:
            found.add(quantile(exact, 0.75 if one["direction"] == "high" else 0.25))
        return dict.fromkeys(found, (False, True))
    derived = not experts
    if derived:
        if not measured:
            return {}
        for trial in (8.0, 7.0, 6.0, 5.0, 4.7, 4.4):
            labels = [oracle_label(value, code, trial, "high") for value, code in measured]
            plus, minus = labels.count(1), labels.count(-1)
            if plus >= 25 and minus >= 25 and plus / (plus + minus) >= 0.2:
                experts = {trial}
                break
        else:
            experts = {statistics.median(value + code * math.log10(2) for value, code in measured)}
    found = dict.fromkeys(experts, (False, derived))
    if len(experts) <= 3:
        found[min(experts) - 0.5] = found[max(experts) + 0.5] = (True, derived)
    return found


def oracle_evaluate(labelled, folds):
    """labelled: {record: label}."""
    counts = Counter((folds[record], mark) for record, mark in labelled.items())
    return all(counts[fold, mark] >= 10 for fold in range(FOLDS) for mark in (1, -1))


def compare(assays, rows, folds):
    """Run both and compare everything; return the tasks."""
    expected, reasons = oracle_values(assays, rows)
    table, activities, records = frames(assays, rows)
    found = aggregate(table, activities, records)
    assert found.dropped["reason"].tolist() == reasons
    assert found.kept + len(reasons) == len(rows)
    flat = {(row.input_assay_id, row.record): (row.value, row.censor) for row in found.table.itertuples()}
    assert flat == {(one, record): pair for one, inner in expected.items() for record, pair in inner.items()}

    result = targets(table, found.table, np.array(folds, dtype=np.int8), FOLDS)
    by_id = {one["input_assay_id"]: one for one in assays}
    cuts = {one: oracle_thresholds(by_id[one], list(inner.values())) for one, inner in expected.items()}
    wanted = sorted((one, cut, *flags) for one, inner in cuts.items() for cut, flags in inner.items())
    classification = [task for task in result.tasks if task.kind == "classification"]
    assert [(t.input_assay_id, t.threshold, t.auxiliary, t.data_derived) for t in classification] == wanted
    labels = result.y_class.tocoo()
    stored = Counter()
    matrix = {}
    for row, column, value in zip(labels.row, labels.col, labels.data, strict=True):
        matrix[int(column), int(row)] = int(value)
        stored[int(column)] += 1
    open_pairs = 0
    for task in classification:
        one = by_id[task.input_assay_id]
        marks = {}
        for record, (value, code) in expected[task.input_assay_id].items():
            mark = int(value) if one["is_binary"] else oracle_label(value, code, task.threshold, one["direction"])
            if mark is None:
                open_pairs += 1
            else:
                marks[record] = mark
        assert {record: value for (column, record), value in matrix.items() if column == task.column} == marks
        assert stored[task.column] == len(marks)
        assert (task.actives, task.inactives) == (
            sum(mark == 1 for mark in marks.values()),
            sum(mark == -1 for mark in marks.values()),
        )
        assert task.training_weight == 1 / len(cuts[task.input_assay_id])
        assert task.evaluate == (not task.auxiliary and oracle_evaluate(marks, folds))
    assert len(result.ambiguous) == open_pairs

    regression = [task for task in result.tasks if task.kind == "regression"]
    assert [task.input_assay_id for task in regression] == sorted(
        one["input_assay_id"] for one in assays if one["use_in_regression"]
    )
    for task in regression:
        column, codes = result.y_regr[:, [task.column]].tocoo(), result.y_censor[:, [task.column]].tocoo()
        pairs = zip(column.row, column.data, codes.data, strict=True)
        assert {int(row): (value, code) for row, value, code in pairs} == {
            record: (np.float32(value), code) for record, (value, code) in expected[task.input_assay_id].items()
        }
        assert task.training_weight == 1
    return result.tasks


# --- hypothesis-made tables -----------------------------------------------------------------------------------

# Multiples of 1/8 are exact in binary, so that oracle and arrays round alike.
EIGHTHS = st.integers(16, 84).map(lambda number: number / 8)
VALUES = st.one_of(EIGHTHS, st.sampled_from([0.0, -1.0, 1.0, 2.0, 3.0, 5.0, 10.0, 10.125, 1e12, 2e12]))
EXPERTS = st.lists(st.integers(30, 70).map(lambda number: number / 8), max_size=5)


@st.composite
def made_tables(draw):
    assays = [
        assay(
            identity,
            draw(st.sampled_from(["ADME", "OTHER", "NON-CATALOG-PANEL"])),
            binary=draw(st.booleans()) and draw(st.booleans()),
            regression=draw(st.booleans()),
            experts=draw(EXPERTS),
            direction=draw(st.sampled_from(["high", "low", ""])),
        )
        for identity in draw(st.lists(st.integers(1, 50), min_size=1, max_size=4, unique=True))
    ]
    rows = draw(
        st.lists(
            st.tuples(
                st.sampled_from([one["input_assay_id"] for one in assays]),
                st.integers(-1, 6),
                st.sampled_from(sorted(CODES)),
                VALUES,
            ),
            max_size=40,
        )
    )
    folds = draw(st.lists(st.integers(0, FOLDS - 1), min_size=7, max_size=7))
    return assays, rows, folds


@settings(max_examples=120, deadline=None)
@given(made_tables())
def test_small_tables_agree_with_the_loop(made):
    compare(*made)


@settings(max_examples=30, deadline=None)
@given(made_tables(), st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(made, random):
    assays, rows, _ = made
    shuffled = list(rows)
    random.shuffle(shuffled)
    first, second = (aggregate(*frames(assays, some)) for some in (rows, shuffled))
    pd.testing.assert_frame_equal(first.table, second.table)
    assert Counter(first.dropped["reason"]) == Counter(second.dropped["reason"])


@pytest.mark.parametrize("seed", range(4))
def test_large_tables_agree_with_the_loop(seed):
    rng = np.random.default_rng(seed)
    assays = [
        assay(1, "OTHER"),
        assay(2, "NON-CATALOG-PANEL", direction="low"),
        assay(3, "ADME", direction=["high", "low", "", "high"][seed]),
        assay(4, "ADME", binary=True),
        assay(5, "OTHER", experts=(5.0, 6.5)),
        assay(6, "ADME", experts=(5.0,), direction="low"),
    ]
    compounds = 300
    rows = []
    for identity in range(1, 7):
        for record in rng.integers(0, compounds, 500):
            value = float(rng.choice([-1, 1])) if identity == 4 else float(np.round(rng.normal(4 + seed, 1.5) * 8) / 8)
            rows.append((identity, int(record), str(rng.choice(["", "", "", "<", ">", "="])), value))
    tasks = compare(assays, rows, rng.integers(0, FOLDS, compounds).tolist())
    assert {task.data_derived for task in tasks} == {True, False}
    assert any(task.evaluate for task in tasks if task.kind == "regression")
    assert any(task.evaluate for task in tasks if task.kind == "classification")


# --- single rules -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [(4, [-1, -1, 0, 1, 1, 0]), (5, [-1, 1, 1, 1, 1, -1]), (6, [0, 1, 1, 0, -1, -1])],
)
def test_the_published_table_of_labels(value, expected):
    censor = np.array([-1, 0, 1], dtype=np.int8)
    values = np.full(3, float(value))
    assert [*label(values, censor, 5.0, "high"), *label(values, censor, 5.0, "low")] == expected


def cuts_of(one, values=(), censor=None):
    codes = np.zeros(len(values), np.int8) if censor is None else np.array(censor, np.int8)
    return [(cut.value, cut.auxiliary, cut.data_derived) for cut in thresholds(one, np.array(values, float), codes)]


def test_an_adme_assay_without_direction_gets_the_median_alone():
    assert cuts_of(assay(kind="ADME", direction=""), [1, 2, 3, 4, 5]) == [(3, False, True)]
    assert cuts_of(assay(kind="ADME", direction="high"), [1, 2, 3, 4, 5]) == [(3, False, True), (4, False, True)]
    assert cuts_of(assay(kind="ADME", direction="low"), [1, 2, 3, 4, 5]) == [(2, False, True), (3, False, True)]
    assert cuts_of(assay(kind="ADME", direction="high"), [3, 3, 3]) == [(3, False, True)]
    assert cuts_of(assay(kind="ADME"), [3, 4], [0, 1]) == []


def test_experts_decide_without_any_data():
    assert cuts_of(assay(experts=(6, 5))) == [
        (4.5, True, False), (5, False, False), (6, False, False), (6.5, True, False)
    ]  # fmt: skip
    assert cuts_of(assay(experts=(5, 6, 7, 8))) == [(value, False, False) for value in (5, 6, 7, 8)]
    assert cuts_of(assay(kind="ADME", experts=(5, 5))) == [(5, False, False)]
    assert cuts_of(assay(kind="ADME", binary=True)) == [(0, False, False)]
    assert cuts_of(assay()) == []


def test_the_adaptive_threshold_needs_share_and_both_classes():
    assert cuts_of(assay(), [9.0] * 25 + [6.5] * 100)[1] == (8, False, True)
    assert cuts_of(assay(), [9.0] * 25 + [6.5] * 101)[1] == (6.5, False, True)
    assert cuts_of(assay(), [9.0] * 24 + [6.5] * 50 + [5.5] * 25)[1] == (6, False, True)
    shifted = cuts_of(assay(), [5.0, 5.0, 5.0], [1, 1, 1])[1]
    assert shifted == (5 + math.log10(2), False, True)


def test_tasks_and_weights_with_experts_do_not_depend_on_the_data():
    assays = [assay(1, experts=(5, 6)), assay(2, "ADME", binary=True), assay(3, "ADME", experts=(0,))]
    rows = [(1, 0, "", 5.5), (1, 1, "", 7.0), (2, 0, "", 1.0), (3, 1, "", 0.0)]
    described = []
    for some in (rows, rows[:1], rows[2:]):
        table, activities, records = frames(assays, some)
        values = aggregate(table, activities, records).table
        tasks = targets(table, values, np.zeros(2, np.int8), FOLDS).tasks
        described.append([(t.task, t.kind, t.column, t.threshold, t.training_weight, t.data_derived) for t in tasks])
    assert described[0] == described[1] == described[2]
    assert not any(derived for *_, derived in described[0])


def test_a_fold_without_labels_fails_the_quorum():
    labels = np.array([1, -1] * 40, dtype=np.int8)
    everywhere = np.repeat(np.arange(4, dtype=np.int8), 20)
    assert enough_classes(labels, everywhere, 4)
    # With five folds, one of them empty, the same labels do not suffice.
    assert not enough_classes(labels, everywhere, 5)
    assert not enough_classes(labels[:-1], everywhere[:-1], 4)


def test_the_regression_quorum_counts_uncensored_values_and_spread():
    values = np.tile([5.0, 7.0], 25)
    folds = np.repeat(np.array([0, 1], dtype=np.int8), 25)
    exact = np.zeros(50, np.int8)
    assert enough_values(values, exact, folds, 2, spread=True)
    assert not enough_values(values, exact, folds, 3, spread=False)
    assert not enough_values(values, np.eye(50, dtype=np.int8)[0], folds, 2, spread=False)
    assert not enough_values(values / 10, exact, folds, 2, spread=True)
    assert enough_values(values / 10, exact, folds, 2, spread=False)


def test_the_comparison_is_not_blind(monkeypatch):
    """With one entry of the qualifier table wrong, oracle and code part."""
    assays, rows = [assay(1, experts=(5,))], [(1, 0, "<", 5.5), (1, 1, "=", 5.5)]
    compare(assays, rows, [0, 0])
    monkeypatch.setitem(CODES, "<", 1)
    with pytest.raises(AssertionError):
        compare(assays, rows, [0, 0])
