"""The results of a comparison, as summary.json lists them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Setting = Literal["sp", "fed", "fed-dp", "fed-dp-shared", "placebo"]


@dataclass(frozen=True, kw_only=True)
class Result:
    """One metric of one model at one partner.

    Attributes
    ----------
    setting : str
        ``sp`` alone, ``fed`` federated without privacy, ``fed-dp`` with it and each partner's own noise,
        ``fed-dp-shared`` with shared noise, ``placebo`` noise alone.
    epsilon : float or None
        Of the federated run; None where there is no guarantee.
    personalised : bool
        After the partner refitted it for itself.
    seed, partner, metric, value
        What was measured.
    """

    setting: Setting
    epsilon: float | None
    personalised: bool
    seed: int
    partner: str
    metric: str
    value: float
