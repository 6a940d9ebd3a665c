"""What is charged, and against whom; what it costs is for the `accountant` to say, which takes a second to import."""

from __future__ import annotations

from typing import Literal, NamedTuple

from pharma_fl.config.federation import Unit

Adversary = Literal["coordinator", "partners"]
"""``coordinator``: also everybody who later sees the model. ``partners``: those with the coordinator, as far as
tolerated, who know their own shares of the noise."""


class Charge(NamedTuple):
    """Some steps of one Poisson-subsampled Gaussian mechanism; all fields are public.

    ``noise_multiplier`` 0 stands for steps without protection. `unit` is what was sampled and clipped as one.
    """

    sample_rate: float
    noise_multiplier: float
    steps: int
    unit: Unit = "compound"
