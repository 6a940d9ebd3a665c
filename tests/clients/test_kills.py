"""Killed at random two hundred times in a row, the ledger never counts less than left."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
from tests.clients import kills
from tests.conftest import PROJECT
from tests.partners import a_partner

from pharma_fl.privacy.entries import Released, Reserved
from pharma_fl.privacy.ledger import Ledger

KILLS = 200


def check(partner, folder):
    """Compare what the ledger says with the noise that was drawn and the replies that left."""
    ledger = Ledger.of(partner)
    ledger.check_witnesses()  # chain, signature, place, audit log
    entries = ledger.entries()
    reserved = {entry.round: entry for entry in entries if isinstance(entry, Reserved)}
    released = {entry.round: entry.reply for entry in entries if isinstance(entry, Released)}
    assert len(kills.lines(folder / "steps.log")) <= sum(entry.steps for entry in reserved.values())
    left = [json.loads(line) for line in kills.lines(folder / "outbox.log")]
    for one in left:
        assert one["round"] in reserved
        assert released[one["round"]] == one["reply"]
    # One charge, one reply: what a round answered once it never answers otherwise.
    assert len({(one["round"], one["reply"]) for one in left}) == len({one["round"] for one in left})
    return len(reserved), len(left)


@pytest.mark.slow
def test_two_hundred_random_kills_in_a_row(tmp_path):
    partner = a_partner(tmp_path, budget=kills.budget())
    server = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "tests.clients.kill_server", str(tmp_path)],
        cwd=PROJECT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    chance = random.Random(20)
    with server:
        for _ in range(KILLS):
            print("fork", file=server.stdin, flush=True)
            child = int(server.stdout.readline())
            time.sleep(chance.uniform(0, 0.3))
            os.kill(child, signal.SIGKILL)
            assert os.WTERMSIG(int(server.stdout.readline())) == signal.SIGKILL
            check(partner, tmp_path)
        server.stdin.close()
    charged, replies = check(partner, tmp_path)
    refused = [json.loads(line)["code"] for line in kills.lines(tmp_path / "coordinator.log")]
    # Kills met rounds at work, and others met rounds that were done.
    assert set(refused) <= {"", "PFL-P11"}
    assert refused.count("PFL-P11") >= KILLS / 10
    assert replies >= KILLS / 10
    assert charged > replies
