"""Quorums, weights and the tasks that carry them, rule by rule."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from pharma_fl.data.quorums import class_quorum, spread, value_quorum, variance_ok
from pharma_fl.data.rules import Rules
from pharma_fl.data.targets import NO_COLUMN, assay_tasks
from pharma_fl.data.tasks import read_tasks, write_tasks
from pharma_fl.data.thresholds import EXPERT_THRESHOLDS
from pharma_fl.data.weights import censored_weight, class_weights

RULES = Rules.built_in()
FOLDS = 5


def judged(kind, actives, inactives, *, in_catalogue=False):
    """Judge a task by its numbers of actives and inactives in each fold: (quorum_type, training, evaluation)."""
    labels = np.concatenate([np.full(sum(actives), 1), np.full(sum(inactives), -1), [0, 0]]).astype(np.int8)
    folds = [np.repeat(np.arange(FOLDS), some) for some in (actives, inactives)]
    where = np.concatenate([*folds, [0, 0]]).astype(np.int8)
    verdict = class_quorum(labels, where, FOLDS, assay_type=kind, in_catalogue=in_catalogue, rules=RULES)
    return verdict.quorum_type, verdict.training, verdict.evaluation


@pytest.mark.parametrize("kind", ["ADME", "NON-CATALOG-PANEL", "OTHER"])
def test_the_classification_quorum(kind):
    assert judged(kind, [10] * 5, [10] * 5) == (kind, True, True)
    assert judged(kind, [10, 10, 10, 10, 9], [10] * 5) == (kind, True, False)
    assert judged(kind, [10] * 5, [9, 10, 10, 10, 10]) == (kind, True, False)
    assert judged(kind, [5] * 5, [5] * 5) == (kind, True, False)
    assert judged(kind, [5, 5, 5, 5, 4], [100] * 5) == (kind, False, False)
    assert judged(kind, [100] * 5, [5, 5, 5, 5, 4]) == (kind, False, False)


@pytest.mark.parametrize("side", [0, 4])
def test_an_absent_fold_counts_as_zero(side):
    # The source takes the minimum over the folds that are there.
    some = [50] * 5
    some[side] = 0
    assert judged("OTHER", some, some) == ("OTHER", True, False)


@pytest.mark.parametrize("kind", ["AUX_HTS", "AUX_PL"])
def test_auxiliary_types_need_many_inactives_and_are_never_evaluated(kind):
    assert judged(kind, [2] * 5, [2000] * 5) == (kind, True, False)
    assert judged(kind, [100] * 5, [2000] * 5) == (kind, True, False)
    assert judged(kind, [2, 2, 2, 2, 1], [2000] * 5) == (kind, False, False)
    assert judged(kind, [2] * 5, [2000, 2000, 2000, 2000, 1999]) == (kind, False, False)


def test_a_catalogue_task_needs_labels_of_either_class():
    enough = ("CATALOG-PANEL", True, True)
    assert judged("CATALOG-PANEL", [10] * 5, [70] * 5, in_catalogue=True) == enough
    assert judged("CATALOG-PANEL", [70] * 5, [10] * 5, in_catalogue=True) == enough
    assert judged("CATALOG-PANEL", [0] * 5, [80] * 5, in_catalogue=True) == ("CATALOG-PANEL", True, False)
    nine = [9, 10, 10, 10, 10]
    assert judged("CATALOG-PANEL", nine, [75] * 5, in_catalogue=True) == ("CATALOG-PANEL", True, False)
    assert judged("CATALOG-PANEL", [75] * 5, nine, in_catalogue=True) == ("CATALOG-PANEL", True, False)


def test_a_catalogue_task_that_fails_is_judged_as_another_type():
    below = [10] * 5, [70, 70, 70, 70, 69]
    assert judged("CATALOG-PANEL", *below, in_catalogue=True) == ("NON-CATALOG-PANEL", True, True)
    # One that is not in T_cat has no quorum of its own, however many labels there are.
    assert judged("CATALOG-PANEL", [100] * 5, [100] * 5) == ("NON-CATALOG-PANEL", True, True)
    assert judged("CATALOG-PANEL", [0] * 5, [100] * 5) == ("NON-CATALOG-PANEL", False, False)
    assert judged("CATALOG-PANEL", [4] * 5, [5] * 5, in_catalogue=True) == ("NON-CATALOG-PANEL", False, False)


def measured(kind, exact, censored=0, *, scale=1.0):
    """Judge a regression task by its number of exact values in each fold and its censored ones."""
    folds = np.concatenate([np.repeat(np.arange(FOLDS), exact), np.zeros(censored)]).astype(np.int8)
    values = np.tile([5.0, 5.0 + 2 * scale], len(folds))[: len(folds)]
    censor = np.concatenate([np.zeros(sum(exact)), np.ones(censored)]).astype(np.int8)
    verdict = value_quorum(values, censor, folds, FOLDS, assay_type=kind, rules=RULES)
    return verdict.training, verdict.evaluation


@pytest.mark.parametrize("kind", ["ADME", "OTHER", "NON-CATALOG-PANEL", "CATALOG-PANEL", "AUX_HTS"])
def test_the_regression_quorum(kind):
    evaluated = kind != "AUX_HTS"
    assert measured(kind, [25] * 5) == (True, evaluated)
    assert measured(kind, [25, 25, 25, 25, 24], 1000) == (True, False)
    assert measured(kind, [50, 50, 50, 50, 0]) == (True, False)
    assert measured(kind, [5] * 5, 25) == (True, False)
    assert measured(kind, [5] * 5, 24) == (False, False)
    assert measured(kind, [5, 5, 5, 5, 4], 1000) == (False, False)
    assert measured(kind, [0] * 5) == (False, False)


@pytest.mark.parametrize("kind", ["OTHER", "NON-CATALOG-PANEL", "CATALOG-PANEL"])
def test_regression_other_than_adme_needs_spread_in_every_fold(kind):
    # Two equally frequent values a distance 2 d apart have a deviation of d times the root of 26 / 25.
    assert measured(kind, [26] * 5, scale=0.4905) == (True, True)
    assert measured(kind, [26] * 5, scale=0.49) == (True, False)
    # Exactly 0.5 is enough.
    values = np.repeat([5.0, 5.5, 6.0], [60, 5, 60])
    folds = np.concatenate([np.arange(60), np.arange(5), np.arange(60)]).astype(np.int8) % 5
    assert value_quorum(values, np.zeros(125, np.int8), folds, FOLDS, assay_type=kind, rules=RULES).evaluation
    assert measured("ADME", [26] * 5, scale=0.001) == (True, True)
    # Censored values have no part in it.
    values = np.array([5.0, 5.1] * 65 + [3.0, 9.0] * 20)
    folds = np.concatenate([np.repeat(np.arange(5), 26), np.repeat(np.arange(5), 8)]).astype(np.int8)
    censor = np.array([0] * 130 + [1] * 40, dtype=np.int8)
    assert not value_quorum(values, censor, folds, FOLDS, assay_type=kind, rules=RULES).evaluation


def test_regression_judges_a_catalogue_assay_as_another_type():
    none = np.empty(0, np.int8)
    for kind, judged_as in (("CATALOG-PANEL", "NON-CATALOG-PANEL"), ("OTHER", "OTHER"), ("AUX_HTS", "AUX_HTS")):
        verdict = value_quorum(none.astype(float), none, none, FOLDS, assay_type=kind, rules=RULES)
        assert verdict.quorum_type == judged_as


def test_the_spread_is_the_sample_standard_deviation():
    rng = np.random.default_rng(0)
    values, folds = rng.normal(5, 2, 400), rng.integers(0, 7, 400).astype(np.int8)
    expected = pd.Series(values).groupby(folds).std().reindex(range(9), fill_value=0).to_numpy()
    np.testing.assert_allclose(spread(values, folds, 9), expected, rtol=1e-12)
    order = rng.permutation(400)
    assert spread(values[order], folds[order], 9).tolist() == spread(values, folds, 9).tolist()
    assert spread(np.empty(0), np.empty(0, np.int8), 3).tolist() == [0, 0, 0]


def test_variance_is_needed_in_every_fold():
    folds = np.repeat(np.arange(3), 2).astype(np.int8)
    assert variance_ok(np.array([5, 6, 5, 6, 5, 6.0]), folds, 3, RULES)
    assert not variance_ok(np.array([5, 6, 5, 6, 5, 5.0]), folds, 3, RULES)
    assert not variance_ok(np.array([5, 6, 5, 6, 5, 6.0]), folds, 4, RULES)
    assert not variance_ok(np.array([5, 6, 5, 6, 5.0]), folds[:5], 3, RULES)
    # Equal values have none, however their mean is rounded; values that differ a little have some.
    assert not variance_ok(np.full(9, 1e11 + 0.1), np.tile(np.arange(3), 3).astype(np.int8), 3, RULES)
    assert variance_ok(np.tile([5, 5 + 1e-11], 3), folds, 3, RULES)
    assert not variance_ok(np.tile([5, 5 + 1e-12], 3), folds, 3, RULES)


def test_the_published_censored_weights():
    shares = (0, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 1)
    found = [round(censored_weight(round(share * 1000), 1000, RULES), 4) for share in shares]
    assert found == [1, 1, 0.4737, 0.1579, 0.0526, 0.0175, 0.0058, 0]
    assert censored_weight(0, 0, RULES) == 1


def test_censored_values_weigh_together_what_they_would_at_the_limit():
    for share in (0.06, 0.3, 0.8):
        weight = censored_weight(round(share * 100), 100, RULES)
        assert share * weight / (share * weight + 1 - share) == pytest.approx(0.05, rel=1e-12)


def test_tasks_that_pass_share_the_weight_of_their_assay():
    kinds = ["OTHER"] * 4
    assert class_weights(kinds, [True, False, True, True], RULES) == [1 / 3, 0, 1 / 3, 1 / 3]
    assert class_weights(kinds, [False] * 4, RULES) == [0] * 4
    for kind in ("ADME", "OTHER", "NON-CATALOG-PANEL", "CATALOG-PANEL"):
        assert class_weights([kind] * 2, [True, True], RULES) == [0.5, 0.5]
    for kind in ("AUX_HTS", "AUX_PL"):
        assert class_weights([kind], [True], RULES) == [0.1]
    assert class_weights(["CATALOG-PANEL", "NON-CATALOG-PANEL"], [True, True], RULES) == [0.5, 0.5]
    assert class_weights([], [], RULES) == []


# --- tasks ------------------------------------------------------------------------------------------------------

CATALOGUE = pd.DataFrame(
    {
        "catalog_assay_id": [7, 7],
        "catalog_task_id": [70, 71],
        "threshold": [5.0, 8.0],
        "threshold_method": ["expert", "expert"],
        **{name: np.full(2, math.nan) for name in EXPERT_THRESHOLDS},
        "expert_threshold_1": [5.0, 5.0],
        "expert_threshold_2": [8.0, 8.0],
    }
)


def assay(kind="OTHER", *, binary=False, regression=True, experts=(), direction="high"):
    return {
        "assay": "hERG, IC50",
        "assay_type": kind,
        "use_in_regression": regression,
        "is_binary": binary,
        "direction": direction,
        "catalog_assay_id": 7.0 if kind == "CATALOG-PANEL" else math.nan,
        **dict(zip(EXPERT_THRESHOLDS, [*experts, *[math.nan] * 5][:5], strict=True)),
    }


def tasks(one, values=(), censor=None, folds=None, *, unrounded=None):
    value = np.array(values, float)
    code = np.zeros(len(value), np.int8) if censor is None else np.array(censor, np.int8)
    where = np.arange(len(value)) % FOLDS if folds is None else np.array(folds)
    # Records are not the first ones, and not in order.
    record = np.arange(len(value), dtype=np.int32)[::-1] + 3
    folds_of_record = np.concatenate([np.full(3, FOLDS - 1), where[::-1]]).astype(np.int8)
    raw = value if unrounded is None else np.array(unrounded, float)
    return assay_tasks(one, record, value, code, folds_of_record, FOLDS, RULES, CATALOGUE, unrounded=raw)


SPREAD_OUT = [4.0] * 100 + [5.5] * 100 + [6.5] * 100


def test_names_say_which_side_is_active():
    def names(*arguments, **options):
        return [task.task for task, _ in tasks(assay(*arguments, **options))]

    assert names(experts=(6,)) == [
        *(f"assay-hERG, IC50/high/{value}" for value in (5.5, 6.0, 6.5)),
        "assay-hERG, IC50/value",
    ]
    assert names("ADME", experts=(6,), direction="low", regression=False) == ["assay-hERG, IC50/low/6.0"]
    assert names("ADME", experts=(6,), direction="", regression=False) == ["assay-hERG, IC50/high/6.0"]
    assert names("AUX_PL", binary=True) == ["assay-hERG, IC50/binary"]
    for direction, name in (("high", "high/3.0"), ("low", "low/-3.0"), ("", "absolute/3.0")):
        assert names("AUX_HTS", direction=direction, regression=False) == [f"assay-hERG, IC50/{name}"]
        (found,) = tasks(assay("AUX_HTS", direction=direction, regression=False))
        assert found[0].direction == name.split("/")[0]


def test_a_screen_ignores_qualifiers_in_labels_only():
    values, censor = [-4, -3, 0, 3, 4], [-1, 1, 1, -1, -1]
    expected = {"high": [-1, -1, -1, 1, 1], "low": [1, 1, -1, -1, -1], "": [1, 1, -1, 1, 1]}
    for direction, marks in expected.items():
        (_, labels), (regression, none) = tasks(assay("AUX_HTS", direction=direction), values, censor)
        assert labels.tolist() == marks
        assert none is None
        assert (regression.values, regression.censored) == (5, 5)
        assert regression.auxiliary
        assert regression.training_weight == 0.1


def test_labels_and_counts_of_each_task():
    found = tasks(assay(experts=(5, 6, 7, 8)), [4, 5.5, 6.5, 7], [0, -1, 0, 1])
    classes = [(task.actives, task.inactives, labels.tolist()) for task, labels in found[:-1]]
    assert classes == [
        (2, 1, [-1, 0, 1, 1]),
        (2, 2, [-1, -1, 1, 1]),
        (1, 3, [-1, -1, -1, 1]),
        (0, 3, [-1, -1, -1, 0]),
    ]
    assert all(labels.dtype == np.int8 for _, labels in found[:-1])
    assert {task.training_weight for task, _ in found[:-1]} == {0.25}
    assert {task.column for task, _ in found} == {NO_COLUMN}
    regression = found[-1][0]
    assert (regression.values, regression.censored, regression.actives) == (4, 2, None)
    assert regression.censored_weight == pytest.approx(0.0526, abs=1e-4)


def test_a_binary_assay_has_one_task_whatever_t0_says_of_regression():
    ((task, labels),) = tasks(assay(binary=True, regression=True), [1, -1, 1])
    assert labels.tolist() == [1, -1, 1]
    assert (task.threshold, task.threshold_method, task.direction, task.training_weight) == (0, "expert", "", 1)


def test_a_task_is_evaluated_only_with_quorum_and_not_as_auxiliary():
    found = {task.task.rsplit("IC50/")[1]: task for task, _ in tasks(assay(experts=(6,)), SPREAD_OUT)}
    assert all(task.training_quorum for task in found.values())
    assert {name for name, task in found.items() if task.evaluate} == {"high/6.0", "value"}
    assert [task.quorum_weight for task in found.values()] == [1 / 3, 1 / 3, 1 / 3, 1]


def test_without_variance_in_one_fold_nothing_passes():
    for values in (SPREAD_OUT, [1.0, -1.0] * 150):
        one = assay(binary=len(set(values)) == 2, experts=() if len(set(values)) == 2 else (6,))
        folds = np.arange(300) * 7 % 4
        assert all(task.training_quorum for task, _ in tasks(one, values))
        for task, _ in tasks(one, values, folds=folds):
            assert not task.training_quorum
            assert not task.evaluate
            assert task.quorum_weight == 0
            assert task.training_weight > 0


def test_each_value_is_in_the_fold_of_its_record():
    rng = np.random.default_rng(0)
    folds_of_record = rng.integers(0, FOLDS, 400).astype(np.int8)
    record = rng.permutation(400)[:300].astype(np.int32)
    exact = np.zeros(300, np.int8)
    # Alike within each fold, and the same values out of their places.
    alike = 4.0 + folds_of_record[record]
    for values, varied in ((alike, False), (rng.permutation(alike), True)):
        found = assay_tasks(assay(), record, values, exact, folds_of_record, FOLDS, RULES, None, unrounded=values)
        assert {task.training_quorum for task, _ in found if not task.auxiliary} == {varied}


def test_variance_is_that_of_values_before_rounding():
    assert tasks(assay(), SPREAD_OUT)[-1][0].training_quorum
    assert not tasks(assay(), SPREAD_OUT, unrounded=[5.0] * 300)[-1][0].training_quorum
    nearly = [5.0, 5.001, 5.002] * 100
    assert tasks(assay(), [5.0] * 300, unrounded=nearly)[-1][0].training_quorum


def test_without_variance_a_catalogue_assay_loses_its_regression_task_alone():
    values = [4.0] * 100 + [5.5] * 400
    folds = [place % 4 for place in range(500)]
    at_5, at_8, regression = (task for task, _ in tasks(assay("CATALOG-PANEL"), values, folds=folds))
    assert (at_5.quorum_type, at_5.training_quorum, at_5.evaluate, at_5.quorum_weight) == (
        "CATALOG-PANEL", True, False, 0.5,
    )  # fmt: skip
    # One class is enough for the catalogue's own quorum.
    assert (at_8.actives, at_8.training_quorum) == (0, True)
    assert (regression.training_quorum, regression.quorum_type) == (False, "NON-CATALOG-PANEL")


def test_a_catalogue_task_keeps_its_number_whatever_is_measured():
    for values in ([], SPREAD_OUT, SPREAD_OUT * 2):
        at_5, at_8, regression = (task for task, _ in tasks(assay("CATALOG-PANEL"), values))
        assert [task.catalog_task_id for task in (at_5, at_8, regression)] == [70, 71, None]
        assert at_5.quorum_type == ("CATALOG-PANEL" if len(values) >= 400 else "NON-CATALOG-PANEL")
        # At 8 there is one class, which only the catalogue's own quorum accepts.
        assert at_8.training_quorum == (len(values) >= 400)


PUBLIC = ("task", "kind", "column", "assay", "assay_type", "direction", "threshold", "threshold_method", "auxiliary")
PUBLIC = (*PUBLIC, "data_derived", "catalog_task_id", "training_weight")


@pytest.mark.parametrize("kind", ["ADME", "OTHER", "NON-CATALOG-PANEL", "CATALOG-PANEL", "AUX_HTS"])
@pytest.mark.parametrize("direction", ["high", "low", ""])
def test_what_training_sees_does_not_depend_on_the_data(kind, direction):
    one = assay(kind, experts=(5, 6), direction=direction)
    described = [
        [tuple(getattr(task, name) for name in PUBLIC) for task, _ in tasks(one, values)]
        for values in ([], [5.5], SPREAD_OUT, SPREAD_OUT * 2)
    ]
    assert described[0] == described[1] == described[2] == described[3]
    assert len(described[0]) >= 2


def test_the_table_of_tasks_reads_back(tmp_path):
    made = [
        task
        for one in (assay(experts=(6,)), assay("CATALOG-PANEL"), assay("AUX_HTS", direction=""), assay(binary=True))
        for task, _ in tasks(one, SPREAD_OUT if not one["is_binary"] else [1.0, -1.0])
    ]
    made = [replace(task, column=number, assay=f'a "b", {number}') for number, task in enumerate(made)]
    write_tasks(tmp_path / "tasks.csv", made)
    assert read_tasks(tmp_path / "tasks.csv") == tuple(made)
