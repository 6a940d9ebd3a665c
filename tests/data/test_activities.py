"""From measurements to one value for each compound: each rule by itself, and that the order of rows decides nothing."""

from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pharma_fl.data.activities import QUALIFIERS, aggregate
from pharma_fl.data.rules import Rules

RULES = Rules.built_in()
TYPES = ("ADME", "OTHER", "NON-CATALOG-PANEL", "CATALOG-PANEL", "AUX_HTS", "AUX_PL")


def frame(*assays):
    """Assays of (type, direction, is_binary)."""
    return pd.DataFrame(
        {
            "assay_type": pd.Series([kind for kind, _, _ in assays], dtype="str"),
            "direction": pd.Series([direction for _, direction, _ in assays], dtype="str"),
            "is_binary": np.array([binary for _, _, binary in assays], dtype=np.bool_),
        }
    )


def measured(rows):
    """Measurements of (assay, record, qualifier, value)."""
    return pd.DataFrame(
        {
            "assay": np.array([assay for assay, _, _, _ in rows], dtype=np.int32),
            "record": np.array([record for _, record, _, _ in rows], dtype=np.int32),
            "value": np.array([value for _, _, _, value in rows], dtype=np.float64),
            "censor": np.array([QUALIFIERS[qualifier] for _, _, qualifier, _ in rows], dtype=np.int8),
        }
    )


def one(kind, *pairs, direction="", binary=False):
    """Aggregate pairs of qualifier and value of one compound, in every order; return (value, censor) or the reason."""
    found = set()
    for some in permutations(pairs):
        rows = measured([(0, 0, qualifier, value) for qualifier, value in some])
        result = aggregate(frame((kind, direction, binary)), rows, RULES)
        if len(result.table):
            found.add((float(result.table["value"].iloc[0]), int(result.table["censor"].iloc[0])))
        else:
            found.update(result.reason)
    assert len(found) == 1
    return found.pop()


def test_binary_replicates_become_the_majority():
    for kind in TYPES:
        assert one(kind, ("", 1), ("", -1), ("", -1), binary=True) == (-1, 0)
        assert one(kind, ("", 1), ("<", -1), binary=True) == (1, 0)
        assert one(kind, (">", -1), binary=True) == (-1, 0)
        assert one(kind, ("", 0), binary=True) == "not_plus_minus_one"


@pytest.mark.parametrize("kind", ["OTHER", "NON-CATALOG-PANEL"])
@pytest.mark.parametrize("direction", ["high", "low", ""])
def test_dose_response_replicates_become_the_largest(kind, direction):
    assert one(kind, ("=", 5), ("=", 6), ("<", 7), direction=direction) == (6, 0)
    assert one(kind, ("=", 5), (">", 6), direction=direction) == (6, 1)
    assert one(kind, ("<", 5), ("<=", 6), direction=direction) == (6, -1)
    assert one(kind, ("~", 6), (">>", 6), ("<<", 6), direction=direction) == (6, 0)


@pytest.mark.parametrize("direction", ["high", "low", ""])
def test_adme_replicates_become_the_median(direction):
    assert one("ADME", ("=", 1), ("=", 2), ("<", 30), direction=direction) == (2, 0)
    assert one("ADME", ("<", 1), ("<", 2), direction=direction) == (1.5, -1)
    assert one("ADME", (">", 1), (">", 2), ("=", 3), direction=direction) == (2, 1)
    # A tie with exact values is exact, and one of < and > alone has no answer.
    assert one("ADME", (">", 1), ("=", 3), direction=direction) == (2, 0)
    assert one("ADME", (">", 1), ("=", 3), ("<", 5), direction=direction) == (3, 0)
    assert one("ADME", (">", 1), ("<", 5), direction=direction) == "qualifier_tie"
    assert one("ADME", (">", 1), (">", 1), ("<", 5), ("<", 5), ("=", 5), direction=direction) == "qualifier_tie"


@pytest.mark.parametrize("kind", ["CATALOG-PANEL", "AUX_HTS"])
def test_the_other_types_go_by_direction(kind):
    pairs = (("=", 4), ("=", 6), ("<", 7), (">", 3))
    assert one(kind, *pairs, direction="high") == (6, 0)
    assert one(kind, ("<", 4), ("<", 6), direction="high") == (6, -1)
    # The smallest and the largest magnitude keep their own qualifier, whatever it is.
    assert one(kind, *pairs, direction="low") == (3, 1)
    assert one(kind, *pairs, direction="") == (7, -1)


def test_a_screen_without_direction_takes_the_largest_magnitude():
    assert one("AUX_HTS", ("=", -7), ("=", 6)) == (-7, 0)
    assert one("AUX_HTS", ("=", -7), ("=", 7)) == (7, 0)
    assert one("AUX_HTS", ("=", -7), ("<", 7)) == (-7, 0)
    assert one("AUX_HTS", (">", -7), ("<", 7)) == (7, -1)
    assert one("AUX_HTS", (">", 7), ("<", 7)) == (7, -1)


