"""Two hundred rounds: the coordinator, which lives through all of them, needs no more memory at the end than before.

Each partner's answer is made in a process of its own, as in a deployment, where Flower starts one for each message.
"""

import gc
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from tests.conftest import PROJECT
from tests.partners import a_partner, share_keys
from tests.strategies.federations import Grid, a_federation, run, run_sums

from pharma_fl.privacy import accountant
from pharma_fl.strategies import asking

ROUNDS, SETTLED = 200, 60
PAGE_KIB = 4


class Forgetful(Grid):
    """A grid that answers from a fork, keeps nothing of it, and notes how much memory is in use after each round."""

    def __init__(self, files):
        super().__init__(files)
        self.memory_kib, self.round, self.pushed = [], 0, 0

    def push_messages(self, messages):
        numbers = []
        for message in messages:
            number = message.content["config"].get("round", 0)
            if number > self.round:
                self.round = number
                gc.collect()
                self.memory_kib.append(int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_KIB)
            self.pushed += 1
            message.metadata.__dict__["_message_id"] = f"m{self.pushed}"
            numbers.append(f"m{self.pushed}")
            self.waiting.append((f"m{self.pushed}", self._answered(message)))
        return numbers

    def _answered(self, message):
        ours, theirs = os.pipe()
        child = os.fork()
        if child == 0:
            super().push_messages([message])
            content = self.waiting.pop()[1].content
            packed = {
                "arrays": {k: a.numpy() for r in content.array_records.values() for k, a in r.items()},
                **{kind: dict(record) for kind, record in content.items() if kind != "arrays"},
            }
            with os.fdopen(theirs, "wb") as stream:
                pickle.dump(packed, stream)
            os._exit(0)
        os.close(theirs)
        with os.fdopen(ours, "rb") as stream:
            packed = pickle.load(stream)
        os.waitpid(child, 0)
        content = RecordDict({"config": ConfigRecord(packed["config"])})
        if packed["arrays"]:
            content["arrays"] = ArrayRecord({k: Array(value) for k, value in packed["arrays"].items()})
        if "metrics" in packed:
            content["metrics"] = MetricRecord(packed["metrics"])
        reply = Message(content, reply_to=message)
        reply.metadata.__dict__["_src_node_id"] = message.metadata.dst_node_id
        return reply


def soak(folder, kind):
    """Run the rounds, and say how many there were, and the slope of memory and its error in KiB a round."""
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
    torch.set_num_threads(1)
    asking._POLL_S = 0.001
    # What rounds cost is not asked here, and computing it in each fork anew would take most of the time.
    accountant.affordable_steps = lambda *_, limit, **__: limit
    accountant.epsilon = lambda *_, **__: 1.0
    files = sorted(folder.glob("*/partner.toml"))
    grid, names = Forgetful(files), tuple(file.parent.name for file in files)
    if kind == "shared":
        shared = 'noise_mode = "shared"\n        noise_multiplier = 30.0'
        federation = a_federation(names, privacy=shared, training="local_steps = 1", rounds=ROUNDS, timeout=60.0)
        run_sums(folder, federation, grid, timeout=60.0)
    else:
        federation = a_federation(names, privacy="noise_multiplier = 30.0", rounds=ROUNDS, timeout=60.0)
        run(folder, federation, grid)
    seen = np.array(grid.memory_kib[SETTLED:], dtype=float)
    (slope, _), covariance = np.polyfit(np.arange(len(seen)), seen, 1, cov=True)
    sys.stdout.write(f"{len(grid.memory_kib)} {slope} {covariance[0, 0] ** 0.5}\n")


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("kind", ["local", "shared"])
def test_memory_stays_flat_and_files_stay_bounded(tmp_path, kind):
    names = ("east", "north") if kind == "local" else ("east", "north", "south")
    for seed, name in enumerate(names):
        a_partner(tmp_path, name, seed=seed, n=20, budget={"epsilon": 100.0, "delta": 1e-5})
    share_keys(tmp_path, names)
    command = [sys.executable, "-W", "ignore", "-m", "tests.strategies.test_soak", str(tmp_path), kind]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rounds, slope, error = (float(number) for number in done.stdout.split())
    assert rounds == ROUNDS
    # A trunk that is kept each round would be 2 KiB, and so would each partner's reply; the tests' own watcher keeps
    # a record of each round, which is less than one.
    assert slope < 2.0 + 3 * error, (slope, error)
    checkpoints = sorted(place.name for place in (tmp_path / "coordinator" / "checkpoints").glob("round-*"))
    assert checkpoints == ["round-0000", *(f"round-{number:04d}" for number in range(ROUNDS - 4, ROUNDS + 1))]
    for name in names:
        state = [path for path in (tmp_path / name / "state").iterdir() if path.is_file()]
        assert len(state) <= 4, state
        assert sum(path.stat().st_size for path in state) < 200_000
        # What is kept for good is a few lines a round.
        for kept in ("ledger.sqlite", "audit.jsonl"):
            assert (tmp_path / name / kept).stat().st_size < 8_000 * ROUNDS


if __name__ == "__main__":
    soak(Path(sys.argv[1]), sys.argv[2])
