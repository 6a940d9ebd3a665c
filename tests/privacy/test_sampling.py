"""Which compounds and which series take part, and how often: the law that the accounting is for."""

import itertools
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from tests.conftest import SeededNoise

from pharma_fl.privacy.noise import SystemNoise
from pharma_fl.privacy.sampling import Sample, compound_sample, series_sample


def numbers(*sizes):
    """Return the series of rows, shuffled: of each number so many rows."""
    return np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes)).astype(np.int32)


@settings(max_examples=100, deadline=None)
@given(
    series=st.lists(st.integers(0, 9), max_size=40),
    sample_rate=st.sampled_from([0.01, 0.5, 1.0]),
    most=st.integers(1, 8),
    seed=st.integers(0, 100),
)
def test_a_sample_holds_whole_series_or_as_many_members_as_may(series, sample_rate, most, seed):
    series = np.array(series, dtype=np.int32)
    sample = series_sample(SeededNoise(seed), series=series, sample_rate=sample_rate, most=most)
    assert sample.rows.dtype == sample.series.dtype == np.int64
    assert np.array_equal(series[sample.rows], sample.series)
    assert len(set(sample.rows.tolist())) == len(sample.rows)
    found, counts = np.unique(sample.series, return_counts=True)
    assert sample.units == len(found)
    assert counts.tolist() == [min(most, int((series == number).sum())) for number in found]
    assert np.count_nonzero(np.diff(sample.series)) == max(0, len(found) - 1)  # side by side
    if sample_rate == 1:
        assert set(found.tolist()) == set(series.tolist())


@settings(max_examples=100, deadline=None)
@given(counts=st.lists(st.integers(1, 7), max_size=30), size=st.integers(7, 20))
def test_no_series_lies_in_two_blocks(counts, size):
    of_series = np.repeat(np.arange(len(counts)), counts)
    sample = Sample(rows=np.arange(len(of_series)), units=len(counts), series=of_series)
    blocks = list(sample.blocks(size))
    assert np.concatenate([sample.rows[block] for block in blocks]).tolist() == sample.rows.tolist()
    parts = [set(of_series[block].tolist()) for block in blocks]
    assert sum(map(len, parts)) == len(counts)
    assert all(block.stop - block.start <= size for block in blocks)
    # Greedy: what begins the next block did not fit into this one.
    for block, following in itertools.pairwise(blocks):
        assert block.stop - block.start + counts[of_series[following.start]] > size


def test_blocks_of_compounds_are_full_but_the_last():
    sample = Sample(rows=np.arange(10), units=10)
    assert [(block.start, block.stop) for block in sample.blocks(4)] == [(0, 4), (4, 8), (8, 10)]
    empty = Sample(rows=np.arange(0), units=0)
    assert [(block.start, block.stop) for block in empty.blocks(4)] == [(0, 0)]
    with pytest.raises(ValueError, match="largest unit"):
        list(Sample(rows=np.arange(6), units=2, series=np.repeat([0, 1], 3)).blocks(2))


# --- the law ------------------------------------------------------------------------------------------------------

SIZES = (1, 1, 2, 5, 12)
RATE = 0.3
DRAWS = 20_000


def drawn(sample):
    """Return, of many samples, which series were in it, bool (draws, series), and how often each row was."""
    noise, series = SystemNoise(), numbers(*SIZES)
    inside = np.zeros((DRAWS, len(SIZES)), dtype=bool)
    rows = np.zeros(len(series), dtype=np.int64)
    for place in inside:
        one = sample(noise, series)
        place[series[one.rows]] = True
        rows[one.rows] += 1
    return inside, rows, series


def has_the_law(inside):
    """Whether each series is in a sample with the rate, whatever its size, and independently of the others."""
    # Chi-squared over all 2^5 subsets: frequencies and every dependence at once.
    subsets = np.bincount(inside @ (1 << np.arange(len(SIZES))), minlength=1 << len(SIZES))
    bits = np.arange(1 << len(SIZES))[:, None] >> np.arange(len(SIZES)) & 1
    expected = np.where(bits, RATE, 1 - RATE).prod(1) * DRAWS
    return chisquare(subsets, expected).pvalue > 1e-6


