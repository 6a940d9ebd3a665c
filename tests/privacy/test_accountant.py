"""Epsilon against published values, closed forms and other accountants; its laws; and how long a check takes."""

import math
import random

import dp_accounting
import numpy as np
import pytest
from dp_accounting.pld import pld_privacy_accountant
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import norm as gaussian

from pharma_fl.config import PrivacySettings, TrainingSettings
from pharma_fl.privacy import accountant
from pharma_fl.privacy.accountant import affordable_steps, composed, delta_at, epsilon, merge
from pharma_fl.privacy.charge import Charge
from pharma_fl.privacy.plan import propose

# sample rate, noise multiplier, steps, delta, epsilon: by privacy-loss distributions on a grid of 1e-4, as computed
# independently with dp-accounting and confirmed by two PRV implementations.
GOLDEN = [
    (0.001, 0.6, 20000, 1e-6, 3.747),
    (0.001, 1.0, 20000, 1e-6, 0.794),
    (0.001, 0.6, 100, 1e-6, 1.388),
    (0.004, 0.8, 5000, 1e-5, 2.499),
    (0.01, 0.6, 2000, 1e-5, 9.954),
    (0.01, 1.0, 10000, 1e-5, 6.188),
    (0.01, 2.0, 100, 1e-6, 0.228),
    (0.02, 1.5, 5000, 1e-6, 5.331),
    (0.05, 4.0, 1000, 1e-6, 1.802),
    (0.05, 1.0, 1000, 1e-5, 10.987),
    (0.05, 0.6, 100, 1e-5, 11.506),
    (0.05, 0.8, 20000, 1e-5, 133.68),
]


@pytest.mark.parametrize(("rate", "noise", "steps", "delta", "expected"), GOLDEN)
def test_golden_values(rate, noise, steps, delta, expected):
    assert epsilon([Charge(rate, noise, steps)], delta) == pytest.approx(expected, abs=3e-3 if expected > 100 else 1e-3)


def gaussian_delta(mu, eps):
    """Balle, Wang 2018: delta of a Gaussian whose shift is `mu` standard deviations."""
    return gaussian.cdf(mu / 2 - eps / mu) - math.exp(eps) * gaussian.cdf(-mu / 2 - eps / mu)


@pytest.mark.parametrize(("noise", "steps"), [(1.0, 1), (3.0, 10), (20.0, 400)])
@pytest.mark.parametrize(("unit", "members", "shift"), [("compound", 1, 1), ("compound", 3, 3), ("series", 3, 6)])
def test_without_sampling_it_is_the_gaussian_mechanism(noise, steps, unit, members, shift):
    found = epsilon([Charge(1.0, noise, steps, unit)], 1e-5, members=members)
    mu = shift * math.sqrt(steps) / noise
    assert gaussian_delta(mu, found) <= 1e-5 * (1 + 1e-9)
    assert gaussian_delta(mu, found - 1e-3) > 1e-5


def test_unsampled_charges_of_different_noise_are_one_gaussian():
    mu = math.sqrt(5 / 3.0**2 + 8 / 4.0**2)
    found = epsilon([Charge(1.0, 3.0, 5), Charge(1.0, 4.0, 8)], 1e-6)
    assert gaussian_delta(mu, found) == pytest.approx(1e-6, rel=1e-3)


def dp_accountings(charges, delta, relation=dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE):
    theirs = pld_privacy_accountant.PLDAccountant(relation)
    for charge in charges:
        one = dp_accounting.GaussianDpEvent(charge.noise_multiplier)
        theirs.compose(dp_accounting.PoissonSampledDpEvent(charge.sample_rate, one), charge.steps)
    return theirs.get_epsilon(delta)


@pytest.mark.parametrize(
    "charges",
    [
        [Charge(0.3, 4.33, 100)],
        [Charge(0.04, 0.956, 600)],
        [Charge(0.3, 5.0, 60), Charge(0.1, 2.0, 40), Charge(0.02, 1.5, 500)],
    ],
    ids=["small noise", "demo", "mixed"],
)
def test_dp_accountings_privacy_loss_accountant_says_the_same(charges):
    assert epsilon(charges, 1e-6) == pytest.approx(dp_accountings(charges, 1e-6), abs=1e-5)


