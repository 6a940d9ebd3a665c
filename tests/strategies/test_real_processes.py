"""A federation of processes, one of which is killed in the middle of the run and started anew."""

import json

import pytest
from tests.partners import NAMES, a_partner, share_keys
from tests.strategies.deployment import Deployment
from tests.strategies.federations import ledger_of

ROUNDS, BEFORE = 20, 6
RUN_S = 1_500.0
FEDERATION = f"""
    name = "real"
    [partners]
    east = 1.0
    north = 1.0
    south = 1.0
    west = 1.0
    [model]
    input_bits = 64
    hidden = [8]
    [training]
    rounds = {ROUNDS}
    local_steps = 1
    [privacy]
    epsilon = 3.0
    noise_mode = "shared"
    tolerated_losses = 1
    [quorum]
    min_partners = 3
    round_timeout_s = 150.0
    [tracking]
    enabled = false
"""
"""One more partner than a round needs, and time enough for the slowest machine."""


def records(folder):
    path = folder / "coordinator" / "rounds.jsonl"
    # The last line may be half written.
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]] if path.exists() else []


def rounds_of(records, name):
    """Rounds that count and have something of this partner."""
    return [record["round"] for record in records if name in record["participants"] and not record["void"]]


def charged(folder, name):
    """Rounds that a ledger has paid for."""
    return {entry.round for entry in ledger_of(folder / "partners", name).entries() if entry.kind == "reserved"}


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(2 * RUN_S)
def test_a_partner_that_is_killed_comes_back(tmp_path):
    for seed, name in enumerate(NAMES):
        a_partner(tmp_path / "partners", name, seed=seed)
    share_keys(tmp_path / "partners")
    (tmp_path / "federation.toml").write_text(FEDERATION)
    with Deployment(tmp_path / "processes") as deployment:
        for name in NAMES:
            deployment.start_node(name, tmp_path / "partners" / name / "partner.toml")
        deployment.submit(tmp_path / "federation.toml")

        def done(rounds):
            return len(records(tmp_path)) >= rounds or not deployment.lives("run")

        deployment.wait(lambda: done(BEFORE), RUN_S / 2, "the first rounds")
        deployment.kill("south")
        left = rounds_of(records(tmp_path), "south")
        assert left[:BEFORE] == list(range(1, BEFORE + 1)), deployment.logs()
        assert charged(tmp_path, "south") >= set(left)
        deployment.restart("south")
        deployment.wait(lambda: done(ROUNDS) and not deployment.lives("run"), RUN_S, "the end of the run")
        logs = deployment.logs()
    end = tmp_path / "coordinator" / "end.json"
    assert end.exists(), logs
    assert json.loads(end.read_text())["status"] == "completed", logs
    every, history = list(range(1, ROUNDS + 1)), records(tmp_path)
    for name in NAMES:
        took_part = rounds_of(history, name)
        assert charged(tmp_path, name) >= set(took_part)
        if name == "south":
            assert 1 <= ROUNDS - len(took_part) <= 6, logs
            assert took_part[-5:] == every[-5:], logs
        else:
            assert took_part == every, logs
