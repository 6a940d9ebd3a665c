"""How long a ledger takes to check and write one more round, by the length of its history.

    .venv/bin/python benchmarks/ledger.py

Ledgers of one-step rounds are written in bulk, then charged as in a round: verified, priced, written to disk, told to
the audit log. "Warm" is the same process again, "cold" a process that knows nothing yet. The last line is JSON.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from pharma_fl import __version__
from pharma_fl.config.partner import BudgetSettings, PolicySettings
from pharma_fl.privacy.entries import Released, Reserved
from pharma_fl.privacy.ledger import Ledger
from pharma_fl.privacy.plan import PrivacyPlan
from pharma_fl.privacy.spend import Spend

LENGTHS = (100, 1_000, 10_000)
TRIES = 15
BUDGET, POLICY = BudgetSettings(epsilon=8.0), PolicySettings()


def plan() -> PrivacyPlan:
    """One step a round, as with sums that are opened step by step."""
    return PrivacyPlan(
        sample_rate=0.01,
        noise_multiplier=1.5,
        clipping_norm=1.0,
        expected_batch=100.0,
        delta=1e-5,
        rounds=20_000,
        steps_per_round=1,
    )


def spend(number: int, run: str) -> Spend:
    """What one more round spends."""
    return Spend.of_round(plan(), federation="f", run=run, round_number=number)


def ledger_of(folder: Path) -> Ledger:
    """The ledger in a folder, with an audit log."""
    return Ledger(folder / "ledger.sqlite", partner="north", journal=folder / "audit.jsonl")


def write(folder: Path, rounds: int) -> None:
    """Write a history of so many charged and answered rounds, in few transactions."""
    ledger = ledger_of(folder)
    ledger.reserve(spend(1, "r"), budget=BUDGET, policy=POLICY)
    first = next(entry for entry in ledger.entries() if isinstance(entry, Reserved))
    own = {"seq", "time", "version", "round"}
    copied = {name: getattr(first, name) for name in Reserved.model_fields if name not in own}
    with ledger.held():
        for begin in range(2, rounds + 1, 500):
            makers = []
            for number in range(begin, min(begin + 500, rounds + 1)):
                makers.append(lambda facts, number=number: Reserved(round=number, **copied, **facts))
                makers.append(
                    lambda facts, number=number: Released(
                        run="r", round=number, purpose="train", reply="0" * 64, **facts
                    )
                )
            ledger.append(*makers)


def charge(folder: Path, rounds: int, tries: int) -> list[float]:
    """Charge more rounds and return the milliseconds of each."""
    ledger, taken = ledger_of(folder), []
    for number in range(rounds + 1, rounds + 1 + tries):
        begun = time.perf_counter()
        ledger.reserve(spend(number, "r"), budget=BUDGET, policy=POLICY)
        taken.append(1000 * (time.perf_counter() - begun))
    return taken


def main() -> None:
    """Print the table and one line of JSON."""
    if len(sys.argv) > 1:
        print(charge(Path(sys.argv[1]), int(sys.argv[2]), 1)[0])
        return
    found = []
    for rounds in LENGTHS:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            write(folder, rounds)
            cold, *warm = charge(folder, rounds, 1 + TRIES)
            size = (folder / "ledger.sqlite").stat().st_size
            again = subprocess.run(  # noqa: S603 - this very script
                [sys.executable, __file__, scratch, str(rounds + 1 + TRIES)], capture_output=True, text=True, check=True
            )
            begun = time.perf_counter()
            entries = len(ledger_of(folder).links())
            read = 1000 * (time.perf_counter() - begun)
            found.append(
                {
                    "rounds": rounds,
                    "entries": entries,
                    "bytes_an_entry": round(size / entries),
                    "warm_ms": statistics.median(warm),
                    "first_of_this_process_ms": cold,
                    "cold_ms": float(again.stdout),
                    "read_and_verify_ms": read,
                }
            )
    print(f"pharma-fl {__version__}, {datetime.now(UTC):%Y-%m-%d}")
    print(f"{'rounds':>8}{'entries':>9}{'warm ms':>10}{'cold ms':>10}{'read ms':>10}")
    for one in found:
        print(
            f"{one['rounds']:>8}{one['entries']:>9}{one['warm_ms']:>10.1f}{one['cold_ms']:>10.0f}"
            f"{one['read_and_verify_ms']:>10.0f}"
        )
    longest, shortest = found[-1]["warm_ms"], found[0]["warm_ms"]
    print(f"warm, {LENGTHS[-1]:,} rounds over {LENGTHS[0]}: {longest / shortest:.2f}")
    print(json.dumps({"benchmark": "ledger", "by_length": found}))


if __name__ == "__main__":
    main()
