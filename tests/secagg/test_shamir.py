"""So many shares give the secret, fewer fit every secret, and wrong shares are found where that is possible."""

import itertools
import secrets

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pharma_fl.secagg.recovery import recovered
from pharma_fl.secagg.shamir import PRIME, element, joined, split

elements = st.one_of(st.integers(0, PRIME - 1), st.sampled_from([0, 1, PRIME - 1]))


def by_point(shares):
    return dict(enumerate(shares, start=1))


def shared(secret, threshold, count):
    return by_point(split(secret, [secrets.randbelow(PRIME) for _ in range(threshold - 1)], count))


def test_the_field_is_that_of_the_curve():
    assert PRIME == 2**255 - 19
    assert all(pow(base, PRIME - 1, PRIME) == 1 for base in (2, 3, 5, 7))
    assert element(PRIME.to_bytes(48, "little")) == 0
    assert element(b"\xff" * 48) == (2**384 - 1) % PRIME


@given(elements, st.lists(elements, max_size=9), st.integers(0, 5))
def test_a_share_is_the_polynomials_value(secret, coefficients, more):
    """Against powers instead of Horner's scheme."""
    shares = split(secret, coefficients, len(coefficients) + 1 + more)
    for point, share in by_point(shares).items():
        powers = (value * pow(point, power, PRIME) for power, value in enumerate([secret, *coefficients]))
        assert share == sum(powers) % PRIME


@given(st.data(), elements)
def test_any_so_many_shares_give_the_secret(data, secret):
    threshold = data.draw(st.integers(1, 12))
    count = data.draw(st.integers(threshold, 16))
    shares = shared(secret, threshold, count)
    taken = data.draw(st.permutations(sorted(shares)))[:threshold]
    assert joined({point: shares[point] for point in taken}) == secret
    for point in shares:
        assert joined({place: shares[place] for place in taken}, at=point) == shares[point]


@given(st.data(), elements, elements)
def test_one_share_fewer_fits_any_other_secret(data, secret, other):
    """For whatever k - 1 shares somebody has there is a polynomial of the same degree with any other secret."""
    threshold = data.draw(st.integers(2, 8))
    shares = shared(secret, threshold, threshold + 3)
    taken = data.draw(st.permutations(sorted(shares)))[: threshold - 1]
    known = {0: other} | {point: shares[point] for point in taken}
    forged = {point: joined(known, at=point) for point in shares}
    assert all(forged[point] == shares[point] for point in taken)
    for chosen in itertools.islice(itertools.combinations(forged, threshold), 10):
        assert joined({point: forged[point] for point in chosen}) == other


def test_one_share_fewer_is_uniform_whatever_the_secret():
    """Each of two shares of a threshold of three takes every value once, over all coefficients of a small field."""
    field = 7
    for secret in range(field):
        seen = {
            tuple((secret + first * point + second * point**2) % field for point in (1, 4))
            for first in range(field)
            for second in range(field)
        }
        assert len(seen) == field**2


@given(st.data(), elements)
def test_wrong_shares_are_left_out_and_named(data, secret):
    threshold = data.draw(st.integers(1, 6))
    count = data.draw(st.integers(threshold, threshold + 4))
    shares = shared(secret, threshold, count)
    wrong = set(data.draw(st.permutations(sorted(shares)))[: data.draw(st.integers(0, count - threshold))])
    given_out = {point: secrets.randbelow(PRIME) if point in wrong else share for point, share in shares.items()}
    doubted = data.draw(st.sets(st.sampled_from(sorted(shares))))
    assert recovered(given_out, threshold, lambda found: found == secret, doubted=doubted) == (secret, wrong)


def test_with_too_many_wrong_shares_nothing_is_found():
    shares = shared(5, 3, 4)
    for wrong in itertools.combinations(shares, 2):
        given_out = {point: secrets.randbelow(PRIME) if point in wrong else share for point, share in shares.items()}
        assert recovered(given_out, 3, lambda found: found == 5) is None


@pytest.mark.parametrize("liar", range(1, 31))
@pytest.mark.parametrize("threshold", [26, 29])
def test_one_wrong_share_of_thirty_is_found_in_few_tries(liar, threshold):
    shares = shared(5, threshold, 30) | {liar: 1}
    tries = []
    assert recovered(shares, threshold, lambda found: tries.append(found) or found == 5) == (5, {liar})
    assert len(tries) <= 30
    assert recovered(shares, threshold, lambda found: tries.append(found) or found == 5, doubted={liar}) == (5, {liar})
    assert len(tries) <= 31


def test_a_search_without_hope_ends(monkeypatch):
    monkeypatch.setattr("pharma_fl.secagg.recovery._EFFORT", 100 * 10**2)
    tries = []
    assert recovered(shared(5, 10, 30), 10, lambda found: bool(tries.append(found))) is None
    assert len(tries) == 100
