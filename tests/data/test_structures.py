"""Standardisation against the published pairs of MELLODDY-TUNER."""

import pytest

from pharma_fl.config import StructureSettings
from pharma_fl.data.structures import StructureFailure, standardise

SETTINGS = StructureSettings()


def test_published_pairs(vectors):
    raw = (vectors / "smiles.csv").read_text().split("\n")
    expected = (vectors / "smiles_prepared.csv").read_text().split("\n")
    pairs = [(a, b) for a, b in zip(raw, expected, strict=False) if a]
    assert len(pairs) == 100
    # RDKit 2026.09 refuses or changes none of these.
    assert [standardise(a, SETTINGS) for a, _ in pairs] == [b for _, b in pairs]


@pytest.mark.parametrize(
    ("smiles", "expected"),
    [
        ("[Na+].CC(=O)[O-]", "CC(=O)O"),
        ("C[C@H](N)C(=O)O", "CC(N)C(=O)O"),
        ("[2H]OC([2H])([2H])C", "CCO"),
        ("C/C=C/C", "CC=CC"),
        ("OC1=CC=CC=N1", "O=c1cccc[nH]1"),
        ("C[N+](C)(C)C.[Cl-]", "C[N+](C)(C)C"),
    ],
)
def test_each_step_shows(smiles, expected):
    assert standardise(smiles, SETTINGS) == expected


def test_is_stable_on_its_own_output():
    once = standardise("CC(=O)Oc1ccccc1C(=O)O", SETTINGS)
    assert standardise(once, SETTINGS) == once


@pytest.mark.parametrize(
    ("smiles", "reason"),
    [
        ("sjkdhajrekdhgv", "unparsable"),
        ("", "unparsable"),
        ("C" * 100, "too_many_atoms"),
        ("[Cl-]." + "C" * 99, "too_many_atoms"),
        ("C1CC", "unparsable"),
        ("CCCCCN(C)CCC(O)([P+](=O)O)P(=O)(O)O", "standardisation_failed"),
    ],
)
def test_failures_carry_a_reason(smiles, reason, capfd):
    with pytest.raises(StructureFailure) as caught:
        standardise(smiles, SETTINGS)
    assert caught.value.reason == reason
    assert capfd.readouterr() == ("", "")


def test_the_limit_on_atoms_is_exclusive():
    assert standardise("C" * 99, SETTINGS) == "C" * 99
