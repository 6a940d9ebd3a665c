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
    BLOCK,
    CLIPS,
    Silence,
    clipped,
    excess,
    longest_summand,
    make_setup,
    network_of,
    records_of,
)

from pharma_fl.errors import PrivacyError
from pharma_fl.model.losses import network_losses
from pharma_fl.privacy import clipping, opacus_engines
from pharma_fl.privacy import plan as plan_module
from pharma_fl.privacy.clip import Clip
from pharma_fl.privacy.clipping import clipped_gradients
from pharma_fl.privacy.dp_sgd import DpSgd
from pharma_fl.privacy.plan import PrivacyPlan
from pharma_fl.privacy.row_independence import independent_rows
from pharma_fl.privacy.sampling import Sample, compound_sample, series_sample
from pharma_fl.privacy.series import MOST_CANCELLED, series_squares


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


# --- whole steps --------------------------------------------------------------------------------------------------


class SameDraws(Silence):
    """The same numbers for every step, and fewer are the first of more: what is not removed is drawn as before."""

    def __init__(self, seed=0):
        super().__init__(seed)
        self._seed, self._calls = seed, 0
        self.counts = []

    def uniform(self, count):
        self._calls += 1
        return np.random.default_rng((self._seed, self._calls)).random(count)

    def add_normal(self, tensor, std, scale=1.0):
        if tensor.dtype == torch.float64:
            self.counts.append(float(tensor[0]))
        super().add_normal(tensor, std, scale)


def a_plan(clip=CLIPS[0], **changes):
    fields = {
        "sample_rate": 1.0,
        "noise_multiplier": 1e-12,
        "clipping": clip.mode,
        "clipping_norm": clip.norm,
        "head_clipping_norm": clip.head_norm if clip.mode == "groups" else None,
        "expected_batch": 1.0,
        "delta": 1e-5,
        "rounds": 1,
        "steps_per_round": 1,
        "unit": "series",
        "max_series_size": 3,
    }
    return PrivacyPlan(**(fields | changes))


def mechanism(plan, network, records, noise, **options):
    trained = [value for value in network.parameters() if value.requires_grad]
    return DpSgd(
        plan,
        network,
        torch.optim.SGD(trained, lr=0.0),
        record_losses=lambda network, batch: network_losses(network, batch, weights=records.weights),
        noise=noise,
        **options,
    )


def step_of(plan, network, records, *, seed=0, physical_batch=8):
    """Return the sums that one step hands to its optimizer, without noise, its count, and how many blocks it took."""
    noise, found, blocks = SameDraws(seed), {}, []

    def counted(*arguments, **options):
        blocks.append(options["records"])
        return clipped_gradients(*arguments, **options)

    private = mechanism(plan, network, records, noise, physical_batch=physical_batch, engine=counted)
    private.optimizer.original_optimizer.register_step_pre_hook(
        lambda *_: found.update({n: v.grad.clone() for n, v in network.named_parameters() if v.requires_grad})
    )
    private.step(records)
    return found, noise.counts, blocks


def problem(seed, series, **options):
    """Random records, some of them twice, in some series; with missing labels, and some without any."""
    rng = np.random.default_rng(seed)
    setup = make_setup(seed, n=len(series), hidden=(8, 4), counts=True, **options)
    again = np.where(rng.random(len(series)) < 0.3, rng.integers(0, len(series), len(series)), np.arange(len(series)))
    records = replace(records_of(setup).select(again), series=np.array(series, dtype=np.int32))
    return setup, network_of(setup), records, again


MANY = st.lists(st.integers(0, 6), min_size=20, max_size=30)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    series=MANY,
    clip=st.sampled_from([*CLIPS, Clip(norm=5.0)]),
    sample_rate=st.sampled_from([0.5, 1.0]),
    activation=st.sampled_from(["relu", "tanh"]),
)
def test_a_step_in_several_blocks_equals_a_loop_over_single_records(seed, series, clip, sample_rate, activation):
    setup, network, records, again = problem(seed, series, settings=oracle.Settings(activation=activation))
    plan = a_plan(clip, sample_rate=sample_rate)
    sample = plan.sample(SameDraws(seed), len(records), records.series)
    found, counts, blocks = step_of(plan, network, records, seed=seed)
    assert sum(blocks) == len(sample.rows)
    assert len(blocks) >= len(sample.rows) / 8
    expected, norms = setup.expected(again[sample.rows], clip, sample.series.tolist())
    assert_equal(found, expected, norms, clip)
    if clip.mode == "adaptive":
        below = sum(norm <= clip.norm for norm in norms)
        assert counts == [below - len(norms) / 2] or min(abs(norm - clip.norm) for norm in norms) < 1e-4


def test_a_step_takes_several_blocks_and_one_that_is_empty():
    _, network, records, _ = problem(0, np.repeat(np.arange(10), 3))
    assert step_of(a_plan(), network, records)[2] == [6] * 5  # two series of three in eight rows
    found, _, blocks = step_of(a_plan(sample_rate=1e-6), network, records)
    assert blocks == [0]
    assert size(found) == 0.0


