"""Every way in which a table can be wrong."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pharma_fl.config import TunerTables
from pharma_fl.data.cells import NO_DATE
from pharma_fl.data.tables import QUALIFIER_TEXTS, read_tuner_tables
from pharma_fl.errors import DataError

T0_HEADER = (
    "input_assay_id,assay_type,use_in_regression,is_binary,expert_threshold_1,expert_threshold_2,"
    "expert_threshold_3,expert_threshold_4,expert_threshold_5,direction"
)
T0 = f"{T0_HEADER}\n1,ADME,false,true,,,,,,\n2,OTHER,True,0,6.5,,,,,low\n"
T1_HEADER = "input_compound_id,input_assay_id,standard_qualifier,standard_value"
T1 = f"{T1_HEADER}\n10,1,,1\n11,2,>=,6.25\n"
T2_HEADER = "input_compound_id,smiles"
T2 = f"{T2_HEADER}\n10,CCO\n11,CCN\n"


T_CAT_HEADER = (
    "catalog_assay_id,catalog_task_id,threshold,threshold_method,expert_threshold_1,expert_threshold_2,"
    "expert_threshold_3,expert_threshold_4,expert_threshold_5"
)
T_CAT = f"{T_CAT_HEADER}\n7,71,5,expert,5,6,,,\n7,72,6,expert,5,6,,,\n"
T0_CATALOGUE = f"{T0_HEADER},catalog_assay_id\n1,ADME,false,true,,,,,,,\n2,CATALOG-PANEL,true,false,,,,,,high,7\n"


def read_files(t0, t1, t2, t_cat=(), *, spool, **settings):
    kinds = {"assays": t0, "activities": t1, "structures": t2, "catalogue": t_cat}
    files = {kind: tuple(str(path) for path in paths) for kind, paths in kinds.items()}
    return read_tuner_tables(TunerTables(**files, **settings), Path, spool)


def ids(tables):
    return tables.structures.texts["compound"].between(0, 99)


def smiles(tables):
    return tables.structures.texts["smiles"].between(0, 99)


@pytest.fixture
def read(tmp_path):
    def read_texts(t0=T0, t1=T1, t2=T2, t_cat=(), **settings):
        paths = []
        for name, texts in (("T0", t0), ("T1", t1), ("T2", t2), ("T_cat", t_cat)):
            parts = [texts] if isinstance(texts, str | bytes) else texts
            files = []
            for number, text in enumerate(parts):
                path = tmp_path / f"{name}-{number}.csv"
                path.write_bytes(text.encode() if isinstance(text, str) else text)
                files.append(path)
            paths.append(files)
        return read_files(*paths, spool=tmp_path / "spool", **settings)

    return read_texts


def test_types(read):
    tables = read()
    assert tables.assays["assay"].tolist() == ["1", "2"]
    assert tables.assays["catalog_assay_id"].isna().all()
    assert tables.assays["is_binary"].tolist() == [True, False]
    assert tables.assays["use_in_regression"].tolist() == [False, True]
    assert tables.assays["direction"].tolist() == ["", "low"]
    assert tables.assays["expert_threshold_1"].tolist()[1] == 6.5
    assert tables.assays["expert_threshold_5"].isna().all()
    assert {name: str(column.dtype) for name, column in tables.activities.numbers.items()} == {
        "assay": "int32",
        "structure": "int32",
        "qualifier": "int8",
        "value": "float64",
    }
    assert tables.activities["assay"].tolist() == [0, 1]
    assert tables.activities["structure"].tolist() == [0, 1]
    assert [QUALIFIER_TEXTS[code] for code in tables.activities["qualifier"]] == ["", ">="]
    assert smiles(tables) == ["CCO", "CCN"]
    assert ids(tables) == ["10", "11"]


def test_assays_are_numbered_by_id_whatever_their_order(read):
    tables = read(t0="\n".join([T0_HEADER, *reversed(T0.splitlines()[1:])]) + "\n")
    assert tables.assays["assay"].tolist() == ["1", "2"]
    assert tables.activities["assay"].tolist() == [0, 1]


def test_a_binary_assay_is_never_a_regression(read):
    assert read(t0=T0.replace("false,true", "true,true")).assays["use_in_regression"].tolist() == [False, True]


def test_a_catalogue_is_read_and_its_assays_need_it(read):
    tables = read(t0=T0_CATALOGUE, t_cat=T_CAT)
    assert tables.assays["catalog_assay_id"].tolist()[1] == 7
    assert tables.catalogue["catalog_task_id"].tolist() == [71, 72]
    with pytest.raises(DataError, match=r"line 3, column assay_type: 'CATALOG-PANEL' needs the consortium's catalogue"):
        read(t0=T0_CATALOGUE)


def test_dates_become_days(read):
    t2 = f"{T2_HEADER},when\n10,CCO,1970-01-03\n11,CCN,\n12,CCC,1969-12-31T23:00\n"
    assert read(t2=t2, date="when").structures["day"].tolist() == [2, NO_DATE, -1]
    with pytest.raises(DataError, match=r"line 2, column when: expected a date like 2019-03-31, got '3.1.1970'"):
        read(t2=t2.replace("1970-01-03", "3.1.1970"), date="when")
    with pytest.raises(DataError, match="expected a date"):
        read(t2=t2.replace("1970-01-03", "1970-02-30"), date="when")


def test_several_files_gzip_byte_order_mark_blank_lines_and_other_columns(read, tmp_path):
    tables = read(
        t0=b"\xef\xbb\xbf" + T0.encode(),
        t1=[T1, f'{T1_HEADER},note\n\n10.0,2,<,5,"a, b"\n'],
        t2="smiles,x,input_compound_id\nCCO,1,10\n CCN ,2,11\n",
    )
    assert tables.activities["value"].tolist() == [1, 6.25, 5]
    assert smiles(tables) == ["CCO", "CCN"]
    zipped = tmp_path / "T2.csv.gz"
    zipped.write_bytes(gzip.compress(T2.encode(), mtime=0))
    again = read_files([tmp_path / "T0-0.csv"], [tmp_path / "T1-0.csv"], [zipped], spool=tmp_path / "again")
    assert ids(again) == ["10", "11"]


def test_numbers_are_read_to_the_last_place(read):
    value = "0.1234567890123456789"
    assert read(t1=f"{T1_HEADER}\n10,1,,{value}\n").activities["value"].tolist() == [float(value)]


@pytest.mark.parametrize(
    ("table", "text", "found"),
    [
        ("t0", T0.replace("assay_type", "kind"), "T0-0.csv line 1, column assay_type: column is missing"),
        ("t0", T0.replace("direction", "is_binary"), "line 1, column is_binary: column is there 2 times"),
        ("t1", f"{T1_HEADER}\n10,1,,1,9\n", "T1-0.csv line 2, column (row): expected 4 fields, got 5"),
        ("t1", f'{T1_HEADER}\n10,1,,"1\n', "column (file): not a CSV table"),
        ("t0", T0.replace("ADME", "PANEL"), "expected one of ADME, OTHER, NON-CATALOG-PANEL, CATALOG-PANEL, AUX_HTS"),
        ("t0", T0.replace("OTHER", "AUX_PL"), "line 3, column is_binary: expected true: AUX_PL assays hold classes"),
        ("t0", T0_CATALOGUE.replace(",7", ","), "line 3, column catalog_assay_id: expected an id for CATALOG-PANEL"),
        (
            "t0",
            T0_CATALOGUE.replace("CATALOG-PANEL", "OTHER"),
            "expected nothing for an assay that is no CATALOG-PANEL",
        ),
        (
            "t_cat",
            T_CAT.replace("72,6", "72,5"),
            "T_cat-0.csv line 3, column threshold: threshold '5' of this assay is",
        ),
        ("t_cat", T_CAT.replace("72,6,expert,5,6", "72,6,expert,5,7"), "expected the same value in every row"),
        ("t_cat", T_CAT.replace("72,6", "x,6"), "T_cat-0.csv line 3, column catalog_task_id: expected a whole number"),
        ("t0", T0.replace("low", "up"), "T0-0.csv line 3, column direction: expected high, low or nothing, got 'up'"),
        ("t0", T0.replace("True", "maybe"), "T0-0.csv line 3, column use_in_regression: expected true or false"),
        ("t0", T0.replace("6.5", "six"), "line 3, column expert_threshold_1: expected a finite number, got 'six'"),
        ("t0", T0.replace("6.5", "nan"), "column expert_threshold_1: expected a finite number, got 'nan'"),
        ("t0", T0.replace("\n2,", "\n1,"), "T0-0.csv line 3, column input_assay_id: id '1' is there a second time"),
        ("t0", T0.replace("true,,", "true,1,"), "column expert_threshold_1: expected nothing for a binary assay"),
        ("t1", T1.replace("6.25", "active"), "line 3, column standard_value: expected a finite number, got 'active'"),
        ("t1", T1.replace("6.25", ""), "line 3, column standard_value: expected a finite number, got ''"),
        ("t1", T1.replace("6.25", "NaN"), "expected a finite number, got 'NaN'"),
        ("t1", T1.replace("6.25", "-inf"), "expected a finite number, got '-inf'"),
        ("t1", T1.replace("6.25", "1e999"), "expected a finite number, got '1e999'"),
        ("t1", T1.replace("6.25", '"6,25"'), "expected a finite number, got '6,25'"),
        ("t1", T1.replace("6.25", "0x10"), "expected a finite number, got '0x10'"),
        ("t1", T1.replace(">=", "=>"), "line 3, column standard_qualifier: expected one of = ~ < <= << > >= >>"),
        ("t1", T1.replace("11,2", "11,3"), "T1-0.csv line 3, column input_assay_id: id '3' is not in T0 (assays)"),
        ("t1", T1.replace("11,2", "12,2"), "line 3, column input_compound_id: id '12' is not in T2 (structures)"),
        ("t1", T1.replace("11,2", "C11,2"), "column input_compound_id: expected a whole number, got 'C11'"),
        ("t1", T1.replace("11,2", "11.5,2"), "expected a whole number, got '11.5'"),
        ("t2", T2 + "10,CC\n", "T2-0.csv line 4, column input_compound_id: id '10' is there a second time"),
        ("t2", T2 + "\n\n,CC\n", "T2-0.csv line 6, column input_compound_id: expected a whole number, got ''"),
    ],
)
def test_bad_rows_are_named(read, table, text, found):
    with pytest.raises(DataError) as caught:
        read(**{table: text})
    assert caught.value.code == "PFL-D02"
    assert found in str(caught.value)


def test_all_problems_are_told_at_once(read):
    with pytest.raises(DataError) as caught:
        read(t0=T0.replace("low", "up"), t1=T1 + "10,9,,x\n", t2=T2 + "x,CC\n10,CCC\n")
    text = str(caught.value)
    assert "5 problems" in text
    for part in (
        "T0-0.csv line 3",
        "T1-0.csv line 4, column standard_value",
        "id '9' is not in",
        "T2-0.csv line 4",
        "T2-0.csv line 5",
    ):
        assert part in text


def test_the_first_hundred_are_listed_and_the_rest_counted(read):
    with pytest.raises(DataError) as caught:
        read(t1=T1 + "10,1,,x\n" * 250)
    assert "250 problems" in str(caught.value)
    assert "and 150 more" in str(caught.value)
    assert str(caught.value).count("column standard_value") == 100


def test_a_second_file_counts_its_own_lines(read):
    with pytest.raises(DataError, match=r"T1-1\.csv line 2, column standard_value"):
        read(t1=[T1, f"{T1_HEADER}\n10,1,,x\n"])


@pytest.mark.parametrize("content", [b"", f"{T1_HEADER}\n".encode(), b"\xff\xfe1,2"])
def test_an_empty_or_unreadable_file_is_refused(read, content):
    with pytest.raises(DataError) as caught:
        read(t1=content)
    assert caught.value.code == "PFL-D01"
    assert "T1-0.csv" in str(caught.value)


@pytest.mark.parametrize("content", [None, b"no gzip", gzip.compress(T2.encode(), mtime=0)[:-12]])
def test_a_missing_or_damaged_gzip_file_is_refused(read, tmp_path, content):
    read()
    path = tmp_path / "T2.csv.gz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_files([tmp_path / "T0-0.csv"], [tmp_path / "T1-0.csv"], [path], spool=tmp_path / "again")
    assert caught.value.code == "PFL-D01"
    assert str(path) in str(caught.value)


CELLS = st.one_of(
    st.sampled_from(
        ["", "1", "10", "11", "2", "-1", "1e5", "nan", "inf", "x", '"', '""', "a,b", " ", "\ufeff", "\0", "<", "="]
    ),
    st.text(max_size=4),
)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.lists(CELLS, max_size=5).map(",".join), max_size=6), st.booleans(), st.binary(max_size=20))
def test_no_text_breaks_the_reader(tmp_path_factory, rows, header, tail):
    """Whatever the bytes are, the answer is a table or an error with a code."""
    folder = tmp_path_factory.mktemp("fuzz")
    files = [folder / name for name in ("T0.csv", "T1.csv", "T2.csv")]
    body = "\n".join([T1_HEADER, *rows] if header else rows)
    for path, content in zip(files, (T0.encode(), body.encode() + tail, T2.encode()), strict=True):
        path.write_bytes(content)
    tables, code = None, None
    try:
        tables = read_files(*([path] for path in files), spool=folder / "spool")
    except DataError as error:
        code = error.code
    assert code in {None, "PFL-D01", "PFL-D02"}
    if tables is not None:
        assert set(tables.activities["assay"].tolist()) <= {0, 1}
        assert set(tables.activities["structure"].tolist()) <= {0, 1}
        assert np.isfinite(tables.activities["value"]).all()
