"""The cache: found by content and settings, never by what else was there."""

import sqlite3
import stat

import numpy as np
import pytest

from pharma_fl.config import FingerprintSettings, StructureSettings
from pharma_fl.data.molecules import Molecule, Recipe, compound_id, molecule
from pharma_fl.data.structure_cache import FILE, StructureCache, text_key
from pharma_fl.errors import DataError

RECIPE = Recipe(fingerprint=FingerprintSettings(bits=512))


def kept(cache, *texts):
    return {text: cache.standardised([text_key(text)]).get(text_key(text)) for text in texts}


def test_what_goes_in_comes_out(tmp_path):
    texts = ["C(C)O", "OCC", "c1ccccc1", "garbled"]
    with StructureCache(tmp_path, RECIPE) as cache:
        for text in texts:
            cache.add(text, molecule(text, RECIPE))
    with StructureCache(tmp_path, RECIPE) as cache:
        found = kept(cache, *texts, "CCCC")
        assert found["C(C)O"] == found["OCC"]
        assert found["C(C)O"].compound == compound_id("CCO")
        assert (found["garbled"].compound, found["garbled"].reason) == (None, "unparsable")
        assert found["CCCC"] is None
        ids = [compound_id("c1ccccc1"), compound_id("CCO")]
        assert cache.smiles(ids) == ["c1ccccc1", "CCO"]
        assert cache.families(ids) == [("c1ccccc1", None), ("None", None)]
        for (bits, counts), text in zip(cache.fingerprints(ids), ["c1ccccc1", "CCO"], strict=True):
            fresh = molecule(text, RECIPE)
            assert bits.tolist() == fresh.bits.tolist()
            assert counts.tolist() == fresh.counts.tolist()
        assert [one.smiles for one in cache.molecules(texts)] == ["CCO", "CCO", "c1ccccc1", ""]


@pytest.mark.parametrize(
    ("other", "known", "lacks"),
    [
        (Recipe(structures=StructureSettings(max_atoms=50), fingerprint=RECIPE.fingerprint), False, False),
        (Recipe(structures=StructureSettings(tautomer_rules="v2"), fingerprint=RECIPE.fingerprint), False, False),
        (Recipe(), True, True),
        (Recipe(fingerprint=FingerprintSettings(bits=512, kind="fcfp")), True, True),
        (Recipe(fingerprint=FingerprintSettings(bits=512, counts=True)), True, False),
        (Recipe(fingerprint=RECIPE.fingerprint, fold_method="lsh"), True, True),
        (Recipe(fingerprint=RECIPE.fingerprint, fold_method="temporal"), True, False),
        (Recipe(structures=StructureSettings(time_limit_s=5), fingerprint=RECIPE.fingerprint), True, False),
    ],
)
def test_only_the_settings_that_matter_make_another_entry(tmp_path, other, known, lacks):
    with StructureCache(tmp_path, RECIPE) as cache:
        cache.add("CCO", molecule("CCO", RECIPE))
    with StructureCache(tmp_path, other) as cache:
        assert (kept(cache, "CCO")["CCO"] is not None) == known
        assert bool(cache.without_features([compound_id("CCO")])) == lacks


def test_another_rdkit_starts_anew(tmp_path, monkeypatch):
    with StructureCache(tmp_path, RECIPE) as cache:
        cache.add("CCO", molecule("CCO", RECIPE))
    monkeypatch.setattr("rdkit.__version__", "1999.1")
    with StructureCache(tmp_path, RECIPE) as cache:
        assert kept(cache, "CCO")["CCO"] is None


def test_a_time_out_counts_up_to_its_limit(tmp_path):
    def recipe(seconds):
        return Recipe(structures=StructureSettings(time_limit_s=seconds))

    with StructureCache(tmp_path, recipe(10)) as cache:
        cache.add("CCO", Molecule(reason="timed_out"))
        cache.add("CCC", Molecule(reason="crashed"))
    for seconds, known in ((5, True), (10, True), (11, False)):
        with StructureCache(tmp_path, recipe(seconds)) as cache:
            assert (kept(cache, "CCO")["CCO"] is not None) == known
            assert kept(cache, "CCC")["CCC"] is None


def test_ids_that_end_in_zeros_are_whole(tmp_path):
    with StructureCache(tmp_path, RECIPE) as cache:
        text = next(text for n in range(2000) if text_key(text := f"C{n}").endswith(b"\0"))
        cache.add(text, molecule("CCO", RECIPE))
        assert kept(cache, text)[text].compound == compound_id("CCO")


def test_it_is_for_its_owner_alone(tmp_path):
    folder = tmp_path / "cache"
    with StructureCache(folder, RECIPE):
        pass
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / FILE).stat().st_mode) == 0o600


@pytest.mark.parametrize("content", [b"no database" * 100, None])
def test_a_damaged_or_foreign_file_is_refused(tmp_path, content):
    path = tmp_path / FILE
    if content:
        path.write_bytes(content)
    else:
        connection = sqlite3.connect(path)
        connection.execute("PRAGMA user_version = 99")
        connection.close()
    with pytest.raises(DataError, match="Delete that file") as caught:
        StructureCache(tmp_path, RECIPE)
    assert caught.value.code == "PFL-D12"


def test_bits_do_not_depend_on_the_byte_order_of_the_machine(tmp_path):
    with StructureCache(tmp_path, RECIPE) as cache:
        cache.add("CCO", molecule("CCO", RECIPE))
        ((bits, counts),) = cache.fingerprints([compound_id("CCO")])
    assert bits.dtype == np.dtype("<i4")
    assert counts.dtype == np.dtype("<u2")
