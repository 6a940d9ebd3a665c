"""From a partner's tables to its data folder."""

import csv
import gzip
import json
import stat
import sys
from datetime import date

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdMolDescriptors
from rdkit.Chem.Scaffolds import MurckoScaffold
from tests.data.conftest import T2

from pharma_fl.data.cells import NO_DATE
from pharma_fl.data.fingerprints import bit_permutation, bit_positions, count_bits
from pharma_fl.data.folds import fold_of, fold_scaffold, lsh_bits
from pharma_fl.data.keys import Keys
from pharma_fl.data.matrices import PreparedData
from pharma_fl.data.molecules import Molecule, compound_id
from pharma_fl.data.prepare import prepare
from pharma_fl.errors import ConfigError, DataError

# The package exports a function under the module's name.
compounds_module = sys.modules["pharma_fl.data.compounds"]

SECRET = b"secret of the tests"
KEYS = Keys.derive(SECRET, "hkdf")
KEPT = {
    "CC(=O)Oc1ccccc1C(=O)O": "1",
    "CCO": "2",
    "c1ccc2ccccc2c1": "3",
    "CC(=O)O": "4|5",
}


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def prepared(make_partner):
    partner = make_partner()
    manifest = prepare(partner)
    return partner, manifest, PreparedData.open(partner.path("data"))


def test_one_row_a_structure(prepared):
    _, _, data = prepared
    compounds = rows_of(data.folder / "compounds.csv")
    assert {one["smiles"]: one["input_compound_ids"] for one in compounds} == KEPT
    assert [one["row"] for one in compounds] == [str(row) for row in range(len(KEPT))]
    assert [one["compound_id"] for one in compounds] == sorted(compound_id(smiles).hex() for smiles in KEPT)


def test_bits_and_folds_are_those_of_each_structure(prepared):
    partner, _, data = prepared
    permutation = bit_permutation(KEYS.permutation, 32_000)
    x = data.x()
    assert x.shape == (4, 32_000)
    for row, one in enumerate(rows_of(data.folder / "compounds.csv")):
        expected = bit_positions(one["smiles"], partner.fingerprint, permutation)
        assert x.indices[x.indptr[row] : x.indptr[row + 1]].tolist() == expected.tolist()
        assert data.folds[row] == fold_of(fold_scaffold(one["smiles"]), KEYS.folds, 5)


def test_labels_and_values_are_where_they_belong(prepared):
    _, _, data = prepared
    row = {one["smiles"]: int(one["row"]) for one in rows_of(data.folder / "compounds.csv")}
    column = {task.task: task.column for task in data.tasks}
    y, values, censor = data.y_class().toarray(), data.y_regr().toarray(), data.y_censor().toarray()
    assert list(column) == [
        "assay-1/binary",
        "assay-2/high/5.5",
        "assay-2/high/6.0",
        "assay-2/high/6.5",
        "assay-3/low/-1.0",
        "assay-3/low/0.0",
        "assay-2/value",
        "assay-3/value",
    ]
    aspirin, ethanol, naphthalene, acid = (row[smiles] for smiles in KEPT)
    assert y[:, column["assay-1/binary"]][[aspirin, ethanol, naphthalene, acid]].tolist() == [1, -1, 0, 0]
    assert y[:, column["assay-2/high/6.0"]][[aspirin, ethanol, naphthalene, acid]].tolist() == [1, 0, -1, 1]
    # Ethanol's 0 is not above the threshold 0, which is active for "low"; acetic acid's ">0.5" is inactive.
    assert y[:, column["assay-3/low/0.0"]][[aspirin, ethanol, naphthalene, acid]].tolist() == [0, 1, 0, -1]
    assert values[naphthalene, column["assay-2/value"]] == 5
    assert censor[naphthalene, column["assay-2/value"]] == -1
    assert censor[acid, column["assay-3/value"]] == 1
    # Five values, one of them zero and still there.
    assert data.y_regr().nnz == data.y_censor().nnz == 5
    assert np.count_nonzero(data.y_regr().data) == 4


