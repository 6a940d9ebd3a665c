"""Coordinators that are killed at a named moment and resumed: `python -m tests.strategies.dying_coordinator`.

A line of input is a JSON list: the folder, the kind of noise, and the number of the moment to be killed at (0: none).
Each is run in a fork, as imports take longer than all runs together. The answer is how the child ended.

Partners run inside the coordinator's process, and every moment is one between two of their answers or beside one of the
coordinator's writes: what is killed is the coordinator. Noise and samples follow from partner and round, so that two
runs of the same rounds end with the same bits.
"""

import json
import os
import signal
import subprocess
import sys
import traceback
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from flwr.supercore.task_identity import TaskIdentity
from tests.conftest import PROJECT
from tests.strategies.federations import Grid, a_federation, a_summing_federation

from pharma_fl.clients import evaluate, train
from pharma_fl.errors import FederationError
from pharma_fl.messages.wire import to_arrays
from pharma_fl.model.pretrained import initial_trunk
from pharma_fl.privacy.noise import SystemNoise
from pharma_fl.strategies import asking, checkpoints, roster
from pharma_fl.strategies.checkpoints import Checkpoints
from pharma_fl.strategies.dp_fedavg import DpFedAvg
from pharma_fl.strategies.dp_fedsgd import DpFedSgd
from pharma_fl.strategies.proposal import proposed_plan

ROUNDS = 3
WRITES = {name: getattr(checkpoints, name) for name in ("save_weights", "write_atomic")}
APPEND = Checkpoints.append
FEDERATIONS = {
    "local": lambda: a_federation(
        ("east", "north"),
        rounds=ROUNDS,
        timeout=60.0,
        training='local_steps = 2\n        server_optimizer = "adam"\n        server_momentum = 0.9',
        more="[evaluation]\n        every = 2\n        bins = 4",
    ),
    "shared": lambda: a_summing_federation(
        rounds=ROUNDS, timeout=60.0, training="local_steps = 1\n        server_momentum = 0.5"
    ),
}


class Moments:
    """Counts moments, and kills this process at one of them."""

    def __init__(self, fatal):
        self.fatal, self.passed = fatal, 0

    def pass_one(self):
        self.passed += 1
        if self.passed == self.fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, function):
        """Return the function with a moment before it and one after."""

        def watched(*given, **named):
            self.pass_one()
            result = function(*given, **named)
            self.pass_one()
            return result

        return watched


class Repeatable(SystemNoise):
    """Randomness that follows from partner and round."""

    now = (0, 0)

    def __init__(self, **_):
        super().__init__(threads=1)
        # One for each use: a sum's noise is drawn beside the gradients, by another thread.
        self._samples, self._normals, self._shares = (np.random.default_rng([*self.now, use]) for use in range(3))

    def uniform(self, count):
        return self._samples.random(count)

    def add_normal(self, tensor, std, scale=1.0):
        noise = torch.from_numpy(self._normals.normal(0.0, std, tuple(tensor.shape))).to(tensor.dtype)
        tensor.detach().add_(noise).mul_(scale)

    def add_discrete_gaussian(self, vector, std):
        vector += self._shares.normal(0.0, std, vector.shape).astype(vector.dtype)


class Watched(Grid):
    """A grid with a moment before and after each message is answered, and after each answer is taken."""

    def __init__(self, files, moments):
        super().__init__(files)
        self._moments = moments

    def push_messages(self, messages):
        numbers = []
        for message in messages:
            self._moments.pass_one()
            config = message.content["config"]
            Repeatable.now = (message.metadata.dst_node_id, config.get("round", 0))
            numbers += super().push_messages([message])
            self._moments.pass_one()
        return numbers

    def pull_messages(self, numbers):
        replies = super().pull_messages(numbers)
        if replies:
            self._moments.pass_one()
        return replies


def go(folder, kind, fatal):
    """Run a federation, or go on with it; write how many moments it had."""
    moments, federation = Moments(fatal), FEDERATIONS[kind]()
    train.SystemNoise = evaluate.SystemNoise = Repeatable
    asking._POLL_S = roster._POLL_S = 0.001
    for name, function in WRITES.items():
        setattr(checkpoints, name, moments.around(function))
    Checkpoints.append = moments.around(APPEND)
    place = Checkpoints(folder / "coordinator")
    strategy = (DpFedSgd if kind == "shared" else DpFedAvg)(
        federation, proposed_plan(federation), place, run=f"test-{kind}"
    )
    if (folder / "coordinator").exists():
        # Where nothing was written before it was killed there is nothing to go on with.
        with suppress(FederationError):
            strategy.resume()
    files = sorted(folder.glob("*/partner.toml"))
    grid = Watched(files, moments)
    strategy.start(grid, to_arrays(initial_trunk(federation.model, federation.seed)))
    (folder / "moments").write_text(str(moments.passed))


class Coordinators:
    """The process that forks."""

    def __init__(self):
        command = [sys.executable, "-W", "ignore", "-m", "tests.strategies.dying_coordinator"]
        self.process = subprocess.Popen(
            command, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def run(self, folder, kind, fatal=0):
        """Run or resume a federation, and return the signal that ended it, 0 for none."""
        self.process.stdin.write(json.dumps([str(folder), kind, fatal]) + "\n")
        self.process.stdin.flush()
        status = int(self.process.stdout.readline())
        assert not os.WIFEXITED(status) or os.WEXITSTATUS(status) == 0, (folder / "error").read_text()
        return os.WTERMSIG(status)

    def close(self):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()
        self.process.stderr.close()


def serve():
    torch.set_num_threads(1)
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 2)
    seen = set()
    for line in sys.stdin:
        folder, kind, fatal = json.loads(line)
        # The first of a kind is run here: its forks then have what the accountant had to compute.
        child = os.fork() if kind in seen else 0
        if child == 0:
            try:
                go(Path(folder), kind, fatal)
            except Exception:  # noqa: BLE001 - the child says what it was
                Path(folder, "error").write_text(traceback.format_exc())
                os._exit(1)
            if kind in seen:
                os._exit(0)
            seen.add(kind)
            child = os.fork()
            if child == 0:
                os._exit(0)
        sys.stdout.write(f"{os.waitpid(child, 0)[1]}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
