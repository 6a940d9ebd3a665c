"""CSV and Parquet files as text, and everything that a file can be."""

import gzip

import numpy as np
import pandas as pd
import pytest

from pharma_fl.data import table_files
from pharma_fl.data.problems import FILE, LINE, Problems
from pharma_fl.data.table_files import read_header, read_pieces
from pharma_fl.errors import DataError


@pytest.fixture
def read(tmp_path):
    def read_content(content, *, name="table.csv", required=("a", "b"), **rest):
        path = tmp_path / name
        path.write_bytes(content)
        problems = Problems()
        whole = [piece.drop(columns=FILE).to_dict("list") for piece in read_pieces([path], required, problems, **rest)]
        problems.raise_if_any()
        return whole

    return read_content


def test_rows_know_their_lines(read):
    content = b'\xef\xbb\xbfb, a ,c\r\n1, x ,2\r\n\r\n,,\r\n2,"q\n,r",3\r\n'
    assert read(content) == [{"a": ["x", "q\n,r"], "b": ["1", "2"], LINE: [2, 5]}]


def test_pieces_continue_the_count(read, monkeypatch):
    monkeypatch.setattr(table_files, "_ROWS_AT_ONCE", 2)
    pieces = read(b"a,b\n" + b"".join(b"%d,x\n" % n for n in range(5)))
    assert [piece[LINE] for piece in pieces] == [[2], [3, 4], [5, 6]]


def test_every_row_that_is_too_long_is_named(read):
    with pytest.raises(DataError) as caught:
        read(b"a,b\n1,2\n1,2,3\n4,5\n1,2,3,4\n6\n")
    assert "2 problems" in str(caught.value)
    assert "line 3, column (row): expected 2 fields, got 3" in str(caught.value)
    assert "line 5, column (row): expected 2 fields, got 4" in str(caught.value)


def test_an_optional_column_may_be_missing(read):
    assert read(b"a,b\n1,2\n", optional=("c",)) == [{"a": ["1"], "b": ["2"], "c": [""], LINE: [2]}]


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("empty.csv", b"", "PFL-D01"),
        ("mark.csv", b"\xef\xbb\xbf", "PFL-D01"),
        ("header.csv", b"a,b\n", "PFL-D01"),
        ("latin.csv", "a,b\n1,é\n".encode("latin1"), "PFL-D01"),
        ("utf16.csv", "a,b\n1,2\n".encode("utf-16"), "PFL-D01"),
        ("zip.csv.gz", b"nope", "PFL-D01"),
        ("cut.csv.gz", gzip.compress(b"a,b\n" + b"1,2\n" * 1000, mtime=0)[:-20], "PFL-D01"),
        ("bad.parquet", b"PAR1nope", "PFL-D01"),
        ("twice.csv", b"a,b,a\n1,2,3\n", "PFL-D02"),
        ("lacks.csv", b"a,c\n1,2\n", "PFL-D02"),
        ("quote.csv", b'a,b\n1,"2\n3,4\n', "PFL-D02"),
    ],
)
def test_what_is_no_table_is_refused_by_name(read, name, content, code):
    with pytest.raises(DataError, match=name) as caught:
        read(content, name=name)
    assert caught.value.code == code


def test_a_field_of_ten_megabytes_is_read(read):
    (piece,) = read(b"a,b\n1," + b"C" * 10_000_000 + b"\n2,x\n")
    assert [len(text) for text in piece["b"]] == [10_000_000, 1]


def test_parquet_says_what_csv_would(tmp_path):
    path = tmp_path / "table.parquet"
    pd.DataFrame(
        {
            "a": [1, 2, 3],
            "b": [0.1, np.nan, 12.0],
            "c": pd.Categorical([" x ", None, "y"]),
            "d": pd.to_datetime(["2020-01-31", None, "2021-02-03"]),
            "e": [True, False, True],
        }
    ).to_parquet(path)
    assert read_header(path) == list("abcde")
    (piece,) = read_pieces([path], list("abcde"), Problems())
    assert piece.drop(columns=FILE).to_dict("list") == {
        "a": ["1", "2", "3"],
        "b": ["0.1", "", "12"],
        "c": ["x", "", "y"],
        "d": ["2020-01-31", "", "2021-02-03"],
        "e": ["true", "false", "true"],
        LINE: [1, 2, 3],
    }


def test_a_wrong_cell_of_a_parquet_file_has_a_row_not_a_line(tmp_path):
    path = tmp_path / "table.parquet"
    pd.DataFrame({"a": ["x"]}).to_parquet(path)
    problems = Problems()
    (piece,) = read_pieces([path], ["a"], problems)
    problems.add_rows(piece, np.array([True]), "a", lambda v: f"bad {v}")
    with pytest.raises(DataError, match=r"table\.parquet row 1, column a: bad 'x'"):
        problems.raise_if_any()


def test_columns_of_parquet_that_are_not_asked_for_may_hold_anything(tmp_path):
    path = tmp_path / "table.parquet"
    pd.DataFrame({"x": [[1], [2]], "a": [1, 2], "y": [b"\xff", b"\x00"]}).to_parquet(path)
    (piece,) = read_pieces([path], ["a"], Problems())
    assert piece["a"].tolist() == ["1", "2"]


def test_a_header_that_cannot_be_read_is_an_error(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text('smiles,"a')
    with pytest.raises(DataError, match="not a CSV table"):
        read_header(path)
