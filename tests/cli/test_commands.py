"""Commands on bad input: one clear error, exit code 2, and nothing lost."""

import json
from importlib.resources import files

import pytest
import typer
from typer.testing import CliRunner

from pharma_fl.cli import main as module
from pharma_fl.errors import PharmaFlError

T0 = (
    "input_assay_id,assay_type,use_in_regression,is_binary,expert_threshold_1,expert_threshold_2,"
    "expert_threshold_3,expert_threshold_4,expert_threshold_5,direction\n1,ADME,false,true,,,,,,high\n"
)
T1 = "input_compound_id,input_assay_id,standard_qualifier,standard_value\n" + "".join(
    f"{i},1,=,{1 if i % 2 else -1}\n" for i in range(1, 7)
)
T2 = "input_compound_id,smiles\n1,CCO\n2,CCN\n3,c1ccccc1O\n4,c1ccccc1N\n5,CC(=O)O\n6,CCCl\n"


@pytest.fixture
def partner(tmp_path):
    (tmp_path / "T0.csv").write_text(T0)
    (tmp_path / "T1.csv").write_text(T1)
    (tmp_path / "T2.csv").write_text(T2)
    (tmp_path / "consortium.key").write_text("secret\n")
    (tmp_path / "consortium.key").chmod(0o600)
    (tmp_path / "partner.toml").write_text('name = "north"\n[budget]\nepsilon = 1.0\n')
    return tmp_path


def call(*arguments):
    result = CliRunner().invoke(module.app, [str(a) for a in arguments])
    if result.exception and not isinstance(result.exception, SystemExit | PharmaFlError):
        raise result.exception
    return result


def prepare(folder):
    return call("prepare", folder / "partner.toml", "--workers", 1, "--json")


def test_prepare(partner):
    result = prepare(partner)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["sizes"]["compounds"] == 6
    assert (partner / "data" / "manifest.json").exists()


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("T1.csv", "", "T1.csv"),
        ("T1.csv", T1.replace("standard_value", "value"), "standard_value"),
        ("T1.csv", T1.replace("1,1,=,1", "1,1,=,strong"), "standard_value"),
        ("T1.csv", T1.replace("1,1,=,1", "1,9,=,1"), "input_assay_id"),
        ("T2.csv", "input_compound_id\n1\n", "smiles"),
        ("consortium.key", "", "consortium.key"),
        ("partner.toml", 'name = "north"\n[budget]\nepsilon = -1\n', "budget.epsilon"),
        ("partner.toml", 'name = "north"\n[budget]\nepsilon = 1\n[structure]\nbits = 1\n', "structure: unknown key"),
    ],
)
def test_bad_input_is_named_and_loses_nothing(partner, file, content, words):
    assert prepare(partner).exit_code == 0
    before = {p.name: p.read_bytes() for p in (partner / "data").iterdir()}
    (partner / file).write_text(content)
    result = prepare(partner)
    assert isinstance(result.exception, PharmaFlError)
    assert words in str(result.exception)
    assert {p.name: p.read_bytes() for p in (partner / "data").iterdir()} == before


def test_an_unparsable_smiles_goes_to_the_side_file(partner):
    (partner / "T2.csv").write_text(T2.replace("CCCl", "C(C"))
    assert prepare(partner).exit_code == 0
    assert "6,C(C,unparsable" in (partner / "data" / "failed_structures.csv").read_text()


def test_the_manifest_for_others_is_printed_and_holds_nothing_of_the_data(partner):
    result = call("prepare", partner / "partner.toml", "--workers", 1, "--manifest")
    shown = json.loads(result.stdout)
    assert shown == json.loads((partner / "data" / "agreement.json").read_text())
    assert "north" not in result.stdout
    assert call("agree", partner / "data", partner / "data" / "agreement.json").exit_code == 0