def test_equal_values_prefer_the_exact_one():
    for direction in ("high", "low", ""):
        assert one("AUX_HTS", (">", 5), ("=", 5), ("<", 5), direction=direction) == (5, 0)
    assert one("AUX_HTS", (">", 5), ("<", 5), direction="low") == (5, -1)


def test_a_zero_has_no_sign():
    rows = measured([(0, 0, "", -0.0), (0, 1, "", 0.0), (0, 1, "", -0.0)])
    table = aggregate(frame(("AUX_HTS", "", False)), rows, RULES).table
    assert not np.signbit(table["value"]).any()


@pytest.mark.parametrize(
    ("kind", "lowest", "highest"),
    [
        ("ADME", -1e12, 1e12),
        ("OTHER", 3, 10),
        ("NON-CATALOG-PANEL", 3, 10),
        # The source names this range and forgets to apply it.
        ("CATALOG-PANEL", 3, 10),
        ("AUX_HTS", -10, 10),
    ],
)
def test_incredible_values_are_dropped(kind, lowest, highest):
    for value in (lowest, highest):
        assert one(kind, ("", value)) == (value, 0)
    for value in (np.nextafter(lowest, -np.inf), np.nextafter(highest, np.inf), np.nan):
        assert one(kind, ("", value)) == "out_of_range"


@pytest.mark.parametrize(
    ("kind", "rounded"),
    [("ADME", False), ("OTHER", True), ("NON-CATALOG-PANEL", True), ("CATALOG-PANEL", False), ("AUX_HTS", False)],
)
def test_rounding_comes_last_and_keeps_what_was_before(kind, rounded):
    values = np.array([5.125, 5.135, 6.005, 7.999, 3.14159])
    rows = measured([(0, record, "", value) for record, value in enumerate(values)])
    table = aggregate(frame((kind, "", False)), rows, RULES).table
    assert table["unrounded"].tolist() == values.tolist()
    assert table["value"].tolist() == (np.round(values, 2) if rounded else values).tolist()
    # The larger of two values that round alike decides the qualifier.
    if rounded:
        assert one(kind, ("=", 5.001), (">", 5.002)) == (5, 1)


def test_a_failed_structure_comes_before_other_reasons():
    assays = frame(("OTHER", "high", False), ("ADME", "", False))
    rows = measured([(0, -1, "", 5), (0, -1, "", 99), (1, -1, "<", 1), (1, -1, ">", 1), (0, 0, "", 99), (0, 1, "", 5)])
    result = aggregate(assays, rows, RULES)
    assert result.reason.tolist() == [*["structure_failed"] * 4, "out_of_range", ""]
    assert result.table.to_dict("list") == {
        "assay": [0], "record": [1], "value": [5], "unrounded": [5], "censor": [0]
    }  # fmt: skip


def test_no_rows_make_an_empty_table():
    assays = frame(("OTHER", "high", False))
    for rows in ([], [(0, 0, "", 99)]):
        table = aggregate(assays, measured(rows), RULES).table
        assert len(table) == 0
        assert [str(kind) for kind in table.dtypes] == ["int32", "int32", "float64", "float64", "int8"]


VALUES = st.one_of(
    st.integers(-20, 20).map(lambda number: number / 2),
    st.sampled_from([-1.0, 1.0, -0.0, 3.005, 3.004999, 10.001, 1e12]),
    st.floats(-11, 11),
)


@st.composite
def made(draw):
    kinds = draw(
        st.lists(
            st.tuples(st.sampled_from(TYPES), st.sampled_from(["high", "low", ""]), st.booleans()),
            min_size=1,
            max_size=5,
        )
    )
    assays = frame(*[(kind, direction, binary or kind == "AUX_PL") for kind, direction, binary in kinds])
    row = st.tuples(st.integers(0, len(kinds) - 1), st.integers(-1, 3), st.sampled_from(sorted(QUALIFIERS)), VALUES)
    return assays, draw(st.lists(row, max_size=40))


@settings(max_examples=150, deadline=None)
@given(made(), st.randoms(use_true_random=False))
def test_neither_order_nor_company_of_rows_matters(made, random):
    assays, rows = made
    whole = aggregate(assays, measured(rows), RULES)
    assert not whole.table.duplicated(["assay", "record"]).any()
    assert whole.table[["assay", "record"]].apply(tuple, axis=1).is_monotonic_increasing

    order = list(range(len(rows)))
    random.shuffle(order)
    shuffled = aggregate(assays, measured([rows[place] for place in order]), RULES)
    pd.testing.assert_frame_equal(shuffled.table, whole.table)
    assert shuffled.reason.tolist() == whole.reason[order].tolist()

    parts = [
        aggregate(assays, measured([row for row in rows if row[0] == number]), RULES) for number in range(len(assays))
    ]
    pd.testing.assert_frame_equal(pd.concat([part.table for part in parts], ignore_index=True), whole.table)
