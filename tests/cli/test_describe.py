"""`pharma-fl describe`: what it prints, draws and refuses."""

import json
import stat

import pytest
import typer
from tests.partners import a_partner
from typer.testing import CliRunner

from pharma_fl.cli.describe import describe
from pharma_fl.data.description import NOTICE
from pharma_fl.errors import PharmaFlError

app = typer.Typer()
app.command()(describe)


@pytest.fixture
def north(tmp_path):
    a_partner(tmp_path, n=40)
    return tmp_path / "north"


def call(*arguments):
    result = CliRunner().invoke(app, [str(one) for one in arguments])
    if result.exception and not isinstance(result.exception, SystemExit | PharmaFlError):
        raise result.exception
    return result


@pytest.mark.parametrize("place", [".", "partner.toml", "data"])
def test_a_partner_and_a_folder_are_found(north, place):
    result = call(north / place, "--json")
    assert result.exit_code == 0
    content = json.loads(result.stdout)
    assert next(iter(content.items())) == ("notice", NOTICE)
    assert content["compounds"]["count"] == 40
    assert content["partner"] == (None if place == "data" else "north")
    assert content["verified"] is False
    assert content["folder"] == str(north / "data")


def test_the_text_begins_with_the_notice(north):
    result = call(north)
    assert result.exit_code == 0
    assert result.stdout.startswith(NOTICE)
    for words in ("Labels per compound", "Values by assay", "Folds", "Bits per compound", "Most balanced", "Settings"):
        assert words in result.stdout
    assert result.stdout.isascii() or "█" in result.stdout
    assert "\u2212" not in result.stdout


def test_the_text_names_what_was_dropped(north):
    path = north / "data" / "manifest.json"
    manifest = json.loads(path.read_text())
    lost = {"read": 60, "kept": 58, "dropped": {"unparsable": 2}}
    wrong = {"read": 60, "kept": 60, "dropped": {"out_of_range": 5}, "aggregated": 50}
    manifest["counts"] = {"structures": lost, "activities": wrong, "labels": {"read": 0, "kept": 0, "dropped": {}}}
    manifest["key_id"] = "00ff" * 4
    manifest["settings"] = {"folds": {"count": 5, "test": 0, "validation": 4, "cutoffs": []}}
    manifest["data_derived_assays"] = ["[bold]1"]
    path.write_text(json.dumps(manifest))
    shown = call(north).stdout
    assert "Structures: 60 read = 58 kept + 2 dropped; equal structures merged, 40 compounds" in shown
    assert "RDKit does not read the SMILES" in shown
    assert "DOES NOT ADD UP" in shown
    assert "0 (test)" in shown
    assert "00ff" * 4 in shown
    assert "[]" in shown
    assert "PFL-P04" in shown
    assert "[bold]1" in shown


def test_the_page_is_written_and_overwritten_for_its_owner_alone(north, tmp_path):
    page = tmp_path / "pages" / "north.html"
    page.parent.mkdir()
    page.write_text("old")
    result = call(north, "--html", page)
    assert result.exit_code == 0
    assert str(page) in result.stdout.replace("\n", "")
    text = page.read_text("utf-8")
    assert NOTICE in text.replace("&#x27;", "'")
    assert "Prepared data of north" in text
    assert stat.S_IMODE(page.stat().st_mode) == 0o600
    assert [one.name for one in page.parent.iterdir()] == ["north.html"]
    assert json.loads(call(north, "--html", page, "--json").stdout)["partner"] == "north"


@pytest.mark.parametrize("place", ["data/page.html", "data/x_indices.npy", "data/deep/page.html"])
def test_the_page_stays_out_of_the_prepared_folder(north, place):
    before = {path.name: path.read_bytes() for path in (north / "data").iterdir()}
    result = call(north, "--html", north / place)
    assert result.exit_code == 2
    assert "inside the prepared folder" in result.output.replace("\n", " ").replace("│", "")
    assert {path.name: path.read_bytes() for path in (north / "data").iterdir()} == before


def test_a_page_that_cannot_be_written_is_one_message(north, tmp_path):
    (tmp_path / "file").write_text("")
    assert call(north, "--html", tmp_path / "file" / "page.html").exit_code == 2
    assert call(north, "--html", tmp_path).exit_code == 2


def test_verify_reads_every_file(north):
    assert json.loads(call(north, "--verify", "--json").stdout)["verified"] is True
    path = north / "data" / "compounds.csv"
    path.write_bytes(path.read_bytes().replace(b"7", b"8"))
    assert call(north, "--json").exit_code == 0
    result = call(north, "--verify")
    assert "compounds.csv: its content was changed" in str(result.exception)


def test_what_is_not_there_is_named(tmp_path):
    neither = call(tmp_path).exception
    assert neither.code == "PFL-D04"
    assert "neither a partner.toml nor a manifest.json" in str(neither)
    assert call(tmp_path / "none").exception.code == "PFL-C01"
    (tmp_path / "partner.toml").write_text('name = "east"\n[budget]\nepsilon = 1.0\n')
    unprepared = call(tmp_path).exception
    assert unprepared.code == "PFL-D04"
    assert "pharma-fl prepare" in str(unprepared)


def test_the_command_explains_itself_with_an_example():
    result = call("--help")
    assert result.exit_code == 0
    assert "Example" in result.output
