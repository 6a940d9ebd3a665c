"""Terms that give no protection are refused, and no two terms read the same."""

import dataclasses

import numpy as np
import pytest
from tests.secagg.runs import terms_of

from pharma_fl.secagg.derivation import derived, digest_of, framed


@pytest.mark.parametrize(("contributors", "colluders"), [(2, 1), (3, 0), (4, 1), (10, 3), (30, 5), (30, 29), (100, 9)])
def test_so_many_losses_and_no_more_are_tolerated(contributors, colluders):
    allowed = []
    for losses in range(contributors):
        try:
            terms = terms_of(contributors, colluders, losses)
        except ValueError:
            continue
        allowed.append(losses)
        assert 2 * terms.threshold > contributors + colluders
        assert terms.threshold == contributors - losses
    honest = contributors - colluders
    assert allowed == [losses for losses in range(contributors) if losses * (losses + 1) < honest]


@pytest.mark.parametrize(
    ("wrong", "names"),
    [
        ({"contributors": 1, "losses": 0, "colluders": 0}, "contributors >= 2"),
        ({"colluders": -1}, "tolerated_colluders >= 0"),
        ({"losses": -1}, "tolerated_losses >= 0"),
        ({"losses": 2}, "L = 2 tolerated losses, n = 4 contributors, c = 1"),
        ({"colluders": 4, "losses": 0}, "Tolerate fewer"),
        ({"ring_bits": 16}, "ring_bits 32 or 64, got 16"),
        ({"rounds": 0}, "rounds >= 1"),
        ({"values": 0}, "values from 1"),
        ({"values": 2**36 + 1}, "values from 1 to 68719476736"),
        ({"values": 2**35 + 1, "ring_bits": 64}, "values from 1 to 34359738368"),
    ],
)
def test_impossible_numbers_are_named(wrong, names):
    with pytest.raises(ValueError, match=names):
        terms_of(**wrong)


def test_a_ring_is_a_numpy_type():
    assert terms_of().dtype == np.int32
    assert terms_of(ring_bits=64).dtype == np.int64


def test_every_field_changes_what_is_bound():
    terms = terms_of(10, 3, 1)
    other = {
        "federation": "g",
        "run": "s",
        "plan": "cd",
        "rounds": 3,
        "contributors": 11,
        "tolerated_colluders": 2,
        "tolerated_losses": 2,
        "values": 6,
        "ring_bits": 64,
    }
    assert set(other) == {field.name for field in dataclasses.fields(terms)}
    bound = {dataclasses.replace(terms, **{name: value}).encoded for name, value in other.items()}
    assert len(bound | {terms.encoded}) == 10
    assert dataclasses.replace(terms).encoded == terms.encoded


def test_facts_cannot_be_moved_over_their_borders():
    assert framed("a", "bc", "d") != framed("a", "b", "cd")
    assert framed("a", "b") != framed("ab")
    assert framed("a", "") != framed("a")
    assert framed("a", b"\x00") != framed("a", "0")


def test_another_purpose_fact_or_secret_gives_other_bytes():
    keys = [
        derived(b"secret", "purpose", "fact"),
        derived(b"secret", "purpose", "other"),
        derived(b"secret", "other", "fact"),
        derived(b"other", "purpose", "fact"),
    ]
    assert len(set(keys)) == 4
    assert derived(b"secret", "purpose", "fact") == keys[0]
    assert digest_of("purpose", "fact") != digest_of("purpose", "other")


def test_keys_are_made_as_rfc_5869_says():
    """HKDF by hand: HMAC twice."""
    import hmac

    info = framed("purpose", "fact", 7)
    assert info == (
        b"\0\0\0\0\0\0\0\x16pharma-fl secure sum 1\0\0\0\0\0\0\0\x07purpose\0\0\0\0\0\0\0\x04fact\0\0\0\0\0\0\0\x017"
    )
    extracted = hmac.digest(bytes(32), b"secret", "sha256")
    first = hmac.digest(extracted, info + b"\x01", "sha256")
    second = hmac.digest(extracted, first + info + b"\x02", "sha256")
    assert derived(b"secret", "purpose", "fact", 7) == first
    assert derived(b"secret", "purpose", "fact", 7, length=48) == (first + second)[:48]