def test_counts_add_up_and_side_files_hold_what_was_dropped(prepared):
    _, manifest, data = prepared
    counts = manifest["counts"]
    assert counts["structures"] == {
        "read": 8,
        "kept": 5,
        "dropped": {"no_usable_activity": 1, "not_measured": 1, "unparsable": 1},
    }
    assert counts["activities"] == {
        "read": 9,
        "kept": 7,
        "dropped": {"not_plus_minus_one": 1, "structure_failed": 1},
        "aggregated": 7,
    }
    for kind in ("structures", "activities", "labels"):
        assert counts[kind]["read"] == counts[kind]["kept"] + sum(counts[kind]["dropped"].values())
    assert rows_of(data.folder / "failed_structures.csv") == [
        {"compound": "6", "smiles": "not a molecule", "reason": "unparsable"},
        {"compound": "7", "smiles": "CCN", "reason": "no_usable_activity"},
        {"compound": "8", "smiles": "CCCC", "reason": "not_measured"},
    ]
    assert [(one["compound"], one["reason"]) for one in rows_of(data.folder / "failed_activities.csv")] == [
        ("6", "structure_failed"),
        ("7", "not_plus_minus_one"),
    ]
    assert len(rows_of(data.folder / "ambiguous_labels.csv")) == counts["labels"]["dropped"]["ambiguous"]
    assert counts["tasks"]["data_derived"] == 0
    assert manifest["sizes"]["class_labels"] == counts["labels"]["kept"] == data.y_class().nnz


def test_ambiguous_labels_are_listed(make_partner):
    t1 = "input_compound_id,input_assay_id,standard_qualifier,standard_value\n1,2,<,6.2\n2,2,=,7\n"
    partner = make_partner(t1=t1)
    manifest = prepare(partner)
    lost = rows_of(partner.path("data") / "ambiguous_labels.csv")
    assert [(one["compound_id"], one["threshold"], one["censor"]) for one in lost] == [
        (compound_id("CC(=O)Oc1ccccc1C(=O)O").hex(), "5.5", "-1"),
        (compound_id("CC(=O)Oc1ccccc1C(=O)O").hex(), "6.0", "-1"),
    ]
    assert manifest["counts"]["labels"] == {"read": 6, "kept": 4, "dropped": {"ambiguous": 2}}


def test_the_manifest_names_versions_settings_and_never_the_key(prepared):
    partner, manifest, data = prepared
    assert set(manifest["versions"]) == {"pharma_fl", "rdkit", "numpy"}
    assert manifest["settings"]["structures"] == partner.structures.model_dump()
    assert manifest["settings"]["fingerprint"] == partner.fingerprint.model_dump()
    for path in data.folder.iterdir():
        content = path.read_bytes()
        assert not any(key in content for key in (SECRET, KEYS.permutation, KEYS.folds, KEYS.probe))
    data.verify()


def test_the_agreement_shows_which_step_differs(make_partner):
    def digests(**changes):
        partner = make_partner(**changes)
        prepare(partner)
        shared = json.loads((partner.path("data") / "agreement.json").read_text())
        return {step: facts["digest"] for step, facts in shared["steps"].items()}

    plain = digests()
    other_bits = digests(toml="[fingerprint]\nbits = 2048")
    assert {name for name in plain if plain[name] != other_bits[name]} == {"fingerprint"}
    other_rules = digests(toml='[structures]\ntautomer_rules = "v2"')
    assert {name for name in plain if plain[name] != other_rules[name]} == {"structures"}


def test_another_key_gives_other_bits(make_partner):
    found = []
    for key in ("one", "two"):
        partner = make_partner(key=key)
        prepare(partner)
        found.append(PreparedData.open(partner.path("data")).x().indices.tolist())
    assert found[0] != found[1]


