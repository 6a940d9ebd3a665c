"""What is about to be released, as the ledger is asked for it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Self

from pharma_fl.config.federation import Unit
from pharma_fl.privacy.charge import Charge
from pharma_fl.privacy.entries import Purpose
from pharma_fl.privacy.plan import PrivacyPlan


@dataclass(frozen=True, kw_only=True)
class Spend:
    """One round of something that leaves the partner; every field is public.

    Attributes
    ----------
    charge : Charge
        What it costs against the other partners, the strongest adversary.
    coordinator_noise : float
        The noise multiplier that the coordinator and outsiders face.
    remaining_rounds : int
        Rounds that may still follow, this one included; they are priced ahead, so that later checks are quick.
    plan : str
        Digest of all that shall stay as it is during the run.
    others
        As in `entries.Reserved`.
    """

    federation: str
    run: str
    round: int
    purpose: Purpose
    charge: Charge
    coordinator_noise: float
    clipping: str
    clipping_norm: float
    plan: str
    remaining_rounds: int = 1
    generator: str = "aes-128-ctr"
    covers: tuple[str, ...] = ()
    by: str = ""
    why: str = ""

    @classmethod
    def of_round(
        cls,
        plan: PrivacyPlan,
        *,
        federation: str,
        run: str,
        round_number: int,
        generator: str = "aes-128-ctr",
        contribution: float = 1.0,
    ) -> Self:
        """Return what one round of training with `plan` spends, at this partner's contribution to the sum."""
        shared = plan.noise_mode == "shared"
        return cls(
            federation=federation,
            run=run,
            round=round_number,
            purpose="train",
            charge=plan.charge_of(1, contribution=contribution),
            coordinator_noise=plan.noise_against("coordinator", contribution),
            clipping=plan.clipping,
            clipping_norm=plan.shared.clip_of(contribution) if shared else plan.clipping_norm,
            plan=hashlib.sha256(plan.model_dump_json().encode()).hexdigest(),
            remaining_rounds=max(1, plan.rounds - round_number + 1),
            generator=generator,
        )

    @property
    def protected(self) -> bool:
        """Whether there is any noise."""
        return self.charge.noise_multiplier > 0

    @property
    def unit(self) -> Unit:
        """What is protected as one."""
        return self.charge.unit

    @property
    def name(self) -> str:
        """How messages call it."""
        what = {"train": "Round", "metrics": "Metrics", "statistics": "Statistics", "declared": "Declared charge"}
        return f"{what[self.purpose]} {self.round} of run {self.run}"
