"""Killed at random two hundred times in a row, the ledger never counts less than left."""

import json
import multiprocessing
import random
import time

import pytest
from tests.clients import kills
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
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.clients.kills_warm"])
    chance = random.Random(20)
    for _ in range(KILLS):
        ready = context.Event()
        child = context.Process(target=kills.go_on, args=(tmp_path, ready))
        child.start()
        assert ready.wait(60)
        time.sleep(chance.uniform(0, 0.3))
        child.kill()
        child.join(60)
        assert child.exitcode == -9
        check(partner, tmp_path)
    charged, replies = check(partner, tmp_path)
    refused = [json.loads(line)["code"] for line in kills.lines(tmp_path / "coordinator.log")]
    # Kills met rounds at work, and others met rounds that were done.
    assert set(refused) <= {"", "PFL-P11"}
    assert refused.count("PFL-P11") >= KILLS / 10
    assert replies >= KILLS / 10
    assert charged > replies
