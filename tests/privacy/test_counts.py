"""Noised counts: what one unit can move, the noise's law, and what must not spoil either."""

import math

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest
from tests.conftest import SeededNoise

from pharma_fl.privacy.accountant import epsilon
from pharma_fl.privacy.charge import Charge
from pharma_fl.privacy.counts import clipped_rows, noised_sum, series_rows
from pharma_fl.privacy.noise import SystemNoise


class NoNoise(SeededNoise):
    def add_normal(self, tensor, std, scale=1.0):
        tensor.mul_(scale)


def exact(rows, norm=1.0):
    return noised_sum(rows, clipping_norm=norm, noise_multiplier=1.0, noise=NoNoise())


def clipped_by_hand(row, norm):
    length = math.sqrt(sum(value * value for value in row))
    return (
        [0.0] * len(row) if not math.isfinite(length) else [v * min(1.0, norm / length if length else 1) for v in row]
    )


numbers = st.one_of(st.integers(-50, 50).map(float), st.floats(-1e6, 1e6, allow_subnormal=False))
tables = st.integers(1, 5).flatmap(
    lambda width: st.lists(st.lists(numbers, min_size=width, max_size=width), min_size=1, max_size=12)
)


@settings(max_examples=300, deadline=None)
@given(rows=tables, norm=st.sampled_from([1e-3, 0.7, 1.0, 3.0, 1e4]))
def test_the_sum_is_that_of_rows_clipped_by_hand(rows, norm):
    wanted = np.sum([clipped_by_hand(row, norm) for row in rows], axis=0)
    for form in (np.array(rows), sp.csr_array(np.array(rows))):
        np.testing.assert_allclose(exact(form, norm), wanted, atol=len(rows) * norm * 2.0**-30, rtol=0)


@settings(max_examples=300, deadline=None)
@given(rows=tables, norm=st.sampled_from([1e-3, 0.7, 1.0, 3.0, 1e4]), data=st.data())
def test_one_unit_more_or_less_moves_the_sum_by_at_most_the_clip(rows, norm, data):
    gone = data.draw(st.integers(0, len(rows) - 1))
    fewer = np.array(rows[:gone] + rows[gone + 1 :]).reshape(-1, len(rows[0]))
    moved = exact(np.array(rows), norm) - exact(fewer, norm)
    assert np.linalg.norm(moved) <= norm * (1 + 1e-12)
    # The sum is exact, so what one row adds does not depend on the others.
    np.testing.assert_array_equal(moved, exact(np.array([rows[gone]]), norm))


def test_whole_counts_within_the_clip_are_kept_as_they_are():
    rows = np.array([[3.0, 0.0, 4.0], [0.0, 0.0, 0.0], [1.0, 2.0, 2.0]])
    np.testing.assert_array_equal(exact(rows, 5.0), [4.0, 2.0, 6.0])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e200])
def test_a_row_that_is_not_finite_adds_nothing(bad):
    rows = np.array([[1.0, 0.0], [bad, 1.0], [0.0, 1.0]])
    np.testing.assert_array_equal(exact(rows), [1.0, 1.0])
    np.testing.assert_array_equal(exact(sp.csr_array(rows)), [1.0, 1.0])


def test_what_is_given_stays_as_it_was():
    dense = np.array([[30.0, 40.0]])
    sparse = sp.csr_array(dense)
    exact(dense), exact(sparse)
    np.testing.assert_array_equal(dense, [[30.0, 40.0]])
    np.testing.assert_array_equal(sparse.toarray(), dense)


def test_a_position_that_comes_twice_is_one_coordinate():
    twice = sp.csr_array((np.array([3.0, 4.0]), np.array([0, 0]), np.array([0, 2])), shape=(1, 1))
    np.testing.assert_array_equal(exact(twice, 1.0), [1.0])


def test_the_sum_is_exact_in_whatever_order():
    """In plain floating point the sum of such numbers depends on their order, and so on who else is there."""
    rng = np.random.default_rng(0)
    rows = rng.lognormal(sigma=6, size=(20_000, 2))
    assert {tuple(exact(rows[rng.permutation(len(rows))], 0.1)) for _ in range(5)} == {tuple(exact(rows, 0.1))}


def test_no_rows_and_no_columns():
    np.testing.assert_array_equal(exact(np.empty((0, 3))), [0.0, 0.0, 0.0])
    assert exact(np.empty((0, 0))).shape == (0,)


@pytest.mark.parametrize(("norm", "noise"), [(0.0, 1.0), (1.0, 0.0), (-1.0, 1.0), (math.nan, 1.0), (1.0, math.nan)])
def test_nothing_is_summed_without_clip_or_noise(norm, noise):
    with pytest.raises(ValueError, match="above 0|> 0"):
        noised_sum(np.ones((1, 1)), clipping_norm=norm, noise_multiplier=noise, noise=SystemNoise())


def test_the_noise_has_the_law_that_is_charged():
    rng = np.random.default_rng(3)
    rows = sp.csr_array(rng.integers(0, 3, size=(50, 40_000)).astype(float))
    sigma, norm = 3.0, 2.0
    added = noised_sum(rows, clipping_norm=norm, noise_multiplier=sigma, noise=SystemNoise()) - exact(rows, norm)
    assert kstest(added, "norm", args=(0, sigma * norm)).pvalue > 1e-4
    for wrong in (2 / 3, 0.95, 1.05, 3 / 2):
        assert kstest(added, "norm", args=(0, wrong * sigma * norm)).pvalue < 1e-4
    assert abs(np.corrcoef(added[:-1], added[1:])[0, 1]) < 0.03


def test_two_releases_do_not_share_noise():
    rows = np.zeros((1, 100))
    one, two = (noised_sum(rows, clipping_norm=1.0, noise_multiplier=1.0, noise=SystemNoise()) for _ in range(2))
    # The grid is coarse enough for some to meet by chance.
    assert np.mean(one == two) < 0.1


def test_its_price_is_that_of_the_gaussian_mechanism():
    """Balle and Wang 2018, equation 6: delta of the Gaussian mechanism of sensitivity 1, exactly."""
    from scipy.stats import norm

    found, sigma = epsilon([Charge(1.0, 10.0, 1)], 1e-5), 10.0
    delta = norm.cdf(0.5 / sigma - found * sigma) - math.exp(found) * norm.cdf(-0.5 / sigma - found * sigma)
    assert 0.9e-5 < delta <= 1e-5


def test_a_series_is_clipped_as_one():
    rows = sp.csr_array(np.array([[3.0, 0.0], [0.0, 1.0], [0.0, 4.0]]))
    whole = series_rows(rows, np.array([2, 0, 2], dtype=np.int32))
    np.testing.assert_array_equal(whole.toarray(), [[0, 1], [0, 0], [3, 4]])
    np.testing.assert_allclose(exact(whole, 1.0), [0.6, 0.8 + 1.0], atol=1e-8)
    assert series_rows(rows[:0], np.empty(0, dtype=np.int32)).shape == (0, 2)


def test_clipped_rows_are_never_above_the_clip():
    rng = np.random.default_rng(1)
    rows = clipped_rows(rng.normal(size=(5000, 7)) * 10 ** rng.uniform(-5, 5, size=(5000, 1)), 0.3)
    assert np.linalg.norm(rows.toarray(), axis=1).max() <= 0.3 * (1 + 1e-12)
