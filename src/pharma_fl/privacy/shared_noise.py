"""Noise that partners share: what each rounds and adds, and what the opened sum holds against whom.

Each partner rounds its clipped sum to whole units, adds a discrete Gaussian share of the noise, and nothing but the sum
over partners is opened, modulo two to the `ring_bits`.

Notes
-----
**How far one record moves the rounded sum.** Let C be the clipping norm, d the values and u the unit, so small that
``u sqrt(d) <= C / 256``. Rounding moves each of d values by at most 1/2 unit (and 2^-9, as float64 divides), in both of
two neighbouring sums, so their distance grows by ``u sqrt(d)`` and a hundredth of that. Clipped sums are rounded
themselves, as they are float32: 1e-5 C with 1,000 records (`clipping`). For both there is a `slack` of ``2 u sqrt(d)``:
with it, adding or removing one record moves the rounded sum of the trunk and the sum of the heads, as one vector, by at
most ``C + slack``. This is the `sensitivity`, which all noise is measured in. Values beyond `most` are cut off, and
what is cut off moves less.

**What the sum holds.** Let h shares of an opened sum, of ``s = share_std`` units each, be unknown to somebody. Let
``S^2 = h s^2`` and ``T^2 = S^2 - t^2`` with ``t = 3`` units. *For each whole number x, the law of x plus these shares
is at each outcome within a factor* ``e^(+-a)`` *of what a rounding at random, which knows nothing but its input, makes
of x plus continuous Gaussian noise of variance T^2, where* ``a = 5 (exp(-2 pi^2 t^2) + sum over k = 1 to
h - 1 of exp(-2 pi^2 s^2 k / (k + 1)))``. So is the vector of all values within ``e^(+-sum_distance)``, and so is what
Poisson sampling of records mixes of such vectors. The accountant prices the Gaussian of multiplier ``T u /
sensitivity``, and no rounding after that tells more. Epsilon grows by ``2 sum_distance`` a step: less than 2^-99, else
the numbers are refused.

*Proof.* Let ``r_w(y) = exp(-y^2 / (2 w^2))``. By Poisson's summation, for every real c, the sum of ``r_w(y - c)`` over
whole y is ``w sqrt(2 pi)`` times a number within ``1 +- 2 v``, where v is the sum of ``exp(-2 pi^2 w^2 j^2)`` over j =
1, 2, ... And ``(1 + 2 v) / (1 - 2 v) <= e^(5 exp(-2 pi^2 w^2))`` for all w >= 1/2.

1. *Two shares.* For discrete Gaussians with the parameters a and b, the probability that they add up to y is
   proportional to the sum over whole x of ``r_a(x) r_b(y - x) = r_q(y) r_w(x - c)``, with ``q^2 = a^2 + b^2``,
   ``w = a b / q`` and ``c = y a^2 / q^2``. So it is proportional to r_q(y) times a number within ``1 +- 2 v``. As both
   laws have sum 1, their ratio is everywhere between ``(1 - 2 v) / (1 + 2 v)`` and its inverse. With ``a^2 = k s^2``
   and ``b = s``, ``w^2 = s^2 k / (k + 1)``. Adding the same share to two laws brings them no further apart, so the
   bounds of h - 1 such steps add up to the second part of a.
2. *Rounding.* A real g becomes y with the probability ``r_t(y - g)``, divided by its sum over whole y, which is the
   same for all g but for a factor within ``1 +- 2 v``, where w is t. Without that factor, x plus noise of variance T^2
   becomes y with a probability proportional to the integral of ``r_T(g - x) r_t(y - g)`` over g, which is to
   ``r_S(y - x)``. So with it, as in 1., the law is within the first part of a of the discrete Gaussian with the
   parameter S around x.

Both parts make the whole: the shares are within the second of that discrete Gaussian, and it is within the first of the
rounded Gaussian.

**Trunk and heads.** The heads' noise is continuous, is not shared, and has at least the deviation ``noise_multiplier *
sensitivity``. The rounding at random leaves it as it is, so both together are one Gaussian mechanism.

**Smaller contributions.** A partner that clips to ``clip_of(f)`` has the sensitivity ``f (C + slack)``, and faces the
noise of all: its multiplier is the plan's over f.

**What the draws add.** `discrete_gaussian` draws each value to a factor within ``e^(+-2^-50)``. With ten unknown shares
a value of their sum is within ``e^(+-c)``, c = 10 2^-50, in a likelihood ratio twice. A step adds to epsilon at most

===========  ==========================  ============================
d            all errors the same way     except with probability 2e-15
===========  ==========================  ============================
131,072      2.4e-9                      5.9e-11
71,000,000   1.3e-6                      1.4e-9
===========  ==========================  ============================

(the second column as in `grid`), so 10,000 steps at most 1.3e-2 and 1.4e-5.

**What is not claimed.** Whoever knows more shares than the plan tolerates faces less noise. Wrapping around the ring
needs 12 standard deviations, and is no matter of privacy but of what the sum is good for.

References
----------
Kairouz, Liu and Steinke 2021, arXiv 2102.06387 (the distributed discrete Gaussian; there, 10 stands in the place of 5);
Canonne, Kamath and Steinke 2020, arXiv 2004.00010; Bonawitz et al. 2017 (secure sums).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from pharma_fl.privacy.charge import Adversary
from pharma_fl.privacy.discrete_gaussian import MOST_STD

if TYPE_CHECKING:
    from torch import Tensor

    from pharma_fl.privacy.noise import NoiseSource

Vector = NDArray[np.int32] | NDArray[np.int64]

_CLIP_BITS = 8
_ROUNDING_STD = 3.0
# So that rounding in float64 takes nothing away.
_MARGIN = 1 + 2.0**-40
_MOST_DISTANCE = 2.0**-100
_REACH = 12.0
_LEAST_CLIPS = 16
# Up to here float64 divides to 2^-9 units.
_MOST_UNITS = 2**44
_CHUNK = 1 << 15
"""Values at a time: they stay in a processor's cache."""


