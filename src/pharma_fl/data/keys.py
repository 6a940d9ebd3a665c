"""The consortium secret and what follows from it: a public id, folds and simulated partners.

All partners of a federation hold the same secret. It hides which substructure a bit stands for from whoever
runs the coordinator, and it lets everybody compute the same fold for the same scaffold without talking. It
protects nothing among partners.
"""

from __future__ import annotations

import hashlib
import hmac
import random
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from pharma_fl.errors import DataError

_KEY_ID = b"pharma-fl/key-id/v1"
_FAMILY = b"pharma-fl/scaffold-family/v1"


def read_secret(path: Path) -> bytes:
    """Read the consortium secret.

    White space around it is not part of the secret: a line end that one partner's editor added would
    otherwise give that partner other bits and folds.

    Parameters
    ----------
    path : Path
        A text file that holds the secret alone.

    Returns
    -------
    bytes
        The secret as it is used for the bit permutation and the folds.

    Raises
    ------
    DataError
        ``PFL-D03`` the file is missing, unreadable or empty.
    """
    remedy = "Put the secret that all partners agreed on into that file (partner.toml: key_file)."
    try:
        secret = path.read_bytes().strip()
    except OSError as error:
        raise DataError("PFL-D03", f"Cannot read the key file {path}: {error.strerror}. {remedy}") from error
    if not secret:
        raise DataError("PFL-D03", f"The key file {path} is empty. {remedy}")
    return secret


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


def permutation_hash(secret: bytes, text: str) -> int:
    """Return HMAC-SHA256 of `text` under the raw secret, as an integer modulo 2**63 (as MELLODDY-TUNER)."""
    return int.from_bytes(_hmac(secret, text), "big") % 2**63


def fold_hash(secret: bytes, text: str, folds: int) -> int:
    """Return the fold of a scaffold, in ``range(folds)``.

    HMAC-SHA256 under the raw secret seeds Python's generator, whose first integer is the fold: the rule of
    MELLODDY-TUNER, kept so that its published folds hold.
    """
    return random.Random(_hmac(secret, text)).randint(0, folds - 1)  # noqa: S311 - the seed is the keyed hash


def family_hash(secret: bytes, text: str, buckets: int) -> int:
    """Return a keyed bucket for `text`, in ``range(buckets)``, independent of `fold_hash`.

    It spreads scaffold families over simulated partners. With the fold's hash each partner would get some
    folds and not others.
    """
    return int.from_bytes(_hmac(_derive(secret, _FAMILY, 32), text), "big") % buckets


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


def _derive(secret: bytes, label: bytes, length: int) -> bytes:
    return HKDF(algorithm=hashes.SHA256(), length=length, salt=None, info=label).derive(secret)
