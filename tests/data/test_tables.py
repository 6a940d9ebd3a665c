"""Every way in which a table can be wrong."""

import gzip

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pharma_fl.data.tables import read_tables
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


@pytest.fixture
def read(tmp_path):
    def read_texts(t0=T0, t1=T1, t2=T2):
        paths = []
        for name, texts in (("T0", t0), ("T1", t1), ("T2", t2)):
            parts = [texts] if isinstance(texts, str | bytes) else texts
            files = []
            for number, text in enumerate(parts):
                path = tmp_path / f"{name}-{number}.csv"
                path.write_bytes(text.encode() if isinstance(text, str) else text)
                files.append(path)
            paths.append(files)
        return read_tables(*paths)

    return read_texts


def test_types(read):
    tables = read()
    assert tables.assays["input_assay_id"].tolist() == [1, 2]
    assert tables.assays["is_binary"].tolist() == [True, False]
    assert tables.assays["use_in_regression"].tolist() == [False, True]
    assert tables.assays["direction"].tolist() == ["", "low"]
    assert tables.assays["expert_threshold_1"].tolist()[1] == 6.5
    assert tables.assays["expert_threshold_5"].isna().all()
    dtypes = {name: str(dtype) for name, dtype in tables.activities.dtypes.items()}
    assert dtypes == {
        "input_compound_id": "int64",
        "input_assay_id": "int64",
        "standard_qualifier": dtypes["standard_qualifier"],
        "standard_value": "float64",
    }
    assert tables.activities["standard_qualifier"].tolist() == ["", ">="]
    assert tables.structures["smiles"].tolist() == ["CCO", "CCN"]


def test_several_files_gzip_byte_order_mark_blank_lines_and_other_columns(read, tmp_path):
    tables = read(
        t0=b"\xef\xbb\xbf" + T0.encode(),
        t1=[T1, f'{T1_HEADER},note\n\n10.0,2,<,5,"a, b"\n'],
        t2="smiles,x,input_compound_id\nCCO,1,10\n CCN ,2,11\n",
    )
    assert tables.activities["standard_value"].tolist() == [1, 6.25, 5]
    assert tables.structures["smiles"].tolist() == ["CCO", "CCN"]
    zipped = tmp_path / "T2.csv.gz"
    zipped.write_bytes(gzip.compress(T2.encode()))
    again = read_tables([tmp_path / "T0-0.csv"], [tmp_path / "T1-0.csv"], [zipped])
    assert again.structures["input_compound_id"].tolist() == [10, 11]


def test_numbers_are_read_to_the_last_place(read):
    value = "0.1234567890123456789"
    assert read(t1=f"{T1_HEADER}\n10,1,,{value}\n").activities["standard_value"].tolist() == [float(value)]


@pytest.mark.parametrize(
    ("table", "text", "found"),
    [
        ("t0", T0.replace("assay_type", "kind"), "T0-0.csv line 1, column assay_type: column is missing"),
        ("t0", T0.replace("direction", "is_binary"), "line 1, column is_binary: column is there 2 times"),
        ("t1", f"{T1_HEADER}\n10,1,,1,9\n", "T1-0.csv line 2, column (row): expected 4 fields, got 5"),
        ("t1", f'{T1_HEADER}\n10,1,,"1\n', "column (file): not a CSV table"),
        (
            "t0",
            T0.replace("ADME", "CATALOG-PANEL"),
            "T0-0.csv line 2, column assay_type: assay type 'CATALOG-PANEL' is",
        ),
        ("t0", T0.replace("ADME", "AUX_HTS"), "'AUX_HTS' is not supported yet"),
        ("t0", T0.replace("ADME", "AUX_PL"), "'AUX_PL' is not supported yet"),
        ("t0", T0.replace("ADME", "PANEL"), "expected one of ADME, OTHER, NON-CATALOG-PANEL, got 'PANEL'"),
        ("t0", T0.replace("low", "up"), "T0-0.csv line 3, column direction: expected high, low or nothing, got 'up'"),
        ("t0", T0.replace("True", "maybe"), "T0-0.csv line 3, column use_in_regression: expected true or false"),
        ("t0", T0.replace("6.5", "six"), "line 3, column expert_threshold_1: expected a finite number, got 'six'"),
        ("t0", T0.replace("6.5", "nan"), "column expert_threshold_1: expected a finite number, got 'nan'"),
        ("t0", T0.replace("\n2,", "\n1,"), "T0-0.csv line 3, column input_assay_id: id '1' is there a second time"),
        ("t0", T0.replace("false,true", "true,true"), "column use_in_regression: expected false for a binary assay"),
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


@pytest.mark.parametrize("content", [None, b"no gzip", gzip.compress(T2.encode())[:-12]])
def test_a_missing_or_damaged_gzip_file_is_refused(read, tmp_path, content):
    read()
    path = tmp_path / "T2.csv.gz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_tables([tmp_path / "T0-0.csv"], [tmp_path / "T1-0.csv"], [path])
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
        tables = read_tables(*([path] for path in files))
    except DataError as error:
        code = error.code
    assert code in {None, "PFL-D01", "PFL-D02"}
    if tables is not None:
        assert tables.activities["input_assay_id"].isin([1, 2]).all()
        assert tables.activities["standard_value"].abs().max() < float("inf")