def test_the_order_of_the_input_leaves_no_trace(make_partner):
    def files(partner):
        prepare(partner)
        folder = partner.path("data")
        skipped = ("failed_structures.csv", "failed_activities.csv", "manifest.json")
        return {path.name: path.read_bytes() for path in folder.iterdir() if path.name not in skipped}

    def reverse(text):
        header, *rows = text.splitlines()
        return "\n".join([header, *reversed(rows)]) + "\n"

    partner = make_partner()
    texts = [partner.path(name).read_text() for name in ("T0.csv", "T1.csv", "T2.csv")]
    first = files(partner)
    second = files(make_partner(**dict(zip(("t0", "t1", "t2"), map(reverse, texts), strict=True))))
    assert first == second


def test_a_failing_prepare_leaves_the_old_data(prepared, make_partner):
    partner, _, _ = prepared
    before = {path.name: path.read_bytes() for path in partner.path("data").iterdir()}
    bad = "input_compound_id,input_assay_id,standard_qualifier,standard_value\n1,1,,active\n"
    with pytest.raises(DataError, match="PFL-D02"):
        prepare(make_partner(t1=bad))
    assert {path.name: path.read_bytes() for path in partner.path("data").iterdir()} == before
    PreparedData.open(partner.path("data")).verify()


def test_a_failure_while_writing_leaves_the_old_data(prepared, make_partner, monkeypatch):
    partner, _, _ = prepared
    before = {path.name: path.read_bytes() for path in partner.path("data").iterdir()}
    # The package exports the function under the module's name.
    module = sys.modules["pharma_fl.data.prepare"]
    monkeypatch.setattr(module, "write_tasks", lambda path, tasks: path.rename("/nowhere/at all"))
    with pytest.raises(FileNotFoundError):
        prepare(make_partner(key="another"))
    assert {path.name: path.read_bytes() for path in partner.path("data").iterdir()} == before
    assert not list(partner.path("data").parent.glob(".data.*.part"))
    assert not list(partner.path("cache").glob("spool-*"))


def test_nothing_left_is_an_error_that_says_why(make_partner):
    t1 = "input_compound_id,input_assay_id,standard_qualifier,standard_value\n6,1,,1\n1,2,,99\n"
    partner = make_partner(t1=t1)
    with pytest.raises(DataError, match=r"1 unparsable.*1 out_of_range, 1 structure_failed") as caught:
        prepare(partner)
    assert caught.value.code == "PFL-D05"
    assert not partner.path("data").exists()


def test_a_missing_key_file_is_an_error(make_partner):
    partner = make_partner()
    partner.path("consortium.key").unlink()
    with pytest.raises(DataError, match="PFL-D03"):
        prepare(partner)


def test_a_data_folder_with_other_files_is_refused_before_any_work(make_partner):
    partner = make_partner()
    partner.path("data").mkdir()
    (partner.path("data") / "thesis.tex").write_text("years")
    with pytest.raises(DataError, match="thesis.tex") as caught:
        prepare(partner)
    assert caught.value.code == "PFL-D08"
    assert (partner.path("data") / "thesis.tex").exists()


def test_tasks_from_data_are_marked_and_counted(make_partner):
    header = "input_assay_id,assay_type,use_in_regression,is_binary,expert_threshold_1,expert_threshold_2,"
    header += "expert_threshold_3,expert_threshold_4,expert_threshold_5,direction"
    t0 = f"{header}\n1,ADME,false,true,,,,,,\n2,OTHER,true,false,,,,,,high\n3,ADME,true,false,,,,,,low\n"
    manifest = prepare(make_partner(t0=t0))
    # Assay 2 has an adaptive threshold and its auxiliary pair; assay 3 only one uncensored value, so none.
    assert manifest["counts"]["tasks"]["data_derived"] == 3


def test_an_assay_without_data_keeps_its_tasks(make_partner):
    t1 = "input_compound_id,input_assay_id,standard_qualifier,standard_value\n1,1,,1\n"
    partner = make_partner(t1=t1)
    prepare(partner)
    data = PreparedData.open(partner.path("data"))
    assert len(data.classification_tasks) == 6
    assert len(data.regression_tasks) == 2
    assert data.y_regr().nnz == 0


