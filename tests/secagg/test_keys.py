"""A partner takes part only with the partners, keys and terms that it can vouch for itself."""

import dataclasses
import random

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from tests.secagg.runs import Run, terms_of

from pharma_fl.errors import FederationError
from pharma_fl.secagg.keys import KEY, PER_ROUND, Secrets, list_digest, public_bytes, round_key, self_check
from pharma_fl.secagg.shamir import PRIME

ME, OTHER = "partner 0", "partner 2"


@pytest.fixture(scope="module")
def run():
    return Run(terms_of(rounds=3))


def listed(run, **changed):
    """The list, with some adverts replaced by others, taken out (None) or added."""
    return [advert for advert in (run.adverts | changed).values() if advert is not None]


def resigned(run, name, **changed):
    """An advert with other content under the partner's own signature: what a partner may do to itself."""
    from pharma_fl.secagg.keys import _signed

    advert = dataclasses.replace(run.adverts[name], **changed)
    content = _signed(advert.name, advert.sealing, advert.rounds, run.terms)
    return dataclasses.replace(advert, signature=run.identities[name].sign(content))


def refused(code, run, adverts, match, **others):
    with pytest.raises(FederationError, match=match) as refusal:
        run.check(ME, adverts, **others)
    assert refusal.value.code == code


def test_the_right_list_is_accepted_by_all_in_any_order(run):
    digest = list_digest(run.adverts.values(), run.terms)
    adverts = list(run.adverts.values())
    for name in run.names:
        random.Random(name).shuffle(adverts)
        assert run.check(name, adverts) == digest
    others = {name: key for name, key in run.partner_keys.items() if name != ME}
    assert run.check(ME, partner_keys=others | {"one more": "00" * 32}) == digest
    assert len(bytes.fromhex(digest)) == 32


def test_the_digest_tells_any_other_list_or_terms(run):
    seen = {list_digest(run.adverts.values(), run.terms)}
    seen.add(list_digest(run.adverts.values(), dataclasses.replace(run.terms, values=6)))
    for name, advert in run.adverts.items():
        for changed in (
            {"name": "x"},
            {"sealing": bytes(32)},
            {"rounds": advert.rounds[:-1] + bytes([advert.rounds[-1] ^ 1])},
        ):
            seen.add(list_digest(listed(run, **{name: dataclasses.replace(advert, **changed)}), run.terms))
    assert len(seen) == 2 + 3 * len(run.names)


def test_secrets_follow_from_the_root_and_differ_in_all_else():
    terms, secrets = terms_of(rounds=3), Secrets.fresh()
    seeds = [make(terms, number) for make in (secrets.round_seed, secrets.self_seed) for number in (1, 2, 3)]
    other = dataclasses.replace(terms, run="s")
    seeds += [secrets.round_seed(other, 1), secrets.self_seed(other, 1), Secrets.fresh().round_seed(terms, 1)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < PRIME for seed in seeds)
    again = Secrets(secrets.root)
    assert again.round_seed(terms, 2) == seeds[1]
    assert public_bytes(again.sealing_key(terms)) == public_bytes(secrets.sealing_key(terms))
    assert secrets.root not in repr(secrets).encode()
    with pytest.raises(ValueError, match="32 bytes, got 5"):
        Secrets(b"short")


def test_an_advert_says_what_the_secrets_give(run):
    advert, secrets, terms = run.adverts[OTHER], run.secrets[OTHER], run.terms
    assert len(advert.rounds) == PER_ROUND * 3
    for number in (1, 2, 3):
        assert advert.key_of(number) == public_bytes(round_key(secrets.round_seed(terms, number), terms, number))
        seed = secrets.self_seed(terms, number)
        assert advert.check_of(number) == self_check(seed, terms, OTHER, number)
        assert self_check(seed, terms, ME, number) != advert.check_of(number)
        assert seed.to_bytes(KEY, "little") not in advert.rounds
    assert run.advert(OTHER) == advert


def test_a_dropped_partner_is_missed(run):
    refused("PFL-F30", run, listed(run, **{OTHER: None}), "Expected 4 different partners")
    refused("PFL-F30", run, listed(run, **{ME: None, "partner 4": run.adverts[OTHER]}), "Expected 4 different")
    stranger = Run(terms_of(5, 1, 1, rounds=3))
    refused("PFL-F30", run, listed(run, **{ME: None, "partner 4": stranger.adverts["partner 4"]}), "leaves out this")


def test_an_extra_partner_is_refused(run):
    stranger = dataclasses.replace(run.adverts[OTHER], name="stranger")
    refused("PFL-F30", run, listed(run, stranger=stranger), "Expected 4 different partners")
    refused("PFL-F30", run, listed(run, **{OTHER: stranger}), "names 'stranger', whose key is not in")


def test_a_partner_twice_is_refused(run):
    refused("PFL-F30", run, listed(run, **{"partner 1": run.adverts[OTHER]}), "3 different names")
    twice = run.partner_keys | {"partner 1": run.partner_keys[OTHER].upper()}
    refused("PFL-F30", run, listed(run), "stand for two", partner_keys=twice)


