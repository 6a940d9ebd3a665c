"""The worst pair of a step: against integrals, dp-accounting, and mechanisms in the plane that it must dominate."""

import itertools
import math

import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution
from scipy.stats import binom, norm

from pharma_fl.privacy.dominating_pair import Pair, least_level, pair_distribution

ORDERS = (-1.0, -0.1, 0.0, 0.1, 0.5, 1.0, 2.0, 4.0)


def sides(pair, level):
    """Both directions: with the units against without them, and back."""
    whole = pair_distribution(pair, level)
    return whole._pmf_remove, whole._pmf_add


def densities(pair):
    """The pair's densities on a fine grid, whose step comes last."""
    x = np.linspace(-pair.units - 12 * pair.noise, pair.units + 12 * pair.noise, 400_001)
    weights, noise = binom.pmf(np.arange(pair.units + 1), pair.units, pair.rate), norm.pdf(x, 0, pair.noise)
    upper, lower = (sum(w * norm.pdf(x, sign * j, pair.noise) for j, w in enumerate(weights)) for sign in (1, -1))
    return upper, lower if pair.replaced else noise, x[1] - x[0]


@pytest.mark.parametrize(
    "pair",
    [
        Pair(0.04, 0.956),
        Pair(1.0, 2.0),
        Pair(0.3, 0.7),
        Pair(0.1, 1.0, 3),
        Pair(0.04, 0.956, replaced=True),
        Pair(0.3, 1.5, 2, replaced=True),
        Pair(0.5, 4.0, 5, replaced=True),
    ],
    ids=str,
)
@pytest.mark.parametrize("direction", [0, 1])
def test_divergences_are_those_of_the_pair_and_never_less(pair, direction):
    upper, lower, step = densities(pair)
    if direction:
        upper, lower = lower, upper
    loss = sides(pair, 0)[direction]
    for order in ORDERS:
        exact = np.maximum(0.0, upper - math.exp(order) * lower).sum() * step
        assert exact - 1e-9 <= loss.get_delta_for_epsilon(order) <= exact * (1 + 1e-5) + 1e-8


@pytest.mark.parametrize(("rate", "noise"), [(0.01, 1.0), (0.3, 4.33), (0.05, 0.6)])
@pytest.mark.parametrize("replaced", [False, True])
def test_what_is_made_here_is_what_dp_accounting_has_where_it_has_it(rate, noise, replaced, monkeypatch):
    """Its REPLACE_ONE of the subsampled Gaussian is the pair of one replaced unit."""
    pair = Pair(rate, noise, replaced=replaced)
    theirs = pair_distribution(pair, least_level(pair))
    monkeypatch.setattr(Pair, "is_known", False)
    ours = pair_distribution.__wrapped__(pair, least_level(pair))
    assert ours._pmf_remove is not theirs._pmf_remove
    for order in (0.0, 0.01, 0.1, 0.3, 1.0, 3.0):
        wanted = float(theirs.get_delta_for_epsilon(order))
        assert float(ours.get_delta_for_epsilon(order)) == pytest.approx(wanted, rel=1e-5, abs=1e-12)


@pytest.mark.parametrize("units", [2, 3])
def test_a_mixture_is_what_dp_accounting_makes_of_it_in_a_minute(units):
    """On a coarse grid, where it takes less."""
    rate, noise, level = 0.1, 1.5, 7
    step = math.ldexp(1e-4, level)
    theirs = privacy_loss_distribution.from_mixture_gaussian_mechanism(
        noise, list(range(units + 1)), binom.pmf(range(units + 1), units, rate), value_discretization_interval=step
    )
    ours = pair_distribution(Pair(rate, noise, units), level)
    for order in (0.0, 0.1, 0.5, 1.0, 2.0):
        wanted = float(theirs.get_delta_for_epsilon(order))
        assert float(ours.get_delta_for_epsilon(order)) == pytest.approx(wanted, rel=2e-3, abs=1e-9)


