"""Fingerprints against raw RDKit and the published scrambled bits."""

import ast
import csv
from collections import Counter

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdFingerprintGenerator

from pharma_fl.config import FingerprintSettings, StructureSettings
from pharma_fl.data.fingerprints import bit_permutation, bit_positions, count_bits
from pharma_fl.data.structures import standardise

SETTINGS = FingerprintSettings()
DRUGS = ["CC(=O)Oc1ccccc1C(=O)O", "CN1C=NC2=C1C(=O)N(C(=O)N2C)C", "C", "CC(C)Cc1ccc(cc1)C(C)C(=O)O"]
SIZES = [(3, 32_000), (2, 1024), (0, 64)]


def rdkit_counts(smiles, kind, radius, bits):
    """Return raw RDKit's hashes of 32 bits, folded by hand."""
    features = {"atomInvariantsGenerator": rdFingerprintGenerator.GetMorganFeatureAtomInvGen()}
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=radius, **(features if kind == "fcfp" else {}))
    counts = Counter()
    for hashed, count in generator.GetSparseCountFingerprint(Chem.MolFromSmiles(smiles)).GetNonzeroElements().items():
        counts[hashed % bits] += count
    return counts


def test_published_scrambled_bits(vectors):
    permutation = bit_permutation(b"melloddy", SETTINGS.bits)
    other = bit_permutation(b"another", SETTINGS.bits)
    with (vectors / "test_calculate_desc_y2.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 10
    for row in rows:
        expected = sorted(ast.literal_eval(row["fp_feat"]))
        smiles = standardise(row["smiles"], StructureSettings())
        assert bit_positions(smiles, SETTINGS, permutation).tolist() == expected
        assert bit_positions(smiles, SETTINGS, other).tolist() != expected


@pytest.mark.parametrize("smiles", DRUGS)
@pytest.mark.parametrize(("radius", "bits"), SIZES)
@pytest.mark.parametrize("kind", ["ecfp", "fcfp"])
def test_positions_and_counts_are_those_of_rdkit(smiles, radius, bits, kind):
    settings = FingerprintSettings(kind=kind, radius=radius, bits=bits)
    expected = rdkit_counts(smiles, kind, radius, bits)
    positions, counts = count_bits(smiles, settings)
    assert dict(zip(positions.tolist(), counts.tolist(), strict=True)) == expected
    assert positions.tolist() == sorted(expected)
    assert (positions.dtype, counts.dtype) == (np.int32, np.uint16)
    found = bit_positions(smiles, settings)
    assert found.tolist() == sorted(expected)
    assert found.dtype == np.int32


@pytest.mark.parametrize("smiles", DRUGS)
@pytest.mark.parametrize("kind", ["ecfp", "fcfp"])
def test_bits_that_are_on_are_those_of_rdkit_s_bit_vector(smiles, kind):
    features = {"atomInvariantsGenerator": rdFingerprintGenerator.GetMorganFeatureAtomInvGen()}
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=3, fpSize=512, **(features if kind == "fcfp" else {}))
    expected = list(generator.GetFingerprint(Chem.MolFromSmiles(smiles)).GetOnBits())
    assert bit_positions(smiles, FingerprintSettings(kind=kind, bits=512)).tolist() == expected


def test_features_are_alike_where_atoms_are_not():
    # Fluorine and chlorine are one feature, halogen; ECFP tells them apart.
    fluoro, chloro = "Fc1ccccc1", "Clc1ccccc1"
    fcfp = FingerprintSettings(kind="fcfp")
    assert bit_positions(fluoro, fcfp).tolist() == bit_positions(chloro, fcfp).tolist()
    assert bit_positions(fluoro, SETTINGS).tolist() != bit_positions(chloro, SETTINGS).tolist()


def test_counts_tell_chains_apart_that_bits_do_not():
    (short, few), (long, many) = count_bits("C" * 12, SETTINGS), count_bits("C" * 15, SETTINGS)
    assert short.tolist() == long.tolist()
    assert few.tolist() != many.tolist()


def test_a_count_stops_at_the_largest_uint16():
    mol = Chem.MolFromSmiles(".".join("C" * 65_536))
    _, counts = count_bits(mol, FingerprintSettings(radius=0))
    assert counts.tolist() == [65_535]


def test_whether_counts_are_stored_changes_no_bit():
    with_counts = FingerprintSettings(counts=True)
    for smiles in DRUGS:
        assert np.array_equal(bit_positions(smiles, with_counts), bit_positions(smiles, SETTINGS))


def test_a_molecule_and_its_smiles_agree():
    assert np.array_equal(bit_positions(Chem.MolFromSmiles("CCO"), SETTINGS), bit_positions("CCO", SETTINGS))


def test_the_permutation_moves_each_bit_once():
    permutation = bit_permutation(b"key", 1000)
    assert permutation.dtype == np.int32
    assert sorted(permutation.tolist()) == list(range(1000))
    raw = bit_positions(DRUGS[0], FingerprintSettings(bits=1000))
    moved = bit_positions(DRUGS[0], FingerprintSettings(bits=1000), permutation)
    assert moved.tolist() == sorted(permutation[raw].tolist())
    assert moved.tolist() != raw.tolist()


@pytest.mark.parametrize("function", [bit_positions, count_bits])
def test_an_unreadable_smiles_is_an_error(function, capfd):
    with pytest.raises(ValueError, match="SMILES"):
        function("garbled", SETTINGS)
