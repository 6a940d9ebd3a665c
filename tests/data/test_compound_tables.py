"""The wide and the long form say what T0, T1 and T2 would."""

import math

import pytest

from pharma_fl.config import AssaySettings, LongTables, WideTables
from pharma_fl.data.cells import NO_DATE
from pharma_fl.data.compound_tables import read_long_tables, read_wide_tables
from pharma_fl.data.tables import QUALIFIER_TEXTS
from pharma_fl.errors import DataError

BINARY = AssaySettings(is_binary=True)
WIDE = "id,smiles,tox,logD,when\nA1,CCO,1,<2.5,2020-01-02\nA2,CCN,0,,\nA3,CCC,,-3e-1,\n"
LONG = "smiles,assay,value,q,id,when\nCCO,tox,1,,A1,2020-01-02\nCCO,logD,2.5,<,A1,2019-01-02\nCCN,tox,0,=,A2,\n"


@pytest.fixture
def wide(tmp_path):
    def read(text=WIDE, **settings):
        (tmp_path / "wide.csv").write_text(text)
        facts = {"files": ["wide.csv"], "compound": "id", "date": "when", "assay_settings": {"tox": BINARY}}
        settings = WideTables(form="wide", **(facts | settings))
        return read_wide_tables(settings, lambda name: tmp_path / name, tmp_path / "spool")

    return read


@pytest.fixture
def long(tmp_path):
    def read(text=LONG, **settings):
        (tmp_path / "long.csv").write_text(text)
        facts = {"files": ["long.csv"], "compound": "id", "date": "when", "assay_settings": {"tox": BINARY}}
        settings = LongTables(form="long", **(facts | {"qualifier": "q"} | settings))
        return read_long_tables(settings, lambda name: tmp_path / name, tmp_path / "spool")

    return read


def measurements(tables):
    """(assay, compound, qualifier, value) of each measurement, sorted."""
    numbers = tables.activities.numbers
    return sorted(
        (tables.assays["assay"][a], tables.structures.texts["compound"][int(s)], QUALIFIER_TEXTS[q], float(v))
        for a, s, q, v in zip(*(numbers[name] for name in ("assay", "structure", "qualifier", "value")), strict=True)
    )


def test_wide(wide):
    tables = wide()
    assert tables.assays["assay"].tolist() == ["logD", "tox"]
    assert tables.assays["is_binary"].tolist() == [False, True]
    assert measurements(tables) == [
        ("logD", "A1", "<", 2.5),
        ("logD", "A3", "", -0.3),
        ("tox", "A1", "", 1.0),
        ("tox", "A2", "", -1.0),
    ]
    assert tables.structures.texts["smiles"].between(0, 9) == ["CCO", "CCN", "CCC"]
    assert tables.structures["day"].tolist() == [18263, NO_DATE, NO_DATE]


def test_long(long):
    tables = long()
    assert tables.assays["assay"].tolist() == ["logD", "tox"]
    assert measurements(tables) == [("logD", "A1", "<", 2.5), ("tox", "A1", "", 1.0), ("tox", "A2", "=", -1.0)]
    assert tables.structures.texts["smiles"].between(0, 9) == ["CCO", "CCN"]
    # The earlier of two dates.
    assert tables.structures["day"].tolist() == [17898, NO_DATE]


def test_both_forms_agree(wide, long):
    text = "smiles,assay,value,q,id,when\nCCO,tox,1,,A1,2020-01-02\nCCO,logD,2.5,<,A1,\n"
    text += "CCN,tox,0,,A2,\nCCC,logD,-0.3,,A3,\n"
    assert measurements(long(text)) == measurements(wide())


def test_the_order_of_long_rows_does_not_matter(long):
    header, *rows = LONG.splitlines()
    again = long("\n".join([header, *reversed(rows)]) + "\n")
    assert measurements(again) == measurements(long())
    assert again.assays["assay"].tolist() == ["logD", "tox"]


def test_without_ids_the_smiles_is_the_compound(wide, long):
    tables = long(compound=None)
    assert tables.structures.texts["smiles"].between(0, 9) == ["CCO", "CCN"]
    assert tables.structures.texts["compound"].between(0, 9) == ["1", "2"]
    assert wide("smiles,tox\nCCO,1\n", compound=None, date=None).structures.texts["compound"][0] == "1"


def test_a_qualifier_may_stand_before_the_value(long):
    text = LONG.replace("2.5,<", ">= 2.5,")
    assert measurements(long(text, qualifier=None))[0] == ("logD", "A1", ">=", 2.5)


def test_settings_of_assays(wide):
    some = AssaySettings(assay_type="OTHER", expert_thresholds=(6.5, 5.0), use_in_regression=True, direction="low")
    tables = wide(assay_settings={"tox": BINARY, "logD": some})
    row = tables.assays.iloc[0]
    assert (row["assay_type"], row["direction"], row["use_in_regression"]) == ("OTHER", "low", True)
    assert (row["expert_threshold_1"], row["expert_threshold_2"]) == (5.0, 6.5)
    assert math.isnan(row["expert_threshold_3"])


