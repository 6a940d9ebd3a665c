"""Masks are ChaCha20's stream, whatever the threads and the ring, and cost no second vector."""

import tracemalloc

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from tests.secagg.runs import terms_of

from pharma_fl.secagg.masks import _CHUNK, Round, Stream, add_streams, key_stream

# RFC 8439, appendix A.1: key, number of the block, key stream. Their nonce is zero.
VECTORS = [
    (
        bytes(32),
        0,
        (
            "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"
            "da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586"
        ),
    ),
    (
        bytes(32),
        1,
        (
            "9f07e7be5551387a98ba977c732d080dcb0f29a048e3656912c6533e32ee7aed"
            "29b721769ce64e43d57133b074d839d531ed1f28510afb45ace10a1f4b794d6f"
        ),
    ),
    (
        bytes(31) + b"\x01",
        1,
        (
            "3aeb5224ecf849929b9d828db1ced4dd832025e8018b8160b82284f3c949aa5a"
            "8eca00bbb4a73bdad192b5c42f73f2fd4e273644c8b36125a64addeb006c13a0"
        ),
    ),
    (
        b"\x00\xff" + bytes(30),
        2,
        (
            "72d54dfbf12ec44b362692df94137f328fea8da73990265ec1bbbea1ae9af0ca"
            "13b25aa26cb4a648cb9b9d1be65b2c0924a66c54d545ec1b7374f4872e99f096"
        ),
    ),
]


@pytest.mark.parametrize(("key", "block", "expected"), VECTORS)
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_the_stream_is_that_of_rfc_8439(key, block, expected, dtype):
    assert key_stream(key, 192)[64 * block :][:64].hex() == expected
    vector = np.zeros(192 // np.dtype(dtype).itemsize, dtype)
    add_streams(vector, [Stream(key, adds=True)])
    assert vector.tobytes()[64 * block :][:64].hex() == expected


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize("values", [1, 15, 16, 17, _CHUNK // 8, _CHUNK + 1, 3 * _CHUNK - 7])
@pytest.mark.parametrize("threads", [1, 2, 3, 64])
def test_threads_change_nothing(dtype, values, threads):
    streams = [Stream(bytes([place]) * 32, adds=place != 1) for place in range(3)]
    unsigned = f"<u{np.dtype(dtype).itemsize}"
    masks = [np.frombuffer(key_stream(one.key, values * np.dtype(dtype).itemsize), unsigned) for one in streams]
    expected = np.arange(values).astype(unsigned) + masks[0] - masks[1] + masks[2]
    vector = np.arange(values).astype(dtype)
    add_streams(vector, streams, threads=threads)
    assert np.array_equal(vector.view(unsigned), expected)
    add_streams(vector, [one.negated() for one in streams], threads=threads)
    assert np.array_equal(vector, np.arange(values))


@given(st.lists(st.binary(min_size=32, max_size=32), max_size=5), st.randoms())
def test_order_changes_nothing(keys, random):
    streams = [Stream(key, adds=random.random() < 0.5) for key in keys]
    vector, again = np.zeros(33, np.int32), np.zeros(33, np.int32)
    add_streams(vector, streams)
    random.shuffle(streams)
    add_streams(again, streams)
    assert np.array_equal(vector, again)


def test_ten_masks_take_a_fraction_of_a_vector_of_memory():
    vector = np.zeros(4_000_000, np.int32)
    streams = [Stream(bytes([place]) * 32, adds=True) for place in range(10)]
    tracemalloc.start()
    add_streams(vector, streams, threads=2)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < vector.nbytes / 16


def test_a_masks_key_needs_the_secret_and_is_bound_to_all_else():
    terms = terms_of()
    a, b, stranger = (X25519PrivateKey.generate() for _ in range(3))
    public = {key: key.public_key().public_bytes_raw() for key in (a, b, stranger)}
    bound = Round(terms, "d1", 1)
    right = bound.pair_stream(a, public[b], "a", "b")
    assert bound.pair_stream(b, public[a], "b", "a") == right.negated()
    pairs = {right.key}
    pairs |= {bound.pair_stream(key, public[other], "a", "b").key for key, other in ((stranger, b), (stranger, a))}
    pairs |= {bound.pair_stream(a, public[b], *names).key for names in (("a", "c"), ("c", "b"), ("ab", ""))}
    own = {bound.self_stream(seed, name).key for seed, name in ((1, "a"), (2, "a"), (1, "b"))}
    for other in (
        Round(terms, "d2", 1),
        Round(terms, "d1", 2),
        Round(terms_of(run="s"), "d1", 1),
        Round(terms_of(federation="g"), "d1", 1),
        Round(terms_of(plan="cd"), "d1", 1),
    ):
        pairs.add(other.pair_stream(a, public[b], "a", "b").key)
        own.add(other.self_stream(1, "a").key)
    assert len(pairs) == 6 + 5
    assert len(own) == 3 + 5
    assert not pairs & own


def test_a_key_is_shown_nowhere():
    assert repr(Stream(b"k" * 32, adds=True)) == "Stream(adds=True)"