def test_equal_smiles_are_standardised_once(make_partner):
    seen = []
    t2 = "input_compound_id,smiles\n" + "".join(f"{number},CCO\n" for number in range(1, 9))
    manifest = prepare(make_partner(t2=t2), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 1)]
    assert manifest["sizes"]["compounds"] == 1


def test_what_was_done_is_not_done_again_and_new_compounds_change_nothing(make_partner):
    def files(partner):
        return {path.name: path.read_bytes() for path in partner.path("data").iterdir()}

    seen = []
    partner = make_partner()
    prepare(partner)
    first = files(partner)
    prepare(partner, progress=lambda done, total: seen.append((done, total)))
    assert files(partner) == first
    assert not seen
    more = make_partner(
        t1=(partner.path("T1.csv").read_text() + "9,2,=,8\n"), t2=(partner.path("T2.csv").read_text() + "9,OCCCN\n")
    )
    before = {one["compound_id"]: one["smiles"] for one in rows_of(partner.path("data") / "compounds.csv")}
    prepare(more, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 1)]
    after = {one["compound_id"]: one["smiles"] for one in rows_of(more.path("data") / "compounds.csv")}
    assert before.items() < after.items()
    assert set(after.values()) - set(before.values()) == {"NCCCO"}


@pytest.mark.parametrize(
    "settings", ['kind = "fcfp"', "radius = 2", "bits = 1024", "counts = true"], ids=lambda text: text.split()[0]
)
def test_another_fingerprint_reuses_the_structures(make_partner, settings):
    partner = make_partner()
    prepare(partner)
    seen = []
    partner = make_partner(toml=f"[fingerprint]\n{settings}")
    prepare(partner, progress=lambda done, total: seen.append((done, total)))
    assert not seen
    data = PreparedData.open(partner.path("data"))
    x = data.x()
    assert x.dtype == (np.uint16 if "counts" in settings else np.int8)
    permutation = bit_permutation(KEYS.permutation, partner.fingerprint.bits)
    for row, one in enumerate(rows_of(data.folder / "compounds.csv")):
        bits, counts = count_bits(one["smiles"], partner.fingerprint)
        expected = dict(zip(permutation[bits].tolist(), counts.tolist(), strict=True))
        found = dict(
            zip(
                x.indices[x.indptr[row] : x.indptr[row + 1]].tolist(),
                x.data[x.indptr[row] : x.indptr[row + 1]].tolist(),
                strict=True,
            )
        )
        assert found == (expected if "counts" in settings else dict.fromkeys(expected, 1))


def test_the_raw_secret_serves_where_tuner_is_asked_for(make_partner):
    partner = make_partner(toml='key_scheme = "tuner"')
    prepare(partner)
    data = PreparedData.open(partner.path("data"))
    permutation = bit_permutation(SECRET, 32_000)
    x = data.x()
    for row, one in enumerate(rows_of(data.folder / "compounds.csv")):
        bits = bit_positions(one["smiles"], partner.fingerprint, permutation)
        assert x.indices[x.indptr[row] : x.indptr[row + 1]].tolist() == bits.tolist()
        assert data.folds[row] == fold_of(fold_scaffold(one["smiles"]), SECRET, 5)


def test_lsh_folds_do_not_depend_on_the_fingerprint(make_partner):
    partner = make_partner(toml='[folds]\nmethod = "lsh"\n[fingerprint]\nbits = 1024')
    prepare(partner)
    data = PreparedData.open(partner.path("data"))
    for row, one in enumerate(rows_of(data.folder / "compounds.csv")):
        assert data.folds[row] == fold_of(lsh_bits(one["smiles"]), KEYS.folds, 5)