def test_listed_columns_alone_are_assays(wide):
    assert wide(assays=["tox"]).assays["assay"].tolist() == ["tox"]


@pytest.mark.parametrize(
    ("text", "settings", "found"),
    [
        (
            WIDE.replace("<2.5", "high"),
            {},
            "line 2, column logD: expected a finite number, with or without a qualifier",
        ),
        (WIDE.replace("<2.5", "inf"), {}, "line 2, column logD: expected a finite number"),
        (WIDE.replace("-3e-1", "NaN"), {}, "line 4, column logD: expected a finite number"),
        (WIDE, {"assay_settings": {"toxx": BINARY}}, "toxx: no such assay, but partner.toml: tables.assay_settings"),
        (WIDE, {"compound": "name"}, "line 1, column name: column is missing"),
        (WIDE.replace("logD", "tox"), {}, "line 1, column tox: column is there 2 times"),
        ("id,smiles,when\nA,CCO,\n", {"assay_settings": {}}, "no column is an assay"),
    ],
)
def test_a_wrong_wide_table(wide, text, settings, found):
    with pytest.raises(DataError) as caught:
        wide(text, **settings)
    assert caught.value.code == "PFL-D02"
    assert found in str(caught.value)


@pytest.mark.parametrize(
    ("text", "settings", "found"),
    [
        (LONG.replace("2.5", "x"), {}, "line 3, column value: expected a finite number"),
        (LONG.replace("2.5", ""), {}, "line 3, column value: expected a finite number"),
        (LONG.replace("2.5", "<2.5"), {}, "expected a number, as there is a column of qualifiers, got '<2.5'"),
        (LONG.replace(",<,", ",less,"), {}, "line 3, column q: expected one of = ~ < <= << > >= >> or nothing"),
        (LONG.replace("CCO,logD", "CCCO,logD"), {}, "line 3, column smiles: the compound has another SMILES"),
        (LONG.replace(",logD,", ",,"), {}, "line 3, column assay: expected a name"),
        (LONG.replace("2019-01-02", "2.1.2019"), {}, "line 3, column when: expected a date"),
        (LONG, {"assay_settings": {"other": BINARY}}, "other: no such assay"),
    ],
)
def test_a_wrong_long_table(long, text, settings, found):
    with pytest.raises(DataError) as caught:
        long(text, **settings)
    assert caught.value.code == "PFL-D02"
    assert found in str(caught.value)


def test_listed_assays_do_not_depend_on_what_is_measured(long):
    first, second = (long(text, assays=["tox", "logD", "other"]) for text in (LONG, LONG.replace(",logD,", ",tox,")))
    assert first.assays["assay"].tolist() == second.assays["assay"].tolist() == ["logD", "other", "tox"]
    assert first.listed
    with pytest.raises(DataError, match=r"line 3, column assay: assay 'logD' is not listed"):
        long(assays=["tox"])


def test_assays_that_the_rows_tell_are_not_listed(long, wide):
    assert not long().listed
    assert wide().listed


def test_names_with_control_characters_are_refused(long, wide):
    with pytest.raises(DataError, match="without control characters"):
        long(LONG.replace(",logD,", ',"log\rD",'))
    with pytest.raises(DataError, match="without control characters"):
        wide(WIDE.replace(",logD,", ',"log\tD",'))


def test_a_name_twice_is_refused():
    with pytest.raises(ValueError, match="each name once"):
        WideTables(form="wide", files=["x"], assays=["a", "a"])


def test_many_columns_are_read_as_few(wide):
    names = [f"a{number:04}" for number in range(3000)]
    row = ["<5" if number % 7 == 3 else "" for number in range(3000)]
    tables = wide(f"smiles,{','.join(names)}\nCCO,{','.join(row)}\n", compound=None, date=None, assay_settings={})
    assert tables.activities["assay"].tolist() == list(range(3, 3000, 7))
    assert set(tables.activities["value"]) == {5.0}
    with pytest.raises(DataError, match=r"line 2, column a0003: expected a finite number"):
        wide(
            f"smiles,{','.join(names)}\nCCO,{','.join(row)}\n".replace("<5", "x", 1),
            compound=None,
            date=None,
            assay_settings={},
        )


def test_a_column_of_qualifiers_is_not_overlooked(long):
    text = LONG.replace(",q,", ",qualifier,")
    with pytest.raises(DataError, match=r'set qualifier = "qualifier", or "" to ignore it'):
        long(text, qualifier=None)
    assert [one[2] for one in measurements(long(text, qualifier="qualifier"))] == ["<", "", "="]
    assert [one[2] for one in measurements(long(text, qualifier=""))] == ["", "", ""]


def test_a_column_of_long_texts_is_told_in_few_words(wide):
    rows = "".join(f"A{n},CCO,{'x' * 10_000},,\n" for n in range(250))
    with pytest.raises(DataError) as caught:
        wide("id,smiles,tox,logD,when\n" + rows)
    assert "250 problems" in str(caught.value)
    assert "and 150 more" in str(caught.value)
    assert len(str(caught.value)) < 40_000
