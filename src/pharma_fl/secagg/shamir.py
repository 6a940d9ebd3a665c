"""A secret in shares, of which a set number gives it back and fewer say nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import accumulate
from math import prod

PRIME = 2**255 - 19
"""Secrets, shares and coefficients are whole numbers below it."""

ELEMENT = 32
"""Bytes of one such number."""


def element(content: bytes) -> int:
    """Return the number that so many random bytes give; from 48 bytes it is uniform to 2^-129."""
    return int.from_bytes(content, "little") % PRIME


def split(secret: int, coefficients: Sequence[int], count: int) -> list[int]:
    """Return a secret's shares at the points 1 to `count`.

    Parameters
    ----------
    secret : int
        What is shared.
    coefficients : sequence of int, length k - 1
        Uniform, independent, unknown to all others and used for nothing else: k shares give the secret back, and any
        k - 1 fit every secret equally well.
    count : int
        How many shares.

    References
    ----------
    Shamir, How to share a secret, CACM 1979.

    Examples
    --------
    >>> split(7, [3], 3)
    [10, 13, 16]
    >>> joined({1: 10, 3: 16})
    7
    """
    shares = []
    for point in range(1, count + 1):
        value = 0
        # Points are small, so that reducing once at the end is cheaper than at every step.
        for coefficient in reversed(coefficients):
            value = (value + coefficient) * point
        shares.append((value + secret) % PRIME)
    return shares


def joined(shares: Mapping[int, int], at: int = 0) -> int:
    """Return what the shares' polynomial gives at a point.

    Parameters
    ----------
    shares : mapping of int to int
        k shares by their points.
    at : int
        The point; at 0 lies the secret.
    """
    return sum(weight * shares[point] for point, weight in _weights(tuple(shares), at)) % PRIME


@lru_cache(maxsize=1024)
def _weights(points: tuple[int, ...], at: int) -> tuple[tuple[int, int], ...]:
    """Return Lagrange's weights; one inversion serves them all, as it takes as long as a hundred products."""
    above, below = [], []
    for point in points:
        others = [other for other in points if other != point]
        above.append(prod(at - other for other in others) % PRIME)
        below.append(prod(point - other for other in others) % PRIME)
    before = list(accumulate(below, lambda left, right: left * right % PRIME, initial=1))
    inverse, weights = pow(before[-1], -1, PRIME), []
    for place in reversed(range(len(points))):
        weights.append((points[place], above[place] * before[place] * inverse % PRIME))
        inverse = inverse * below[place] % PRIME
    return tuple(weights)
