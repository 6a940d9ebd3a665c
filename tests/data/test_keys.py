"""The secret, its public id, and uses of it that do not meet."""

import hashlib
import hmac
import random
from collections import Counter

import numpy as np
import pytest

from pharma_fl.data.keys import family_hash, fold_hash, key_id, permutation_hash, read_secret
from pharma_fl.errors import DataError


def test_white_space_around_the_secret_does_not_count(tmp_path):
    path = tmp_path / "key"
    path.write_bytes(b" a secret \r\n")
    assert read_secret(path) == b"a secret"


@pytest.mark.parametrize("content", [None, b"", b"\n  \n"])
def test_a_missing_or_empty_key_file_is_refused(tmp_path, content):
    path = tmp_path / "key"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match="key_file") as caught:
        read_secret(path)
    assert caught.value.code == "PFL-D03"


def test_the_id_tells_keys_apart_and_is_not_a_plain_digest():
    assert key_id(b"a") == key_id(b"a") != key_id(b"b")
    assert len(key_id(b"a")) == 16
    plain = {hashlib.sha256(b"a").hexdigest(), hmac.new(b"a", b"pharma-fl/key-id/v1", "sha256").hexdigest()}
    assert not any(key_id(b"a") in digest for digest in plain)


def test_hashes_follow_their_definition():
    digest = hmac.new(b"key", b"17", "sha256").digest()
    assert permutation_hash(b"key", "17") == int(digest.hex(), 16) & (2**63 - 1)
    generator = random.Random()
    generator.seed(digest, version=2)
    assert fold_hash(b"key", "17", 5) == generator.randint(0, 4)


def test_families_are_even_and_independent_of_folds():
    texts = [f"scaffold {number}" for number in range(6000)]
    table = Counter((family_hash(b"key", text, 3), fold_hash(b"key", text, 5)) for text in texts)
    expected = len(texts) / 15
    chi_square = sum((table[family, fold] - expected) ** 2 / expected for family in range(3) for fold in range(5))
    # The 99.99 % point of chi square with 14 degrees of freedom; dependence on the fold is far beyond it.
    assert chi_square < 42.6
    dependent = Counter((fold_hash(b"key", text, 5) % 3, fold_hash(b"key", text, 5)) for text in texts)
    assert sum((dependent[a, b] - expected) ** 2 / expected for a in range(3) for b in range(5)) > 1000
    assert np.ptp([sum(table[family, fold] for fold in range(5)) for family in range(3)]) < 250
