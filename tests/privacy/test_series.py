"""Sums in which a series of records is the unit, against a loop over single records in float64."""

import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.privacy import oracle
from tests.privacy.oracle import distance, size
from tests.privacy.setups import (
    CLIPS,
    clipped,
    excess,
    longest_summand,
    make_setup,
    network_of,
    records_of,
)

from pharma_fl.privacy import clipping
from pharma_fl.privacy.clip import Clip
from pharma_fl.privacy.series import series_squares


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Two threads for so little work wait for each other most of the time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def sums_of(network, records, rows, series, clip, *, size=None, **options):
    """Clip whole series; blank rows, whatever series they are of, follow."""
    numbers = torch.zeros(max(len(rows), size or 0), dtype=torch.int64)
    numbers[: len(rows)] = torch.as_tensor(list(series), dtype=torch.int64)
    return clipped(network, records, rows, clip, size=size, series=numbers, **options)


def assert_equal(found, expected, norms, clip, *, relative=1e-5):
    assert set(found) == set(expected)
    scale = max(size(expected), longest_summand(norms, clip))
    assert distance(found, expected) <= relative * scale


KINDS = {
    "classes": ({"class_tasks": 3, "value_tasks": 0}, {}),
    "values": ({"class_tasks": 0, "value_tasks": 2}, {}),
    "split": ({}, {"class_features": 3, "value_features": 4}),
    "catalogue": ({"catalogue_columns": 4}, {"catalogue": (2, -1, 2)}),
    "frozen": ({"frozen_layers": 1}, {}),
    "adapters": ({"frozen_layers": 2, "adapter_rank": 2}, {}),
    "dropout": ({}, {"dropout": 0.4}),
}


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    series=st.lists(st.integers(0, 3), min_size=0, max_size=8),
    clip=st.sampled_from([*CLIPS, Clip(norm=math.inf), Clip(norm=5.0)]),
    hidden=st.sampled_from([(5, 6), (4, 5, 6)]),
    activation=st.sampled_from(["relu", "tanh"]),
    filled=st.booleans(),
    kernel=st.sampled_from(["gather", "dense"]),
    labelled_cells=st.booleans(),
    label_rate=st.sampled_from([0.0, 0.3, 1.0]),
    counts=st.booleans(),
)
def test_equals_a_loop_over_single_records(
    kind, seed, series, clip, hidden, activation, filled, kernel, labelled_cells, label_rate, counts
):
    shape, chosen = KINDS[kind]
    settings = oracle.Settings(activation=activation, input_scale=0.4, **chosen)
    n = len(series)
    setup = make_setup(seed, n=n, hidden=hidden, settings=settings, label_rate=label_rate, counts=counts, **shape)
    network, records = network_of(setup), records_of(setup)
    for layer in network.modules():
        if hasattr(layer, "kernel"):
            layer.kernel = kernel
    expected, norms = setup.expected(range(n), clip, series)
    found = sums_of(
        network,
        records,
        range(n),
        series,
        clip,
        size=n + 3 if filled else None,
        labelled_cells=labelled_cells,
        masks=setup.masks,
    )
    assert_equal(found.gradients, expected, norms, clip)
    first = [np.atleast_1d(norm)[0] for norm in norms]
    assert sum(norm < clip.norm * 0.9999 for norm in first) <= found.below
    assert found.below <= sum(norm < clip.norm * 1.0001 for norm in first)


def test_two_groups_of_a_series_are_clipped_by_themselves():
    setup = make_setup(0, n=8, hidden=(5, 6), label_rate=0.8)
    series = [0, 1, 0, 2, 2, 2, 1, 0]
    clip = CLIPS[1]
    expected, norms = setup.expected(range(8), clip, series)
    found = sums_of(network_of(setup), records_of(setup), range(8), series, clip).gradients
    assert excess(found, clip) <= 3 * (1 + 1e-5)
    assert_equal(found, expected, norms, clip)