def removed(records, gone):
    """Return all records with the series that goes as the last number, and the records without it."""
    rank = {number: place for place, number in enumerate(sorted(set(records.series.tolist()) - {gone}))} | {gone: 99}
    renumbered = np.array([rank[number] for number in records.series.tolist()], dtype=np.int32)
    whole = replace(records, series=renumbered)
    return whole, whole.select(np.flatnonzero(renumbered != 99))


def assert_neighbours(plan, network, records, *, seed=0):
    """Remove each series in turn: the sum moves by the clip at most, and an adaptive clip's count by one half."""
    clip, moves = plan.first_clip, []
    for gone in sorted(set(records.series.tolist())):
        (whole, with_it, _), (left, without_it, _) = (
            step_of(plan, network, some, seed=seed) for some in removed(records, gone)
        )
        moves.append(excess({name: whole[name].double() - left[name].double() for name in whole}, clip))
        assert moves[-1] <= 1 + 1e-5
        if clip.mode == "adaptive":
            assert abs(with_it[0] - without_it[0]) == 0.5
    return max(moves)


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    series=MANY,
    clip=st.sampled_from(CLIPS),
    scale=st.sampled_from([1e-3, 1.0, 1e3]),
    activation=st.sampled_from(["relu", "tanh"]),
)
def test_removing_a_whole_series_moves_a_step_by_at_most_the_clip(seed, series, clip, scale, activation):
    """With duplicates, missing labels, and series of which not all members may take part."""
    _, network, records, _ = problem(seed, series, settings=oracle.Settings(activation=activation))
    clip = replace(clip, norm=clip.norm * scale, head_norm=clip.head_norm * scale)
    assert_neighbours(a_plan(clip), network, records, seed=seed)


def halved(sample, size):
    """Cut a sample wherever a block is full."""
    return (slice(first, first + size) for first in range(0, max(1, len(sample.rows)), size))


def of_compounds(noise, *, series, sample_rate, most):
    return compound_sample(noise, records=len(series), sample_rate=sample_rate)


def rows_for_units(noise, **options):
    sample = series_sample(noise, **options)
    return replace(sample, units=len(sample.rows))


BUGS = {
    "a series in two blocks": (Sample, "blocks", halved),
    "compounds are sampled": (plan_module, "series_sample", of_compounds),
    "the count is of rows": (plan_module, "series_sample", rows_for_units),
}


@pytest.mark.parametrize("bug", [None, *BUGS])
def test_the_neighbour_test_catches_what_is_wrong_with_whole_steps(monkeypatch, bug):
    # Whichever series goes, it was the last: rows 15 to 17, and a block of 8 rows would end before row 16.
    _, network, records, _ = problem(1, np.repeat(np.arange(6), 3), label_rate=0.9)
    plan = a_plan(Clip(mode="adaptive", norm=0.05))
    if bug is None:
        assert assert_neighbours(plan, network, records) > 0.9
        return
    monkeypatch.setattr(*BUGS[bug])
    with pytest.raises(AssertionError):
        assert_neighbours(plan, network, records)


# --- a series beside others ---------------------------------------------------------------------------------------


def coefficients_of(monkeypatch, network, records, rows, series, places):
    """Return by what the records at some places of a block are scaled, float64."""
    found = []
    real = clipping._coefficients

    def spy(*arguments):
        found.append(real(*arguments))
        return found[0]

    with monkeypatch.context() as patch:
        patch.setattr(clipping, "_coefficients", spy)
        clip = Clip(mode="groups", norm=0.3, head_norm=0.2)
        numbers = torch.full((BLOCK,), -1)
        numbers[: len(rows)] = torch.from_numpy(series)
        clipped(network, records, rows, clip, size=BLOCK, series=numbers)
    return found[0][0][:, places]