@dataclass(frozen=True, kw_only=True)
class SharedNoise:
    """What follows from a plan for a sum with shared noise; every number is public.

    Parameters
    ----------
    clipping_norm, noise_multiplier, contributors, tolerated_colluders, tolerated_losses, ring_bits
        As in `plan.PrivacyPlan`, which checks how many may collude or be lost.
    values : int
        How many values are summed: the plan's `summed_values`.

    Raises
    ------
    ValueError
        There is nothing to sum, or noise is too little or too much to be shared in whole units, or the ring is too
        narrow.

    Examples
    --------
    >>> noise = SharedNoise(
    ...     clipping_norm=1.0,
    ...     noise_multiplier=4.0,
    ...     contributors=10,
    ...     tolerated_colluders=3,
    ...     tolerated_losses=1,
    ...     values=65_536,
    ...     ring_bits=32,
    ... )
    >>> noise.honest_shares, 1 / noise.grid, round(noise.share_std)
    (6, 65536.0, 107856)
    >>> noise.effective_multiplier("partners") >= 4.0
    True
    """

    clipping_norm: float
    noise_multiplier: float
    contributors: int
    tolerated_colluders: int
    tolerated_losses: int
    values: int
    ring_bits: Literal[32, 64]

    def __post_init__(self) -> None:
        if self.values < 1:
            raise ValueError(
                f'noise_mode "shared" needs summed_values >= 1, the number of summed trunk values, got {self.values}'
            )
        if self.sum_distance > _MOST_DISTANCE:
            raise ValueError(
                f"noise_multiplier = {self.noise_multiplier:g} leaves each of {self.contributors} contributors "
                f"{self.share_std:.3g} units of noise, and their sum would not be Gaussian: raise noise_multiplier"
            )
        if self.share_std > MOST_STD:
            raise ValueError(
                f"noise_multiplier = {self.noise_multiplier:g} needs more units of noise than can be drawn: lower it"
            )
        if self.most < self._least_most:
            raise ValueError(
                f"ring_bits = {self.ring_bits} holds no sum of {self.contributors} contributors with noise_multiplier "
                f"= {self.noise_multiplier:g} over summed_values = {self.values:,}: set ring_bits = 64"
            )

    @cached_property
    def honest_shares(self) -> int:
        """How many shares of an opened sum the coordinator and its colluders do not know, at the least."""
        return self.contributors - self.tolerated_colluders - self.tolerated_losses

    @cached_property
    def grid(self) -> float:
        """What one unit stands for: the clipping norm over a power of two."""
        return self.clipping_norm / self._clip_units

    @cached_property
    def slack(self) -> float:
        """What rounding may add to the clipping norm; at most 1/128 of it."""
        return 2 * self.grid * math.sqrt(self.values)

    @cached_property
    def sensitivity(self) -> float:
        """How far one record moves the rounded sum and the heads, at the most, in the units of the clipping norm."""
        return self.clipping_norm + self.slack

    @cached_property
    def share_std(self) -> float:
        """Parameter of the discrete Gaussian share that each partner adds, in units of the grid."""
        whole = math.hypot(self.noise_multiplier * self.sensitivity / self.grid, _ROUNDING_STD)
        return whole / math.sqrt(self.honest_shares) * _MARGIN

    @cached_property
    def head_std(self) -> float:
        """Standard deviation of the noise on a partner's heads, as much as the trunk has against the coordinator."""
        return self.noise_against("coordinator") * self.sensitivity

    @cached_property
    def most(self) -> int:
        """Largest size of what a partner adds to a value before noise, in units of the grid."""
        return self._most_in(self.ring_bits)

    @cached_property
    def least_ring_bits(self) -> Literal[32, 64]:
        """The narrowest ring that leaves room for what partners contribute."""
        return 32 if self._most_in(32) >= self._least_most else 64

    @cached_property
    def sum_distance(self) -> float:
        """How far the log-probability of an opened sum of all values is from what is accounted, at the most."""
        return self.values * _distance(_ROUNDING_STD, self.share_std, self.contributors)

    def noise_against(self, adversary: Adversary) -> float:
        """Return the noise multiplier that is charged: over the sensitivity, of what an adversary does not know."""
        if adversary == "partners":
            return self.noise_multiplier
        return self.noise_multiplier * math.sqrt(self._unknown_shares(adversary) / self.honest_shares)

    def effective_multiplier(self, adversary: Adversary) -> float:
        """Return the noise multiplier that the shares amount to: what `noise_against` says, or a little more."""
        known = self._unknown_shares(adversary) * self.share_std**2 - _ROUNDING_STD**2
        return math.sqrt(known) * self.grid / self.sensitivity

    def clip_of(self, contribution: float) -> float:
        """Return the clipping norm of a partner that contributes a fraction of what the others may.

        Its noise multiplier is then ``noise_against(adversary) / contribution``.

        Parameters
        ----------
        contribution : float
            Above ``slack / sensitivity``, which is less than 1/128, and up to 1.

        Raises
        ------
        ValueError
            It is not.
        """
        norm = self.clipping_norm - (1 - contribution) * self.sensitivity  # exactly the plan's for 1
        if not (contribution <= 1 and norm > 0):
            raise ValueError(
                f"Expected a contribution above {self.slack / self.sensitivity:.3g} and up to 1, got {contribution}."
            )
        return norm

    def add_sums(self, vector: Vector, sums: Tensor) -> None:
        """Round clipped sums to units and add them, in place and chunk by chunk.

        ====================  =======================
        a sum                 adds
        ====================  =======================
        up to `most` units    the nearest number of units, at a tie the even one
        larger, or infinite   `most` with its sign
        NaN                   0
        ====================  =======================

        Clipped sums are finite whatever the data (`clipping`). Nothing is raised where they are not, as an error that
        leaves the partner would tell of data.

        Parameters
        ----------
        vector : ndarray
            int32 or int64 (n,), as `ring_bits` says, or a part of such a vector.
        sums : Tensor
            float32, n values in any shape, on any device.
        """
        flat = sums.detach().reshape(-1).cpu().numpy()
        for start in range(0, len(flat), _CHUNK):
            units = flat[start : start + _CHUNK].astype(np.float64)
            units /= self.grid
            np.rint(units, out=units)
            units[np.isnan(units)] = 0
            np.clip(units, -self.most, self.most, out=units)
            part = vector[start : start + _CHUNK]
            part += units.astype(part.dtype)

    def add_share(self, vector: Vector, noise: NoiseSource) -> None:
        """Add this partner's share of the noise to every value of a vector as in `add_sums`, in place."""
        noise.add_discrete_gaussian(vector, self.share_std)

    def values_of(self, vector: Vector) -> NDArray[np.float32]:
        """Return float32, of the vector's shape: what an opened sum of units stands for, in the units of the norm."""
        found = np.empty(vector.shape, dtype=np.float32)
        np.multiply(vector, self.grid, out=found, dtype=np.float64, casting="same_kind")
        return found

    def _most_in(self, bits: int) -> int:
        # In whole numbers, as float64 does not hold those of a wide ring.
        noise = math.ceil(_REACH * self.share_std * math.sqrt(self.contributors))
        return min(_MOST_UNITS, ((1 << bits - 1) - 1 - noise) // self.contributors)

    @property
    def _least_most(self) -> int:
        return _LEAST_CLIPS * self._clip_units

    @property
    def _clip_units(self) -> int:
        root_bits = ((self.values - 1).bit_length() + 1) // 2  # the least k with 4^k >= values
        return 1 << root_bits + _CLIP_BITS

    def _unknown_shares(self, adversary: Adversary) -> int:
        return self.honest_shares if adversary == "partners" else self.contributors - self.tolerated_losses


def _distance(rounding_std: float, share_std: float, shares: int) -> float:
    """Return the a of the notes."""
    variances = [rounding_std**2, *(share_std**2 * k / (k + 1) for k in range(1, shares))]
    return 5 * math.fsum(math.exp(-2 * math.pi**2 * variance) for variance in variances)