@pytest.mark.parametrize("clip", CLIPS, ids=lambda clip: clip.mode)
def test_series_of_one_record_are_records(clip):
    setup = make_setup(1, n=9, hidden=(5, 6), counts=True)
    network, records = network_of(setup), records_of(setup)
    rng = np.random.default_rng(0)
    flat = clipped(network, records, range(9), clip, size=12)
    found = sums_of(network, records, range(9), rng.permutation(9) - 4, clip, size=12)
    assert distance(found.gradients, flat.gradients) <= 1e-6 * size(flat.gradients)
    assert found.below == flat.below
    together = sums_of(network, records, range(9), [0] * 9, clip, size=12)
    assert distance(together.gradients, flat.gradients) > 0.1
    assert excess(together.gradients, clip) <= 1 + 1e-5


@pytest.mark.parametrize("labelled_cells", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_squares_are_those_of_the_summed_gradients(monkeypatch, kind, labelled_cells):
    """Not only where they are clipped, and with some records left out."""
    shape, chosen = KINDS[kind]
    shape = shape | {"label_rate": 0.8}
    settings = oracle.Settings(activation="tanh", **chosen)
    setup = make_setup(2, n=9, hidden=(5, 6), settings=settings, counts=True, **shape)
    series = torch.tensor([5, 1, 5, -2, 5, 1, 7, -2, 5])
    kept = torch.tensor([1, 1, 0, 1, 1, 1, 0, 1, 1]) > 0
    found = []

    def spy(calls, squares, usable, numbers):
        assert usable.all()
        assert torch.equal(numbers, series)
        found.append(series_squares(calls, squares, kept, numbers))
        return found[0]

    monkeypatch.setattr(clipping, "series_squares", spy)
    clip = CLIPS[1]
    options = {"masks": setup.masks, "labelled_cells": labelled_cells}
    sums_of(network_of(setup), records_of(setup), range(9), series, clip, **options)
    rows = torch.nonzero(kept).flatten().tolist()
    _, norms = setup.expected(rows, clip, series[rows].tolist())
    expected = dict(zip(dict.fromkeys(series[rows].tolist()), norms, strict=True))
    assert found[0].dtype == torch.float64
    for row in rows:
        assert found[0][:, row].sqrt().tolist() == pytest.approx(expected[int(series[row])], rel=1e-5)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    clip=st.sampled_from(CLIPS),
    scale=st.sampled_from([1e-3, 1.0, 1e3]),
    activation=st.sampled_from(["relu", "tanh"]),
    series=st.lists(st.integers(0, 3), min_size=8, max_size=8),
)
def test_removing_a_series_moves_the_sum_by_at_most_the_clip(seed, clip, scale, activation, series):
    setup = make_setup(seed, n=8, hidden=(6, 5), counts=True, settings=oracle.Settings(activation=activation))
    network, records = network_of(setup), records_of(setup)
    clip = replace(clip, norm=clip.norm * scale, head_norm=clip.head_norm * scale)
    assert_bounded(network, records, series, clip)


def assert_bounded(network, records, series, clip):
    whole = sums_of(network, records, range(len(series)), series, clip, size=12).gradients
    assert all(torch.isfinite(value).all() for value in whole.values())
    for removed in set(series):
        rows = [row for row, number in enumerate(series) if number != removed]
        left = sums_of(network, records, rows, [series[row] for row in rows], clip, size=12).gradients
        moved = {name: whole[name].double() - left[name].double() for name in whole}
        assert excess(moved, clip) <= 1 + 1e-5