DATES = {"1": "2015-01-01", "2": "2014-12-31", "3": "", "4": "2019-06-01", "5": "2014-01-01", "6": "2015-01-01"}
"""Acetic acid has two ids, 4 and 5: the earlier date counts. Naphthalene, 3, has none."""


def dated(dates):
    header, *rows = T2.splitlines()
    return "\n".join([f"{header},registered", *(f"{row},{dates.get(row.split(',')[0], '')}" for row in rows)]) + "\n"


TEMPORAL = '[tables]\ndate = "registered"\n[folds]\nmethod = "temporal"\ncount = 3\nvalidation = 1\ntest = 2\n'
TEMPORAL += "cutoffs = [2015-01-01, 2018-01-01]"


def by_smiles(data, values):
    return {one["smiles"]: int(values[int(one["row"])]) for one in rows_of(data.folder / "compounds.csv")}


def test_temporal_folds_follow_the_earliest_date(make_partner):
    partner = make_partner(t2=dated(DATES), toml=TEMPORAL)
    manifest = prepare(partner)
    data = PreparedData.open(partner.path("data"))
    assert by_smiles(data, data.folds) == {"CC(=O)Oc1ccccc1C(=O)O": 1, "CCO": 0, "CC(=O)O": 0}
    assert manifest["counts"]["structures"]["dropped"]["no_date"] == 2
    assert manifest["counts"]["activities"]["dropped"]["structure_failed"] == 3


MANY = [
    *("CCO", "CCN", "CCCC"),  # no ring: all one family
    *("c1ccccc1C", "c1ccccc1CC", "OC(=O)c1ccccc1", "CC(=O)Oc1ccccc1C(=O)O"),
    *("c1ccc2ccccc2c1", "Cc1ccc2ccccc2c1"),
    *("c1ccncc1C", "C1CCCCC1O"),
    # Four rings: not the Murcko scaffold itself decides, but a node of three rings.
    *("Cc1ccc2c(c1)ccc1c2ccc2ccccc21", "C[C@]12CC[C@H]3[C@@H](CCc4cc(O)ccc43)[C@@H]1CC[C@@H]2O"),
    "CN(C)CCCN1c2ccccc2Sc2ccc(Cl)cc21",
]


@pytest.mark.parametrize("method", ["scaffold", "temporal", "lsh"])
def test_a_series_is_all_compounds_of_one_scaffold_family(make_partner, method):
    t1 = "input_compound_id,input_assay_id,standard_qualifier,standard_value\n"
    t1 += "".join(f"{n},1,=,1\n" for n in range(1, len(MANY) + 1))
    t2 = "input_compound_id,smiles,registered\n"
    t2 += "".join(f"{n},{smiles},20{n + 9}-01-01\n" for n, smiles in enumerate(MANY, 1))
    toml = TEMPORAL if method == "temporal" else f'[tables]\ndate = "registered"\n[folds]\nmethod = "{method}"'
    partner = make_partner(t1=t1, t2=t2, toml=toml)
    prepare(partner)
    data = PreparedData.open(partner.path("data"))
    smiles = [one["smiles"] for one in rows_of(data.folder / "compounds.csv")]
    assert len(smiles) == len(MANY)
    if method == "lsh":
        assert data.series is None
        return
    assert data.series.dtype == np.int32
    families = [fold_scaffold(one) for one in smiles]
    same = np.equal.outer(families, families)
    assert np.array_equal(np.equal.outer(data.series, data.series), same)
    assert set(data.series.tolist()) == set(range(len(set(families))))
    # RDKit by itself: the scaffold's rings, where there are few enough.
    few = [n for n, one in enumerate(smiles) if rdMolDescriptors.CalcNumRings(Chem.MolFromSmiles(one)) <= 3]
    murcko = [MurckoScaffold.MurckoScaffoldSmiles(smiles[n]) for n in few]
    assert np.array_equal(np.equal.outer(murcko, murcko), same[np.ix_(few, few)])
    assert murcko.count("") == 3
    assert len(few) == len(MANY) - 2


