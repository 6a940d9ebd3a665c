"""Key streams that are added to a vector, and the keys that they come from."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from numpy.typing import NDArray

from pharma_fl.secagg.derivation import derived
from pharma_fl.secagg.shamir import ELEMENT
from pharma_fl.secagg.terms import Terms

_BLOCK = 64
"""Bytes of ChaCha20 for one number of its counter."""

_CHUNK = 1 << 17
"""Bytes of a stream made at a time by one thread: with what they are added to, they stay in its processor's cache."""

_ZEROS = bytes(_CHUNK)

_THREADS = min(4, len(os.sched_getaffinity(0)))
"""With more, memory is the limit."""


@dataclass(frozen=True)
class Stream:
    """One mask: a ChaCha20 key that is used once, and whether its stream is added or subtracted."""

    key: bytes = field(repr=False)
    adds: bool

    def negated(self) -> Stream:
        """Return the stream that takes this one away."""
        return Stream(self.key, not self.adds)


@dataclass(frozen=True)
class Round:
    """What masks are bound to: a run, the digest of its list of partners, and a number from 1."""

    terms: Terms
    digest: str
    number: int

    def self_stream(self, seed: int, name: str) -> Stream:
        """Return a partner's own mask.

        Parameters
        ----------
        seed : int
            The partner's self-mask seed of this round.
        name : str
            The partner.
        """
        return Stream(self._key(seed.to_bytes(ELEMENT, "little"), "self mask", name), adds=True)

    def pair_stream(self, private: X25519PrivateKey, public: bytes, name: str, other: str) -> Stream:
        """Return what a partner adds for its pair with another, who takes the same away.

        Parameters
        ----------
        private : X25519PrivateKey
            The partner's key of this round.
        public : bytes
            The other's, as its advert says.
        name, other : str
            The partner and the other.
        """
        shared = private.exchange(X25519PublicKey.from_public_bytes(public))
        return Stream(self._key(shared, "pair mask", *sorted((name, other))), adds=name < other)

    def _key(self, secret: bytes, purpose: str, *names: str) -> bytes:
        return derived(secret, purpose, self.terms.encoded, self.digest, self.number, *names)


def key_stream(key: bytes, length: int) -> bytes:
    """Return the first bytes of a key's ChaCha20 stream.

    References
    ----------
    RFC 8439, section 2.4, with a nonce of zeros and the counter from 0.
    """
    return Cipher(algorithms.ChaCha20(key, bytes(16)), None).encryptor().update(bytes(length))


def add_streams(vector: NDArray[Any], streams: Sequence[Stream], *, threads: int = _THREADS) -> None:
    """Add or subtract streams modulo 2^32 or 2^64, in place, with 128 KiB more memory for each thread.

    Parameters
    ----------
    vector : int32, int64, uint32 or uint64 (values,), contiguous
        Changed in place.
    streams : sequence of Stream
        Read as little-endian numbers of the vector's size.
    threads : int
        How many work at the same time, each on its own part of the vector.
    """
    flat = vector.view(f"u{vector.itemsize}")
    chunks = -(-flat.nbytes // _CHUNK)
    threads = max(1, min(threads, chunks))
    length = -(-chunks // threads) * (_CHUNK // flat.itemsize)
    starts = range(0, len(flat), length)
    if threads == 1:
        _add(flat, streams, 0)
        return
    with ThreadPoolExecutor(threads, thread_name_prefix="masks") as pool:
        for part in [pool.submit(_add, flat[start : start + length], streams, start) for start in starts]:
            part.result()


def _add(flat: NDArray[Any], streams: Sequence[Stream], start: int) -> None:
    """Add to a part of a vector that begins at number `start`, the first of a block."""
    counter = (start * flat.itemsize // _BLOCK).to_bytes(4, "little")
    ciphers = [
        (Cipher(algorithms.ChaCha20(stream.key, counter + bytes(12)), None).encryptor(), stream.adds)
        for stream in streams
    ]
    buffer = bytearray(_CHUNK)
    numbers = np.frombuffer(buffer, dtype=f"<u{flat.itemsize}")
    for begin in range(0, len(flat), len(numbers)):
        part = flat[begin : begin + len(numbers)]
        zeros = memoryview(_ZEROS)[: part.nbytes]
        for cipher, adds in ciphers:
            cipher.update_into(zeros, buffer)
            (np.add if adds else np.subtract)(part, numbers[: len(part)], out=part)
