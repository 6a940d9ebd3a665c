"""Scaffolds and folds against the published ones of MELLODDY-TUNER."""

import csv
import hashlib
import hmac
import random
from collections import Counter
from datetime import date, timedelta

import numpy as np
import pytest
from rdkit import Chem, rdBase
from rdkit.Chem import rdFingerprintGenerator

from pharma_fl.data.folds import ACYCLIC, family, fold_of, fold_scaffold, lsh_bits, murcko_scaffold, temporal_fold
from pharma_fl.data.structures import StructureFailure

KEY = b"melloddy"
IMATINIB = "Cc1ccc(NC(=O)c2ccc(CN3CCN(C)CC3)cc2)cc1Nc1nccc(-c2cccnc2)n1"

DRIFT = {
    "2204013": "phosphorus of seven bonds: RDKit 2026.09 refuses to parse it, 2021.03 did not",
}
"""Where RDKit 2026.09 differs from the 2021.03 that made the vectors, with the reason."""


@pytest.fixture
def published(vectors):
    with (vectors / "test_sn_fold_output.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 1008
    return rows


def test_published_scaffolds_and_folds(published):
    differing = set()
    for row in published:
        expected = (row["murcko_smiles"], row["sn_smiles"] or ACYCLIC, row["fold_id"] and int(float(row["fold_id"])))
        try:
            murcko, scaffold = murcko_scaffold(row["canonical_smiles"]), fold_scaffold(row["canonical_smiles"])
        except StructureFailure:
            if row["success"] == "True":
                differing.add(row["input_compound_id"])
            continue
        if (murcko, scaffold, fold_of(scaffold, KEY, 5)) != expected:
            differing.add(row["input_compound_id"])
    assert differing == set(DRIFT)


def test_the_one_that_differs_has_a_phosphorus_of_seven_bonds_and_nothing_else(published):
    (row,) = [row for row in published if row["input_compound_id"] in DRIFT]
    with rdBase.BlockLogs():
        assert Chem.MolFromSmiles(row["canonical_smiles"]) is None
        mol = Chem.MolFromSmiles(row["canonical_smiles"], sanitize=False)
        (problem,) = Chem.DetectChemistryProblems(mol)
    assert problem.GetType() == "AtomValenceException"
    phosphorus = mol.GetAtomWithIdx(problem.GetAtomIdx())
    orders = sorted(bond.GetBondTypeAsDouble() for bond in phosphorus.GetBonds())
    assert (phosphorus.GetSymbol(), orders, phosphorus.GetNumExplicitHs()) == ("P", [1, 1, 2, 2], 1)
    # With the usual five bonds, scaffold and fold are the published ones.
    usual = row["canonical_smiles"].replace("[PH](=O)(=O)", "P(=O)(O)")
    scaffold = fold_scaffold(usual)
    assert (murcko_scaffold(usual), scaffold) == (row["murcko_smiles"], row["sn_smiles"])
    assert fold_of(scaffold, KEY, 5) == int(float(row["fold_id"]))


def test_imatinib_is_in_fold_2():
    assert fold_of(fold_scaffold(IMATINIB), KEY, 5) == 2


def test_acyclic_molecules_share_a_fold():
    assert fold_scaffold("CCO") == fold_scaffold("CC(C)N") == ACYCLIC


def test_few_rings_keep_their_murcko_scaffold_and_many_do_not():
    three = "c1ccc(-c2ccc(-c3ccccc3)cc2)cc1"
    assert fold_scaffold("C" + three) == three
    assert fold_scaffold("c1ccc(-c2ccc(-c3ccc(-c4ccccc4)cc3)cc2)cc1") == three


def test_a_murcko_scaffold_keeps_its_stereochemistry_unless_told_not_to():
    smiles = "N[C@@H]1CC[C@H](c2ccccc2)[C@@H]1O"
    assert murcko_scaffold(smiles, stereo=False) == murcko_scaffold("NC1CCC(c2ccccc2)C1O") == "c1ccc(C2CCCC2)cc1"
    bicycle = "C1CC[C@H]2NCCC[C@@H]2C1"
    assert "@" in murcko_scaffold(bicycle)
    assert "@" not in murcko_scaffold(bicycle, stereo=False)


def test_another_key_or_count_gives_other_folds():
    scaffolds = [fold_scaffold("C" * n + "1" + "C" * n + "1") for n in range(2, 22)]
    ours = [fold_of(scaffold, KEY, 5) for scaffold in scaffolds]
    assert set(ours) <= set(range(5))
    assert ours != [fold_of(scaffold, b"another", 5) for scaffold in scaffolds]
    assert max(fold_of(scaffold, KEY, 50) for scaffold in scaffolds) >= 5


def test_folds_are_even_over_many_scaffolds():
    counts = Counter(fold_of(f"scaffold {number}", KEY, 5) for number in range(5000))
    # Five standard deviations of a fair fold are 141.
    assert all(abs(count - 1000) < 141 for count in counts.values())


def test_what_cannot_be_read_is_refused():
    with pytest.raises(StructureFailure, match="unparsable"):
        fold_scaffold("garbled")


LSH_BITS = "26490 8094 25216 21099 2487 2991 9639 17984 24189 8272 1787 31834 11815 8648 27066 17552"
"""As the parameters of MELLODDY-TUNER list them."""

MOLECULES = [
    IMATINIB,
    "CC(=O)Oc1ccccc1C(=O)O",
    "Cn1c(=O)c2c(ncn2C)n(C)c1=O",
    "CCO",
    "CN(C)CCCN1c2ccccc2Sc2ccc(Cl)cc21",
    # One of its bits needs radius 3.
    "Cc1cccc2c(=O)c3c([nH]c12)CCCC3",
]


@pytest.mark.parametrize("smiles", MOLECULES)
def test_lsh_bits_are_those_of_rdkit_in_the_listed_order(smiles):
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=3, fpSize=32_000)
    fingerprint = generator.GetFingerprint(Chem.MolFromSmiles(smiles))
    expected = "".join(str(int(fingerprint[int(bit)])) for bit in LSH_BITS.split())
    assert len(expected) == 16
    assert lsh_bits(smiles) == lsh_bits(Chem.MolFromSmiles(smiles)) == expected