def test_what_is_exported_can_be_imported(partner):
    quorum = files("pharma_fl.data").joinpath("rules.toml").read_text()
    for key in ("training.actives", "training.inactives"):
        quorum = quorum.replace(f"{key} = 25", f"{key} = 1")
    (partner / "rules.toml").write_text(quorum.replace("least_spread = 1e-12", "least_spread = 0.0"))
    (partner / "partner.toml").write_text('name = "north"\nrules = "rules.toml"\n[budget]\nepsilon = 1.0\n')
    rows = [
        f"{n},C{'C' * (n % 40)}c1c{'n' if n % 2 else 'c'}cc(CC{'C' * (n // 40)}O)c1C1CC{'C' * (n % 7)}1"
        for n in range(1, 121)
    ]
    (partner / "T2.csv").write_text("input_compound_id,smiles\n" + "\n".join(rows) + "\n")
    (partner / "T1.csv").write_text(
        "input_compound_id,input_assay_id,standard_qualifier,standard_value\n"
        + "".join(f"{n},1,=,{1 if n % 3 else -1}\n" for n in range(1, 121))
    )
    exported = call("prepare", partner / "partner.toml", "--workers", 2, "--export", "tuner")
    assert exported.exit_code == 0, exported.exception
    assert (partner / "data-tuner" / "matrices" / "wo_aux" / "cls" / "cls_T10_y.npz").exists()
    (partner / "other.toml").write_text('name = "south"\ndata = "imported"\n[budget]\nepsilon = 1.0\n')
    imported = call(
        "prepare",
        partner / "other.toml",
        "--workers",
        1,
        "--import",
        "tuner",
        "--from",
        partner / "data-tuner",
        "--json",
    )
    assert json.loads(imported.stdout)["sizes"]["class_labels"] > 100
    assert json.loads(imported.stdout)["data_derived_assays"]


@pytest.mark.parametrize(
    "options",
    [
        ("--import", "tuner"),
        ("--from", "."),
        ("--to", "x"),
        ("--public-tasks",),
        ("--import", "tuner", "--from", ".", "--manifest"),
        ("--import", "tuner", "--from", ".", "--export", "tuner"),
    ],
)
def test_options_that_do_not_go_together_are_refused(partner, options):
    result = call("prepare", partner / "partner.toml", "--workers", 1, *options)
    assert result.exception.code == "PFL-C11"


def test_a_truncated_matrix_is_named(partner):
    assert prepare(partner).exit_code == 0
    path = partner / "data" / "x_indices.npy"
    path.write_bytes(path.read_bytes()[:-4])
    from pharma_fl.data.matrices import PreparedData

    with pytest.raises(PharmaFlError, match="x_indices"):
        PreparedData.open(partner / "data")


def test_simulate_refuses_what_cannot_run(tmp_path):
    (tmp_path / "federation.toml").write_text('name = "x"\n[partners]\nnorth = 1\n[privacy]\nepsilon = 1\n')
    empty = call("simulate", tmp_path / "federation.toml", "--partners", tmp_path / "none")
    assert "PFL-F20" in str(empty.exception)
    (tmp_path / "coordinator" / "checkpoints").mkdir(parents=True)
    (tmp_path / "coordinator" / "checkpoints" / "latest").write_text("round-0000\n")
    twice = call("simulate", tmp_path / "federation.toml", "--partners", tmp_path)
    assert "holds a run already" in str(twice.exception)
    (tmp_path / "federation.toml").write_text('name = "x"\n[partners]\nnorth = 1\n[privacy]\nepsilon = -1\n')
    wrong = call("simulate", tmp_path / "federation.toml", "--partners", tmp_path)
    assert "privacy.epsilon" in str(wrong.exception)


def test_report_without_a_demo(tmp_path):
    assert "PFL-D20" in str(call("report", tmp_path).exception)


def commands():
    """Every command, and every command of a group."""
    found = typer.main.get_command(module.app)
    for name, command in found.commands.items():
        inner = getattr(command, "commands", None)
        yield from ((name, other) for other in inner) if inner else ((name,),)


@pytest.mark.parametrize("command", list(commands()), ids=" ".join)
def test_every_command_explains_itself_with_an_example(command):
    result = call(*command, "--help")
    assert result.exit_code == 0
    assert "Example" in result.output


def test_an_expected_error_is_one_message_and_exit_code_2(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("sys.argv", ["pharma-fl", "report", str(tmp_path)])
    with pytest.raises(SystemExit) as caught:
        module.main()
    assert caught.value.code == 2
    printed = capsys.readouterr().err
    assert "[PFL-D20]" in printed
    assert "Traceback" not in printed
