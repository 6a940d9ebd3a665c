"""What a secure sum costs a partner and the coordinator, against plain sums and against Flower's SecAgg+ functions.

    .venv/bin/python benchmarks/secagg.py
    .venv/bin/python benchmarks/secagg.py --partners 10 --values 64000000   # a trunk of 32,000 x 2,000

Masks, noise and sums are made as in a round, of vectors of 32-bit numbers; Flower's functions are called as its own
client and workflow call them, on vectors of the same length. All that one process does here, the partners of a run do
side by side. `taskset -c 0` before it shows one processor core. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import secrets
import time
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.common.secure_aggregation.ndarrays_arithmetic import (
    parameters_addition,
    parameters_mod,
    parameters_subtraction,
)
from flwr.common.secure_aggregation.quantization import quantize
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen

from pharma_fl import __version__
from pharma_fl.privacy.noise import SystemNoise
from pharma_fl.secagg.bundles import open_bundles, seal_bundles
from pharma_fl.secagg.keys import Secrets, check_adverts, make_advert
from pharma_fl.secagg.masks import _THREADS
from pharma_fl.secagg.opening import Opening
from pharma_fl.secagg.session import Session
from pharma_fl.secagg.terms import Terms

TOLERATED = {2: (1, 0), 10: (3, 2), 30: (5, 4)}
"""Colluders and losses, by partners."""

MIB = 2**20


def seconds(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def best(call: Callable[[], object]) -> float:
    """Seconds of the quickest of three: what else runs on the machine only slows it down."""
    return min(seconds(call) for _ in range(3))


def peak_bytes(call: Callable[[], object]) -> int:
    """The most memory that a call took at a time, on top of what was there."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def set_up(terms: Terms) -> tuple[list[Session], dict[str, float]]:
    """All partners' sessions, and what the setup costs the first."""
    names = [f"partner {place:02}" for place in range(terms.contributors)]
    roots = {name: Secrets.fresh() for name in names}
    identities = {name: Ed25519PrivateKey.generate() for name in names}
    known = {name: key.public_key().public_bytes_raw().hex() for name, key in identities.items()}
    first = names[0]
    begun = time.perf_counter()
    own = make_advert(first, roots[first], terms, identities[first].sign)
    taken = time.perf_counter() - begun
    adverts = [own] + [make_advert(name, roots[name], terms, identities[name].sign) for name in names[1:]]
    begun = time.perf_counter()
    digest = check_adverts(adverts, terms=terms, own=own, partner_keys=known)
    given = {first: seal_bundles(roots[first], first, adverts, terms, digest)}
    taken += time.perf_counter() - begun
    given |= {name: seal_bundles(roots[name], name, adverts, terms, digest) for name in names[1:]}
    sessions = []
    for name in names:
        sealed = {other: given[other][0][name] for other in names if other != name}
        begun = time.perf_counter()
        bundles = open_bundles(sealed, roots[name], name, adverts, terms, digest) | {name: given[name][1]}
        taken += time.perf_counter() - begun if name == first else 0
        sessions.append(
            Session(
                terms=terms, name=name, root=roots[name].root, adverts=tuple(adverts), digest=digest, bundles=bundles
            )
        )
    advert = len(own.sealing) + len(own.rounds) + len(own.signature)
    bundles_size = sum(map(len, given[first][0].values()))
    return sessions, {
        "setup_s": taken,
        "setup_sent_mib": (advert + bundles_size) / MIB,
        "setup_received_mib": (advert * len(names) + bundles_size) / MIB,
    }


def opening_of(session: Session) -> Opening:
    return Opening(adverts=session.adverts, digest=session.digest, terms=session.terms, round_number=1)


