"""The hash by which MELLODDY-TUNER's partners saw that they prepared alike, computed with our functions.

TUNER prepares a reference set of ten drugs and hashes the table of its descriptors and folds together with its
parameters, its key and its version. With the old tautomer rules our structures, bits and folds of the ten drugs
are TUNER's to the last byte, though RDKit is five years younger.
"""

import csv
import hashlib
import io
import json
from functools import cache

import pytest

from pharma_fl.config import FingerprintSettings, StructureSettings
from pharma_fl.data.fingerprints import bit_permutation, bit_positions
from pharma_fl.data.folds import fold_of, fold_scaffold
from pharma_fl.data.structures import standardise

KEY = b"melloddy"

# The reference set of MELLODDY-TUNER (melloddy/MELLODDY-TUNER, CC BY-SA 4.0): approved or tested drugs, its spelling.
DRUGS = (
    "O=C(N[C@H](C(=O)N[C@H](C(=O)N[C@H](C(=O)N[C@H](C(=O)[C@@]1(OC1)C)CC(C)C)Cc2ccccc2)CC(C)C)CCc3ccccc3)CN4CCOCC4",
    "c1ccccc1-c2ccccc2C(=O)Nc3ccc(cc3)C(=O)N4c5ccccc5-c6[nH]c(C)nc6CC4",
    "Cc1ccccc1S(=O)(=O)NC(=O)c2cc(OC)c(cc2)Cc3cn(C)c4ccc(cc43)NC(=O)OC5CCCC5",
    "c1c2c(cc(c1F)N3CCNCC3)n(cc(c2=O)C(=O)O)C4CC4",
    "n1c2c(sc1N)C[C@@H](NCCC)CC2",
    r"O=C(O)C=1O[C@@H]([C@H](O)[C@H](O)CO)[C@H](NC(=O)C)[C@@H](/N=C(\N)N)C=1",
    "Cc1c(c(=O)n2c(n1)CCCC2)CCN3CCC(CC3)c4c5ccc(cc5on4)F",
    "O(c1ccc(cc1)COCCOC(C)C)CC(O)CNC(C)C",
    "Cc1ccc(cc1Nc2nccc(n2)c3cccnc3)NC(=O)c4ccc(cc4)CN5CCN(CC5)C",
    "O=C(OCC)[C@@H](N[C@H](C(=O)N1[C@H](C(=O)O)C[C@@H]2CCCC[C@H]12)C)CCC",
)

CONSTANT_PARTS = (
    # SHA-256 of TUNER's parameters, of its key file with the key "melloddy" and of its version 3.0.3a
    "5aab892387668987fc4979b3fd961d7868097af3d2f7d197d1998ce513ccb873",
    "39f044b003d19c24bfa005e82f4f660a104b61d4d258558f1e050dcf71331235",
    "1a52acf61168f3bbe17721f4405e6b6adb9bb72b0760e79ce663fa355ff3f792",
)


@cache
def structures(rules):
    return [standardise(drug, StructureSettings(tautomer_rules=rules)) for drug in DRUGS]


def table(rules, key=KEY):
    """TUNER's table of distinct descriptors; its bits stand in the order they had before the permutation."""
    fingerprint = FingerprintSettings()
    permutation = bit_permutation(key, fingerprint.bits)
    rows = set()
    for smiles in structures(rules):
        bits = permutation[bit_positions(smiles, fingerprint)].tolist()
        rows.add((json.dumps(bits), json.dumps([1] * len(bits)), fold_of(fold_scaffold(smiles), key, 5)))
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["descriptor_vector_id", "fp_feat", "fp_val", "fold_id", "cont_descriptor_vector_id"])
    writer.writerows((number, *row, number) for number, row in enumerate(sorted(rows)))
    return text.getvalue().encode()


def reference_hash(content):
    digest = hashlib.sha256()
    for start in range(0, len(content), 4096):
        digest.update(hashlib.sha256(content[start : start + 4096]).hexdigest().encode())
    for part in CONSTANT_PARTS:
        digest.update(part.encode())
    return digest.hexdigest()


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        # TUNER's own, made with RDKit 2021.03.5
        ("v1", "d1c03ecb86754d2e94676591e818c4a1e6a7451c4cefb81e6db76a437ea6fb8f"),
        # What the new tautomer rules make of it: one drug of the ten, zanamivir, is another tautomer
        ("v2", "56f27a3162c1d3777ce51defebc241ec6ff4bc0fddb9cd4b03faabed2d5aec28"),
    ],
    ids=["v1", "v2"],
)
def test_the_reference_hash(rules, expected):
    assert reference_hash(table(rules)) == expected


def test_key_and_version_are_what_the_parts_stand_for():
    assert hashlib.sha256(b"3.0.3a").hexdigest() == CONSTANT_PARTS[2]
    assert hashlib.sha256(b'{"key": "melloddy"}').hexdigest() == CONSTANT_PARTS[1]


def test_the_rules_differ_on_zanamivir_alone():
    differing = [number for number, (a, b) in enumerate(zip(structures("v1"), structures("v2"), strict=True)) if a != b]
    assert differing == [5]


def test_another_key_gives_another_hash():
    assert reference_hash(table("v1", b"another")) != reference_hash(table("v1"))
