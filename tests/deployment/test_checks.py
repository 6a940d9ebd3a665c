"""Checks of files, one question each; every failure names a remedy."""

import os

import pytest

from pharma_fl.deployment import checks
from pharma_fl.deployment.checks import (
    bad,
    disk_check,
    good,
    guarded,
    kit_check,
    program_check,
    secret_check,
    start_check,
    version_check,
)
from pharma_fl.deployment.kit import KitFile
from pharma_fl.errors import ConfigError


def test_an_error_is_an_answer():
    def broken():
        raise ConfigError("PFL-C01", "Cannot read it.")

    assert guarded("roster", broken, "mend it") == bad("roster", "[PFL-C01] Cannot read it.", "mend it")
    assert guarded("roster", lambda: good("roster", "whole"), "mend it").status == "ok"


@pytest.mark.parametrize(("mode", "status"), [(0o600, "ok"), (0o400, "ok"), (0o640, "fail"), (0o604, "fail")])
def test_a_secret_is_its_owner_s_alone(tmp_path, mode, status):
    path = tmp_path / "server.key"
    path.touch()
    path.chmod(mode)
    found = secret_check("key", path, "provision")
    assert found.status == status
    assert status == "ok" or found.remedy == f"chmod 600 {path}"


def test_a_secret_that_is_not_there_is_made_and_one_may_be_a_group_s(tmp_path):
    assert secret_check("key", tmp_path / "none", "provision").remedy == "provision"
    (tmp_path / "shared").touch()
    (tmp_path / "shared").chmod(0o640)
    assert secret_check("key", tmp_path / "shared", "", closed_to=0o007).status == "ok"


@pytest.mark.parametrize(("needed", "status"), [(10, "ok"), (60, "warn"), (101, "fail")])
def test_a_disk_has_room_twice(tmp_path, monkeypatch, needed, status):
    usage = type("Usage", (), {"free": 100})
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda place: usage if place == tmp_path else None)
    assert disk_check(tmp_path / "not" / "there", needed).status == status


def test_a_kit_is_what_the_settings_say(tmp_path):
    files = {"start": KitFile(content="a"), "register": KitFile(content="b")}
    (tmp_path / "start").write_text("a")
    assert (kit_check(tmp_path, files, "provision").status) == "fail"
    (tmp_path / "register").write_text("c")
    found = kit_check(tmp_path, files, "provision")
    assert (found.status, found.found, found.remedy) == ("warn", "another than the settings say: register", "provision")
    (tmp_path / "register").write_text("b")
    assert kit_check(tmp_path, files, "provision").status == "ok"


@pytest.mark.parametrize(
    ("text", "status"),
    [("export FLWR_TELEMETRY_ENABLED=0\n", "ok"), ("export FLWR_TELEMETRY_ENABLED='0'\n", "ok"), ("", "fail")],
)
def test_a_start_script_turns_telemetry_off(tmp_path, text, status):
    (tmp_path / "start").write_text(text)
    assert start_check(tmp_path, {"FLWR_TELEMETRY_ENABLED": "0"}, "provision").status == status


def test_the_guard_comes_first_and_is_the_guard(tmp_path):
    own, other = tmp_path / "own", tmp_path / "other"
    for folder, text in ((own, "exec python -m pharma_fl.clients.guard"), (other, "exec flwr-clientapp")):
        folder.mkdir()
        (folder / "flwr-clientapp").write_text(text)
        (folder / "flwr-clientapp").chmod(0o700)

    def check(path, program=own):
        return program_check("guard", program / "flwr-clientapp", "pharma_fl.clients.guard", path, "provision").status

    assert check(f"{own}:{other}") == "ok"
    assert check(f"{other}:{own}") == "fail"
    assert check(os.devnull) == "fail"
    assert check(str(other), other) == "fail"


def test_another_flower_is_noticed(monkeypatch):
    assert version_check().status == "ok"
    monkeypatch.setattr(checks, "version", lambda package: "1.42.0" if package == "flwr" else "1")
    assert version_check().status == "fail"
