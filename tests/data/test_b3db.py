"""The demo's tables."""

import csv
import importlib.metadata
from collections import Counter

import pytest

from pharma_fl.config import TunerTables
from pharma_fl.data.b3db import read_b3db, write_partner_tables
from pharma_fl.data.folds import fold_of, murcko_scaffold
from pharma_fl.data.tables import read_tuner_tables
from pharma_fl.errors import DataError

SECRET = b"pharma-fl-demo"
NAMES = ["alpha", "beta", "gamma"]


@pytest.fixture(scope="module")
def installed():
    try:
        importlib.metadata.distribution("qc-B3DB")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip('the demo data is not installed: pip install "pharma-fl[demo]"')


@pytest.fixture(scope="module")
def written(installed, tmp_path_factory):
    folder = tmp_path_factory.mktemp("b3db")
    return folder, write_partner_tables(folder, NAMES, SECRET)


def tables_of(folder, name, spool):
    return read_tuner_tables(TunerTables(), lambda file: folder / name / file, spool / name)


def test_all_compounds_are_read(installed):
    data = read_b3db()
    assert len(data) == 7982
    assert data["logbb"].notna().sum() == 1058
    assert Counter(data["bbb"]).keys() == {1, -1}
    # The first row of the second file, which starts with a byte order mark.
    assert data["smiles"][7807] == "CC(=O)O[C@@H](CC(=O)[O-])C[N+](C)(C)C"


def test_the_tables_are_good_and_hold_every_compound_once(written, tmp_path):
    folder, counts = written
    seen = []
    for count in counts:
        tables = tables_of(folder, count.name, tmp_path)
        seen.extend(int(text) for text in tables.structures.texts["compound"].between(0, count.compounds))
        assert len(tables.structures) == count.compounds == count.crossing + count.not_crossing
        assert (tables.activities["assay"] == 1).sum() == count.logbb
        assert tables.assays["expert_threshold_1"].tolist()[1] == -1
        assert tables.assays["expert_threshold_2"].tolist()[1] == 0
    assert sorted(seen) == list(range(1, 7983))


def test_partners_are_of_like_size(written):
    _, counts = written
    assert [count.name for count in counts] == NAMES
    sizes = [count.compounds for count in counts]
    assert max(sizes) <= 2.2 * min(sizes)


def test_a_scaffold_has_one_owner_and_owners_have_all_folds(written):
    folder, counts = written
    owner = {}
    for count in counts:
        with (folder / count.name / "T2.csv").open(newline="") as file:
            smiles = [row["smiles"] for row in csv.DictReader(file)][:400]
        folds = Counter()
        for one in smiles:
            try:
                scaffold = murcko_scaffold(one, stereo=False)
            except ValueError:
                continue
            assert owner.setdefault(scaffold, count.name) == count.name
            folds[fold_of(scaffold or "None", SECRET, 5)] += 1
        assert set(folds) == set(range(5))


def test_the_split_is_the_same_each_time_and_follows_the_key(written, tmp_path):
    folder, counts = written
    assert write_partner_tables(tmp_path / "again", NAMES, SECRET) == counts
    assert (tmp_path / "again" / "beta" / "T1.csv").read_bytes() == (folder / "beta" / "T1.csv").read_bytes()
    assert write_partner_tables(tmp_path / "other", NAMES, b"another key") != counts


def test_without_the_package_the_remedy_is_named(monkeypatch):
    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", absent)
    with pytest.raises(DataError, match=r"pip install \"pharma-fl\[demo\]\"") as caught:
        read_b3db()
    assert caught.value.code == "PFL-D06"