@pytest.mark.parametrize("method", ["scaffold", "lsh", "temporal"])
def test_days_are_the_earliest_of_each_compound_whatever_decides_the_folds(make_partner, method):
    toml = TEMPORAL if method == "temporal" else f'[tables]\ndate = "registered"\n[folds]\nmethod = "{method}"'
    partner = make_partner(t2=dated(DATES), toml=toml)
    prepare(partner)
    data = PreparedData.open(partner.path("data"))
    expected = {
        "CC(=O)Oc1ccccc1C(=O)O": date(2015, 1, 1),
        "CCO": date(2014, 12, 31),
        "CC(=O)O": date(2014, 1, 1),
        "c1ccc2ccccc2c1": None,
    }
    if method == "temporal":
        del expected["c1ccc2ccccc2c1"]
    days = {smiles: NO_DATE if one is None else (one - date(1970, 1, 1)).days for smiles, one in expected.items()}
    assert data.days.dtype == np.int32
    assert by_smiles(data, data.days) == days


def test_without_a_column_of_dates_there_are_no_days(prepared):
    _, manifest, data = prepared
    assert data.days is None
    assert manifest["sizes"]["days"] == 0
    assert manifest["sizes"]["series"] == 4


def test_neither_series_nor_days_are_shown_to_others(make_partner):
    """The same settings and other compounds and dates: the agreement is the same to the byte."""
    shown = []
    for t2 in (dated(DATES), dated({"1": "1999-09-09"}).replace("CCO\n", "Cc1ccncc1\n")):
        partner = make_partner(t2=t2, toml='[tables]\ndate = "registered"')
        prepare(partner)
        shown.append((partner.path("data") / "agreement.json").read_bytes())
    assert shown[0] == shown[1]


def test_real_assays(shared_data, make_partner):
    """A few hundred ChEMBL measurements: everything fits together on text that nobody made up."""
    folder = shared_data / "chembl22"
    if not folder.is_dir():
        pytest.skip(f"no folder {folder}")
    with gzip.open(folder / "T1.csv.gz", "rt") as file:
        t1 = [line for line in file if line.split(",")[1] in {"input_assay_id", "1", "2"}][:250]
    ids = {line.split(",")[0] for line in t1}
    with gzip.open(folder / "T2.csv.gz", "rt") as file:
        t2 = [line for line in file if line.split(",")[0] in ids]
    partner = make_partner(t0=(folder / "T0.csv").read_text(), t1="".join(t1), t2="".join(t2))
    manifest = prepare(partner)
    counts = manifest["counts"]
    assert counts["activities"]["read"] == len(t1) - 1
    assert counts["activities"]["read"] == counts["activities"]["kept"] + sum(counts["activities"]["dropped"].values())
    PreparedData.open(partner.path("data")).verify()
    assert json.loads((partner.path("data") / "manifest.json").read_text()) == manifest


LONG = "smiles,assay,value\nCCO,a,0.5\nCCN,a,2\n"
LONG_TOML = '[tables]\nform = "long"\nfiles = ["long.csv"]\n{}[tables.assay_defaults]\nexpert_thresholds = [1.0]'


@pytest.mark.parametrize("listed", [True, False])
def test_a_long_table_without_a_list_of_assays_has_data_derived_tasks(make_partner, tmp_path, listed):
    partner = make_partner(toml=LONG_TOML.format('assays = ["a", "b"]\n' if listed else ""))
    found = []
    for more in ("", "CCCCl,b,3\n"):
        (tmp_path / "long.csv").write_text(LONG + more)
        manifest = prepare(partner)
        data = PreparedData.open(partner.path("data"))
        found.append([(task.task, task.column, task.training_weight) for task in data.tasks])
        assert manifest["data_derived_assays"] == ([] if listed else ["a", "b"][: 2 if more else 1])
        assert all(task.data_derived != listed for task in data.tasks)
    # What the row of a new assay adds is a task only where the list follows from the rows.
    assert (found[0] == found[1]) == listed


