"""Keys that sign for a partner: one its ledger, so that nobody else can write it anew, one what it says of itself."""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from pharma_fl.atomic import flush
from pharma_fl.errors import PrivacyError


class SigningKey:
    """An Ed25519 key in a PEM file that its owner alone can read.

    Parameters
    ----------
    path : Path
        The file.
    setting : str
        The key of partner.toml that names it, for errors.

    Raises
    ------
    PrivacyError
        ``PFL-P13`` it is missing, no key, or others may read it.
    """

    def __init__(self, path: Path, *, setting: str = "signing_key") -> None:
        try:
            open_to_others = path.stat().st_mode & 0o077
            key = load_pem_private_key(path.read_bytes(), password=None)
        except (OSError, ValueError, TypeError) as error:
            raise PrivacyError(
                "PFL-P13",
                f"Cannot read the key {path} ({type(error).__name__}). Nothing was spent. Restore it from a backup "
                f"(partner.toml: {setting})"
                + (", or make a first one: pharma-fl identity." if setting == "identity_key" else "."),
            ) from error
        if open_to_others or not isinstance(key, Ed25519PrivateKey):
            raise PrivacyError(
                "PFL-P13", f"{path} is no Ed25519 key, or others may read it. chmod 600 it (partner.toml: {setting})."
            )
        self._key = key

    @classmethod
    def make(cls, path: Path, *, setting: str = "signing_key") -> SigningKey:
        """Make a key where there is none, on disk before it is used, and return what is there."""
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        content = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(handle)
        try:
            # Whoever comes second takes the first one's key.
            os.link(part, path)
        except FileExistsError:
            pass
        finally:
            part.unlink()
        flush(path.parent)
        return cls(path, setting=setting)

    @property
    def public(self) -> str:
        """The public half, raw, in hexadecimal."""
        return self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex()

    def sign(self, content: bytes) -> bytes:
        """Return the signature, 64 bytes."""
        return self._key.sign(content)


def is_signed(public: str, signature: bytes, content: bytes) -> bool:
    """Whether the holder of a public key, raw in hexadecimal, signed this content."""
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(public)).verify(signature, content)
    except (InvalidSignature, ValueError):
        return False
    return True
