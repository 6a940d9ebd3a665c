"""Levels and paired changes against plain loops, and the verdict against cases made for it."""

import math
import statistics
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pharma_fl.tracking.comparison import cells, change, placebo_for, spread
from pharma_fl.tracking.figures import spread_labels
from pharma_fl.tracking.report_answer import verdict
from pharma_fl.tracking.summary import Result, Setting, parse_summary

ALONE = Setting(kind="sp")
FREE = Setting(kind="fed", personalised=True)

values = st.floats(0, 1)


def private(epsilon, *, kind="fed-dp"):
    return Setting(kind=kind, epsilon=epsilon, personalised=True)


def cell(*by_seed, partners=("a", "b")):
    return {partner: dict(enumerate(by_seed)) for partner in partners}


@given(st.dictionaries(st.sampled_from("abcd"), st.tuples(values, values, values), min_size=1))
def test_means_are_those_of_a_loop(table):
    level = spread({partner: dict(enumerate(seeds)) for partner, seeds in table.items()})
    assert level.mean == pytest.approx(sum(sum(seeds) / 3 for seeds in table.values()) / len(table))
    by_seed = [sum(seeds[seed] for seeds in table.values()) / len(table) for seed in range(3)]
    assert list(level.by_seed.values()) == pytest.approx(by_seed)
    assert (level.low, level.high) == pytest.approx((min(by_seed), max(by_seed)))
    assert level.deviation == pytest.approx(statistics.stdev(by_seed))


def test_a_seed_without_a_partner_is_left_out_of_the_seeds():
    level = spread({"a": {0: 0.5, 1: 0.7}, "b": {0: 0.7}})
    assert level.by_seed == {0: pytest.approx(0.6)}
    assert level.deviation is None


def test_changes_are_paired_by_partner_and_seed():
    moved = change({"a": {0: 0.8, 2: 0.9}, "c": {0: 1.0}}, {"a": {0: 0.5, 1: 0.7}, "b": {0: 0.1}})
    assert moved == {"a": {0: pytest.approx(0.3), 2: pytest.approx(0.3)}}


def test_a_change_that_rounds_to_nought_is_neither_better_nor_worse():
    level = spread({"a": {0: 0.0004}, "b": {0: -0.0004}, "c": {0: 0.0006}, "d": {0: -0.0006}})
    assert (level.better, level.worse) == (1, 1)


def test_nothing_has_no_mean():
    assert math.isnan(spread({}).mean)


def test_settings_stand_in_reading_order():
    kinds = [private(1, kind="placebo"), private(1), FREE, private(8), Setting(kind="fed"), ALONE]
    found = cells([Result(setting=one, seed=0, partner="a", metric="m", value=0.5) for one in kinds], "m")
    assert list(found) == [ALONE, Setting(kind="fed"), FREE, private(8), private(1), private(1, kind="placebo")]


def test_a_placebo_stands_for_its_own_epsilon_only():
    found = {private(1, kind="placebo"): cell(0.5), private(1): cell(0.6), private(3): cell(0.6)}
    assert placebo_for(found, private(1)) == private(1, kind="placebo")
    assert placebo_for(found, private(3)) is None
    unnamed = Setting(kind="placebo", personalised=True)
    assert placebo_for({unnamed: cell(0.5)}, private(3)) == unnamed


def test_a_placebo_counts_as_personalised_unless_it_says_otherwise():
    summary = parse_summary({"results": [{"setting": "placebo", "epsilon": 3, "partner": "a", "value": 0.5}]})
    assert summary.results[0].setting == private(3.0, kind="placebo")


@pytest.mark.parametrize(
    ("levels", "said"),
    [
        ({8: (0.8,), 3: (0.7,), 1: (0.6,)}, "Yes, at every epsilon tried (1, 3 and 8), in the one seed that was run."),
        ({8: (0.8,), 1: (0.4,)}, "Yes at epsilon 8; not shown at epsilon 1, in the one seed that was run."),
        ({8: (0.5,), 1: (0.4,)}, "Not shown at any epsilon tried (1 and 8), in the one seed that was run."),
        ({3: (0.9, 0.49)}, "Not shown at any epsilon tried (3)."),
        ({3: (0.51, 0.52)}, "Yes, at every epsilon tried (3)."),
        ({}, "No run with privacy is among these results."),
    ],
)
def test_the_verdict_follows_the_numbers(levels, said):
    seeds = max((len(one) for one in levels.values()), default=1)
    found = {ALONE: cell(*[0.5] * seeds), FREE: cell(*[0.9] * seeds)}
    found |= {private(epsilon): cell(*by_seed) for epsilon, by_seed in levels.items()}
    words = verdict(found)
    assert words.startswith(f"<strong>{said}</strong>")
    assert "Without privacy the change is" in words


def test_a_gain_that_the_placebo_also_has_does_not_count():
    found = {ALONE: cell(0.5), private(3): cell(0.6), private(3, kind="placebo"): cell(0.6)}
    assert verdict(found).startswith("<strong>Not shown at any epsilon tried (3)")
    assert "At epsilon 3 the model is above training alone, but not above the placebo" in verdict(found)
    found[private(3, kind="placebo")] = cell(0.55)
    assert verdict(found).startswith("<strong>Yes")
    assert "placebo" not in verdict(found)


@given(st.lists(st.floats(-10, 10), max_size=8))
def test_labels_are_moved_apart_and_keep_their_order(heights):
    moved = spread_labels(heights, 0.5)
    order = sorted(range(len(heights)), key=lambda one: heights[one])
    for below, above in pairwise(order):
        assert moved[above] - moved[below] >= 0.5 - 1e-9


def test_the_better_way_of_noise_answers_for_its_epsilon():
    found = {ALONE: cell(0.5), private(3): cell(0.4), private(3, kind="fed-dp-shared"): cell(0.6)}
    assert verdict(found).startswith("<strong>Yes, at every epsilon tried (3)")
    assert "still above training alone is 3, with shared noise, by " in verdict(found)
    found[private(3)], found[private(3, kind="fed-dp-shared")] = cell(0.7), cell(0.6)
    assert "still above training alone is 3, by " in verdict(found)
