"""Waiting for a round: until its deadline, and beyond it where too few have answered and the federation says so."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from pharma_fl.config.federation import QuorumSettings
from pharma_fl.strategies.asking import Inquiry, Reply

_LOG = logging.getLogger("flwr")  # beside Flower's own strategies


def gather(
    inquiry: Inquiry, quorum: QuorumSettings, *, timeout: float, needed: int, take: Callable[[str, Reply], bool]
) -> None:
    """Take replies until all are there, or enough are and the others gone, or nobody is waited for any more.

    Under ``when_missed = "wait"`` the deadline is put off by `wait_s` at most, and only while those who have not
    answered could still make the quorum.

    Parameters
    ----------
    inquiry : Inquiry
        What was asked.
    quorum : QuorumSettings
        What to do when too few answer.
    timeout : float
        Seconds to the deadline.
    needed : int
        Fewest good replies.
    take : callable
        Takes a partner's reply, and says whether it is good.
    """
    good = 0

    def enough() -> bool:
        return good >= needed and inquiry.silent == inquiry.lost

    deadline = time.monotonic() + timeout
    for name, reply in inquiry.replies(deadline, enough=enough):
        good += take(name, reply)
    last = deadline + quorum.wait_s if quorum.when_missed == "wait" else deadline
    if good < needed <= good + len(inquiry.silent) and time.monotonic() < last:
        _LOG.warning(
            "%d partners have answered where %d are needed: waiting %.0f s more for %s.",
            good,
            needed,
            quorum.wait_s,
            sorted(inquiry.silent),
        )
    while good < needed <= good + len(inquiry.silent) and time.monotonic() < last:
        # Short lives: whoever comes after the round is over must not be charged for it.
        pause = min(quorum.ask_again_s, last - time.monotonic())
        for name, reply in inquiry.replies(time.monotonic() + pause, lifetime_s=quorum.ask_again_s):
            good += take(name, reply)
            if good >= needed:
                break
