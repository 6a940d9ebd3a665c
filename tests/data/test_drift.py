"""Where today's RDKit standardises otherwise than the RDKit that MELLODDY-TUNER was written for, and why.

How drift.csv was made. RDKit 2021.03.5 came from PyPI (``pip install rdkit-pypi==2021.3.5.1``, Python 3.9) and ran
TUNER's steps, those that `standardise` lists, on 7,500 distinct structures of ChEMBL 22, two random draws of 1,500
and 6,000 of its 85,271. `standardise` ran on the same ones with RDKit 2026.09.1 and the old tautomer rules. Both
refuse the same 63 structures. 26 of 7,500, 0.35 %, come out differently; drift.csv holds them all: the structure,
what 2021.03.5 makes of it (``tuner``), what we make of it (``today``), and the ``cause``.

- ``valence``, 17 phosphates and phosphonates. An old rule turns P(=O)O into [PH](=O)=O, and so does today's
  enumerator with the old rules: it still picks TUNER's result, letter for letter. But that phosphorus has seven bonds,
  which RDKit read in 2021 and refuses today, so that we take the new rules, which leave the group alone. Nothing else
  changes, except in one mycophenolate derivative (note ``lactone``), where the old rules also turn the lactone
  into a hydroxyisobenzofuran and the new rules do not.
- ``enumeration``, 9 molecules. The same rules, applied by today's RDKit, reach other tautomers than the ones that
  2021.03.5 reached, whose number is ``tautomers``. Note ``more`` (5): today finds more, and one that 2021.03.5 did not
  find scores higher, or the same with the smaller SMILES. Note ``limit`` (3): both stop at 256 tautomers, today's are
  others, and TUNER's, which scores higher, would come later. Note ``fewer`` (1): today does not find TUNER's, which
  scores the same and has the smaller SMILES.

The structures are ChEMBL's (release 22, CC BY-SA 3.0).
"""

import csv
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
from rdkit import Chem, rdBase
from rdkit.Chem.MolStandardize import rdMolStandardize
from rdkit.Chem.rdMolDescriptors import CalcMolFormula

from pharma_fl.config import StructureSettings
from pharma_fl.data.structures import standardise

SETTINGS = StructureSettings()

with Path(__file__).with_name("drift.csv").open(newline="") as file:
    ROWS = list(csv.DictReader(file))


def rows(*notes, cause=None):
    chosen = {
        f"line {line}": row
        for line, row in enumerate(ROWS, start=2)
        if cause in {None, row["cause"]} and (not notes or row["note"] in notes)
    }
    assert chosen
    return pytest.mark.parametrize("row", chosen.values(), ids=chosen.keys())


@pytest.fixture(autouse=True)
def _quiet():
    with rdBase.BlockLogs():
        yield


def enumerator(rules="v1", times=1):
    made = rdMolStandardize.GetV1TautomerEnumerator() if rules == "v1" else rdMolStandardize.TautomerEnumerator()
    made.SetMaxTautomers(SETTINGS.max_tautomers * times)
    made.SetMaxTransforms(1000 * times)
    made.SetRemoveSp3Stereo(False)  # noqa: FBT003 - RDKit's C++ binding takes no keyword
    return made


def parent(smiles):
    mol = rdMolStandardize.ChargeParent(Chem.MolFromSmiles(smiles))
    Chem.RemoveStereochemistry(mol)
    return mol


@cache
def found(smiles):
    """Today's tautomers with the old rules: what stopped the search, and each one's score."""
    result = enumerator().Enumerate(parent(smiles))
    scores = {text: score(mol) for text, mol in zip(result.smiles, result.tautomers, strict=True)}
    return result.status, scores


def score(mol):
    mol = Chem.MolFromSmiles(mol) if isinstance(mol, str) else mol
    return rdMolStandardize.TautomerEnumerator.ScoreTautomer(mol)


def formula(smiles):
    return CalcMolFormula(Chem.MolFromSmiles(smiles))


def with_five_bonds(smiles):
    """Return a SMILES with each [PH](=O)(=O) written as P(=O)(O)."""
    mol = Chem.MolFromSmiles(smiles, sanitize=False)
    for atom in mol.GetAtoms():
        if atom.GetSymbol() == "P" and atom.GetNumExplicitHs():
            oxo = [bond for bond in atom.GetBonds() if bond.GetBondType() == Chem.BondType.DOUBLE]
            assert len(oxo) == 2
            oxo[0].SetBondType(Chem.BondType.SINGLE)
            atom.SetNumExplicitHs(0)
            atom.SetNoImplicit(False)  # noqa: FBT003
    Chem.SanitizeMol(mol)
    return Chem.MolToSmiles(mol)


