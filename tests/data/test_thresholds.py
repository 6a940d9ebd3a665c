"""Cut-offs and labels, rule by rule."""

import math

import numpy as np
import pandas as pd
import pytest

from pharma_fl.data.labels import label
from pharma_fl.data.rules import Rules
from pharma_fl.data.thresholds import EXPERT_THRESHOLDS, from_data, thresholds

RULES = Rules.built_in()
TYPES = ("ADME", "OTHER", "NON-CATALOG-PANEL", "CATALOG-PANEL", "AUX_HTS", "AUX_PL")


def experts_of(experts):
    return dict(zip(EXPERT_THRESHOLDS, [*experts, *[math.nan] * 5][:5], strict=True))


def assay(kind="OTHER", *, binary=False, experts=(), direction="high", catalogue=math.nan):
    return {
        "assay_type": kind,
        "is_binary": binary,
        "direction": direction,
        "catalog_assay_id": catalogue,
        **experts_of(experts),
    }


def t_cat(*tasks, experts=(4.53, 5, 6)):
    """T_cat of tasks (catalog_assay_id, catalog_task_id, threshold, threshold_method)."""
    frame = pd.DataFrame(list(tasks), columns=["catalog_assay_id", "catalog_task_id", "threshold", "threshold_method"])
    return frame.assign(**experts_of(experts))


def cuts(one, values=(), censor=None, catalogue=None):
    codes = np.zeros(len(values), np.int8) if censor is None else np.array(censor, np.int8)
    return thresholds(one, np.array(values, float), codes, RULES, catalogue)


def brief(*arguments, **options):
    return [(cut.value, cut.method) for cut in cuts(*arguments, **options)]


@pytest.mark.parametrize(
    ("value", "expected"),
    [(4, [-1, -1, 0, 1, 1, 0]), (5, [-1, 1, 1, 1, 1, -1]), (6, [0, 1, 1, 0, -1, -1])],
)
def test_the_published_table_of_labels(value, expected):
    censor = np.array([-1, 0, 1], dtype=np.int8)
    values = np.full(3, float(value))
    assert [*label(values, censor, 5.0, "high"), *label(values, censor, 5.0, "low")] == expected


def test_labels_on_both_sides_ignore_qualifiers():
    values = np.array([-3.5, -3, -2.9, 0, 2.9, 3, 3.5])
    for code in (-1, 0, 1):
        labels = label(values, np.full(7, code, np.int8), 3.0, "absolute")
        assert labels.tolist() == [1, 1, -1, -1, -1, 1, 1]
        assert labels.dtype == np.int8


@pytest.mark.parametrize("kind", ["OTHER", "NON-CATALOG-PANEL"])
def test_up_to_three_experts_get_a_sandwich(kind):
    found = cuts(assay(kind, experts=(6, 5)))
    assert [(cut.value, cut.method, cut.auxiliary) for cut in found] == [
        (4.5, "aux_low", True),
        (5, "expert", False),
        (6, "expert", False),
        (6.5, "aux_high", True),
    ]
    assert not any(cut.data_derived for cut in found)
    assert len(cuts(assay(kind, experts=(5, 6, 7)))) == 5
    assert brief(assay(kind, experts=(8, 5, 6, 7))) == [(value, "expert") for value in (5, 6, 7, 8)]
    assert len(cuts(assay(kind, experts=(4, 5, 6, 7, 8)))) == 5


def test_an_expert_threshold_given_twice_is_one():
    assert brief(assay(experts=(5, 5, 5, 5))) == [(4.5, "aux_low"), (5, "expert"), (5.5, "aux_high")]
    (zero,) = cuts(assay("ADME", experts=(0.0, -0.0)))
    assert repr(zero.value) == "0.0"


def test_adme_experts_get_no_sandwich():
    assert brief(assay("ADME", experts=(6, 5)), [1, 2, 3]) == [(5, "expert"), (6, "expert")]


def test_an_adme_assay_without_experts_gets_median_and_quartile():
    values = [1, 2, 3, 4, 5]
    assert brief(assay("ADME", direction="high"), values) == [(3, "median"), (4, "quartile")]
    assert brief(assay("ADME", direction="low"), values) == [(2, "quartile"), (3, "median")]
    assert all(cut.data_derived for cut in cuts(assay("ADME"), values))
    # The same value twice is one task.
    assert brief(assay("ADME", direction="high"), [3, 3, 3]) == [(3, "median")]
    # Censored values do not count, and one exact value is too few.
    assert brief(assay("ADME"), [1, 3, 9, 9], [0, 0, 1, -1]) == [(2, "median"), (2.5, "quartile")]
    assert brief(assay("ADME"), [3, 4], [0, 1]) == []


def test_an_adme_assay_without_direction_gets_the_median_alone():
    # The source adds a second threshold at zero here.
    assert brief(assay("ADME", direction=""), [1, 2, 3, 4, 5]) == [(3, "median")]


