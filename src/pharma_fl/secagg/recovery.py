"""A secret from shares of which some may be wrong, where the right secret can be told."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from itertools import combinations, islice

from pharma_fl.secagg.shamir import joined

_EFFORT = 20_000_000
"""Products that are computed before giving up, in about four seconds: of 30 partners, any four may be wrong."""


def recovered(
    shares: Mapping[int, int], threshold: int, fits: Callable[[int], bool], *, doubted: Collection[int] = ()
) -> tuple[int, set[int]] | None:
    """Return a secret and the points at which its shares are wrong, or None where no shares give it.

    Parameters
    ----------
    shares : mapping of int to int
        At least as many as the threshold, by their points.
    threshold : int
        k.
    fits : callable
        Tells the right secret.
    doubted : collection of int
        Points whose shares are left out first.

    Examples
    --------
    >>> recovered({1: 10, 2: 14, 3: 16}, 2, lambda secret: secret == 7)
    (7, {2})
    """
    trusted = sorted(shares, key=lambda point: point in doubted)
    tries = _EFFORT // threshold**2
    # Leaving out is chosen instead of taking, so that a single wrong share is found in a few tries.
    for left_out in islice(combinations(reversed(trusted), len(trusted) - threshold), tries):
        taken = {point: shares[point] for point in trusted if point not in left_out}
        secret = joined(taken)
        if fits(secret):
            return secret, {point for point in left_out if joined(taken, at=point) != shares[point]}
    return None
