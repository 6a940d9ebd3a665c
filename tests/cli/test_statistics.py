"""`pharma-fl statistics`, and what `pharma-fl agree` makes of its files."""

import json
import re

import pytest
import typer
from tests.clients.test_statistics import a_file, entries, willing
from typer.testing import CliRunner

from pharma_fl.cli.agree import agree
from pharma_fl.cli.statistics import statistics
from pharma_fl.config import Partner
from pharma_fl.data.agreement import agreement
from pharma_fl.data.keys import Keys
from pharma_fl.data.rules import Rules
from pharma_fl.errors import PharmaFlError

app = typer.Typer(rich_markup_mode="markdown")
app.command()(statistics)
app.command()(agree)


def call(*arguments):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception and not isinstance(result.exception, SystemExit | PharmaFlError):
        raise result.exception
    return result


@pytest.fixture
def write(tmp_path):
    """Write an agreement under a name."""

    def made(name, toml=""):
        (tmp_path / "partner.toml").write_text(f'name = "x"\n{toml}\n[budget]\nepsilon = 1.0\n')
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        content = agreement(
            partner=Partner.load(tmp_path / "partner.toml"),
            keys=Keys.derive(b"a secret", "hkdf"),
            rules=Rules.built_in(),
            catalogue=None,
            probe={"imatinib": {"structure": "C"}},
        )
        path.write_text(json.dumps(content))
        return path

    return made


def test_counts_are_released_and_shown(tmp_path):
    partner = willing(tmp_path)
    out = tmp_path / "north-statistics.json"
    result = call("statistics", tmp_path / "north" / "partner.toml", "--noise-multiplier", 10, "--out", out)
    assert result.exit_code == 0, result.output
    made = json.loads(out.read_text())
    assert f"{made['compounds']:,.0f} ± 40" in result.stdout
    assert "labels, ADME" in result.stdout
    assert "epsilon 0." in result.stdout
    assert entries(partner) == [(1, "reserved"), (1, "released")]


def test_as_json_it_is_the_file(tmp_path):
    willing(tmp_path)
    out = tmp_path / "s.json"
    result = call("statistics", tmp_path / "north/partner.toml", "--noise-multiplier", 10, "--out", out, "--json")
    assert json.loads(result.stdout) == json.loads(out.read_text())


def test_a_second_call_needs_another_file_and_is_another_charge(tmp_path):
    partner = willing(tmp_path)
    arguments = ["statistics", tmp_path / "north/partner.toml", "--noise-multiplier", 10, "--out"]
    call(*arguments, tmp_path / "a.json")
    assert "[PFL-P22]" in str(call(*arguments, tmp_path / "a.json").exception)
    assert entries(partner) == [(1, "reserved"), (1, "released")]
    call(*arguments, tmp_path / "b.json")
    assert len(entries(partner)) == 4


@pytest.mark.parametrize("option", [("--noise-multiplier", 0), ("--noise-multiplier", "nan"), ("--clipping-norm", 1)])
def test_settings_that_protect_nothing_are_refused(tmp_path, option):
    partner = willing(tmp_path)
    arguments = ["--noise-multiplier", 10, "--out", tmp_path / "s.json", *option]
    result = call("statistics", tmp_path / "north/partner.toml", *arguments)
    assert result.exit_code == 2 or "PFL-P20" in str(result.exception)
    assert entries(partner) == []


def test_the_help_says_what_a_call_costs():
    text = re.sub(r"[\s│]+", " ", call("statistics", "--help").output)
    assert "Every call is a charge of its own" in text
    assert "Example" in text


def test_files_that_are_given_are_shown_side_by_side(write, tmp_path):
    paths = [write("north-agreement.json"), write("south-agreement.json")]
    given = [
        a_file(tmp_path / f"{name}.json", lambda c, n=n: c.update(compounds=n))
        for name, n in (("a", 1234.5), ("b", -7.0))
    ]
    result = call("agree", *paths, *given)
    assert result.exit_code == 0, result.output
    assert "1,234 ± 40" in result.stdout
    assert "-7 ± 40" in result.stdout
    assert "All agree." in result.stdout
    content = json.loads(call("agree", *paths, *given, "--json").stdout)
    assert content["agree"]
    assert content["statistics"][str(given[0])]["compounds"] == 1234.5


def test_files_that_lie_beside_are_found(write, tmp_path):
    """Beside an agreement under its name; of a prepared folder, which is replaced whole, one folder up."""
    north, south = write("north-agreement.json"), write("south/data/agreement.json")
    a_file(tmp_path / "north-statistics.json", lambda c: c.update(compounds=111.0))
    (tmp_path / "south/data/manifest.json").write_text("{}")
    a_file(tmp_path / "south/statistics.json", lambda c: c.update(compounds=222.0))
    for paths in ([north, south], [north, south.parent]):
        result = call("agree", *paths)
        assert result.exit_code == 0, result.output
        assert "111 ± 40" in result.stdout
        assert "222 ± 40" in result.stdout


def test_counts_never_decide(write, tmp_path):
    north, south = write("north-agreement.json"), write("south-agreement.json", "[folds]\ncount = 7\n")
    a_file(tmp_path / "north-statistics.json")
    assert call("agree", north, south).exit_code == 3
    # One that is damaged and was not asked for stops nothing.
    a_file(tmp_path / "north-statistics.json", lambda c: c.pop("delta"))
    result = call("agree", north, write("west-agreement.json"))
    assert result.exit_code == 0, result.output
    assert "All agree." in result.stdout
    assert "±" not in result.stdout


def test_counts_alone_are_shown_without_a_verdict(tmp_path):
    result = call("agree", a_file(tmp_path / "a.json"), a_file(tmp_path / "b.json"))
    assert result.exit_code == 0
    assert "agree." not in result.stdout
    assert "Noised counts decide nothing." in result.stdout
    content = json.loads(call("agree", tmp_path / "a.json", "--json").stdout)
    assert set(content) == {"statistics"}


def test_one_agreement_is_too_few_whatever_else_is_given(write, tmp_path):
    assert call("agree", write("north-agreement.json"), a_file(tmp_path / "a.json")).exit_code == 2


def test_names_of_files_are_not_taken_as_markup(tmp_path):
    (tmp_path / "a[").mkdir()
    result = call("agree", a_file(tmp_path / "a[" / "b].json"))
    assert "b].json" in result.stdout.replace("\n", "")
