"""Discrete Gaussian draws have their law, to the last bit where that can be computed, and wrong laws are rejected."""

import math
import secrets
from bisect import bisect_right
from dataclasses import replace
from decimal import Context, Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from randomgen import AESCounter
from scipy.stats import chisquare, kstest, norm

from pharma_fl.privacy import discrete_gaussian
from pharma_fl.privacy.discrete_gaussian import _CHUNK, _cells, _kept, add_to
from pharma_fl.privacy.noise import SystemNoise

STDS = (0.5, 3.0, 127.9, 128.0, 255.99, 256.0, 300.0, 1000.0)
LARGE = (1e5, 3e6, 2.0**31, 2.0**40)


def a_generator(key=7):
    return np.random.Generator(AESCounter(key=key))


def draws(std, n=1_000_000, key=7):
    vector = np.zeros(n, np.int64)
    add_to(a_generator(key), vector, std)
    return vector


def law(std):
    """Every whole number up to 14 std, and its probability."""
    values = np.arange(-math.ceil(14 * std), math.ceil(14 * std) + 1)
    weights = np.exp(-(values**2) / (2 * std**2))
    return values, weights / weights.sum()


def fit(sample, std):
    """P-value of a chi-square test against the exact probabilities, values in the tails taken together."""
    values, probabilities = law(std)
    counts = np.bincount(np.clip(sample, values[0], values[-1]) - values[0], minlength=len(values))
    expected = len(sample) * probabilities
    common = expected > 20
    tails = (slice(None, common.argmax()), slice(len(common) - common[::-1].argmax(), None))
    observed = [*counts[common], *(counts[tail].sum() for tail in tails)]
    wanted = [*expected[common], *(expected[tail].sum() for tail in tails)]
    whole = np.array(wanted) > 1
    return chisquare(np.array(observed)[whole], np.array(wanted)[whole] * sum(observed) / sum(wanted), sum_check=False)[
        1
    ]


@pytest.mark.parametrize("std", STDS)
def test_every_whole_number_has_its_probability(std):
    assert fit(draws(std), std) > 1e-6


@pytest.mark.parametrize("std", LARGE)
def test_large_ones_look_gaussian_down_to_their_last_bits(std):
    sample = draws(std)
    # Jitter within a unit makes the whole number a real one of nearly the normal law.
    jitter = np.random.default_rng(0).random(len(sample)) - 0.5
    assert kstest((sample + jitter) / std, "norm").pvalue > 1e-6
    width = 1 << max(0, math.frexp(std / 256)[1])
    for modulus in (2, 7, 64, width):
        bins = min(modulus, 1024)
        residues = np.mod(sample, modulus) * bins // modulus
        assert chisquare(np.bincount(residues, minlength=bins)).pvalue > 1e-6


@pytest.mark.parametrize("std", [3.0, 127.9, 300.0, 1000.0])
def test_wrong_laws_are_rejected(std):
    rng, n = np.random.default_rng(1), 1_000_000
    wrong = {
        "two thirds": draws(std * 2 / 3, n),
        "three halves": draws(std * 3 / 2, n),
        "Laplace": np.rint(rng.laplace(scale=std / math.sqrt(2), size=n)).astype(np.int64),
        "Student": np.rint(rng.standard_t(8, n) * std * math.sqrt(6 / 8)).astype(np.int64),
        "every other": draws(std / 2, n) * 2,
    }
    assert {name for name, sample in wrong.items() if fit(sample, std) > 1e-9} == set()


def test_rounding_a_gaussian_is_another_law_where_units_are_coarse():
    rng, n = np.random.default_rng(2), 4_000_000
    normal = rng.standard_normal(n) * 3.0
    assert fit(draws(3.0, n), 3.0) > 1e-6
    assert fit(np.rint(normal).astype(np.int64), 3.0) < 1e-9
    assert fit(np.floor(normal).astype(np.int64), 3.0) < 1e-9


def moments(sample, std):
    """Mean and variance in standard errors from what they should be."""
    n, scaled = len(sample), sample / std
    return scaled.mean() * math.sqrt(n), (np.square(scaled).mean() - 1) * math.sqrt(n / 2)


@pytest.mark.parametrize("std", [3.0, 255.99, 256.0, 300.0, 3e6, 2.0**40])
def test_mean_and_variance(std):
    sample = draws(std, 4_000_000)
    assert max(map(abs, moments(sample, std))) < 5.5
    positive, negative = np.count_nonzero(sample > 0), np.count_nonzero(sample < 0)
    assert abs(positive - negative) < 5.5 * math.sqrt(len(sample))


def test_places_that_are_not_around_the_middle_of_their_cell_are_rejected():
    std = 2.0**20  # the middle of a cell is 1/256 std from its border
    sample = draws(std, 6_000_000)
    assert abs(moments(sample, std)[0]) < 5.5
    assert abs(moments(sample + 2**12, std)[0]) > 8