def test_a_compound_whose_bits_fail_later_is_dropped_and_tried_again(make_partner, monkeypatch):
    partner = make_partner()
    whole = prepare(partner)
    again = make_partner(toml="[fingerprint]\nradius = 2")
    real = compounds_module.work

    def work(task, batches, recipe, *, workers):
        for batch, results in real(task, batches, recipe, workers=workers):
            yield batch, [Molecule(reason="timed_out") if one.smiles == "CCO" else one for one in results]

    monkeypatch.setattr(compounds_module, "work", work)
    manifest = prepare(again)
    assert manifest["counts"]["structures"]["dropped"]["timed_out"] == 1
    assert manifest["sizes"]["compounds"] == whole["sizes"]["compounds"] - 1
    monkeypatch.undo()
    assert prepare(again)["sizes"]["compounds"] == whole["sizes"]["compounds"]


def test_folders_are_for_their_owner_alone(prepared):
    partner, _, data = prepared
    assert stat.S_IMODE(data.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((partner.path("cache") / "structures.sqlite").stat().st_mode) == 0o600


def test_a_new_cache_folder_is_for_its_owner_alone(make_partner):
    partner = make_partner(toml='cache = "other"')
    prepare(partner)
    assert stat.S_IMODE(partner.path("other").stat().st_mode) == 0o700


def test_a_cache_that_is_damaged_inside_is_named(make_partner):
    partner = make_partner()
    prepare(partner)
    path = partner.path("cache") / "structures.sqlite"
    content = bytearray(path.read_bytes())
    content[20_000:] = b"\xa5" * (len(content) - 20_000)
    path.write_bytes(content)
    with pytest.raises(DataError, match="Delete that file") as caught:
        prepare(partner)
    assert caught.value.code == "PFL-D12"


@pytest.mark.parametrize("where", ["cache", "data"])
def test_a_place_that_cannot_be_written_has_a_code(make_partner, tmp_path, where):
    partner = make_partner(toml='cache = "file/cache"' if where == "cache" else 'data = "file/data"')
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(DataError) as caught:
        prepare(partner)
    assert caught.value.code == "PFL-D10"


@pytest.mark.parametrize("cache", ["data", "./data", "data/cache", "."])
def test_a_cache_within_the_data_is_refused(make_partner, cache):
    with pytest.raises(ConfigError, match="folders of their own"):
        make_partner(toml=f'cache = "{cache}"')


def test_remarks_say_what_training_will_refuse(make_partner, tmp_path):
    assert prepare(make_partner())["remarks"] == []
    (tmp_path / "wide.csv").write_text("smiles,tox,logD\nCCO,1,0.5\nCCN,0,2\n")
    toml = '[tables]\nform = "wide"\nfiles = ["wide.csv"]\n[fingerprint]\ncounts = true'
    remarks = prepare(make_partner(toml=toml))["remarks"]
    assert [remark.partition(" hold")[0] for remark in remarks[:1]] == ["1 assay (tox)"]
    assert "2 assays (logD, tox) (PFL-P04)" in remarks[1]
    assert len(remarks) == 2


def test_temporal_folds_want_their_test_fold_named(make_partner):
    with pytest.raises(ConfigError, match="fold 0 is the oldest"):
        make_partner(
            toml='[tables]\ndate = "d"\n[folds]\nmethod = "temporal"\ncount = 3\ncutoffs = [2015-01-01, 2018-01-01]'
        )


def test_a_smiles_of_ten_megabytes_goes_to_the_side_file(make_partner):
    partner = make_partner(t2=T2.replace("\n3,c1ccc2ccccc2c1", "\n3," + "C" * 10_000_000))
    manifest = prepare(partner)
    assert manifest["counts"]["structures"]["dropped"]["too_long"] == 1
    (lost,) = [one for one in rows_of(partner.path("data") / "failed_structures.csv") if one["reason"] == "too_long"]
    assert lost["compound"] == "3"
    assert len(lost["smiles"]) < 1100
