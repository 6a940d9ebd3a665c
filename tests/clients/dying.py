"""Kills a process for real at a named point: `python -m tests.clients.dying WHAT WHEN WHERE PARTNER.TOML`."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from pkgutil import resolve_name

from tests.conftest import PROJECT
from tests.partners import a_metrics_request, a_request

from pharma_fl.clients.evaluate import evaluate_round
from pharma_fl.clients.statistics import release_statistics
from pharma_fl.clients.train import train_round
from pharma_fl.config import Partner

WORK = {
    "train": lambda partner, _: train_round(partner, a_request()),
    "evaluate": lambda partner, _: evaluate_round(partner, a_metrics_request()),
    "statistics": lambda partner, folder: release_statistics(
        partner, folder / "s.json", noise_multiplier=10.0, clipping_norm=4.0
    ),
}
RESERVE = "pharma_fl.privacy.ledger:Ledger.reserve"
RELEASE = "pharma_fl.privacy.ledger:Ledger.release"


def kill(what, point, partner_file):
    """Run one of `WORK` in a process of its own, which is killed ("before" or "after", function) `point`."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.clients.dying", what, *point, str(partner_file)],
        check=False,
        cwd=PROJECT,
        capture_output=True,
        timeout=120,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()


def main(what, when, where, partner_file):
    module, _, path = where.partition(":")
    *owners, name = path.split(".")
    owner = resolve_name(f"{module}:{'.'.join(owners)}" if owners else module)
    original = getattr(owner, name)

    def dying(*arguments, **named):
        if when == "after":
            original(*arguments, **named)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(owner, name, dying)
    WORK[what](Partner.load(Path(partner_file)), Path(partner_file).parent.parent)


if __name__ == "__main__":
    main(*sys.argv[1:])
