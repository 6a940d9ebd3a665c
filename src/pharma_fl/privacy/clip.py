"""What a record's gradient is scaled by, and what noise its sum then needs."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pharma_fl.config.federation import ClipMode

if TYPE_CHECKING:
    from torch import Tensor

_SHARED = "trunk."
_STABILITY = 0.01
"""AUTO-S adds this to the norm, in units of the clipping norm; 0.01 is its authors' choice."""
_ADAPTS_WITHIN = 1e3


@dataclass(frozen=True, kw_only=True)
class Clip:
    """How a record's gradient is brought to a norm of at most `norm`.

    ===========  ==========================================================================
    mode         a record's gradient of norm n
    ===========  ==========================================================================
    flat         all parameters together: scaled by ``min(1, norm / n)``
    groups       trunk to `norm` and the rest to `head_norm`, each by itself as in flat
    automatic    all parameters together: scaled by ``norm / (n + 0.01 norm)``
    adaptive     as flat; `norm` follows a noised quantile from step to step
    ===========  ==========================================================================

    Attributes
    ----------
    mode : str
        One of the above.
    norm, head_norm : float
        Clipping norms; `head_norm` is read in ``groups`` alone. Infinity clips nothing, in ``flat`` alone.

    References
    ----------
    Automatic: Bu et al. 2023, arXiv 2206.07136. Adaptive: Andrew et al. 2021, arXiv 1905.03871.
    """

    mode: ClipMode = "flat"
    norm: float
    head_norm: float = math.nan

    @property
    def groups(self) -> int:
        """How many parts of a gradient are clipped by themselves."""
        return 2 if self.mode == "groups" else 1

    def group_of(self, name: str) -> int:
        """Return the group of a layer or parameter."""
        return int(self.mode == "groups" and not name.startswith(_SHARED))

    def norm_of(self, group: int) -> float:
        """Return the clipping norm of a group."""
        return self.head_norm if group else self.norm

    def coefficients(self, squares: Tensor) -> Tensor:
        """Return what each record's gradient is scaled by, float64 (groups, b), from squared norms of that shape."""
        import torch  # noqa: PLC0415 - it takes a second to import

        norms = torch.tensor([[self.norm_of(group)] for group in range(self.groups)], dtype=torch.float64)
        norms = norms.to(squares.device)
        if self.mode == "automatic":
            return norms / (squares.sqrt() + _STABILITY * norms)
        return torch.clamp(norms / squares.sqrt(), max=1.0)

    def tightened(self, margin: float) -> Clip:
        """Return the clip with norms a little lower, so that later rounding stays within the norms given."""
        return replace(self, norm=self.norm * margin, head_norm=self.head_norm * margin)

    def adapted(self, share_below: float, *, quantile: float, learning_rate: float, first_norm: float) -> Clip:
        """Return the clip with its norm moved towards a quantile of the gradients' norms.

        Parameters
        ----------
        share_below : float
            Noised share of records whose norm was at most the clip's.
        quantile, learning_rate : float
            Public: the share that is aimed at, and how fast.
        first_norm : float
            Public start; the norm stays within a factor of 1,000 of it.
        """
        moved = self.norm * math.exp(-learning_rate * (min(max(share_below, -1.0), 2.0) - quantile))
        return replace(self, norm=float(min(max(moved, first_norm / _ADAPTS_WITHIN), first_norm * _ADAPTS_WITHIN)))


def group_multipliers(noise_multiplier: float, head_noise_ratio: float) -> tuple[float, float]:
    """Split one accounted noise multiplier over two groups.

    Two Gaussian sums of one sample, with multipliers s and r s, are together one Gaussian mechanism of multiplier
    ``(s^-2 + (r s)^-2)^(-1/2)``: divided by their own noise they are one vector of sensitivity
    ``(s^-2 + (r s)^-2)^(1/2)`` with unit noise.

    >>> trunk, head = group_multipliers(0.96, 1.6 / 1.2)
    >>> round(trunk, 6), round(head, 6)
    (1.2, 1.6)
    """
    trunk = noise_multiplier * math.sqrt(1 + head_noise_ratio**-2)
    return trunk, head_noise_ratio * trunk


def gradient_multiplier(noise_multiplier: float, count_noise: float) -> float:
    """Return the gradient's multiplier where each step also releases a count of records with noise `count_noise`.

    The count is taken as plus or minus one half a record, so one record moves it by one half, and its multiplier is
    ``2 count_noise``; both releases are one Gaussian mechanism as in `group_multipliers`.

    Raises
    ------
    ValueError
        The count alone costs more than `noise_multiplier` allows.

    References
    ----------
    Andrew et al. 2021, arXiv 1905.03871, theorem 1.
    """
    left = noise_multiplier**-2 - (2 * count_noise) ** -2
    if left <= 0:
        raise ValueError(f"expected clip_count_noise above noise_multiplier / 2 = {noise_multiplier / 2:g}")
    return float(left**-0.5)
