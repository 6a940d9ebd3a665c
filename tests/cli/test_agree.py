"""`pharma-fl key` and `pharma-fl agree`: what they print, what they never print, and how they exit."""

import json
import stat

import pytest
import typer
from typer.testing import CliRunner

from pharma_fl.cli.agree import agree
from pharma_fl.cli.key import key
from pharma_fl.config import Partner
from pharma_fl.data.agreement import agreement
from pharma_fl.data.keys import Keys, key_id, read_secret
from pharma_fl.data.rules import Rules
from pharma_fl.errors import PharmaFlError

app = typer.Typer(rich_markup_mode="markdown")
app.command()(agree)
app.command()(key)


def call(*arguments):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception and not isinstance(result.exception, SystemExit | PharmaFlError):
        raise result.exception
    return result


@pytest.fixture
def write(tmp_path):
    """Write NAME/agreement.json; the probe needs no molecules here."""

    def made(name, toml="", *, secret=b"a secret", change=None):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "partner.toml").write_text(f'name = "x"\n{toml}\n[budget]\nepsilon = 1.0\n')
        content = agreement(
            partner=Partner.load(folder / "partner.toml"),
            keys=Keys.derive(secret, "hkdf"),
            rules=Rules.built_in(),
            catalogue=None,
            probe={"imatinib": {"structure": "C\\C=[N-]"}},
        )
        if change:
            change(content)
        (folder / "agreement.json").write_text(json.dumps(content))
        return folder

    return made


def test_partners_that_agree(write):
    paths = [write("north"), write("south") / "agreement.json", write("west")]
    result = call("agree", *paths)
    assert result.exit_code == 0, result.output
    assert "All agree." in result.stdout
    content = call("agree", *paths, "--json")
    assert content.exit_code == 0
    assert json.loads(content.stdout)["agree"]


def test_partners_that_differ_are_told_where_and_what_to_do(write):
    paths = [write("north"), write("south"), write("west", "[folds]\ncount = 7\n", secret=b"another")]
    result = call("agree", *paths)
    assert result.exit_code == 3
    assert "They do not agree." in result.stdout
    assert f"{paths[2]}: folds.count" in result.stdout
    assert "    5 at " in result.stdout
    assert "Agree on [folds] of partner.toml and prepare again." in result.stdout
    assert "Give all partners the same key file" in result.stdout
    content = call("agree", *paths, "--json")
    assert content.exit_code == 3
    read = json.loads(content.stdout)
    assert not read["agree"]
    assert read["reference"] == str(paths[0])
    assert read["groups"] == [[str(paths[0]), str(paths[1])], [str(paths[2])]]
    assert {one["where"] for one in read["differences"][str(paths[2])]} == {"key.id", "folds.count"}
    assert read["differences"][str(paths[1])] == []


def test_a_remark_does_not_part_them(write):
    def older(content):
        content["versions"]["numpy"] = "1.0"

    result = call("agree", write("north"), write("south", change=older))
    assert result.exit_code == 0
    assert "remark, versions.numpy" in result.stdout
    assert "All agree." in result.stdout


def test_foreign_text_is_not_taken_as_markup_or_control(write):
    def hostile(content):
        content["versions"]["rdkit"] = "\\[/bold][red]\x1b[2J"
        content["key"]["id"] = "[/]"
        content["probe"]["results"]["imatinib"]["structure"] = "C\\[/NH]"

    result = call("agree", write("a[/b]"), write("south", change=hostile))
    assert result.exit_code == 3
    assert "[/]" in result.stdout
    assert "C\\[/NH]" in result.stdout
    assert "\x1b" not in result.stdout


def test_fewer_than_two_are_refused(write):
    one = write("north")
    for arguments in ([one], [one, one]):
        assert call("agree", *arguments).exit_code == 2


def test_what_is_no_agreement_is_named(write, tmp_path):
    (tmp_path / "other.json").write_text("{}")
    result = call("agree", write("north"), tmp_path / "other.json")
    assert isinstance(result.exception, PharmaFlError)
    assert "[PFL-D14]" in str(result.exception)
    assert "other.json" in str(result.exception)


def test_a_key_is_made_and_not_shown(tmp_path):
    path = tmp_path / "consortium.key"
    result = call("key", path)
    assert result.exit_code == 0
    secret = read_secret(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert key_id(secret) in result.stdout
    assert secret.decode() not in result.output
    assert "mode 600" in result.stdout
    again = call("key", path)
    assert "[PFL-D13]" in str(again.exception)
    assert read_secret(path) == secret


def test_a_key_as_json(tmp_path):
    result = call("key", tmp_path / "a.key", "--json")
    secret = read_secret(tmp_path / "a.key")
    assert json.loads(result.stdout) == {"key_file": str(tmp_path / "a.key"), "key_id": key_id(secret)}


@pytest.mark.parametrize("command", ["agree", "key"])
def test_every_command_explains_itself_with_an_example(command):
    result = call(command, "--help")
    assert result.exit_code == 0
    assert "Example" in result.output