def test_swapped_keys_are_refused(run):
    mine, theirs = Secrets.fresh(), X25519PrivateKey.generate()
    advert = run.adverts[OTHER]
    for forged in (
        dataclasses.replace(advert, sealing=public_bytes(theirs)),
        dataclasses.replace(advert, rounds=run.advert(OTHER, secrets=mine).rounds),
        dataclasses.replace(advert, rounds=advert.rounds[PER_ROUND:] + advert.rounds[:PER_ROUND]),
        dataclasses.replace(run.adverts["partner 1"], name=OTHER),
    ):
        refused("PFL-F31", run, listed(run, **{OTHER: forged}), "keys shown for 'partner 2' are not signed")


def test_a_name_is_signed_too(run):
    """Though the same identity stands beside the new name."""
    renamed = dataclasses.replace(run.adverts[OTHER], name="partner 9")
    keys = run.partner_keys | {"partner 9": run.partner_keys[OTHER]}
    refused("PFL-F31", run, listed(run, **{OTHER: renamed}), "'partner 9' are not signed", partner_keys=keys)


def test_my_own_keys_must_be_in_it_unchanged(run):
    """Signed by my own identity too: these are an older run's, or from another copy of this partner."""
    again = run.advert(ME, secrets=Secrets.fresh())
    refused("PFL-F31", run, listed(run, **{ME: again}), "other keys for this partner")
    assert run.check(ME, listed(run, **{ME: again}), own=again)


@pytest.mark.parametrize("signature", [b"", bytes(64), b"\xff" * 64], ids=["none", "zeros", "ones"])
def test_a_forged_signature_is_refused(run, signature):
    forged = dataclasses.replace(run.adverts[OTHER], signature=signature)
    refused("PFL-F31", run, listed(run, **{OTHER: forged}), "not signed by the identity")


def test_a_foreign_signature_is_refused(run):
    foreign = run.advert(OTHER, sign=Ed25519PrivateKey.generate().sign)
    refused("PFL-F31", run, listed(run, **{OTHER: foreign}), "not signed by the identity")
    other_identity = run.partner_keys | {OTHER: Ed25519PrivateKey.generate().public_key().public_bytes_raw().hex()}
    refused("PFL-F31", run, listed(run), "partner_keys", partner_keys=other_identity)
    refused("PFL-F31", run, listed(run), "partner_keys", partner_keys=run.partner_keys | {OTHER: "no key"})


@pytest.mark.parametrize(
    "changed", [{"federation": "g"}, {"run": "s"}, {"plan": "cd"}, {"tolerated_colluders": 0}, {"values": 6}]
)
def test_what_was_signed_for_another_run_or_plan_is_refused(run, changed):
    replayed = run.advert(OTHER, terms=dataclasses.replace(run.terms, **changed))
    refused("PFL-F31", run, listed(run, **{OTHER: replayed}), "for this run and plan")
    # Nor the very same keys under a signature made for another run.
    signed = dataclasses.replace(run.adverts[OTHER], signature=replayed.signature)
    refused("PFL-F31", run, listed(run, **{OTHER: signed}), "for this run and plan")


LOW_ORDER = [
    0,
    1,
    PRIME - 1,
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
]


@pytest.mark.parametrize("low", LOW_ORDER)
@pytest.mark.parametrize("place", ["sealing", "rounds"])
def test_keys_with_which_everybody_knows_the_secret_are_refused(run, low, place):
    """Even well signed: such a partner would let the coordinator read the shares given to it, or its pairs' masks."""
    content = low.to_bytes(32, "little")
    rounds = run.adverts[OTHER].rounds
    content = content if place == "sealing" else rounds[:PER_ROUND] + content + rounds[PER_ROUND + KEY :]
    refused("PFL-F31", run, listed(run, **{OTHER: resigned(run, OTHER, **{place: content})}), "anybody knows")


def test_a_number_has_one_writing(run):
    """A key plus the field's size, or with the bit that X25519 ignores, is the same key: it would pass as another."""
    key = run.adverts["partner 1"].sealing
    for same in (int.from_bytes(key, "little") + 2**255, PRIME + 9):
        forged = resigned(run, OTHER, sealing=same.to_bytes(32, "little"))
        refused("PFL-F31", run, listed(run, **{OTHER: forged}), "no X25519 keys")


def test_keys_shown_twice_are_refused(run):
    first, rounds = run.adverts["partner 1"], run.adverts[OTHER].rounds
    for changed in (
        {"sealing": first.sealing},
        {"rounds": first.rounds},
        {"rounds": rounds[: 2 * PER_ROUND] + rounds[:PER_ROUND]},
        {"sealing": first.key_of(3)},
    ):
        refused("PFL-F31", run, listed(run, **{OTHER: resigned(run, OTHER, **changed)}), "shown twice")


def test_keys_for_more_or_fewer_rounds_are_refused(run):
    rounds = run.adverts[OTHER].rounds
    for changed in (
        {"rounds": rounds[:-PER_ROUND]},
        {"rounds": rounds + rounds},
        {"sealing": bytes(31)},
        {"rounds": b""},
    ):
        refused("PFL-F31", run, listed(run, **{OTHER: resigned(run, OTHER, **changed)}), "not those of 3 rounds")