def our_sum(sessions: list[Session]) -> dict[str, float | None]:
    """Seconds and memory of one partner and of the coordinator; a sum is opened and checked first."""
    terms, names = sessions[0].terms, [session.name for session in sessions]
    ramp = np.arange(terms.values, dtype=terms.dtype) % 1000
    opening, masks_s = opening_of(sessions[0]), []
    for place, session in enumerate(sessions):
        vector = ramp * np.int32(place + 1)
        masks_s.append(seconds(lambda session=session, vector=vector: session.add_masks(vector, 1)))
        opening.add(session.name, vector)
    answers = {session.name: session.unmask(1, names) for session in sessions}
    if not np.array_equal(opening.opened(answers), ramp * np.int32(len(names) * (len(names) + 1) // 2)):
        raise AssertionError("The opened sum is not the sum of the inputs.")
    del opening, ramp

    def opened(lost: int) -> None:
        # One partner's vector stands for all, so that a large sum does not need the memory of all.
        survivors = names[lost:]
        answers = {session.name: session.unmask(1, survivors) for session in sessions[lost:]}
        opening = opening_of(sessions[0])
        for name in survivors:
            opening.add(name, vector)
        opening.opened(answers)

    return {
        "masks_s": min(masks_s),
        "masks_memory": peak_bytes(lambda: sessions[0].add_masks(vector, 2)) / vector.nbytes,
        "opening_none_lost_s": best(lambda: opened(0)),
        "opening_one_lost_s": best(lambda: opened(1)) if terms.tolerated_losses else None,
        "opening_memory": peak_bytes(lambda: opened(0)) / vector.nbytes,
    }


def noise_share(terms: Terms) -> float:
    """Seconds of a share of noise, of the deviation that a grid of 8 bits below the noise's brings about."""
    honest = terms.contributors - terms.tolerated_colluders - terms.tolerated_losses
    std = 2.0 ** (math.ceil(math.log2(math.sqrt(terms.values))) + 8) / math.sqrt(honest)
    source, vector = SystemNoise(), np.zeros(terms.values, terms.dtype)
    source.add_discrete_gaussian(vector[: 1 << 16], std)
    return best(lambda: source.add_discrete_gaussian(vector, std))


def plain_sum(terms: Terms) -> float:
    """Seconds to add up as many float32 vectors."""
    total, vector = np.zeros(terms.values, np.float32), np.ones(terms.values, np.float32)
    return best(lambda: [np.add(total, vector, out=total) for _ in range(terms.contributors)])


def flowers_sum(terms: Terms) -> dict[str, float | None]:
    """Seconds of the same by Flower's functions: its clip of 8, 2^22 steps and ring of 2^32."""
    n, ring, shape = terms.contributors, 2**32, [(terms.values,)]
    seeds = [secrets.token_bytes(32) for _ in range(n)]
    floats = [np.random.default_rng(1).normal(size=terms.values).astype(np.float32)]

    def masked() -> None:
        vector = numbers
        for place, seed in enumerate(seeds):
            mask = pseudo_rand_gen(seed, ring, shape)
            vector = (parameters_addition if place % 2 else parameters_subtraction)(vector, mask)
        parameters_mod(vector, ring)

    def opened(lost: int) -> None:
        total = numbers
        for _ in range(n - lost - 1):
            total = parameters_addition(total, numbers)
        for seed in [*seeds[lost:], *(seeds[lost:] * lost)]:
            total = parameters_subtraction(total, pseudo_rand_gen(seed, ring, shape))
        parameters_mod(total, ring)

    quantized = best(lambda: quantize(floats, 8.0, 2**22))
    numbers = quantize(floats, 8.0, 2**22)
    return {
        "flower_quantize_s": quantized,
        "flower_masks_s": best(masked),
        "flower_opening_none_lost_s": best(lambda: opened(0)),
        "flower_opening_one_lost_s": best(lambda: opened(1)) if terms.tolerated_losses else None,
        "flower_masks_memory": peak_bytes(masked) / (4 * terms.values),
        "flower_mib_per_round": 8 * terms.values / MIB,
    }


def measured(partners: int, values: int, rounds: int) -> dict[str, float | None]:
    """Return all figures of a run with so many partners."""
    colluders, losses = TOLERATED[partners]
    terms = Terms(
        federation="benchmark",
        run="1",
        plan="00" * 32,
        rounds=rounds,
        contributors=partners,
        tolerated_colluders=colluders,
        tolerated_losses=losses,
        values=values,
        ring_bits=32,
    )
    # Memory that the machine has not given to this process before is slow when it is first written to.
    np.ones(8 * values, np.int32)
    sessions, found = set_up(terms)
    answer = 32 * partners
    found |= {"partners": partners, "mib_per_round": (values * terms.dtype.itemsize + answer) / MIB}
    found |= our_sum(sessions) | {"noise_s": noise_share(terms), "plain_s": plain_sum(terms)}
    found |= flowers_sum(terms)
    found["opening_over_plain"] = found["opening_none_lost_s"] / found["plain_s"]
    found["flower_masks_over_ours"] = found["flower_masks_s"] / found["masks_s"]
    found["flower_opening_over_ours"] = found["flower_opening_none_lost_s"] / found["opening_none_lost_s"]
    return found


ROWS = (
    ("setup of {rounds} rounds, s", "setup_s", ".2f"),
    ("  sent by a partner, MiB", "setup_sent_mib", ".2f"),
    ("  received by it, MiB", "setup_received_mib", ".2f"),
    ("a partner's masks, s", "masks_s", ".3f"),
    ("  its share of noise, s", "noise_s", ".3f"),
    ("  memory besides, in vectors", "masks_memory", ".3f"),
    ("  sent in a round, MiB", "mib_per_round", ".1f"),
    ("opening, none lost, s", "opening_none_lost_s", ".3f"),
    ("opening, one lost, s", "opening_one_lost_s", ".3f"),
    ("  memory besides, in vectors", "opening_memory", ".3f"),
    ("plain sum, s", "plain_s", ".3f"),
    ("opening over plain sum", "opening_over_plain", ".1f"),
    ("Flower: rounding, s", "flower_quantize_s", ".3f"),
    ("Flower: a partner's masks, s", "flower_masks_s", ".3f"),
    ("  memory besides, in vectors", "flower_masks_memory", ".1f"),
    ("  sent in a round, MiB", "flower_mib_per_round", ".1f"),
    ("Flower: opening, none lost, s", "flower_opening_none_lost_s", ".3f"),
    ("Flower: opening, one lost, s", "flower_opening_one_lost_s", ".3f"),
    ("Flower's masks over ours", "flower_masks_over_ours", ".1f"),
    ("Flower's opening over ours", "flower_opening_over_ours", ".1f"),
)


def main() -> None:
    """Print the table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--partners", type=int, nargs="+", choices=TOLERATED, default=list(TOLERATED))
    parser.add_argument("--values", type=int, default=4_000_000, help="numbers of a vector")
    parser.add_argument("--rounds", type=int, default=1_000, help="rounds that the setup is for")
    settings = parser.parse_args()
    found = [measured(partners, settings.values, settings.rounds) for partners in settings.partners]
    print(f"pharma-fl {__version__}, {datetime.now(UTC):%Y-%m-%d}")
    print(f"{settings.values:,} numbers of 32 bits, masks by {_THREADS} threads, Flower by 1")
    print(f"{'partners':<32}" + "".join(f"{one['partners']:>10}" for one in found))
    for text, key, form in ROWS:
        cells = ("-" if one[key] is None else format(one[key], form) for one in found)
        print(f"{text.format(rounds=f'{settings.rounds:,}'):<32}" + "".join(f"{cell:>10}" for cell in cells))
    print(
        json.dumps(
            {"benchmark": "secagg", "values": settings.values, "rounds": settings.rounds, "threads": _THREADS}
            | {"by_partners": found}
        )
    )


if __name__ == "__main__":
    main()