@pytest.mark.parametrize("size_of_value", [1e4, 1e9])
def test_a_series_whose_gradients_cancel_is_within_the_clip(size_of_value):
    """Its norm is that of a small difference of large numbers, in float64; the sum is one in float32."""
    # A float32 sum is exact to about 1e-7 of its longest part, so a coefficient of norm / |sum| is too much where |sum|
    # is far below the parts' norms.
    worst = 0.0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        n = 12
        setup = make_setup(seed, n=n, hidden=(6, 5), class_tasks=0, value_tasks=2, label_rate=1.0)
        row = (rng.random(12) < 0.5).astype(np.float32)
        half = rng.normal(size=(n // 2, 2)) * size_of_value
        values = np.concatenate([half, -half]).astype(np.float32)
        cells = [
            oracle.Cell(row, task, float(value)) for (row, task), value in np.ndenumerate(values.astype(np.float64))
        ]
        setup = replace(setup, problem=replace(setup.problem, x=np.tile(row, (n, 1)).astype(float), value_cells=cells))
        found = sums_of(network_of(setup), records_of(setup), range(n), [0] * n, Clip(norm=1.0)).gradients
        worst = max(worst, size(found))
    assert worst <= 1 + 1e-5


@pytest.mark.parametrize("kind", ["nan class", "nan value", "infinite value", "huge value", "huge count"])
def test_a_record_that_cannot_be_used_is_left_out_alone(kind):
    setup = make_setup(1, n=9, hidden=(5, 4), label_rate=1.0, counts=True)
    intact = records_of(setup)
    whole = np.flatnonzero(np.diff(intact.x.indptr) * np.diff(intact.classes.indptr))
    assert len(whole) == 6
    series = [0, 0, 0, 1, 1, 2]
    network = network_of(setup)
    for place in range(6):
        row = whole[place]
        records = records_of(setup)
        field = {"class": "classes", "value": "values", "count": "x"}[kind.split()[1]]
        matrix = getattr(records, field)
        matrix.data[matrix.indptr[row]] = oracle.SPOILS[kind]
        if field == "values":
            records.censor.data[records.censor.indptr[row] : records.censor.indptr[row + 1]] = 0.0
        found = sums_of(network, records, whole, series, CLIPS[0]).gradients
        rest, of_rest = np.delete(whole, place), np.delete(series, place)
        expected = sums_of(network, intact, rest, of_rest, CLIPS[0]).gradients
        assert distance(found, expected) <= 1e-6
        assert size(expected) > 0.3


def test_series_of_unusable_records_alone_contribute_nothing():
    setup = make_setup(1, n=6, hidden=(5, 4), label_rate=1.0)
    records = records_of(setup)
    records.classes.data[:] = math.nan
    network = network_of(setup)
    labelled = np.flatnonzero(np.diff(records.classes.indptr))
    found = sums_of(network, records, labelled, [0] * len(labelled), CLIPS[0])
    assert size(found.gradients) == 0.0
    assert size(sums_of(network, records, [], [], CLIPS[0], size=4).gradients) == 0.0
    assert size(sums_of(network, records, [], [], CLIPS[0]).gradients) == 0.0


def test_records_of_a_series_need_not_share_bits_or_tasks():
    """The scalar product of two records is over the bits, and the tasks, that both have."""
    setup = make_setup(0, n=2, hidden=(5,), class_tasks=4, value_tasks=0)
    records = replace(
        records_of(setup),
        x=sp.csr_array(np.array([[0, 2, 0, 3] + [0] * 8, [1, 0, 4, 5] + [0] * 8], dtype=np.float32)),
        classes=sp.csr_array((np.array([1, 0, 1], np.float32), np.array([1, 3, 3]), np.array([0, 2, 3])), shape=(2, 4)),
        binary=False,
    )
    problem = replace(
        setup.problem,
        x=records.x.toarray().astype(np.float64),
        class_cells=[oracle.Cell(0, 1, 1.0), oracle.Cell(0, 3, 0.0), oracle.Cell(1, 3, 1.0)],
    )
    setup = replace(setup, problem=problem)
    clip = Clip(norm=0.1)
    expected, (norm,) = setup.expected(range(2), clip, [3, 3])
    _, alone = setup.expected(range(2), clip)
    assert norm != pytest.approx(math.hypot(*alone), rel=0.01)
    found = sums_of(network_of(setup), records, range(2), [3, 3], clip).gradients
    assert_equal(found, expected, [norm], clip)
