"""The one way of making keys and digests, in which no two different inputs read the same."""

from __future__ import annotations

import hashlib

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

_DOMAIN = "pharma-fl secure sum 1"


def framed(purpose: str, *facts: str | bytes | int) -> bytes:
    """Return what is signed, hashed or bound to a key: its purpose and its facts, each behind its length.

    The same purpose always comes with the same list of facts, so that equal bytes mean equal facts.
    """
    parts = [fact if isinstance(fact, bytes) else str(fact).encode() for fact in (_DOMAIN, purpose, *facts)]
    return b"".join(len(part).to_bytes(8, "big") + part for part in parts)


def derived(secret: bytes, purpose: str, *facts: str | bytes | int, length: int = 32) -> bytes:
    """Return so many bytes that follow from the secret (HKDF-SHA256), other ones for any other purpose or facts.

    References
    ----------
    RFC 5869.
    """
    return HKDF(SHA256(), length, salt=None, info=framed(purpose, *facts)).derive(secret)


def digest_of(purpose: str, *facts: str | bytes | int) -> str:
    """Return the SHA-256 over purpose and facts, in hexadecimal."""
    return hashlib.sha256(framed(purpose, *facts)).hexdigest()
