"""The secret, its file, its public id, and uses of it that do not meet."""

import base64
import copy
import hashlib
import hmac
import logging
import os
import random
import stat
import traceback
from collections import Counter

import numpy as np
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from pharma_fl.data.keys import (
    Keys,
    family_hash,
    fold_hash,
    key_id,
    make_key,
    permutation_hash,
    read_secret,
)
from pharma_fl.errors import DataError

USES = ("permutation", "folds", "families", "probe")


def key_file(path, content=b"a secret", mode=0o600):
    path.write_bytes(content)
    path.chmod(mode)
    return path


def test_white_space_around_the_secret_does_not_count(tmp_path):
    assert read_secret(key_file(tmp_path / "key", b"\xef\xbb\xbf a secret \r\n")) == b"a secret"


@pytest.mark.parametrize("content", [None, b"", b"\n  \n"])
def test_a_missing_or_empty_key_file_is_refused(tmp_path, content):
    path = tmp_path / "key"
    if content is not None:
        key_file(path, content)
    with pytest.raises(DataError, match="key_file") as caught:
        read_secret(path)
    assert caught.value.code == "PFL-D03"


def test_a_folder_is_refused_as_a_key_file(tmp_path):
    with pytest.raises(DataError) as caught:
        read_secret(tmp_path)
    assert caught.value.code == "PFL-D03"


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o602, 0o601, 0o666])
def test_a_key_file_that_others_may_access_is_refused(tmp_path, mode):
    path = key_file(tmp_path / "the key", mode=mode)
    with pytest.raises(DataError) as caught:
        read_secret(path)
    assert caught.value.code == "PFL-D03"
    assert f"chmod 600 '{path}'" in str(caught.value)
    assert "a secret" not in str(caught.value)


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o640])
def test_owner_and_group_may_access_it(tmp_path, mode):
    assert read_secret(key_file(tmp_path / "key", mode=mode)) == b"a secret"


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o277])
def test_a_new_key_is_random_and_its_owners_alone(tmp_path, umask):
    before = os.umask(umask)
    try:
        identity = make_key(tmp_path / "key")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    text = (tmp_path / "key").read_bytes()
    assert text.endswith(b"\n")
    assert len(base64.b64decode(text.strip(), validate=True)) == 32
    assert key_id(read_secret(tmp_path / "key")) == identity
    assert make_key(tmp_path / "another") != identity


def test_a_key_is_never_overwritten(tmp_path):
    key_file(tmp_path / "key")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("key", "dangling"):
        with pytest.raises(DataError, match="never overwritten") as caught:
            make_key(tmp_path / name)
        assert caught.value.code == "PFL-D13"
    assert (tmp_path / "key").read_bytes() == b"a secret"
    assert not (tmp_path / "nowhere").exists()


def test_a_key_that_cannot_be_written_leaves_no_file(tmp_path, monkeypatch):
    with pytest.raises(DataError) as caught:
        make_key(tmp_path / "no folder" / "key")
    assert caught.value.code == "PFL-D13"

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match="No space left") as caught:
        make_key(tmp_path / "key")
    assert caught.value.code == "PFL-D13"
    assert not (tmp_path / "key").exists()


def test_the_id_tells_keys_apart_and_is_not_a_plain_digest():
    assert key_id(b"a") == key_id(b"a") != key_id(b"b")
    assert len(key_id(b"a")) == 16
    plain = {hashlib.sha256(b"a").hexdigest(), hmac.new(b"a", b"pharma-fl/key-id/v1", "sha256").hexdigest()}
    assert not any(key_id(b"a") in digest for digest in plain)


def test_each_use_has_its_own_key():
    keys = Keys.derive(b"a secret", "hkdf")
    assert len({getattr(keys, use) for use in USES} | {b"a secret"}) == 5
    # HKDF in its two parts, written out: extract with a salt of zeros, then expand with the label.
    extracted = hmac.new(bytes(32), b"a secret", "sha256").digest()
    for use, label in zip(USES, ("permutation", "folds", "scaffold-family", "probe"), strict=True):
        expand = HKDFExpand(algorithm=hashes.SHA256(), length=32, info=f"pharma-fl/{label}/v1".encode())
        assert getattr(keys, use) == expand.derive(extracted)


def test_the_scheme_of_tuner_uses_the_secret_where_tuner_does():
    tuner, hkdf = Keys.derive(b"a secret", "tuner"), Keys.derive(b"a secret", "hkdf")
    assert tuner.permutation == tuner.folds == b"a secret"
    assert (tuner.families, tuner.probe, tuner.key_id) == (hkdf.families, hkdf.probe, hkdf.key_id)
    assert tuner.key_id == key_id(b"a secret")
    assert (tuner.scheme, hkdf.scheme) == ("tuner", "hkdf")


@pytest.mark.parametrize("scheme", ["hkdf", "tuner"])
def test_keys_never_show_themselves(scheme, caplog):
    secret = b"a secret that nobody sees"
    keys = Keys.derive(secret, scheme)
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("pharma_fl").warning("prepared with %s and %r", keys, keys)
    text = "".join(traceback.format_exception(ValueError(f"cannot use {keys!r}", keys)))
    text += repr(keys) + str(keys) + f"{keys}" + repr({"keys": [keys]}) + caplog.text
    assert keys.key_id in text
    for value in [secret, *(getattr(keys, use) for use in USES)]:
        for shown in (value.hex(), base64.b64encode(value).decode().rstrip("="), repr(value)[2:-1]):
            assert shown not in text
    assert copy.deepcopy(keys) == keys


def test_hashes_follow_their_definition():
    digest = hmac.new(b"key", b"17", "sha256").digest()
    assert permutation_hash(b"key", "17") == int(digest.hex(), 16) & (2**63 - 1)
    generator = random.Random()
    generator.seed(digest, version=2)
    assert fold_hash(b"key", "17", 5) == generator.randint(0, 4)


def test_families_are_even_and_independent_of_folds():
    texts = [f"scaffold {number}" for number in range(6000)]
    keys = Keys.derive(b"key", "tuner")
    table = Counter((family_hash(keys.families, text, 3), fold_hash(keys.folds, text, 5)) for text in texts)
    expected = len(texts) / 15
    chi_square = sum((table[family, fold] - expected) ** 2 / expected for family in range(3) for fold in range(5))
    # The 99.99 % point of chi square with 14 degrees of freedom; dependence on the fold is far beyond it.
    assert chi_square < 42.6
    dependent = Counter((fold_hash(b"key", text, 5) % 3, fold_hash(b"key", text, 5)) for text in texts)
    assert sum((dependent[a, b] - expected) ** 2 / expected for a in range(3) for b in range(5)) > 1000
    assert np.ptp([sum(table[family, fold] for fold in range(5)) for family in range(3)]) < 250


def test_families_use_the_key_of_that_name():
    keys = Keys.derive(b"key", "hkdf")
    digest = hmac.new(keys.families, b"c1ccccc1", "sha256").digest()
    assert family_hash(keys.families, "c1ccccc1", 7) == int.from_bytes(digest, "big") % 7
