"""A run through Flower's own SuperLink: submitted, left, found again, stopped, killed, and gone on with."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.deployment.kits import Kits, supernode, write_federation
from tests.partners import a_partner

from pharma_fl.deployment.run_folder import look

NAMES = ("north", "south")
WAIT_S = 300.0
SECTIONS = """
[model]
input_bits = 64
hidden = [8]
[training]
rounds = 8
local_steps = 1
[privacy]
noise_multiplier = 4.0
[quorum]
join_timeout_s = 120.0
round_timeout_s = 150.0
[tracking]
enabled = false
"""


def command(*words):
    return [str(Path(sys.executable).parent / "pharma-fl"), *map(str, words)]


def call(*words):
    done = subprocess.run(command(*words), capture_output=True, text=True, timeout=WAIT_S, check=False)
    return done.returncode, done.stdout, done.stderr


def as_json(*words):
    code, said, errors = call(*words, "--json")
    assert said, errors
    return code, json.loads(said)


def wait(condition, what):
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(4 * WAIT_S)
def test_a_run_outlives_the_command_that_follows_it_and_is_stopped_and_gone_on_with(tmp_path):
    federation = write_federation(tmp_path / "coordinator", NAMES, SECTIONS)
    for seed, name in enumerate(NAMES):
        a_partner(tmp_path, name, seed=seed, supernode=supernode(federation))
    file, output = tmp_path / "coordinator" / "federation.toml", tmp_path / "coordinator" / "coordinator"
    with Kits(tmp_path, NAMES) as kits:
        kits.start_all()
        kits.wait(
            lambda: all(one["connection"] == "online" for one in status(file)["partners"].values()),
            WAIT_S,
            "the SuperNodes to connect",
        )
        code, found = as_json("doctor", file)
        answers = {one["name"]: one["status"] for one in found["checks"]}
        assert (answers["port"], answers["SuperNodes"], answers["certificate"]) == ("ok", "ok", "ok"), found
        _, found = as_json("doctor", tmp_path / "north" / "partner.toml", "--plan", file)
        answers = {one["name"]: one["status"] for one in found["checks"]}
        assert {answers[name] for name in ("SuperLink", "clock", "SuperNode", "guard", "plan")} == {"ok"}, found

        # Left, in the middle.
        with subprocess.Popen(command("run", file), stderr=subprocess.PIPE, text=True) as following:
            wait(lambda: len(look(output).rounds) >= 1, kits.logs())
            os.kill(following.pid, signal.SIGINT)
            _, said = following.communicate(timeout=WAIT_S)
        assert following.returncode == 130, said
        assert "Detached; the run goes on." in said
        shown = status(file)
        assert (shown["state"], shown["server_app"]) == ("running", "runs"), kits.logs()
        assert {one["state"] for one in shown["partners"].values()} == {"joined"}
        assert status(tmp_path / "north" / "partner.toml")["supernode"] == "runs"

        # Stopped.
        code, stopped = as_json("stop", file)
        assert (code, stopped["status"]) == (0, "stopped"), stopped
        assert status(file)["state"] == "stopped"
        assert 1 <= stopped["rounds"] < 8
        code, _, said = call("run", file)
        assert code == 2
        assert "PFL-F20" in said

        # Killed, while it is gone on with.
        code, again = as_json("run", file, "--resume", "--detach")
        assert code == 0
        wait(lambda: look(output).flower_run == again["flower_run"] and look(output).alive, kits.logs())
        with subprocess.Popen(
            command("run", file), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as following:
            wait(lambda: len(look(output).rounds) > stopped["rounds"], kits.logs())
            os.kill(server_app(tmp_path), signal.SIGKILL)
            told, said = following.communicate(timeout=WAIT_S)
        assert following.returncode == 4, told + said
        assert "A run is in progress" in said
        assert "Broke off after" in told

        # To its end, while Flower still takes the killed one for living.
        code, ended = as_json("run", file, "--resume")
        assert (code, ended["status"], ended["rounds"]) == (0, "completed", 8), kits.logs()
        assert ended["run"] == stopped["run"]
        assert [record["round"] for record in look(output).rounds] == list(range(1, 9))
        assert as_json("run", file, "--resume")[0] == 0


def status(file):
    return as_json("status", file)[1]


def server_app(folder):
    """Return the process of the ServerApp whose SuperLink has its files in this folder."""
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words = (place / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if any(word.endswith(b"flwr-serverapp") for word in words) and any(str(folder).encode() in w for w in words):
            return int(place.name)
    raise AssertionError("there is no ServerApp")