def plane_divergence(removed, added, rate, noise, order):
    """Of mixtures in the plane over the coins of units with vectors `removed` on one data set, `added` on the other."""
    axis = np.linspace(-3 - 7 * noise, 3 + 7 * noise, 250)
    x, y = np.meshgrid(axis, axis)

    def mixture(vectors):
        total = np.zeros_like(x)
        for coins in itertools.product((0, 1), repeat=len(vectors)):
            weight = math.prod(rate if coin else 1 - rate for coin in coins)
            at = np.array(coins) @ vectors
            total += weight * norm.pdf(x, at[0], noise) * norm.pdf(y, at[1], noise)
        return total

    return float(np.maximum(0, mixture(removed) - order * mixture(added)).sum()) * (axis[1] - axis[0]) ** 2


@pytest.mark.parametrize("replaced", [False, True])
@pytest.mark.parametrize("units", [1, 2, 3])
def test_no_vectors_within_the_clip_do_worse_than_the_pair(units, replaced):
    random = np.random.default_rng(units)
    rate, noise = 0.35, 1.1
    worst = sides(Pair(rate, noise, units, replaced), 0)[0]
    ahead = np.tile([1.0, 0.0], (units, 1))
    trials = [(ahead, -ahead if replaced else 0 * ahead)]
    for spread in (0.1, 0.3, 1.0, math.pi, math.pi):
        angles, lengths = random.normal(0, spread, (2, units)), random.uniform(0, 1, (2, units)) ** 0.2
        angles[1] += math.pi
        vectors = lengths[..., None] * np.stack([np.cos(angles), np.sin(angles)], -1)
        trials.append((vectors[0], vectors[1] if replaced else 0 * vectors[1]))
    for order in (-0.5, 0.0, 0.7, 1.5):
        bound = worst.get_delta_for_epsilon(order)
        met, *others = (plane_divergence(u, v, rate, noise, math.exp(order)) for u, v in trials)
        assert met == pytest.approx(bound, abs=3e-4)  # as far as a sum over a plane can tell
        assert max(others) <= bound + 3e-4


def test_as_many_single_replacements_with_the_whole_noise_are_too_cheap_for_several_series():
    """So this rule, which composes m pairs of one unit, must not come back: q = 1 shows it in closed form."""
    units, noise = 4, 2.0
    truth = norm.cdf(2 * units / noise / 2) - norm.cdf(-2 * units / noise / 2)  # total variation, shift 2 units
    composed = 2 * math.sqrt(units) / noise
    too_cheap = norm.cdf(composed / 2) - norm.cdf(-composed / 2)
    found = float(pair_distribution(Pair(1.0, noise, units, replaced=True), 2).get_delta_for_epsilon(0.0))
    assert found >= truth - 1e-9
    assert found == pytest.approx(truth, abs=1e-4)
    assert too_cheap < truth - 0.01


def test_revealing_which_units_were_sampled_would_be_dearer():
    """The pair credits that the attacker does not see the coins."""
    pair = Pair(0.1, 1.0, 2, replaced=True)
    revealed = sum(
        binom.pmf(j, 2, 0.1) * (norm.cdf(j / pair.noise) - norm.cdf(-j / pair.noise)) for j in range(3)
    )  # total variation of N(j) and N(-j), averaged
    assert sides(pair, 0)[0].get_delta_for_epsilon(0.0) <= revealed + 1e-6
    assert sides(pair, 0)[0].get_delta_for_epsilon(1.0) < sum(
        binom.pmf(j, 2, 0.1) * (norm.cdf(j - 1 / (2 * j)) - math.e * norm.cdf(-j - 1 / (2 * j))) for j in (1, 2)
    )


@pytest.mark.parametrize(
    "pair", [Pair(1e-6, 0.05, 64), Pair(0.02, 2.0, 64, replaced=True), Pair(0.5, 1e4, 2), Pair(0.9, 0.3, 3)], ids=str
)
def test_all_mass_is_kept(pair):
    for loss in sides(pair, least_level(pair)):
        dense = loss.to_dense_pmf()
        assert dense._probs.sum() + dense._infinity_mass == pytest.approx(1.0, abs=1e-12)
        assert dense._probs.min() >= 0
        assert dense.size <= 2**18 + 2


def test_a_coarser_grid_never_lowers_a_divergence():
    pair = Pair(0.1, 1.0, 2)
    fine, coarse = sides(pair, 0), sides(pair, 6)
    for order in ORDERS:
        for one, other in zip(fine, coarse, strict=True):
            assert one.get_delta_for_epsilon(order) <= other.get_delta_for_epsilon(order) + 1e-12