def test_each_series_is_in_a_sample_with_the_rate_and_independently():
    inside, _, _ = drawn(lambda noise, series: series_sample(noise, series=series, sample_rate=RATE, most=4))
    assert has_the_law(inside)


def test_members_are_drawn_uniformly_without_replacement():
    _, rows, series = drawn(lambda noise, series: series_sample(noise, series=series, sample_rate=RATE, most=4))
    for number, size in enumerate(SIZES):
        expected = DRAWS * RATE * min(1.0, 4 / size)
        assert rows[series == number] == pytest.approx(expected, rel=0.06)
    # All 15 pairs of 6 members come equally often, so they are not, say, a run of neighbours.
    noise, pairs = SystemNoise(), np.zeros((6, 6))
    for _ in range(DRAWS):
        one = series_sample(noise, series=np.zeros(6, dtype=np.int32), sample_rate=1.0, most=2)
        pairs[tuple(one.rows)] += 1
    assert chisquare(pairs[np.triu_indices(6, 1)]).pvalue > 1e-6
    assert np.tril(pairs).sum() == 0


def of_compounds(noise, series):
    """The planted bug: compounds are sampled, each by itself, and only then put together."""
    return compound_sample(noise, records=len(series), sample_rate=RATE)


def by_the_first_member(noise, series):
    """A wrong law: the rate is right, and all series are in or out together."""
    together = series_sample(noise, series=np.zeros_like(series), sample_rate=RATE, most=len(series))
    return Sample(rows=together.rows, units=together.units)


def at_another_rate(noise, series):
    return series_sample(noise, series=series, sample_rate=RATE * 1.1, most=4)


@pytest.mark.parametrize("wrong", [of_compounds, by_the_first_member, at_another_rate])
def test_a_wrong_law_is_rejected(wrong):
    inside, _, _ = drawn(wrong)
    assert not has_the_law(inside)


def test_compounds_are_sampled_independently():
    noise = SystemNoise()
    counts, sizes = np.zeros(200), []
    for _ in range(4000):
        sample = compound_sample(noise, records=200, sample_rate=0.1)
        assert sample.series is None
        assert sample.units == len(sample.rows)
        counts[sample.rows] += 1
        sizes.append(len(sample.rows))
    assert np.all(np.abs(counts / 4000 - 0.1) < 0.03)
    assert np.mean(sizes) == pytest.approx(20, abs=0.5)
    assert np.var(sizes) == pytest.approx(18, rel=0.15)


def test_an_empty_sample_is_possible():
    assert len(compound_sample(SystemNoise(), records=0, sample_rate=0.5).rows) == 0
    assert len(compound_sample(SystemNoise(), records=5, sample_rate=1.0).rows) == 5
    nothing = series_sample(SystemNoise(), series=np.empty(0, dtype=np.int32), sample_rate=0.5, most=3)
    assert (len(nothing.rows), nothing.units, len(nothing.series)) == (0, 0, 0)
    # Numbers that no row has are no units.
    gaps = series_sample(SystemNoise(), series=np.array([7, 3, 7], dtype=np.int32), sample_rate=1.0, most=3)
    assert (gaps.rows.tolist(), gaps.units, gaps.series.tolist()) == ([1, 0, 2], 2, [3, 7, 7])


def test_both_draws_come_from_the_partners_own_source(monkeypatch):
    asked = []

    class Counted(SeededNoise):
        def uniform(self, count):
            asked.append(count)
            return super().uniform(count)

    monkeypatch.setattr(np.random, "default_rng", lambda *_: pytest.fail("NumPy was asked"))
    noise = Counted.__new__(Counted)
    noise._generator = np.random.Generator(np.random.PCG64(0))
    series_sample(noise, series=np.array([0, 1, 1, 1], dtype=np.int32), sample_rate=1.0, most=2)
    assert asked == [2, 4]


def test_a_million_compounds_take_well_under_a_second():
    rng = np.random.default_rng(0)
    series = rng.integers(0, 100_000, 1_000_000).astype(np.int32)
    series[:30_000] = 5
    begin = time.perf_counter()
    sample = series_sample(SystemNoise(), series=series, sample_rate=0.1, most=32)
    blocks = len(list(sample.blocks(1024)))
    assert time.perf_counter() - begin < 2.0  # 0.05 s on a quiet machine
    assert 9_000 < sample.units < 11_000
    assert 80 < blocks < 120