def test_series_charges_for_compounds_are_dp_accountings_replace_one():
    relation = dp_accounting.NeighboringRelation.REPLACE_ONE
    charge = Charge(0.04, 2.37, 600)
    found = epsilon([charge._replace(unit="series")], 1e-6)
    assert found == pytest.approx(dp_accountings([charge], 1e-6, relation), abs=1e-5)
    assert found > epsilon([charge], 1e-6)


def test_a_series_charge_costs_a_series_what_a_compound_charge_costs_a_compound():
    assert epsilon([Charge(0.04, 2.37, 600, "series")], 1e-6, unit="series", members=7) == epsilon(
        [Charge(0.04, 2.37, 600)], 1e-6
    )


# Members 1, 2, 5, 10, 20 of one series, clipped and sampled one by one, at delta 1e-6. The first row of each two is
# published to two digits; the other has more, by the exact pair on a grid of 1e-4.
SERIES = {
    (0.01, 1.0, 1000): ((2.13, 4.6, 13.0, 30.6, 78), (2.1245, 4.5541, 13.0219, 30.6251, 77.777)),
    (0.02, 2.0, 1000): ((1.52, 3.3, 9.4, 22.1, 57), (1.5216, 3.2624, 9.3477, 22.0554, 56.591)),
    (0.004, 1.0, 5000): ((1.74, 3.7, 10.7, 25.2, 64), (1.7342, 3.7213, 10.6706, 25.1519, 64.138)),
}


@pytest.mark.parametrize("mechanism", SERIES, ids=str)
def test_series_whose_compounds_are_sampled_one_by_one(mechanism):
    published, exact = SERIES[mechanism]
    for unit in ("series", "compound"):
        found = [epsilon([Charge(*mechanism)], 1e-6, unit=unit, members=m) for m in (1, 2, 5, 10, 20)]
        assert found == pytest.approx(exact, rel=5e-5)
        assert found == pytest.approx(published, rel=0.013)


def test_compounds_of_several_series_cost_more_than_of_one_and_less_than_by_revealed_coins():
    charge = Charge(0.02, 4.0, 500, "series")
    found = [epsilon([charge], 1e-6, members=m) for m in (1, 2, 4)]
    assert found[0] < found[1] < found[2]
    # k replacements of one series each, with the whole noise, is what they do not compose to.
    assert found[2] > 1.5 * epsilon([charge._replace(steps=4 * charge.steps)], 1e-6)


rates, noises, steps = st.sampled_from([0.05, 0.2, 0.5]), st.sampled_from([1.5, 3.0, 6.0]), st.integers(1, 60)
units, members = st.sampled_from(["compound", "series"]), st.integers(1, 4)
charges = st.builds(Charge, rates, noises, steps, units)


@settings(max_examples=12, deadline=None)
@given(charge=charges, unit=units, m=members)
def test_epsilon_grows_with_steps_rate_and_members_and_falls_with_noise(charge, unit, m):
    rate, noise, n, _ = charge

    def cost(members=m, **changes):
        return epsilon([charge._replace(**changes)], 1e-5, unit=unit, members=members)

    base = cost() - 1e-9
    assert base >= -1e-9
    assert cost(steps=n + 5) >= base
    assert cost(sample_rate=min(1.0, 1.5 * rate)) >= base
    assert cost(noise_multiplier=1.5 * noise) <= base + 2e-9
    assert cost(members=m + 1) >= base