def test_without_drawing_anew_the_law_would_be_another(monkeypatch):
    std, n = 2.0**20, 12_000_000
    assert abs(moments(draws(std, n), std)[1]) < 4
    monkeypatch.setattr(discrete_gaussian, "_cells", lambda *which: replace(_cells(*which), sure=256))
    assert abs(moments(draws(std, n), std)[1]) > 6


def test_a_small_parameter_is_not_the_deviation():
    values, probabilities = law(0.5)
    deviation = math.sqrt((values**2 * probabilities).sum())
    assert deviation == pytest.approx(0.5 * 0.927, rel=1e-3)
    assert np.std(draws(0.5)) == pytest.approx(deviation, rel=0.01)
    for std in (1.0, 2.0, 128.0):
        values, probabilities = law(std)
        assert math.sqrt((values**2 * probabilities).sum()) == pytest.approx(std, rel=1e-6)


@pytest.mark.parametrize("std", [0.5, 3.0, 255.99, 256.0, 300.0, 3e6, 2.0**40])
def test_tables_and_arithmetic_give_each_value_its_probability_to_the_50th_bit(std):
    """Against decimal arithmetic, of every cell and of some places in it."""
    bits = max(0, math.frexp(std / 256)[1])
    width, nearer = 1 << bits, 0.5 if bits else 0.0
    cells = _cells(std / width, nearer)
    borders = np.array([0, *cells.borders, 2**256], dtype=object)
    places = np.unique([0, width // 2, width - 1, *np.random.default_rng(3).integers(0, width, 2)])
    numbers = np.repeat(np.arange(-cells.last, cells.last + 1, dtype=np.int16), len(places))
    values = numbers.astype(np.int64) * width + np.tile(places, 2 * cells.last + 1) - width // 2
    kept = _kept(values, numbers, width, std) if bits else np.ones(len(values))
    assert kept.min() >= cells.sure / 256 - 2.0**-53
    assert kept.max() <= 1
    with localcontext(Context(prec=60)):
        of_cell = [Decimal(int(share)) / 2**256 for share in np.diff(borders)]
        half = 1 / (2 * Decimal(std) ** 2)
        found = [
            of_cell[number + cells.last] * Decimal(float(keep)) * (half * int(value) ** 2).exp()
            for number, value, keep in zip(numbers.tolist(), values, kept, strict=True)
        ]
        middle = found[len(found) // 2]
        worst = max(abs(one / middle - 1) for one in found)
    assert worst < 2.0**-50
    # Tables alone, without the exponential, are much better than that.
    assert bits or worst < 2.0**-100


def cells_std(std):
    return std / (1 << math.frexp(std / 256)[1])


@pytest.mark.parametrize("std", [256.0, 1000.0, 3e6, 2.0**40])
def test_places_fill_their_cells_and_what_is_kept_is_a_probability(std, monkeypatch):
    cells, seen = _cells(cells_std(std), 0.5), []

    def watched(values, numbers, width, std):
        kept = _kept(values, numbers, width, std)
        seen.append(((values - numbers.astype(np.int64) * width) / width, kept))
        return kept

    monkeypatch.setattr(discrete_gaussian, "_kept", watched)
    draws(std)
    places, kept = map(np.concatenate, zip(*seen, strict=True))
    assert len(places) > 50_000
    assert -0.5 <= places.min() < -0.498
    assert places.max() == pytest.approx(0.5 - cells_std(std) / std, abs=0.002)
    assert cells.sure / 256 <= kept.min() < kept.max() <= 1


def test_the_exponential_is_good_to_two_units_of_the_last_place():
    exponents = -np.random.default_rng(4).random(20_000) * 0.11
    with localcontext(Context(prec=40)):
        worst = max(
            abs(Decimal(float(found)) - Decimal(float(x)).exp())
            for x, found in zip(exponents, np.exp(exponents), strict=True)
        )
    assert worst < 2 * 2.0**-53


def test_the_numbers_of_the_notes():
    assert 2 * norm.sf(14) < 2.0**-145
    assert 14.01 / 128 < 0.11
    assert math.exp(-0.11) > 0.89
    for std, rejected in ((256.0, 1 / 320), (511.0, 1 / 640)):
        expected = 0.5 * math.sqrt(2 / math.pi) / (std / 2)
        assert expected == pytest.approx(rejected, rel=0.01)
    assert _cells(128.0, 0.5).sure == 229
    exact = 2 / 0.89 + 0.33 / 0.89 + 2 * 0.11 / 0.89
    assert exact * 2.0**-53 < 2.0**-51
    least = Fraction(math.exp(-98.2)) / Fraction(3 * 256)
    assert Fraction(2) ** -255 / least < Fraction(2) ** -103


class Scripted:
    """Gives the words that a test wants."""

    def __init__(self, *words):
        self.words = list(words)

    def integers(self, high, *, size, dtype, endpoint):
        assert (high, dtype, endpoint) == (2**64 - 1, np.uint64, True)
        taken, self.words = self.words[:size], self.words[size:]
        return np.array(taken, dtype=np.uint64)


@settings(deadline=None)
@given(st.data(), st.sampled_from([(0.5, 0.0), (3.0, 0.0), (200.0, 0.5)]))
def test_a_uniform_number_finds_its_place_to_all_256_bits(data, which):
    cells = _cells(*which)
    border = data.draw(st.integers(0, len(cells.borders) - 1))
    uniform = cells.borders[border] + data.draw(st.sampled_from([-1, 0, 1, -(2**192), 2**192, -(2**240), 2**240]))
    uniform = data.draw(st.sampled_from([uniform % 2**256, data.draw(st.integers(0, 2**256 - 1))]))
    words = [uniform >> shift & 2**64 - 1 for shift in (192, 128, 64, 0)]
    (found,) = cells.draw(Scripted(*words), 1)
    assert found == bisect_right(cells.borders, uniform) - cells.last


@pytest.mark.parametrize("which", [(0.5, 0.0), (3.0, 0.0), (200.0, 0.5)])
def test_the_guide_tells_what_a_search_would(which):
    cells = _cells(*which)
    heads = cells.heads[(cells.heads > 0) & (cells.heads < 2**64 - 1)]
    edges = np.arange(2**16, dtype=np.uint64) << np.uint64(48)
    words = np.concatenate([heads - np.uint64(1), heads + np.uint64(1), edges, edges - np.uint64(1)])
    words = words[~np.isin(words, cells.heads)]
    found = cells.draw(Scripted(*words), len(words))
    assert np.array_equal(found, np.searchsorted(cells.heads, words) - cells.last)


@pytest.mark.parametrize("std", [3.0, 1e8])
def test_sums_wrap_in_twos_complement(std):
    start = np.full(3 * _CHUNK + 5, 2**31 - 1)
    narrow, wide = start.astype(np.int32), start.copy()
    add_to(a_generator(), narrow, std)
    add_to(a_generator(), wide, std)
    assert np.array_equal((wide + 2**31) % 2**32 - 2**31, narrow)
    assert (narrow < 0).any()
    assert fit(wide - start, std) > 1e-6 if std == 3.0 else np.std(wide - start) == pytest.approx(std, rel=0.02)


def test_vectors_of_any_shape_are_noised_in_place():
    for shape in ((), (0,), (3, 0), (7,), (13, 41)):
        vector = np.full(shape, 10**12)
        add_to(a_generator(), vector, 1e6)
        assert vector.shape == shape
        assert (vector != 10**12).all()


@pytest.mark.parametrize(
    "vector", [np.zeros(3), np.zeros(3, np.uint32), np.zeros((4, 3), np.int32).T, np.zeros(9, int)[::2]]
)
def test_other_vectors_are_refused(vector):
    for add in (lambda: add_to(a_generator(), vector, 1.0), lambda: SystemNoise().add_discrete_gaussian(vector, 1.0)):
        with pytest.raises(ValueError, match="Expected "):
            add()
    assert (vector == 0).all()


@pytest.mark.parametrize("std", [0.0, -1.0, 0.49, 2.0**40 * 1.001, math.inf, math.nan])
def test_other_deviations_are_refused(std):
    vector = np.zeros(3, np.int64)
    for add in (lambda: add_to(a_generator(), vector, std), lambda: SystemNoise().add_discrete_gaussian(vector, std)):
        with pytest.raises(ValueError, match="Expected a standard deviation"):
            add()
    assert (vector == 0).all()


def chunks_of(threads):
    vector = np.zeros(20 * _CHUNK + 11, np.int32)
    SystemNoise(threads=threads).add_discrete_gaussian(vector, 300.0)
    chunks = vector[: 20 * _CHUNK].reshape(20, _CHUNK)
    rows = np.concatenate([chunks, np.abs(chunks)])
    return vector, np.abs(np.corrcoef(rows) - np.eye(len(rows))).max()


@pytest.mark.parametrize("threads", [1, 3])
def test_several_threads_draw_all_of_it_once(threads):
    vector, correlation = chunks_of(threads)
    assert fit(vector, 300.0) > 1e-6
    assert np.count_nonzero(vector[-11:]) > 5
    assert correlation < 7 / math.sqrt(_CHUNK)


def test_threads_with_one_key_would_be_noticed(monkeypatch):
    monkeypatch.setattr(secrets, "randbits", lambda _: 5)
    assert chunks_of(3)[1] > 0.99
