"""What partners share holds what is charged: sensitivity after rounding, law of the sum, who knows which shares."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import kstest, norm
from tests.conftest import SeededNoise

from pharma_fl.privacy.discrete_gaussian import MOST_STD
from pharma_fl.privacy.noise import SystemNoise
from pharma_fl.privacy.shared_noise import SharedNoise, _distance


def a_noise(**changes):
    fields = {
        "clipping_norm": 1.0,
        "noise_multiplier": 2.0,
        "contributors": 10,
        "tolerated_colluders": 3,
        "tolerated_losses": 1,
        "values": 100_000,
        "ring_bits": 32,
    }
    return SharedNoise(**(fields | changes))


@st.composite
def noises(draw):
    contributors = draw(st.integers(2, 300))
    colluders = draw(st.integers(1, contributors - 1))
    losses = draw(st.integers(0, math.isqrt(contributors - colluders)))
    while losses * (losses + 1) >= contributors - colluders:
        losses -= 1
    return a_noise(
        clipping_norm=draw(st.floats(1e-9, 1e9)),
        noise_multiplier=draw(st.floats(0.5, 1e3)),
        contributors=contributors,
        tolerated_colluders=colluders,
        tolerated_losses=losses,
        values=draw(st.integers(1, 10**9)),
        ring_bits=64,
    )


def law(std):
    """Probabilities of the whole numbers up to 14 std around 0."""
    values = np.arange(-math.ceil(14 * std), math.ceil(14 * std) + 1)
    weights = np.exp(-(values**2) / (2 * std**2))
    return weights / weights.sum()


def law_of_sum(std, shares):
    found = law(std)
    for _ in range(shares - 1):
        found = np.convolve(found, law(std))
    return found


# How far rounding lets a record move the sum


@settings(deadline=None)
@given(noises())
def test_units_are_fine_enough_that_rounding_costs_little(noise):
    assert math.frexp(noise.clipping_norm / noise.grid)[0] == 0.5
    assert noise.clipping_norm / 512 < noise.grid * math.sqrt(noise.values) <= noise.clipping_norm / 256
    assert noise.sensitivity == noise.clipping_norm + 2 * noise.grid * math.sqrt(noise.values)
    assert noise.slack <= noise.clipping_norm / 128


def moved(noise, before, after):
    """Distance of two rounded sums, in the units of the norm."""
    rounded = np.zeros((2, len(before)), np.int64)
    for units, sums in zip(rounded, (before, after), strict=True):
        noise.add_sums(units, torch.from_numpy(np.asarray(sums, np.float32)))
    return math.sqrt(float((np.diff(rounded, axis=0).astype(np.float64) ** 2).sum())) * noise.grid


@settings(deadline=None)
@given(st.data(), st.integers(1, 50), st.floats(1e-3, 1e3), st.integers(0, 2**32 - 1))
def test_one_record_moves_the_rounded_sum_by_no_more_than_the_sensitivity(data, values, norm_, seed):
    noise = a_noise(values=values, clipping_norm=norm_, ring_bits=64)
    rng = np.random.default_rng(seed)
    before = (rng.standard_normal(values) * norm_ * data.draw(st.sampled_from([0.01, 1.0, 100.0]))).astype(np.float32)
    record = rng.standard_normal(values) * (rng.random(values) < data.draw(st.sampled_from([0.1, 1.0])))
    record *= norm_ / max(np.linalg.norm(record), 1e-9)
    after = before + record.astype(np.float32)
    assert moved(noise, before, after) <= noise.sensitivity


@pytest.mark.parametrize("values", [1, 64, 1000, 4096])
def test_the_worst_rounding_takes_half_of_the_slack(values):
    noise = a_noise(values=values, ring_bits=64)
    steps = math.floor(noise.clipping_norm / noise.grid / math.sqrt(values))
    # Each value a hair below the middle between two units; the record moves it by whole units and a hair.
    before = np.full(values, (0.5 - 2.0**-12) * noise.grid)
    record = np.full(values, (steps - 1 + 2.0**-11) * noise.grid)
    assert np.linalg.norm(record) <= noise.clipping_norm
    distance = moved(noise, before, before + record)
    assert distance == pytest.approx(np.linalg.norm(record) + noise.slack / 2, rel=1e-5)
    assert distance <= noise.sensitivity


def test_ties_are_rounded_to_even_units_so_that_nothing_drifts():
    noise = a_noise()
    units = np.zeros(6, np.int32)
    noise.add_sums(units, torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5, 0.4999]) * noise.grid)
    assert units.tolist() == [0, 2, 2, 0, -2, 0]


def test_what_is_too_large_is_cut_off_and_moves_no_more_for_it():
    noise = a_noise()
    edge = noise.most * noise.grid
    sums = torch.tensor([edge * 1.01, -edge * 1.01, math.inf, -math.inf, math.nan, 3e38, 0.25])
    units = np.zeros(7, np.int32)
    noise.add_sums(units, sums)
    assert units.tolist() == [*(noise.most * sign for sign in (1, -1, 1, -1)), 0, noise.most, round(0.25 / noise.grid)]
    for before, after in ((edge - 0.5, edge + 0.5), (edge, edge + 1), (edge + 1, edge + 2)):
        assert moved(noise, [before], [after]) <= noise.sensitivity


def test_sums_of_any_shape_are_added_to_a_part_of_the_vector():
    noise, sums = a_noise(), torch.randn(300, 400, generator=torch.Generator().manual_seed(1))
    vector = np.full(120_010, 7, np.int32)
    noise.add_sums(vector[5:-5], sums)
    assert (vector[:5] == 7).all()
    assert (vector[-5:] == 7).all()
    expected = np.rint(sums.double().numpy().ravel() / noise.grid) + 7
    assert np.array_equal(vector[5:-5], expected)
    back = noise.values_of(vector[5:-5] - 7)
    assert back.dtype == np.float32
    assert np.abs(back - sums.numpy().ravel()).max() <= 0.5 * noise.grid + 1e-6
    assert torch.equal(sums, torch.randn(300, 400, generator=torch.Generator().manual_seed(1)))


def test_large_units_come_back_in_both_rings():
    noise = a_noise()
    for dtype in (np.int32, np.int64):
        units = np.array([-(2**31), -1, 0, 3, 2**31 - 1], dtype)
        assert np.allclose(noise.values_of(units), units * noise.grid, rtol=1e-7, atol=0)


# The sum of shares


@pytest.mark.parametrize(("std", "shares"), [(0.75, 2), (0.8, 3), (1.0, 2), (1.0, 5), (1.2, 4)])
def test_shares_add_up_to_nearly_one_discrete_gaussian(std, shares):
    """Against the exact law of the sum; `rounding_std` so large that it adds nothing."""
    exact = law_of_sum(std, shares)
    middle = len(exact) // 2
    values = np.arange(-8, 9) * round(std + 0.5)
    whole = np.exp(-(np.arange(-200, 201) ** 2) / (2 * shares * std**2))
    ratios = exact[middle + values] / (whole[200 + values] / whole.sum())
    found, bound = np.abs(np.log(ratios)).max(), _distance(10.0, std, shares)
    assert found <= bound
    if shares == 2:  # a third one evens out most of what two are apart
        assert found > bound / 3


@pytest.mark.parametrize(("rounding", "std"), [(0.5, 1.0), (0.5, 4.0), (0.7, 2.0)])
def test_rounding_at_random_makes_a_discrete_gaussian_of_a_continuous_one(rounding, std):
    whole = math.hypot(rounding, std)
    weights = np.exp(-(np.arange(-200, 201) ** 2) / (2 * whole**2))

    def density(g, y):
        """Of g before, and y after rounding."""
        among = np.exp(-((np.arange(-8, 9) + round(g) - g) ** 2) / (2 * rounding**2)).sum()
        return math.exp(-(g**2) / (2 * std**2) - (y - g) ** 2 / (2 * rounding**2)) / among

    scale = std * math.sqrt(2 * math.pi)
    found = []
    for y in range(round(3 * whole) + 1):
        mass = sum(quad(density, k / 2, (k + 1) / 2, args=(y,))[0] for k in range(2 * y - 20, 2 * y + 20)) / scale
        found.append(abs(math.log(mass / (weights[200 + y] / weights.sum()))))
    assert max(found) <= _distance(rounding, 10.0, 1)


def test_the_constant_of_the_bound():
    for w in (0.5, 0.51, 0.6, 1.0, 1.5):
        v = math.fsum(math.exp(-2 * math.pi**2 * w**2 * j**2) for j in range(1, 50))
        assert math.log((1 + 2 * v) / (1 - 2 * v)) <= 5 * math.exp(-2 * math.pi**2 * w**2)


@settings(deadline=None)
@given(noises())
def test_what_the_sum_holds_is_what_is_charged(noise):
    for adversary in ("partners", "coordinator"):
        charged, found = noise.noise_against(adversary), noise.effective_multiplier(adversary)
        assert found >= charged
        # 9 units of variance more than there must be, of at least 129^2 here.
        assert found <= charged * (1 + 3e-4)
    assert noise.noise_against("partners") == noise.noise_multiplier
    assert noise.sum_distance < 2.0**-99


def deltas(noise, moved_units, epsilons):
    """What the exact law of the sum of unknown shares says of two sums that far apart."""
    probabilities = law_of_sum(noise.share_std, noise.honest_shares)
    one = np.concatenate([probabilities, np.zeros(moved_units)])
    other = np.concatenate([np.zeros(moved_units), probabilities])
    return np.array([np.maximum(one - math.exp(epsilon) * other, 0).sum() for epsilon in epsilons])


def gaussian_deltas(multiplier, epsilons):
    """Balle and Wang 2018, theorem 8."""
    at = np.array(epsilons)
    return norm.cdf(0.5 / multiplier - at * multiplier) - np.exp(at) * norm.cdf(-0.5 / multiplier - at * multiplier)


@pytest.mark.parametrize("multiplier", [0.3, 0.8, 1.5])
@pytest.mark.parametrize("shares", [1, 2, 6])
def test_hockey_sticks_of_the_exact_law_are_below_the_accounted_ones(multiplier, shares):
    noise = a_noise(
        values=1,
        noise_multiplier=multiplier,
        contributors=shares + 1,
        tolerated_colluders=1,
        tolerated_losses=0,
    )
    epsilons = (0.0, 0.1, 0.5, 1.0, 3.0, 8.0)
    furthest = math.floor(noise.sensitivity / noise.grid)
    assert furthest == 258
    accounted = gaussian_deltas(noise.effective_multiplier("partners"), epsilons)
    for units in (1, 100, furthest):
        assert (deltas(noise, units, epsilons) <= accounted + 1e-12).all()
    # It would be seen if there were one percent less noise.
    assert (deltas(noise, furthest, epsilons) > gaussian_deltas(1.01 * multiplier, epsilons) + 1e-12).any()


# Who knows which shares


def opened(noise, *, present, known=0, draws=100_000):
    """What is unknown of the noise of a sum of `present` shares, in the units of the norm over the sensitivity."""
    source, vector = SystemNoise(threads=1), np.zeros(draws, np.int32 if noise.ring_bits == 32 else np.int64)
    for _ in range(present - known):
        noise.add_share(vector, source)
    return noise.values_of(vector).astype(np.float64) / noise.sensitivity


def fits(sample, multiplier):
    return kstest(sample / multiplier, "norm").pvalue


@pytest.mark.parametrize("bits", [32, 64])
def test_the_revealed_sum_has_the_plans_noise_and_no_other(bits):
    noise = a_noise(ring_bits=bits)
    alone = opened(noise, present=9)
    assert fits(alone, noise.noise_against("coordinator")) > 1e-6
    together = opened(noise, present=9, known=3)
    assert fits(together, noise.noise_multiplier) > 1e-6
    for sample, multiplier in ((alone, noise.noise_against("coordinator")), (together, noise.noise_multiplier)):
        assert fits(sample, multiplier * 2 / 3) < 1e-12
        assert fits(sample, multiplier * 3 / 2) < 1e-12


def test_with_fewer_colluders_or_losses_there_is_more_noise_and_with_more_there_is_less():
    noise = a_noise()
    assert np.std(opened(noise, present=10)) > noise.noise_against("coordinator") * 1.02
    assert np.std(opened(noise, present=9, known=2)) > noise.noise_multiplier * 1.05
    beyond = opened(noise, present=9, known=4)
    assert np.std(beyond) < noise.noise_multiplier * 0.95
    assert fits(beyond, noise.noise_multiplier) < 1e-12
    assert fits(opened(noise, present=8, known=3), noise.noise_multiplier) < 1e-12


def test_subtracting_known_shares_leaves_the_unknown_ones():
    noise, source = a_noise(), SystemNoise(threads=1)
    shares = np.zeros((9, 50_000), np.int32)
    for share in shares:
        noise.add_share(share, source)
    total = shares.sum(0, dtype=np.int32)
    left = total - shares[:3].sum(0, dtype=np.int32)
    assert fits(noise.values_of(left).astype(np.float64) / noise.sensitivity, noise.noise_multiplier) > 1e-6


# Trunk and heads


@settings(deadline=None)
@given(noises())
def test_trunk_and_heads_together_are_one_mechanism_of_the_charged_multiplier(noise):
    """Over all splits of the clip between trunk and heads, and of the slack."""
    clip, slack = (np.linspace(0, math.pi / 2, 181)[:, None], np.linspace(0, math.pi / 2, 181))
    trunk = noise.clipping_norm * np.cos(clip) + noise.slack * np.cos(slack)
    head = noise.clipping_norm * np.sin(clip) + noise.slack * np.sin(slack)
    for adversary in ("partners", "coordinator"):
        trunk_std = noise.effective_multiplier(adversary) * noise.sensitivity
        together = (trunk / trunk_std) ** 2 + (head / noise.head_std) ** 2
        assert together.max() * noise.noise_against(adversary) ** 2 == pytest.approx(1, rel=1e-3)
        assert together.max() * noise.noise_against(adversary) ** 2 <= 1 + 1e-14
    # Where only the trunk is rounded there is room.
    share, rounding = np.cos(clip), noise.slack / noise.clipping_norm
    assert (((share + rounding) ** 2 + 1 - share**2) / (1 + rounding) ** 2).max() <= 1 + 1e-14


def test_heads_have_as_much_noise_as_the_trunk_has_against_the_coordinator():
    noise = a_noise()
    assert noise.head_std == noise.noise_against("coordinator") * noise.sensitivity
    assert noise.noise_against("coordinator") == pytest.approx(2.0 * math.sqrt(9 / 6))


# Smaller contributions


@settings(deadline=None)
@given(noises(), st.floats(0.01, 1.0))
def test_a_smaller_contribution_has_a_larger_multiplier(noise, contribution):
    clip = noise.clip_of(contribution)
    noise_std = noise.noise_multiplier * noise.sensitivity
    assert noise_std / (clip + noise.slack) == pytest.approx(noise.noise_multiplier / contribution, rel=1e-12)
    assert 0 < clip <= noise.clipping_norm


def test_a_whole_contribution_is_the_plans_clip():
    assert a_noise(clipping_norm=0.1).clip_of(1.0) == 0.1


@pytest.mark.parametrize("contribution", [0.0, -1.0, 1.001, 0.005, math.nan, math.inf])
def test_other_contributions_are_refused(contribution):
    with pytest.raises(ValueError, match="Expected a contribution above"):
        a_noise(values=1).clip_of(contribution)


# Room in the ring


@settings(deadline=None)
@given(noises())
def test_sums_and_noise_fit_the_ring(noise):
    total_std = noise.share_std * math.sqrt(noise.contributors)
    assert noise.contributors * noise.most + 12 * total_std < 2**63
    assert noise.most >= 16 * round(noise.clipping_norm / noise.grid)


def test_the_narrow_ring_is_full_to_the_last_unit():
    noise = a_noise(contributors=8)
    total_std = noise.share_std * math.sqrt(8)
    assert noise.least_ring_bits == 32
    assert 2**31 - 10 < noise.contributors * noise.most + 12 * total_std < 2**31


def test_a_sum_beyond_the_ring_comes_back_from_the_other_side():
    noise = a_noise(tolerated_losses=0, tolerated_colluders=1, contributors=2)
    vector = np.zeros(3, np.int32)
    for _ in range(4):  # twice as many partners as there are
        noise.add_sums(vector, torch.tensor([1e9, -1e9, 1.0]))
    once_around = 2.0**32 * noise.grid
    sums = noise.values_of(vector)
    assert sums[0] == pytest.approx(4 * noise.most * noise.grid - once_around)
    assert sums[1] == pytest.approx(once_around - 4 * noise.most * noise.grid)
    assert sums[2] == 4.0


def test_wrapping_takes_nothing_from_the_noise():
    noise = a_noise()
    vector = np.full(100_000, 2**31 - 1, np.int32)
    for _ in range(noise.honest_shares):
        noise.add_share(vector, SeededNoise(4))
    assert (vector < 0).mean() == pytest.approx(0.5, abs=0.01)


def test_a_ring_that_is_too_narrow_is_refused_and_the_wider_one_named():
    wide = a_noise(values=71_000_000, contributors=30, noise_multiplier=4.0, ring_bits=64)
    assert wide.least_ring_bits == 64
    with pytest.raises(ValueError, match="ring_bits = 32 holds no sum of 30 contributors"):
        a_noise(values=71_000_000, contributors=30, noise_multiplier=4.0)
    assert a_noise(values=71_000_000, noise_multiplier=4.0).least_ring_bits == 32


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"values": 0}, "summed_values >= 1"),
        ({"values": 1, "noise_multiplier": 0.001}, "noise_multiplier = 0.001 leaves each of 10 contributors"),
        ({"values": 2**40, "noise_multiplier": 1e6, "ring_bits": 64}, "noise_multiplier = 1e.06 needs more units"),
    ],
)
def test_numbers_that_cannot_be_shared_are_refused(changes, named):
    with pytest.raises(ValueError, match=named):
        a_noise(**changes)


def test_the_most_noise_can_be_drawn():
    noise = a_noise(values=2**30, noise_multiplier=3e5, ring_bits=64)
    assert MOST_STD / 2 < noise.share_std < MOST_STD
    vector = np.zeros(1000, np.int64)
    noise.add_share(vector, SeededNoise(3))
    assert np.std(vector) == pytest.approx(noise.share_std, rel=0.1)


def test_the_numbers_of_the_notes():
    c = 10 * 2.0**-50
    for d, straight, walked in ((131_072, 2.4e-9, 5.9e-11), (71_000_000, 1.3e-6, 1.4e-9)):
        assert 2 * c * d == pytest.approx(straight, rel=0.04)
        whole = c * math.sqrt(d)
        walk = whole * (2 * math.sqrt(2 * math.log(1e15)) + 0.8 / 0.5) + 3 * whole**2
        assert walk == pytest.approx(walked, rel=0.04)
    assert a_noise(values=2**40, ring_bits=64).sum_distance < 2.0**-200