@settings(max_examples=8, deadline=None)
@given(history=st.lists(charges, min_size=1, max_size=4), unit=units, m=members, seed=st.randoms(use_true_random=False))
def test_order_and_grouping_do_not_matter_and_reading_changes_nothing(history, unit, m, seed):
    before, shuffled = list(history), list(history)
    seed.shuffle(shuffled)
    found = epsilon(history, 1e-5, unit=unit, members=m)
    assert epsilon(shuffled, 1e-5, unit=unit, members=m) == found
    assert epsilon(merge(history), 1e-5, unit=unit, members=m) == found
    split = [
        half
        for one in history
        for half in (one._replace(steps=one.steps - one.steps // 2), one._replace(steps=one.steps // 2))
    ]
    assert epsilon(iter(split), 1e-5, unit=unit, members=m) == found
    affordable_steps(history, Charge(0.2, 3.0, 1), budget=found + 0.5, delta=1e-5, limit=10, unit=unit, members=m)
    delta_at(history, 1.0, unit=unit, members=m)
    assert history == before
    accountant._epsilon.cache_clear()
    accountant._composed.cache_clear()
    assert epsilon(history, 1e-5, unit=unit, members=m) == found


@settings(max_examples=10, deadline=None)
@given(history=st.lists(charges, min_size=1, max_size=3), unit=units, m=members, at=st.floats(0.05, 8.0))
def test_epsilon_inverts_delta(history, unit, m, at):
    delta = delta_at(history, at, unit=unit, members=m)
    assert 0 <= delta <= 1
    assume(1e-12 < delta < 0.99)  # beyond, float64 cannot tell one epsilon from another
    assert epsilon(history, delta, unit=unit, members=m) == pytest.approx(at, abs=1e-6)


def test_an_empty_history_costs_nothing_and_an_unprotected_one_everything():
    assert epsilon([], 1e-5) == 0.0
    assert delta_at([], 0.0) == 0.0
    for unprotected in (0.0, math.nan, 1e-9):
        history = [Charge(0.3, 5.0, 10), Charge(0.3, unprotected, 1)]
        assert epsilon(history, 1e-5) == math.inf
        assert delta_at(history, 50.0) == 1.0


def test_fewer_than_one_member_is_refused():
    with pytest.raises(ValueError, match="members >= 1, got 0"):
        epsilon([Charge(0.3, 5.0, 10)], 1e-5, members=0)


@pytest.mark.parametrize("charge", [Charge(0.3, 0.01, 10**9), Charge(1.0, 0.02, 1), Charge(0.9, 0.3, 10**6)])
def test_a_hopeless_plan_is_priced_at_once_and_never_below_its_price(charge):
    assert epsilon([charge], 1e-5) > 200
    assert affordable_steps([], charge, budget=3.0, delta=1e-5, limit=10**9) == 0


def test_a_divergence_too_small_for_float64_is_not_read_as_none():
    """Total variation is about 0.4 * rate * sqrt(steps) / noise = 4e-6 here, so that no epsilon is 0 at 1e-6."""
    charge = Charge(1e-6, 100.0, 1_000_000)
    assert epsilon([charge], 1e-6) > 0
    assert delta_at([charge], 0.0) >= 3.9e-6


def test_whatever_is_asked_for_is_priced_in_bounded_memory():
    random.seed(5)

    def between(low, high):
        return math.exp(random.uniform(math.log(low), math.log(high)))

    accountant._composed.cache_clear()
    for _ in range(30):
        charge = Charge(
            random.choice([between(1e-6, 1), 1.0, 1e-6]),
            between(0.05, 1e4),
            int(between(1, 1e6)),
            random.choice(["compound", "series"]),
        )
        what = {"unit": random.choice(["compound", "series"]), "members": random.choice([1, 2, 64])}
        found = epsilon([charge], 1e-6, **what)
        assert math.isfinite(found)
        whole = composed([charge], **what)
        if whole is not None:
            assert max(side.size for side in (whole._pmf_remove, whole._pmf_add)) <= 2**21
        if found > 0.1:
            # Renyi's two directions are no exact inverses of each other.
            assert 5e-7 < delta_at([charge], found, **what) <= 1.01e-6


def test_affordable_steps_is_the_last_that_fits():
    spent, charge = [Charge(0.3, 6.0, 20)], Charge(0.3, 5.0, 1)
    n = affordable_steps(spent, charge, budget=2.0, delta=1e-5, limit=1000)
    assert epsilon([*spent, charge._replace(steps=n)], 1e-5) <= 2.0
    assert epsilon([*spent, charge._replace(steps=n + 1)], 1e-5) > 2.0
    assert affordable_steps(spent, charge, budget=2.0, delta=1e-5, limit=3) == 3
    assert affordable_steps(spent, charge, budget=0.1, delta=1e-5, limit=3) == 0
    assert affordable_steps([*spent, charge._replace(steps=5)], charge, budget=2.0, delta=1e-5, limit=1000) == n - 5
    assert affordable_steps([*spent, charge._replace(steps=n + 5)], charge, budget=2.0, delta=1e-5, limit=1000) == 0
    assert affordable_steps([*spent, Charge(0.3, 0.0, 1)], charge, budget=2.0, delta=1e-5, limit=3) == 0
    assert affordable_steps(spent, Charge(0.3, 0.0, 1), budget=2.0, delta=1e-5, limit=3) == 0


@settings(max_examples=5, deadline=None)
@given(spent=st.lists(charges, max_size=2), charge=charges, unit=units, m=members, budget=st.floats(0.3, 12.0))
def test_affordable_steps_never_overspends(spent, charge, unit, m, budget):
    what = {"unit": unit, "members": m}
    n = affordable_steps(spent, charge, budget=budget, delta=1e-5, limit=200, **what)
    if n:
        assert epsilon([*spent, charge._replace(steps=n)], 1e-5, **what) <= budget
    if n < 200:
        assert epsilon([*spent, charge._replace(steps=n + 1)], 1e-5, **what) > budget


@pytest.mark.parametrize("left", ["the rest of the run", "the next round"])
def test_a_run_of_many_rounds_is_priced_a_few_times_in_all(left):
    """Ten steps a round for a thousand rounds beside other runs; every round asks whether it fits."""
    others = [Charge(0.02 + 0.01 * i, 2.0 + i, 200) for i in range(4)]
    mechanism = Charge(0.013, 1.7, 10)
    budget = epsilon([*others, mechanism._replace(steps=9995)], 1e-6)
    before = accountant._composed.cache_info().misses
    for done in range(0, 10_000, 10):
        spent = [*others, mechanism._replace(steps=done)]
        limit = 10_000 - done if left == "the rest of the run" else 10
        found = affordable_steps(spent, mechanism, budget=budget, delta=1e-6, limit=limit)
        assert found == min(limit, 9995 - done)
    assert accountant._composed.cache_info().misses - before <= 30


def test_a_warm_check_prices_nothing_however_much_was_recorded():
    mechanism = Charge(0.011, 1.9, 10)
    budget = epsilon([mechanism._replace(steps=1_000_010)], 1e-6)
    affordable_steps([], mechanism, budget=budget, delta=1e-6, limit=1_000_010)
    before = accountant._composed.cache_info(), accountant._epsilon_by_renyi.cache_info()
    for recorded in (100, 10_000, 1_000_000):
        spent = [mechanism._replace(steps=recorded)]
        assert affordable_steps(spent, mechanism, budget=budget, delta=1e-6, limit=10) == 10
    assert (accountant._composed.cache_info(), accountant._epsilon_by_renyi.cache_info()) == before


def test_clients_that_are_sampled_or_absent_make_no_round_cheaper():
    """Who takes part is seen by all, so each participation is charged in full, however many partners there are."""
    training = TrainingSettings(rounds=50, local_steps=100)
    privacy = PrivacySettings(noise_multiplier=1.0, sample_rate=0.01, delta=1e-6)
    found = {propose(privacy, training, partners=partners).round_charge for partners in (1, 2, 10, 1000)}
    assert found == {Charge(0.01, 1.0, 100, "compound")}
    plan = propose(privacy, training, partners=10)
    # Half of 50 rounds taken part in cost 3.31, 40 of them 4.21. To multiply the sample rate with the share of rounds
    # and charge all of them, as is done elsewhere, would claim 2.21.
    assert epsilon([plan.charge_of(25)], 1e-6) == pytest.approx(3.31, abs=0.01)
    assert epsilon([plan.charge_of(40)], 1e-6) == pytest.approx(4.21, abs=0.01)
    assert epsilon([Charge(0.5 * 0.01, 1.0, 50 * 100)], 1e-6) == pytest.approx(2.21, abs=0.01)


def test_renyi_divergences_bound_every_kind_of_step():
    """The fall-back splits a mixture's noise among its parts; it must never be below the exact pair."""
    for charge in (Charge(0.1, 3.0, 20), Charge(0.1, 3.0, 20, "series"), Charge(1.0, 9.0, 20, "series")):
        for m in (1, 2, 4):
            exact = composed([charge], members=m).get_epsilon_for_delta(1e-5)
            bound = accountant._epsilon_by_renyi(accountant.priced([charge], "compound", m), 1e-5)
            assert np.isfinite(bound)
            assert exact <= bound
