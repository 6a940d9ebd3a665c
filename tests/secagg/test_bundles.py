"""Shares reach the partner that they are for, under the list that both were shown, or nobody."""

import dataclasses
import itertools

import pytest
from tests.secagg.runs import Run, terms_of

from pharma_fl.errors import FederationError
from pharma_fl.secagg.bundles import _coefficients, open_bundles, round_share, seal_bundles, self_share
from pharma_fl.secagg.keys import Secrets, list_digest
from pharma_fl.secagg.shamir import PRIME, joined

ME, OTHER, THIRD = "partner 0", "partner 2", "partner 3"


@pytest.fixture(scope="module")
def run():
    return Run(terms_of(rounds=3)).set_up()


def sealed_by(run, name, adverts=None):
    adverts = run.adverts if adverts is None else adverts
    return seal_bundles(run.secrets[name], name, adverts.values(), run.terms, list_digest(adverts.values(), run.terms))


def sealed_for(run, name):
    return {other: sealed_by(run, other)[0][name] for other in run.names if other != name}


def opened_by(run, name, sealed, adverts=None):
    adverts = run.adverts if adverts is None else adverts
    digest = list_digest(adverts.values(), run.terms)
    return open_bundles(sealed, run.secrets[name], name, adverts.values(), run.terms, digest)


def refused(run, sealed, adverts=None, match="partner 2"):
    with pytest.raises(FederationError, match=match) as refusal:
        opened_by(run, ME, sealed, adverts)
    assert refusal.value.code == "PFL-F32"


def test_so_many_partners_shares_give_both_secrets_of_every_round(run):
    secrets, terms = run.secrets[OTHER], run.terms
    for number, share, secret in (
        (number, share, secret)
        for number in (1, 2, 3)
        for share, secret in ((round_share, secrets.round_seed), (self_share, secrets.self_seed))
    ):
        shares = {
            point: int.from_bytes(share(run.sessions[name].bundles[OTHER], number), "little")
            for point, name in enumerate(sorted(run.names), start=1)
        }
        for taken in itertools.combinations(shares, terms.threshold):
            assert joined({point: shares[point] for point in taken}) == secret(terms, number)
        for taken in itertools.combinations(shares, terms.threshold - 1):
            assert joined({point: shares[point] for point in taken}) != secret(terms, number)


def test_bundles_have_the_size_that_is_said(run):
    sealed, own = sealed_by(run, ME)
    assert len(own) == 64 * 3
    assert {len(content) for content in sealed.values()} == {64 * 3 + 16}
    assert set(sealed) == set(run.names) - {ME}


def test_asked_again_the_answer_is_the_same_and_under_another_list_independent(run):
    assert sealed_by(run, ME) == sealed_by(run, ME)
    other = run.adverts | {THIRD: run.advert(THIRD, secrets=run.secrets[ME])}
    _, first = sealed_by(run, ME)
    _, second = sealed_by(run, ME, other)
    cut = range(0, len(first), 32)
    assert not {first[at : at + 32] for at in cut} & {second[at : at + 32] for at in cut}


def test_no_two_secrets_are_shared_by_like_polynomials(run):
    """With the same coefficients for two secrets, their shares would differ by the same number at every partner."""
    held = [run.sessions[name].bundles[OTHER] for name in run.names]
    shares = [[int.from_bytes(bundle[at : at + 32], "little") for at in range(0, 64 * 3, 32)] for bundle in held]
    differences = [
        (first - second) % PRIME for of_partner in shares for first, second in itertools.combinations(of_partner, 2)
    ]
    assert len(set(itertools.chain(*shares))) == 4 * 6
    assert len(set(differences)) == len(differences) == 4 * 15


def test_partners_who_were_shown_other_lists_cannot_open(run):
    """A colluding third partner has signed two sets of keys, and the coordinator shows either to somebody."""
    second = Secrets.fresh()
    other = run.adverts | {THIRD: run.advert(THIRD, secrets=second)}
    foreign = sealed_by(run, OTHER, other)[0][ME]
    refused(run, sealed_for(run, ME) | {OTHER: foreign}, match="another list of partners or keys")
    # All under the other list would do.
    third = seal_bundles(second, THIRD, other.values(), run.terms, list_digest(other.values(), run.terms))[0][ME]
    sealed = {name: sealed_by(run, name, other)[0][ME] for name in ("partner 1", OTHER)} | {THIRD: third}
    assert set(opened_by(run, ME, sealed, other)) == {"partner 1", OTHER, THIRD}


def test_shares_of_another_run_cannot_be_opened(run):
    """The very same keys, in a list of other terms."""
    terms = dataclasses.replace(run.terms, run="s")
    adverts = run.adverts.values()
    content = seal_bundles(run.secrets[OTHER], OTHER, adverts, terms, list_digest(adverts, terms))[0][ME]
    refused(run, sealed_for(run, ME) | {OTHER: content})


def test_a_bundle_is_for_one_partner_and_from_one(run):
    right = sealed_for(run, ME)
    refused(run, right | {OTHER: sealed_for(run, THIRD)[OTHER]})
    refused(run, right | {OTHER: right[THIRD]})
    refused(run, right | {OTHER: sealed_by(run, ME)[0][OTHER]})


def test_without_the_receivers_secret_nothing_is_opened(run):
    """Whoever passes the bundle on knows all but that."""
    adverts = run.adverts.values()
    for stranger in (Secrets.fresh(), run.secrets[THIRD]):
        with pytest.raises(FederationError, match="cannot be opened"):
            open_bundles(sealed_for(run, ME), stranger, ME, adverts, run.terms, run.digest)


def test_polynomials_are_secret(run):
    """They follow from the root: public facts alone, or another partner's root, give others."""
    drawn = [set(_coefficients(secrets, run.terms, run.digest, 1)) for secrets in run.secrets.values()]
    assert len(set().union(*drawn)) == sum(map(len, drawn)) == 4 * 2 * 2


@pytest.mark.parametrize("place", [0, 100, -1])
def test_a_changed_bundle_is_refused(run, place):
    right = sealed_for(run, ME)
    changed = bytearray(right[OTHER])
    changed[place] ^= 1
    refused(run, right | {OTHER: bytes(changed)})
    refused(run, right | {OTHER: right[OTHER][:place]})
    refused(run, right | {OTHER: b""})


def test_all_others_bundles_are_needed(run):
    right = sealed_for(run, ME)
    refused(run, {name: content for name, content in right.items() if name != OTHER}, match="Expected sealed bundles")
    refused(run, right | {"stranger": right[OTHER]}, match="stranger")
    refused(run, right | {ME: right[OTHER]}, match="Expected sealed bundles")


@pytest.mark.parametrize("content", [bytes(64), bytes(64 * 4), b"\xff" * 64 * 3], ids=["short", "long", "large"])
def test_what_is_no_share_is_refused_even_of_a_partner(run, content):
    from pharma_fl.secagg import bundles

    right = sealed_for(run, ME)
    context = bundles._context(run.terms, run.digest, OTHER, ME)
    box = bundles._box(run.secrets[OTHER].sealing_key(run.terms), run.adverts[ME], context)
    refused(run, right | {OTHER: box.encrypt(bundles._NONCE, content, context)}, match="shares of 3 rounds")
