"""`pharma-fl status`: at the coordinator and at a partner, before a run, during one and after."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from tests.cli.fake_flower import FEDERATION, server_app_s
from tests.partners import a_partner, a_request
from typer.testing import CliRunner

from pharma_fl.cli import main as module
from pharma_fl.cli.status import coordinator_status, partner_status
from pharma_fl.clients.audit import write_audit
from pharma_fl.clients.train import train_round
from pharma_fl.config import Partner
from pharma_fl.deployment.run_folder import note_submitted
from pharma_fl.errors import FederationError, PharmaFlError
from pharma_fl.locks import locked
from pharma_fl.strategies import supernodes
from pharma_fl.strategies.supernodes import SuperNode

ONLINE = "2026-11-29T05:45:04+00:00"


def call(*arguments):
    result = CliRunner().invoke(module.app, ["status", *map(str, arguments)])
    if result.exception and not isinstance(result.exception, SystemExit | PharmaFlError):
        raise result.exception
    return result


@pytest.fixture
def toml(tmp_path, monkeypatch):
    """A coordinator's file, whose SuperLink knows north and an older north."""
    path = tmp_path / "federation.toml"
    path.write_text(FEDERATION)
    (tmp_path / "tls").mkdir()
    (tmp_path / "tls" / "ca.pem").write_text("authority")
    nodes = [
        SuperNode(node=7, name="north", public_key=b"", status="online", since=ONLINE),
        SuperNode(node=3, name="north", public_key=b"", status="offline", since=ONLINE),
    ]

    def known(address, roots):
        assert (address, roots) == ("127.0.0.1:18990", b"authority")
        return nodes

    monkeypatch.setattr(supernodes, "supernodes", known)
    return path


def test_before_the_first_run_partners_are_known_by_their_registration(toml):
    shown = coordinator_status(toml)
    assert (shown["state"], shown["round"], shown["rounds"], shown["model"]) == ("none", 0, 5, None)
    assert (shown["partners"]["north"]["node"], shown["partners"]["north"]["connection"]) == (7, "online")
    assert set(shown["partners"]["south"].values()) == {None}
    assert "no run yet" in call(toml).output


def test_while_it_runs_round_phase_partners_and_budgets_are_told(toml, tmp_path):
    quarantined = {"state": "quarantined", "code": "PFL-F14", "last_answer": ONLINE, "node": None}
    told = {"north": {"state": "joined", "node": 7, "code": "", "last_answer": ONLINE}, "south": quarantined}
    server_app_s(tmp_path / "coordinator", rounds=2, partners=told)
    with locked(tmp_path / "coordinator" / "run.lock"):
        shown = json.loads(call(toml, "--json").stdout)
        printed = call(toml).output
    assert (shown["state"], shown["phase"], shown["server_app"]) == ("running", "training", "runs")
    assert (shown["round"], shown["rounds"], shown["seconds"]) == (2, 5, [19.32, 19.32])
    assert shown["partners"]["north"]["epsilon_spent"] == 1.0
    assert shown["partners"]["south"]["epsilon_left"] == 2.5
    assert (shown["partners"]["south"]["state"], shown["partners"]["south"]["code"]) == ("quarantined", "PFL-F14")
    assert shown["model"] == str(tmp_path / "coordinator" / "checkpoints" / "round-0002")
    for words in ("training (run trial-1", "Round 2 of 5; last rounds: 19.3, 19.3 s", "quarantined PFL-F14"):
        assert words in printed


def test_after_the_end_its_kind_is_told(toml, tmp_path):
    output = tmp_path / "coordinator"
    note_submitted(output, 5)
    assert "a run was submitted (Flower's 5)" in call(toml).output
    server_app_s(output, number=5)
    assert "broke off; pharma-fl run --resume" in call(toml).output
    note_submitted(output, 5, stopped=True)
    assert "stopped by hand" in call(toml).output
    server_app_s(output, number=5, end="stopped")
    assert "stopped after 2 rounds. 1 partners took part" in call(toml).output
    server_app_s(output, number=5, end="completed")
    assert "completed after 2 rounds." in call(toml).output


def test_a_superlink_that_does_not_answer_is_said_and_hides_nothing(toml, tmp_path, monkeypatch):
    def silent(*_):
        raise FederationError("PFL-F24", "No SuperLink answers.")

    monkeypatch.setattr(supernodes, "supernodes", silent)
    server_app_s(tmp_path / "coordinator", end="completed")
    shown = coordinator_status(toml)
    assert shown["superlink"] == "[PFL-F24] No SuperLink answers."
    assert shown["partners"]["north"]["node"] == 100
    assert shown["state"] == "completed"


def test_a_simulation_has_a_status_too(toml, tmp_path):
    toml.write_text(FEDERATION[: FEDERATION.index("[superlink]")])
    server_app_s(tmp_path / "coordinator", end="completed")
    assert coordinator_status(toml)["state"] == "completed"


def test_a_partner_that_was_asked_nothing_yet(tmp_path):
    a_partner(tmp_path)
    shown = partner_status(tmp_path / "north" / "partner.toml")
    assert (shown["supernode"], shown["last_message"], shown["last_round"]) == ("does not run", None, None)
    assert (shown["ledger"], shown["epsilon_spent"], shown["epsilon_left"]) == ("none yet", 0.0, 5.0)
    assert "Last message: none yet" in call(tmp_path / "north" / "partner.toml").output


def test_a_partner_s_last_message_round_and_budget_are_told(tmp_path):
    partner = a_partner(tmp_path)
    train_round(partner, a_request(1))
    write_audit(partner.path("audit.jsonl"), event="refused", asked="train", error="[PFL-P20] no")
    file = tmp_path / "north" / "partner.toml"
    shown = partner_status(file)
    assert (shown["last_message"]["event"], shown["last_message"]["error"]) == ("refused", "[PFL-P20] no")
    assert (shown["last_round"]["run"], shown["last_round"]["round"]) == ("run-1", 1)
    assert shown["ledger"] == "whole"
    assert 0 < shown["epsilon_spent"] < 5
    printed = call(file).output
    assert "train: refused ([PFL-P20] no)" in printed
    assert "train round 1 of run-1" in printed


def test_a_ledger_that_was_lost_is_told(tmp_path):
    train_round(a_partner(tmp_path), a_request(1))
    (tmp_path / "north" / "ledger.sqlite").unlink()
    shown = partner_status(tmp_path / "north" / "partner.toml")
    assert "PFL-P15" in shown["ledger"]
    assert shown["epsilon_left"] is None
    assert Partner.load(tmp_path / "north" / "partner.toml").name in call(tmp_path / "north" / "partner.toml").output


def test_another_file_is_refused(tmp_path):
    assert call(tmp_path / "other.toml").exception.code == "PFL-C08"


def test_the_last_answer_is_shown_by_its_age(toml, tmp_path):
    moment = (datetime.now(UTC) - timedelta(minutes=75)).isoformat(timespec="seconds")
    told = {"north": {"state": "joined", "node": 7, "code": "", "last_answer": moment}}
    server_app_s(tmp_path / "coordinator", partners=told)
    assert "75 min" in call(toml).output