def test_the_molecules_above_have_different_lsh_bits():
    found = {lsh_bits(smiles) for smiles in MOLECULES}
    assert len(found) == len(MOLECULES)
    assert {"0", "1"} == set("".join(found))


@pytest.mark.parametrize("smiles", MOLECULES)
@pytest.mark.parametrize("method", ["scaffold", "lsh"])
def test_the_fold_is_the_keyed_hash_of_the_family(smiles, method):
    text = family(smiles, method)
    assert text == (lsh_bits(smiles) if method == "lsh" else fold_scaffold(smiles))
    # TUNER: HMAC-SHA256 seeds Python's generator.
    expected = [
        random.Random(hmac.new(key, text.encode(), hashlib.sha256).digest()).randint(0, 4) for key in (KEY, b"a")
    ]
    assert [fold_of(text, KEY, 5), fold_of(text, b"a", 5)] == expected


def test_molecules_without_rings_are_told_apart_by_lsh_and_not_by_scaffold():
    assert family("CCO", "scaffold") == family("CC(=O)O", "scaffold") == ACYCLIC
    assert family("CCO", "lsh") != family("CC(=O)O", "lsh")


def test_families_of_temporal_folds_are_scaffolds():
    for smiles in MOLECULES:
        assert family(smiles, "temporal") == fold_scaffold(smiles)


def days(*dates):
    return np.array([(date.fromisoformat(text) - date(1970, 1, 1)).days for text in dates], dtype=np.int32)


CUTOFFS = (date(1969, 7, 20), date(2010, 3, 1), date(2010, 3, 2), date(2020, 2, 29))


def test_a_day_that_is_a_cutoff_belongs_to_the_later_fold():
    boundaries = {
        "1900-01-01": 0,
        "1969-07-19": 0,
        "1969-07-20": 1,
        "1970-01-01": 1,
        "2010-02-28": 1,
        "2010-03-01": 2,
        "2010-03-02": 3,
        "2020-02-28": 3,
        "2020-02-29": 4,
        "2020-03-01": 4,
        "2100-12-31": 4,
    }
    found = temporal_fold(days(*boundaries), CUTOFFS)
    assert found.dtype == np.int8
    assert found.tolist() == list(boundaries.values())


def test_temporal_folds_count_the_cutoffs_that_are_not_after_the_day():
    every = np.arange(-1000, 20_000, 7, dtype=np.int32)
    expected = [sum(cutoff <= date(1970, 1, 1) + timedelta(days=int(day)) for cutoff in CUTOFFS) for day in every]
    assert temporal_fold(every, CUTOFFS).tolist() == expected
    order = np.random.default_rng(0).permutation(len(every))
    assert temporal_fold(every[order], CUTOFFS).tolist() == np.array(expected)[order].tolist()


def test_no_days_no_folds():
    assert temporal_fold(np.empty(0, dtype=np.int32), CUTOFFS).tolist() == []
