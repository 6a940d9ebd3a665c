"""Fingerprints against raw RDKit and the published scrambled bits."""

import ast
import csv

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdFingerprintGenerator

from pharma_fl.config import StructureSettings
from pharma_fl.data.fingerprints import bit_permutation, bit_positions
from pharma_fl.data.structures import standardise

SETTINGS = StructureSettings()
DRUGS = ["CC(=O)Oc1ccccc1C(=O)O", "CN1C=NC2=C1C(=O)N(C(=O)N2C)C", "C", "CC(C)Cc1ccc(cc1)C(C)C(=O)O"]


def test_published_scrambled_bits(vectors):
    permutation = bit_permutation(b"melloddy", SETTINGS.bits)
    other = bit_permutation(b"another", SETTINGS.bits)
    with (vectors / "test_calculate_desc_y2.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 10
    for row in rows:
        expected = sorted(ast.literal_eval(row["fp_feat"]))
        smiles = standardise(row["smiles"], SETTINGS)
        assert bit_positions(smiles, SETTINGS, permutation).tolist() == expected
        assert bit_positions(smiles, SETTINGS, other).tolist() != expected


@pytest.mark.parametrize("smiles", DRUGS)
@pytest.mark.parametrize(("radius", "bits"), [(3, 32_000), (2, 1024), (0, 64)])
def test_positions_are_those_of_rdkit_counts(smiles, radius, bits):
    settings = StructureSettings(radius=radius, bits=bits)
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=radius, fpSize=1 << 30)
    sparse = generator.GetSparseCountFingerprint(Chem.MolFromSmiles(smiles)).GetNonzeroElements()
    expected = sorted({position % bits for position in sparse})
    found = bit_positions(smiles, settings)
    assert found.tolist() == expected
    assert found.dtype == np.int32


def test_a_molecule_and_its_smiles_agree():
    assert np.array_equal(bit_positions(Chem.MolFromSmiles("CCO"), SETTINGS), bit_positions("CCO", SETTINGS))


def test_the_permutation_moves_each_bit_once():
    permutation = bit_permutation(b"key", 1000)
    assert permutation.dtype == np.int32
    assert sorted(permutation.tolist()) == list(range(1000))
    raw = bit_positions(DRUGS[0], StructureSettings(bits=1000))
    moved = bit_positions(DRUGS[0], StructureSettings(bits=1000), permutation)
    assert moved.tolist() == sorted(permutation[raw].tolist())
    assert moved.tolist() != raw.tolist()


def test_an_unreadable_smiles_is_an_error(capfd):
    with pytest.raises(ValueError, match="SMILES"):
        bit_positions("garbled", SETTINGS)
