"""From a partner's tables to its data folder."""

import csv
import gzip
import json
import sys

import numpy as np
import pytest

from pharma_fl.config import StructureSettings
from pharma_fl.data.fingerprints import bit_permutation, bit_positions
from pharma_fl.data.folds import fold_of, fold_scaffold
from pharma_fl.data.matrices import PreparedData
from pharma_fl.data.molecules import molecules
from pharma_fl.data.prepare import compound_id, prepare
from pharma_fl.errors import DataError

SECRET = b"secret of the tests"
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
    assert [one["compound_id"] for one in compounds] == sorted(compound_id(smiles) for smiles in KEPT)


def test_bits_and_folds_are_those_of_each_structure(prepared):
    partner, _, data = prepared
    permutation = bit_permutation(SECRET, 32_000)
    x = data.x()
    assert x.shape == (4, 32_000)
    for row, one in enumerate(rows_of(data.folder / "compounds.csv")):
        expected = bit_positions(one["smiles"], partner.structures, permutation)
        assert x.indices[x.indptr[row] : x.indptr[row + 1]].tolist() == expected.tolist()
        assert data.folds[row] == fold_of(fold_scaffold(one["smiles"]), SECRET, 5)


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
        {"input_compound_id": "6", "smiles": "not a molecule", "reason": "unparsable"},
        {"input_compound_id": "7", "smiles": "CCN", "reason": "no_usable_activity"},
        {"input_compound_id": "8", "smiles": "CCCC", "reason": "not_measured"},
    ]
    assert [(one["input_compound_id"], one["reason"]) for one in rows_of(data.folder / "failed_activities.csv")] == [
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
        (compound_id("CC(=O)Oc1ccccc1C(=O)O"), "5.5", "-1"),
        (compound_id("CC(=O)Oc1ccccc1C(=O)O"), "6.0", "-1"),
    ]
    assert manifest["counts"]["labels"] == {"read": 6, "kept": 4, "dropped": {"ambiguous": 2}}


def test_the_manifest_names_versions_settings_and_never_the_key(prepared):
    partner, manifest, data = prepared
    assert set(manifest["versions"]) == {"pharma_fl", "rdkit", "numpy"}
    assert manifest["settings"]["structures"] == partner.structures.model_dump()
    assert set(manifest["digests"]) == {"structures", "fingerprints", "folds", "activities"}
    for path in data.folder.iterdir():
        assert SECRET not in path.read_bytes()
    data.verify()


def test_digests_show_which_step_differs(make_partner):
    plain = prepare(make_partner())["digests"]
    other_bits = prepare(make_partner(toml="[structures]\nbits = 2048"))["digests"]
    other_key = prepare(make_partner(key="another"))["digests"]
    assert {name for name in plain if plain[name] != other_bits[name]} == {"fingerprints"}
    assert {name for name in plain if plain[name] != other_key[name]} == {"fingerprints", "folds"}


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
    monkeypatch.setattr("pharma_fl.data.writing.write_tasks", lambda path, tasks: path.rename("/nowhere/at all"))
    with pytest.raises(FileNotFoundError):
        prepare(make_partner(key="another"))
    assert {path.name: path.read_bytes() for path in partner.path("data").iterdir()} == before
    assert not list(partner.path("data").parent.glob(".data.*"))


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
    partner = make_partner(toml='data = "."')
    with pytest.raises(DataError, match="PFL-D08"):
        prepare(partner)
    assert partner.path("T0.csv").exists()


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


def test_processes_give_what_one_process_gives():
    smiles = ["C" * length + "O" for length in range(1, 66)] + ["garbled"]
    settings = StructureSettings(bits=512)
    seen = []
    alone = molecules(smiles, settings, progress=lambda done, total: seen.append((done, total)))
    many = molecules(smiles, settings, workers=2)
    assert [(one.smiles, one.scaffold, one.reason, one.raw_bits.tolist()) for one in alone] == [
        (one.smiles, one.scaffold, one.reason, one.raw_bits.tolist()) for one in many
    ]
    assert seen == [(64, 66), (66, 66)]
    assert alone[-1].reason == "unparsable"


def test_equal_smiles_are_standardised_once(make_partner, monkeypatch):
    asked = []

    def counted(texts, settings, **rest):
        asked.extend(texts)
        return molecules(texts, settings, **rest)

    # The package exports the function under the module's name.
    monkeypatch.setattr(sys.modules["pharma_fl.data.prepare"], "molecules", counted)
    t2 = "input_compound_id,smiles\n" + "".join(f"{number},CCO\n" for number in range(1, 9))
    partner = make_partner(t2=t2)
    manifest = prepare(partner)
    assert asked == ["CCO"]
    assert manifest["sizes"]["compounds"] == 1


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
