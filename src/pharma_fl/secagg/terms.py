"""What the partners of a run agree upon before any of them makes a key."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np

from pharma_fl.secagg.derivation import framed

_RINGS: dict[int, type[np.signedinteger]] = {32: np.int32, 64: np.int64}
_LONGEST_STREAM = 1 << 38
"""Bytes: ChaCha20 counts blocks of 64 bytes with 32 bits."""


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What every key, share and mask of a run is bound to.

    Parameters
    ----------
    federation, run : str
        Which run.
    plan : str
        Digest of the run's plan, in hexadecimal.
    rounds : int
        How many sums may be opened; rounds are counted from 1.
    contributors : int
        n, the partners whose vectors are summed.
    tolerated_colluders : int
        c, the most partners that may tell the coordinator all that they know.
    tolerated_losses : int
        L, the most partners that a round can do without.
    values : int
        Entries of a vector.
    ring_bits : {32, 64}
        b: sums are taken modulo 2^b, in two's complement.

    Raises
    ------
    ValueError
        The numbers give no protection, or make no sense.

    Notes
    -----
    A sum opens with the answers of k = n - L partners, and each partner answers once a round, with the share of one of
    the two secrets of every partner. Two inequalities are demanded.

    ``2 k > n + c``: to learn both secrets of an honest partner the coordinator needs k shares of each, of which the
    colluders give it c. So 2 (k - c) honest partners would have to answer, and there are n - c.

    ``L (L + 1) < n - c``: an honest partner gives shares of the round keys of at most L others. To drop an honest
    partner out of a sum takes k - c of them. So of the honest ones, however different the lists of lost partners that
    they were told, at most ``(n - c) L / (k - c)`` can be dropped, which is less than L + 1 exactly then. A sum that
    opens holds the vectors of at least n - c - L honest partners: the number that their shares of noise are made for.
    And no second one opens, as that needs both secrets of a partner who is in the one and not in the other.
    """

    federation: str
    run: str
    plan: str
    rounds: int
    contributors: int
    tolerated_colluders: int
    tolerated_losses: int
    values: int
    ring_bits: int

    def __post_init__(self) -> None:
        n, c, lost = self.contributors, self.tolerated_colluders, self.tolerated_losses
        if n < 2 or c < 0 or lost < 0:
            raise ValueError(
                f"Expected contributors >= 2, tolerated_colluders >= 0 and tolerated_losses >= 0, got {n}, {c}, {lost}."
            )
        if lost * (lost + 1) >= n - c:
            raise ValueError(
                f"Expected L (L + 1) < n - c, got L = {lost} tolerated losses, n = {n} contributors, c = {c} tolerated "
                "colluders. Tolerate fewer losses or colluders, or find more contributors."
            )
        if 2 * self.threshold <= n + c:
            raise ValueError(f"Expected 2 k > n + c, got k = {self.threshold}, n = {n}, c = {c}.")
        if self.ring_bits not in _RINGS:
            raise ValueError(f"Expected ring_bits 32 or 64, got {self.ring_bits}.")
        if self.rounds < 1 or not 1 <= self.values <= _LONGEST_STREAM // self.dtype.itemsize:
            raise ValueError(
                f"Expected rounds >= 1 and values from 1 to {_LONGEST_STREAM // self.dtype.itemsize}, got "
                f"{self.rounds} and {self.values}."
            )

    @property
    def threshold(self) -> int:
        """k, the answers that open a sum."""
        return self.contributors - self.tolerated_losses

    @property
    def dtype(self) -> np.dtype[np.signedinteger]:
        """What holds one number of the ring."""
        return np.dtype(_RINGS[self.ring_bits])

    @cached_property
    def encoded(self) -> bytes:
        """All of it, for what is bound to it."""
        return framed("terms", *(getattr(self, field.name) for field in fields(self)))