@pytest.mark.parametrize("kind", ["OTHER", "NON-CATALOG-PANEL"])
@pytest.mark.parametrize("direction", ["high", "low", ""])
def test_the_adaptive_threshold_needs_share_and_both_classes(kind, direction):
    one = assay(kind, direction=direction)
    assert brief(one, [9.0] * 25 + [6.5] * 100) == [(7.5, "aux_low"), (8, "fixed_adaptive"), (8.5, "aux_high")]
    assert brief(one, [9.0] * 25 + [6.5] * 101)[1] == (6.5, "median")
    assert brief(one, [9.0] * 24 + [6.5] * 50 + [5.5] * 25)[1] == (6, "fixed_adaptive")
    assert brief(one, [9.0] * 50 + [6.5] * 24)[1] == (9, "median")
    assert brief(one, [4.5] * 25 + [4.0] * 25)[1] == (4.4, "fixed_adaptive")
    # Labels that a qualifier leaves open count on neither side.
    assert brief(one, [9.0] * 25 + [6.5] * 100, [-1] + [0] * 124)[1] == (6.5, "median")
    assert [cut.auxiliary for cut in cuts(one, [5.0])] == [True, False, True]
    assert all(cut.data_derived for cut in cuts(one, [5.0]))
    assert brief(one) == []


@pytest.mark.parametrize("kind", ["OTHER", "NON-CATALOG-PANEL"])
def test_the_median_moves_censored_values_by_a_factor_of_two(kind):
    assert cuts(assay(kind), [5.0], [1])[1].value == 5 + math.log10(2)
    assert cuts(assay(kind), [5.0], [-1])[1].value == 5 - math.log10(2)
    assert cuts(assay(kind), [5.0, 6.0, 6.5], [0, 1, -1])[1].value == 6.5 - math.log10(2)


@pytest.mark.parametrize("kind", TYPES)
def test_a_binary_assay_is_cut_at_zero(kind):
    (cut,) = cuts(assay(kind, binary=True, direction=""), [1, -1, 1])
    assert (cut.value, cut.method, cut.data_derived) == (0, "expert", False)
    assert cut.auxiliary == kind.startswith("AUX")


def test_a_screen_has_one_threshold_whatever_t0_says():
    for direction, value in (("high", 3), ("low", -3), ("", 3)):
        (cut,) = cuts(assay("AUX_HTS", experts=(5, 6), direction=direction), [1, 2])
        assert (cut.value, cut.method, cut.auxiliary, cut.data_derived) == (value, "fixed", True, False)


def test_the_catalogue_imposes_its_thresholds():
    catalogue = t_cat((7, 70, 5.0, "expert"), (7, 71, 4.53, "aux_low"), (7, 72, 6.0, "fixed"), (8, 80, 6.0, "expert"))
    found = cuts(assay("CATALOG-PANEL", experts=(3, 9), catalogue=7.0), [5.0, 6.0], catalogue=catalogue)
    assert [(cut.value, cut.method, cut.auxiliary, cut.catalog_task_id) for cut in found] == [
        (4.53, "aux_low", True, 71),
        (5, "expert", False, 70),
        # Another method, and another assay, are other tasks.
        (6, "expert", False, None),
    ]
    assert not any(cut.data_derived for cut in found)


def test_without_rows_the_catalogue_has_no_thresholds():
    one = assay("CATALOG-PANEL", experts=(5,), catalogue=7.0)
    assert brief(one, [5.0]) == brief(one, [5.0], catalogue=t_cat()) == []
    (cut,) = cuts(assay("CATALOG-PANEL", binary=True, catalogue=7.0), [1.0])
    assert cut.catalog_task_id is None


def test_a_binary_catalogue_assay_is_looked_up_at_zero():
    catalogue = t_cat((7, 70, 0.0, "expert"), (7, 71, 5.0, "expert"))
    for identity, task in ((7.0, 70), (8.0, None), (math.nan, None)):
        (cut,) = cuts(assay("CATALOG-PANEL", binary=True, catalogue=identity), [1.0], catalogue=catalogue)
        assert cut.catalog_task_id == task


def test_only_catalogue_assays_are_looked_up():
    catalogue = t_cat((7, 70, 5.0, "expert"))
    for kind in ("ADME", "OTHER", "NON-CATALOG-PANEL"):
        found = cuts(assay(kind, experts=(5,), catalogue=7.0), catalogue=catalogue)
        assert all(cut.catalog_task_id is None for cut in found)


@pytest.mark.parametrize("kind", TYPES)
def test_t0_alone_says_whether_measurements_decide(kind):
    derives = kind in {"ADME", "OTHER", "NON-CATALOG-PANEL"}
    assert from_data(assay(kind), RULES) == derives
    assert not from_data(assay(kind, experts=(5,)), RULES)
    assert not from_data(assay(kind, binary=True), RULES)
    if kind != "AUX_PL":
        catalogue = t_cat((7, 70, 5.0, "expert"))
        found = cuts(assay(kind), [5.0] * 60 + [7.0] * 60, catalogue=catalogue)
        assert {cut.data_derived for cut in found} == {derives}


def test_thresholds_with_experts_do_not_depend_on_the_data():
    catalogue = t_cat((7, 70, 5.0, "expert"))
    for kind in TYPES[:-1]:
        one = assay(kind, experts=(5, 6))
        assert cuts(one, catalogue=catalogue) == cuts(one, [4.0, 8.0] * 50, catalogue=catalogue)
