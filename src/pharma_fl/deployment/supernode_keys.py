"""A SuperNode's public key as Flower gives it and as OpenSSH writes it."""

from __future__ import annotations

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key


def openssh(pem: bytes) -> str:
    """Return a public key in OpenSSH's format, without a comment: as the roster has it.

    Raises
    ------
    ValueError
        It is no key that OpenSSH knows.
    """
    return load_pem_public_key(pem).public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def without_comment(key: str) -> str:
    """Return a key in OpenSSH's format without what stands after it.

    Examples
    --------
    >>> without_comment("ecdsa-sha2-nistp384 AAAA north")
    'ecdsa-sha2-nistp384 AAAA'
    """
    return " ".join(key.split()[:2])
