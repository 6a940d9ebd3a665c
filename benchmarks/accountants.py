"""How far three accountants are apart, and how long a check of the budget takes before a round.

    python benchmarks/accountants.py

Times are the best of several; "cold" is with empty caches, as in a new process, "anew" is dp-accounting without any.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import dp_accounting
from dp_accounting.pld import pld_privacy_accountant

from pharma_fl.privacy import accountant, dominating_pair
from pharma_fl.privacy.accountant import affordable_steps, epsilon
from pharma_fl.privacy.charge import Charge
from pharma_fl.privacy.second_opinions import epsilon_by_opacus, epsilon_by_rdp

DELTA = 1e-6
RECORDED = (100, 10_000, 1_000_000)
MECHANISM = Charge(0.011, 1.9, 10)
OTHERS = tuple(Charge(0.010 + 0.001 * i, 2.0 + 0.1 * i, 1) for i in range(19))


def dp_accountings(charges: Sequence[Charge], delta: float) -> float:
    theirs = pld_privacy_accountant.PLDAccountant(dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE)
    for charge in charges:
        gaussian = dp_accounting.GaussianDpEvent(charge.noise_multiplier)
        theirs.compose(dp_accounting.PoissonSampledDpEvent(charge.sample_rate, gaussian), charge.steps)
    return float(theirs.get_epsilon(delta))


def forget() -> None:
    """Empty every cache of the accountant."""
    for cached in (
        accountant._epsilon,  # noqa: SLF001 - what is measured is what they save
        accountant._epsilon_by_renyi,  # noqa: SLF001
        accountant._composed,  # noqa: SLF001
        accountant._repeated,  # noqa: SLF001
        accountant._total,  # noqa: SLF001
        dominating_pair.pair_distribution,
        dominating_pair._ends,  # noqa: SLF001
        dominating_pair._mixture,  # noqa: SLF001
    ):
        cached.cache_clear()


def timed(work: Callable[[], Any], *, times: int, before: Callable[[], None] = lambda: None) -> tuple[float, Any]:
    """Return the least of some wall-clock times in milliseconds, and the last result."""
    best, result = math.inf, None
    for _ in range(times):
        before()
        start = time.perf_counter()
        result = work()
        best = min(best, time.perf_counter() - start)
    return 1e3 * best, result


def gaps(*, quick: bool) -> dict[str, float]:
    """Compare the accountants where all of them have an answer."""
    rates, noises, steps = (0.001, 0.01, 0.1, 0.5), (0.7, 1.0, 2.0, 6.0), (1, 100, 2000)
    grid = list(product(rates, noises, steps, (1e-5, 1e-7)))[:: 5 if quick else 1]
    rows = []
    print(f"{'rate':>7} {'noise':>6} {'steps':>6} {'delta':>7}  {'PLD':>9} {'RDP':>9} {'PRV':>9}")
    for rate, noise, n, delta in grid:
        charge = [Charge(rate, noise, n)]
        if epsilon_by_rdp(charge, delta) > 40:
            continue  # Opacus's accountant takes long there, and nobody calls it private
        row = dp_accountings(charge, delta), epsilon_by_rdp(charge, delta), epsilon_by_opacus(charge, delta)
        gap = abs(epsilon(charge, delta) - min(row[:2]))
        print(f"{rate:7g} {noise:6g} {n:6d} {delta:7.0e}  {row[0]:9.5f} {row[1]:9.5f} {row[2]:9.5f}")
        rows.append((*row, gap))
    visible = [row for row in rows if row[0] > 0.01]
    return {
        "configurations": len(rows),
        "largest_gap_to_prv": max(abs(prv - pld) for pld, _, prv, _ in rows),
        "largest_pld_above_prv": max(pld - prv for pld, _, prv, _ in rows),
        "largest_pld_above_rdp": max(pld - rdp for pld, rdp, _, _ in rows),
        "largest_gap_of_the_number_of_record_to_the_smaller_bound": max(gap for *_, gap in rows),
        "largest_rdp_over_pld": max(rdp / pld for pld, rdp, _, _ in visible),
    }


def checks(*, quick: bool) -> list[dict[str, Any]]:
    """Time the question of every round: does one more fit?"""
    found = []
    for recorded, distinct in product(RECORDED, (1, 20)):
        others = [] if distinct == 1 else [c._replace(steps=max(1, recorded // 20)) for c in OTHERS]
        own = MECHANISM._replace(steps=recorded // distinct)
        spent = [*others, own]
        plan = MECHANISM.steps * 200
        budget = epsilon([*others, own._replace(steps=own.steps + plan)], DELTA)

        def ask(spent: list[Charge] = spent, budget: float = budget, limit: int = plan) -> int:
            return affordable_steps(spent, MECHANISM, budget=budget, delta=DELTA, limit=limit)

        cold, fits = timed(ask, times=2 if quick else 5, before=forget)
        ask()
        warm, _ = timed(ask, times=200)
        # The next round: ten steps more are recorded, ten fewer are left.
        following = [*others, own._replace(steps=own.steps + 10)]
        next_round, _ = timed(lambda: ask(following, limit=plan - 10), times=50)  # noqa: B023 - called at once
        theirs, _ = timed(lambda: dp_accountings(spent, DELTA), times=1)  # noqa: B023 - called at once
        found.append(
            {
                "recorded_steps": recorded,
                "mechanisms": distinct,
                "affordable": fits,
                "cold_ms": round(cold, 2),
                "warm_ms": round(warm, 4),
                "next_round_ms": round(next_round, 4),
                "anew_ms": round(theirs, 1),
                "anew_over_warm": round(theirs / warm),
            }
        )
    return found


def units() -> dict[str, float]:
    """Price one mechanism for everything it can be priced for."""
    compound, series = Charge(0.04, 2.37, 600), Charge(0.04, 2.37, 600, "series")
    return {
        "compounds sampled, one compound": epsilon([compound], DELTA),
        "compounds sampled, five compounds or a series of five": epsilon([compound], DELTA, members=5),
        "series sampled, one series": epsilon([series], DELTA, unit="series"),
        "series sampled, one compound": epsilon([series], DELTA),
        "series sampled, five compounds": epsilon([series], DELTA, members=5),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer configurations and repetitions")
    quick = parser.parse_args().quick
    found: dict[str, Any] = {"gaps": gaps(quick=quick)}
    print()
    for name, value in found["gaps"].items():
        print(f"{name.replace('_', ' '):32} {value:.3g}")
    found["checks"] = checks(quick=quick)
    print("\n recorded  mechanisms   cold ms   warm ms  next round ms   priced anew ms   ratio to warm")
    for row in found["checks"]:
        print(
            f"{row['recorded_steps']:9,d} {row['mechanisms']:11d} {row['cold_ms']:9.1f} {row['warm_ms']:9.4f} "
            f"{row['next_round_ms']:14.4f} {row['anew_ms']:16.0f} {row['anew_over_warm']:15,d}"
        )
    warm = {(row["recorded_steps"], row["mechanisms"]): row["warm_ms"] for row in found["checks"]}
    found["warm_ratio_million_to_hundred_steps"] = {
        str(distinct): round(warm[1_000_000, distinct] / warm[100, distinct], 2) for distinct in (1, 20)
    }
    print("warm, a million steps over a hundred:", found["warm_ratio_million_to_hundred_steps"])
    found["units"] = units()
    print("\nepsilon at delta 1e-6 of 600 steps at rate 0.04 with noise multiplier 2.37")
    for name, value in found["units"].items():
        print(f"  {name:55} {value:8.3f}")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