@pytest.mark.parametrize("kernel", ["gather", "dense"])
@pytest.mark.parametrize("hidden", [(48,), (256, 512)])
@pytest.mark.parametrize("members", [1, 2, 7, 20])
def test_a_series_is_scaled_by_the_same_bits_whatever_the_others_are(monkeypatch, hidden, kernel, members):
    """Alone, among few and many series of all sizes, first and last and between."""
    settings = oracle.Settings(activation="tanh", catalogue=tuple(range(10)) + (-1,) * 20, input_scale=0.4)
    shape = {"class_tasks": 30, "value_tasks": 10, "bits": 200, "catalogue_columns": 10}
    setup = make_setup(3, n=120, hidden=hidden, counts=True, settings=settings, label_rate=0.5, **shape)
    network, records = network_of(setup), records_of(setup)
    for layer in network.modules():
        if hasattr(layer, "kernel"):
            layer.kernel = kernel
    assert independent_rows(network, BLOCK) == BLOCK
    own = np.arange(members)
    alone = coefficients_of(monkeypatch, network, records, own, np.zeros(members, dtype=np.int64), own)
    assert (alone < 1).all()
    rng = np.random.default_rng(4)
    for count in (1, 2, 13, 30, BLOCK - members):
        others = rng.choice(np.arange(members, 120), count, replace=False)
        numbers = np.sort(rng.integers(1, 1 + max(1, count // 3), count))
        place = int(rng.choice([0, count, np.searchsorted(numbers, 1 + count // 6)]))
        rows, series = np.insert(others, place, own), np.insert(numbers, place, np.zeros(members, dtype=np.int64))
        among = coefficients_of(monkeypatch, network, records, rows, series, slice(place, place + members))
        assert torch.equal(among, alone), f"{count} others, at {place}"


# --- what is refused ----------------------------------------------------------------------------------------------


def test_a_block_smaller_than_a_series_is_refused(monkeypatch):
    _, network, records, _ = problem(0, [0, 1] * 10)
    with pytest.raises(PrivacyError, match=r"at least 16 rows.*compute\.physical_batch") as caught:
        mechanism(a_plan(max_series_size=16), network, records, Silence(), physical_batch=15)
    assert caught.value.code == "PFL-P08"
    assert mechanism(a_plan(max_series_size=16), network, records, Silence(), physical_batch=16).physical_batch == 16
    # Left out, a block has room for the largest series.
    large = mechanism(a_plan(max_series_size=70), network, records, Silence())
    assert large.physical_batch == 96
    # Where rows must not stand in larger blocks, series that are larger have no place.
    monkeypatch.setattr("pharma_fl.privacy.dp_sgd.independent_rows", lambda network, wanted, dtype: min(wanted, 8))
    with pytest.raises(PrivacyError, match="PFL-P08"):
        mechanism(a_plan(max_series_size=16), network, records, Silence())


def test_a_rehearsal_is_of_blocks_full_of_series_and_stops_where_none_fits():
    _, network, records, _ = problem(0, [0, 1] * 10)
    seen = []

    def engine(*arguments, **options):
        seen.append(options["series"].tolist())
        if len(seen[-1]) > 32:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return clipped_gradients(*arguments, **options)

    def rehearsed(most):
        private = mechanism(a_plan(max_series_size=most), network, records, Silence(), physical_batch=64, engine=engine)
        private.rehearse(lambda rows: records.batch(np.arange(20), rows))
        return private.physical_batch

    assert rehearsed(16) == 32
    assert seen == [[0] * 16 + [1] * 16 + [2] * 16 + [3] * 16, [0] * 16 + [1] * 16]
    with pytest.raises(PrivacyError, match="PFL-P08"):
        rehearsed(33)


def test_records_without_series_are_refused():
    _, network, records, _ = problem(0, [0, 1] * 10)
    bare = replace(records, series=None)
    with pytest.raises(PrivacyError, match="PFL-P08"):
        mechanism(a_plan(), network, bare, Silence()).step(bare)


def test_opacus_clips_no_series():
    _, network, records, _ = problem(0, [0, 1] * 10)
    for engine in (opacus_engines.hooks_sums, opacus_engines.ghost_sums):
        with pytest.raises(PrivacyError, match=r"PFL-P01.*not series"):
            mechanism(a_plan(), network, records, Silence(), engine=engine).step(records)


def test_in_bfloat16_a_series_is_clipped_lower_than_a_compound():
    """Products of a series may be ten times as long as their sum, and each is rounded by 2^-8 twice."""
    clips = {}

    def engine(network, losses, clip, **options):
        clips[options["series"] is None] = clip.norm
        return clipped_gradients(network, losses, clip, **options)

    _, network, records, _ = problem(0, [0, 1] * 10)
    for unit in ("compound", "series"):
        plan = a_plan(Clip(norm=2.0), unit=unit)
        mechanism(plan, network, records, Silence(), precision="bfloat16", engine=engine).step(records)
    assert clips == pytest.approx({True: 2 * 0.99, False: 2 * 0.92})
    rounding = (1 + 2**-8) ** 2 - 1
    assert clips[False] / 2 * (1 + MOST_CANCELLED[torch.bfloat16] * rounding) <= 1
    assert clips[True] / 2 * (1 + rounding) <= 1


@pytest.mark.parametrize("rounded", [False, True])
def test_gradients_that_cancel_count_for_more_where_factors_are_rounded(monkeypatch, rounded):
    """Two records of one row and labels that differ: a hundredth of their lengths counts, and in bfloat16 a tenth."""
    setup = make_setup(2, n=2, hidden=(8, 4), class_tasks=0, value_tasks=1, label_rate=1.0)
    labels = [oracle.Cell(0, 0, 1e6), oracle.Cell(1, 0, -1e6)]
    x = np.tile(setup.problem.x[:1], (2, 1))
    setup = replace(setup, problem=replace(setup.problem, x=x, value_cells=labels))
    _, (one, other) = setup.expected(range(2), Clip(norm=1.0))
    _, (both,) = setup.expected(range(2), Clip(norm=1.0), [0, 0])
    assert both < (one + other) / 1000
    found = sums_of(network_of(setup), records_of(setup), range(2), [0, 0], Clip(norm=1.0), bfloat16=rounded).gradients
    assert size(found) == pytest.approx(both / (one + other) * (10 if rounded else 100), rel=1.0 if rounded else 0.05)