def test_the_list_is_what_it_says():
    assert len(ROWS) == len({row["smiles"] for row in ROWS}) == 26
    assert Counter((row["cause"], row["note"]) for row in ROWS) == {
        ("valence", ""): 16,
        ("valence", "lactone"): 1,
        ("enumeration", "more"): 5,
        ("enumeration", "limit"): 3,
        ("enumeration", "fewer"): 1,
    }


@rows()
def test_today_and_tuner_differ(row):
    assert standardise(row["smiles"], SETTINGS) == row["today"] != row["tuner"]


@rows(cause="valence")
def test_valence_is_the_only_reason_why_today_s_rdkit_refuses_tuner_s_result(row):
    assert Chem.MolFromSmiles(row["tuner"]) is None
    mol = Chem.MolFromSmiles(row["tuner"], sanitize=False)
    problems = Chem.DetectChemistryProblems(mol)
    assert {problem.GetType() for problem in problems} == {"AtomValenceException"}
    refused = {problem.GetAtomIdx() for problem in problems}
    group = Chem.MolFromSmarts("[PH1](=O)=O")
    mol.UpdatePropertyCache(strict=False)
    assert refused == {match[0] for match in mol.GetSubstructMatches(group)}
    assert {mol.GetAtomWithIdx(atom).GetTotalValence() for atom in refused} == {7}
    assert not Chem.MolFromSmiles(row["today"]).HasSubstructMatch(group)


@rows(cause="valence")
def test_valence_today_s_old_rules_still_pick_tuner_s_result(row):
    picked = enumerator().Canonicalize(parent(row["smiles"]))
    assert Chem.MolToSmiles(picked) == row["tuner"]
    with pytest.raises(Chem.AtomValenceException):
        Chem.SanitizeMol(picked)


@rows(cause="valence")
def test_valence_the_new_rules_pick_ours(row):
    assert Chem.MolToSmiles(enumerator("v2").Canonicalize(parent(row["smiles"]))) == row["today"]


@rows("", cause="valence")
def test_valence_changes_nothing_but_the_phosphorus(row):
    assert with_five_bonds(row["tuner"]) == row["today"]


@rows("lactone", cause="valence")
def test_valence_changes_a_lactone_too_in_one_molecule(row):
    rest = with_five_bonds(row["tuner"])
    assert rest != row["today"]
    assert formula(rest) == formula(row["today"])
    lactone, isobenzofuran = Chem.MolFromSmarts("O=C1OCc2c1cccc2"), Chem.MolFromSmarts("Oc1occ2c1cccc2")
    assert Chem.MolFromSmiles(row["smiles"]).HasSubstructMatch(lactone)
    assert Chem.MolFromSmiles(row["today"]).HasSubstructMatch(lactone)
    assert Chem.MolFromSmiles(rest).HasSubstructMatch(isobenzofuran)
    assert not Chem.MolFromSmiles(rest).HasSubstructMatch(lactone)


@rows(cause="enumeration")
def test_enumeration_leaves_a_tautomer_that_today_s_rdkit_reads(row):
    assert Chem.MolToSmiles(Chem.MolFromSmiles(row["tuner"])) == row["tuner"]
    assert formula(row["tuner"]) == formula(row["today"])


@rows(cause="enumeration")
def test_enumeration_ours_wins_among_today_s_tautomers(row):
    _, scores = found(row["smiles"])
    # The highest score; among equal ones the smallest SMILES.
    assert min(scores, key=lambda smiles: (-scores[smiles], smiles)) == row["today"]


@rows("more", cause="enumeration")
def test_enumeration_finds_more_and_a_new_one_wins(row):
    status, scores = found(row["smiles"])
    assert status == rdMolStandardize.TautomerEnumeratorStatus.Completed
    assert len(scores) > int(row["tautomers"])
    assert row["tuner"] in scores
    assert (-score(row["today"]), row["today"]) < (-score(row["tuner"]), row["tuner"])


@rows("limit", cause="enumeration")
def test_enumeration_stops_before_tuner_s_tautomer(row):
    status, scores = found(row["smiles"])
    assert status == rdMolStandardize.TautomerEnumeratorStatus.MaxTautomersReached
    assert len(scores) == int(row["tautomers"]) == SETTINGS.max_tautomers
    assert row["tuner"] not in scores
    # TUNER's is the better one: given twice the room, today's RDKit finds it and picks it.
    assert score(row["tuner"]) > score(row["today"])
    assert Chem.MolToSmiles(enumerator(times=2).Canonicalize(parent(row["smiles"]))) == row["tuner"]


@rows("fewer", cause="enumeration")
def test_enumeration_does_not_reach_tuner_s_tautomer(row):
    status, scores = found(row["smiles"])
    assert status == rdMolStandardize.TautomerEnumeratorStatus.Completed
    assert len(scores) < int(row["tautomers"])
    assert row["tuner"] not in scores
    assert (-score(row["tuner"]), row["tuner"]) < (-score(row["today"]), row["today"])
