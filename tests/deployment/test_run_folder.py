"""Reading the coordinator's folder while somebody writes it, and finding processes of this machine."""

import json
import subprocess
import sys
import time

import pytest
from tests.cli.fake_flower import a_round, server_app_s

from pharma_fl.deployment import processes, run_folder
from pharma_fl.deployment.processes import is_held, supernode_of
from pharma_fl.deployment.run_folder import look, note_submitted
from pharma_fl.locks import locked


def test_a_folder_that_is_not_there_holds_no_run(tmp_path):
    now = look(tmp_path / "none")
    assert (now.state, now.alive, now.rounds, now.model, now.flower_run) == ("none", False, [], None, None)


def test_each_state_of_a_run_is_told_from_its_files(tmp_path):
    note_submitted(tmp_path / "run", 7)
    assert look(tmp_path / "run").state == "starting"
    server_app_s(tmp_path / "run", number=7)
    with locked(tmp_path / "run" / "run.lock"):
        assert look(tmp_path / "run").state == "running"
    assert look(tmp_path / "run").state == "broke-off"
    note_submitted(tmp_path / "run", 7, stopped=True)
    assert look(tmp_path / "run").state == "stopped"
    for end in ("stopped", "completed"):
        server_app_s(tmp_path / "run", number=7, end=end)
        assert look(tmp_path / "run").state == end


def test_a_run_that_was_submitted_waits_until_its_server_app_writes(tmp_path):
    server_app_s(tmp_path, number=1)
    note_submitted(tmp_path, 2)
    assert (look(tmp_path).waiting, look(tmp_path).flower_run) == (2, 1)
    server_app_s(tmp_path, number=2)
    assert (look(tmp_path).waiting, look(tmp_path).flower_run) == (None, 2)


def test_what_is_half_written_is_left_out(tmp_path):
    server_app_s(tmp_path, rounds=2)
    with (tmp_path / "rounds.jsonl").open("a") as stream:
        stream.write(json.dumps(a_round(3))[:20])
    (tmp_path / "progress.json").write_text('{"flower_run": 1')
    now = look(tmp_path)
    assert [record["round"] for record in now.rounds] == [1, 2]
    assert now.progress == {}


def test_of_a_long_record_the_end_is_read(tmp_path, monkeypatch):
    server_app_s(tmp_path, rounds=50)
    monkeypatch.setattr(run_folder, "_TAIL_BYTES", 1000)
    numbers = [record["round"] for record in look(tmp_path).rounds]
    assert 1 < len(numbers) < 10
    assert numbers[-1] == 50


@pytest.mark.parametrize("listed", [True, False])
def test_a_lock_is_seen_without_and_with_the_system_s_list(tmp_path, monkeypatch, listed):
    if not listed:
        monkeypatch.setattr(processes, "_LOCKS", tmp_path / "none")
    lock = tmp_path / "run.lock"
    assert not is_held(lock)
    with locked(lock):
        assert is_held(lock)
    assert not is_held(lock)


def test_a_partner_s_supernode_is_found_by_its_file(tmp_path):
    program, file = tmp_path / "flower-supernode", tmp_path / "partner.toml"
    program.write_text(f"#!{sys.executable}\nimport sys; sys.stdin.read()\n")
    program.chmod(0o700)
    assert supernode_of(file) is None
    with subprocess.Popen([program, "--node-config", f'partner="{file}"'], stdin=subprocess.PIPE) as process:
        deadline = time.monotonic() + 20
        while supernode_of(file) is None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert supernode_of(file) == process.pid
        assert supernode_of(tmp_path / "other.toml") is None
        process.stdin.close()
