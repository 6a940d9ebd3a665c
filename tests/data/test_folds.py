"""Scaffolds and folds against the published ones of MELLODDY-TUNER."""

import csv
from collections import Counter

import pytest

from pharma_fl.data.folds import ACYCLIC, fold_of, fold_scaffold, murcko_scaffold
from pharma_fl.data.structures import StructureFailure

KEY = b"melloddy"

DRIFT = {
    "2204013": "six-bonded phosphorus: RDKit 2026.09 refuses to parse it, 2021.03 did",
}
"""Where RDKit 2026.09 differs from the 2021.03 that made the vectors, with the reason."""


def test_published_scaffolds_and_folds(vectors):
    with (vectors / "test_sn_fold_output.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 1008
    differing = set()
    for row in rows:
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


def test_imatinib_is_in_fold_2():
    scaffold = fold_scaffold("Cc1ccc(NC(=O)c2ccc(CN3CCN(C)CC3)cc2)cc1Nc1nccc(-c2cccnc2)n1")
    assert fold_of(scaffold, KEY, 5) == 2


def test_acyclic_molecules_share_a_fold():
    assert fold_scaffold("CCO") == fold_scaffold("CC(C)N") == ACYCLIC


def test_few_rings_keep_their_murcko_scaffold_and_many_do_not():
    three = "c1ccc(-c2ccc(-c3ccccc3)cc2)cc1"
    assert fold_scaffold("C" + three) == three
    assert fold_scaffold("c1ccc(-c2ccc(-c3ccc(-c4ccccc4)cc3)cc2)cc1") == three


def test_another_key_or_count_gives_other_folds():
    scaffolds = [fold_scaffold("C" * n + "1" + "C" * n + "1") for n in range(2, 22)]
    ours = [fold_of(scaffold, KEY, 5) for scaffold in scaffolds]
    assert set(ours) <= set(range(5))
    assert ours != [fold_of(scaffold, b"another", 5) for scaffold in scaffolds]


def test_folds_are_even_over_many_scaffolds():
    counts = Counter(fold_of(f"scaffold {number}", KEY, 5) for number in range(5000))
    # Five standard deviations of a fair fold are 141.
    assert all(abs(count - 1000) < 141 for count in counts.values())


def test_what_cannot_be_read_is_refused():
    with pytest.raises(StructureFailure, match="unparsable"):
        fold_scaffold("garbled")
