"""Forks partners to be killed: `python -m tests.clients.kill_server FOLDER`, one for each line on standard input.

A round of its own comes first, so that children find shapes and prices worked out and start in milliseconds. It says
each child's process number, and how it ended.
"""

import os
import sys
import tempfile
from pathlib import Path

import torch
from tests.clients import kills
from tests.partners import a_partner

from pharma_fl.clients.train import train_round


def say(number):
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


def serve(folder):
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        train_round(a_partner(Path(scratch), budget=kills.budget()), kills.request(1))
    for _ in sys.stdin:
        child = os.fork()
        if child == 0:
            kills.go_on(folder)
        say(child)
        say(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
