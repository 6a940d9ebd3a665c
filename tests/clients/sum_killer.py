"""Forks partners that are killed in a secure sum: `python -m tests.clients.sum_killer`, one for each line of input.

A line is a JSON list: what is done, and the point at which it is killed, as for `dying`; and the partner's file. The
answer is how the child ended.
"""

import json
import os
import pickle
import subprocess
import sys

import torch
from tests.clients import dying
from tests.conftest import PROJECT
from tests.partners import ONE_STEP, a_request, a_shared_plan

from pharma_fl.clients.secure_sum import keep_shares, keys_of_run, shares_of_run, unmask_round
from pharma_fl.clients.train import train_round

RUN, QUESTIONS = "run-1", "questions.pickle"
"""What the coordinator has to ask with lies in the folder of all partners."""


def asked(folder):
    return pickle.loads((folder / QUESTIONS).read_bytes())


WORK = {
    "keys": lambda partner, _: keys_of_run(partner, "trial", RUN, a_shared_plan()),
    "shares": lambda partner, folder: shares_of_run(partner, RUN, asked(folder)),
    "keep": lambda partner, folder: keep_shares(partner, RUN, asked(folder)),
    "train": lambda partner, _: train_round(partner, a_request(plan=a_shared_plan(), training=ONE_STEP)),
    "unmask": lambda partner, folder: unmask_round(partner, RUN, 1, asked(folder)),
}


class Killer:
    """The process that forks; imports take longer than all kills together."""

    def __init__(self):
        command = [sys.executable, "-W", "ignore", "-m", "tests.clients.sum_killer"]
        self.process = subprocess.Popen(
            command, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def kill(self, what, point, folder, name, questions=None):
        """Let a partner answer in a process of its own, and kill it at a point; return the signal that ended it."""
        (folder / QUESTIONS).write_bytes(pickle.dumps(questions))
        self.process.stdin.write(json.dumps([what, *point, str(folder / name / "partner.toml")]) + "\n")
        return os.WTERMSIG(int(self.process.stdout.readline()))

    def close(self):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def serve():
    torch.set_num_threads(1)
    dying.WORK |= WORK
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            dying.main(*json.loads(line))
            os._exit(0)
        sys.stdout.write(f"{os.waitpid(child, 0)[1]}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
