"""The consortium secret and what follows from it: sub-keys, a public id, folds and simulated partners.

All partners of a federation hold the same secret. It hides which substructure a bit stands for from whoever
runs the coordinator, and it lets everybody compute the same fold for the same scaffold without talking. It
protects nothing among partners.

    secret ── key_id      its public name
           ├─ permutation where each fingerprint bit goes
           ├─ folds       which fold a family of compounds gets
           ├─ families    which simulated partner gets a family
           └─ probe       what partners compare to see that they prepared alike
"""

from __future__ import annotations

import base64
import codecs
import hashlib
import hmac
import os
import random
import secrets
import shlex
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from pharma_fl.atomic import flush
from pharma_fl.errors import DataError

Scheme = Literal["hkdf", "tuner"]

_KEY_ID = b"pharma-fl/key-id/v1"
_PERMUTATION = b"pharma-fl/permutation/v1"
_FOLDS = b"pharma-fl/folds/v1"
_FAMILY = b"pharma-fl/scaffold-family/v1"
_PROBE = b"pharma-fl/probe/v1"
_OTHERS = stat.S_IRWXO


@dataclass(frozen=True, kw_only=True)
class Keys:
    """A key for each use of the secret. Only `key_id` and `scheme` are public, and only they are ever shown.

    Attributes
    ----------
    permutation, folds, families, probe : bytes
        What the tree above says.
    key_id : str
        Public name of the secret, the same under every scheme.
    scheme : {"hkdf", "tuner"}
        How the keys were made.
    """

    permutation: bytes = field(repr=False)
    folds: bytes = field(repr=False)
    families: bytes = field(repr=False)
    probe: bytes = field(repr=False)
    key_id: str
    scheme: Scheme

    @classmethod
    def derive(cls, secret: bytes, scheme: Scheme) -> Self:
        """Make the keys.

        Parameters
        ----------
        secret : bytes
            The consortium secret.
        scheme : {"hkdf", "tuner"}
            ``hkdf``: HKDF-SHA256 with a label for each use, so that no use tells about another. ``tuner``: the
            secret itself permutes bits and decides folds, as in MELLODDY-TUNER, whose matrices and folds then
            hold; the other keys are derived as before.
        """
        raw = scheme == "tuner"
        return cls(
            permutation=secret if raw else _derive(secret, _PERMUTATION, 32),
            folds=secret if raw else _derive(secret, _FOLDS, 32),
            families=_derive(secret, _FAMILY, 32),
            probe=_derive(secret, _PROBE, 32),
            key_id=key_id(secret),
            scheme=scheme,
        )


def read_secret(path: Path) -> bytes:
    """Read the consortium secret.

    White space around it and a byte order mark are not part of the secret: what one partner's editor added
    would otherwise give that partner other bits and folds.

    Parameters
    ----------
    path : Path
        A text file that holds the secret alone.

    Returns
    -------
    bytes
        The secret, as `Keys.derive` takes it.

    Raises
    ------
    DataError
        ``PFL-D03`` the file is missing, unreadable or empty, or users other than its owner and group may open it.
    """
    remedy = "Put the secret that all partners agreed on into that file (partner.toml: key_file)."
    try:
        with path.open("rb") as stream:
            rights = stat.S_IMODE(os.fstat(stream.fileno()).st_mode)
            secret = stream.read().removeprefix(codecs.BOM_UTF8).strip()
    except OSError as error:
        raise DataError("PFL-D03", f"Cannot read the key file {path}: {error.strerror}. {remedy}") from error
    if rights & _OTHERS:
        raise DataError(
            "PFL-D03",
            f"Every user of this machine may access the key file {path} (mode {rights:04o}). "
            f"Run: chmod 600 {shlex.quote(str(path))}",
        )
    if not secret:
        raise DataError("PFL-D03", f"The key file {path} is empty. {remedy}")
    return secret


def make_key(path: Path) -> str:
    """Draw a secret of 256 random bits and write it to a new file that its owner alone can access.

    Parameters
    ----------
    path : Path
        The file. It is never overwritten, for a lost key cannot be had again.

    Returns
    -------
    str
        The secret's public id, from `key_id`.

    Raises
    ------
    DataError
        ``PFL-D13`` the file exists, or cannot be written.
    """
    secret = base64.b64encode(secrets.token_bytes(32))
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError as error:
        raise DataError(
            "PFL-D13",
            f"{path} exists, and a key is never overwritten. Name another file; or, if no partner uses this one, "
            "move it away first.",
        ) from error
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        with os.fdopen(handle, "wb") as stream:
            os.fchmod(stream.fileno(), 0o600)
            stream.write(secret + b"\n")
            stream.flush()
            os.fsync(stream.fileno())
        flush(path.parent)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise _unwritable(path, error) from error
    return key_id(secret)


def key_id(secret: bytes) -> str:
    """Return a short public name of a secret, so that two partners can see whether theirs agree.

    One-way, and derived under a label of its own, so it shares no value with permutation or folds. Like any
    fingerprint of a secret it lets an outsider test guesses, so a guessable secret is not made safe by it.

    Returns
    -------
    str
        16 hexadecimal digits.
    """
    return _derive(secret, _KEY_ID, 8).hex()


def permutation_hash(key: bytes, text: str) -> int:
    """Return HMAC-SHA256 of `text` under `key`, as an integer modulo 2**63 (as MELLODDY-TUNER)."""
    return int.from_bytes(_hmac(key, text), "big") % 2**63


def fold_hash(key: bytes, text: str, folds: int) -> int:
    """Return the fold of a scaffold, in ``range(folds)``.

    HMAC-SHA256 under `key` seeds Python's generator, whose first integer is the fold: the rule of
    MELLODDY-TUNER, kept so that its published folds hold where `key` is its secret.
    """
    return random.Random(_hmac(key, text)).randint(0, folds - 1)  # noqa: S311 - the seed is the keyed hash


def family_hash(key: bytes, text: str, buckets: int) -> int:
    """Return a keyed bucket for `text`, in ``range(buckets)``; `key` is `Keys.families`.

    It spreads scaffold families over simulated partners. With the fold's hash each partner would get some
    folds and not others.
    """
    return int.from_bytes(_hmac(key, text), "big") % buckets


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


def _derive(secret: bytes, label: bytes, length: int) -> bytes:
    return HKDF(algorithm=hashes.SHA256(), length=length, salt=None, info=label).derive(secret)


def _unwritable(path: Path, error: OSError) -> DataError:
    return DataError(
        "PFL-D13", f"Cannot write the key file {path}: {error.strerror}. Name a file in a folder that you may write to."
    )
