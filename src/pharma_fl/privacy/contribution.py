"""How much of the plan's clip a partner puts into a sum with shared noise, so that its own limits hold."""

from __future__ import annotations

import math

from pharma_fl.config.partner import BudgetSettings, PolicySettings
from pharma_fl.errors import BudgetExceeded, PolicyViolation
from pharma_fl.privacy.ledger import Ledger
from pharma_fl.privacy.plan import PrivacyPlan

STEPS = 64
"""Contributions are multiples of one part in so many: the ledger's charge then says exactly which one it was."""


def contribution(
    plan: PrivacyPlan, ledger: Ledger, *, budget: BudgetSettings, policy: PolicySettings, run: str
) -> float:
    """Return the share of the plan's clip that this partner contributes: 1, or less where its limits ask for that.

    The noise of the sum is common to all, so a partner that clips to a share s has a noise multiplier of 1 / s times
    the plan's. The share follows from settings and the ledger's public charges, never from data, and is fixed by the
    run's first charge.

    Parameters
    ----------
    plan : PrivacyPlan
    ledger : Ledger
    budget, policy : settings
        Of partner.toml.
    run : str
        Identity of the run.

    Raises
    ------
    PolicyViolation
        ``PFL-P20`` the run began with less noise than ``policy.min_noise_multiplier`` asks for by now.
    BudgetExceeded
        ``PFL-P10`` not even ``policy.min_contribution`` fits the budget for all of the plan's rounds: the others would
        lose this partner on the way.
    """
    if plan.noise_mode == "local":
        return 1.0
    begun = ledger.history().charges(run=run, purposes=("train",))
    if begun:
        # A unit of the last place is no less noise.
        if begun[0].noise_multiplier < policy.min_noise_multiplier * (1 - 1e-12):
            raise PolicyViolation(
                "PFL-P20",
                f"Run {run} began with a noise multiplier of {begun[0].noise_multiplier:g}, which stays, and "
                f"policy.min_noise_multiplier is {policy.min_noise_multiplier:g} by now. Nothing was computed.",
            )
        return round(STEPS * plan.noise_multiplier / begun[0].noise_multiplier) / STEPS
    highest = math.floor(STEPS * min(1.0, plan.noise_multiplier / policy.min_noise_multiplier))
    lowest = math.ceil(STEPS * policy.min_contribution)

    def fits(share: int) -> bool:
        return ledger.affordable_rounds(plan, budget, contribution=share / STEPS) >= plan.rounds

    if highest < lowest or not fits(lowest):
        raise BudgetExceeded(
            "PFL-P10",
            f"The budget does not cover the plan's {plan.rounds} rounds even at a contribution of "
            f"{policy.min_contribution:g} (partner.toml: policy.min_contribution). Nothing was computed and nothing "
            "left. Agree on a cheaper plan, or decide to raise budget.epsilon.",
        )
    if fits(highest):
        return highest / STEPS
    while highest - lowest > 1:
        middle = (highest + lowest) // 2
        lowest, highest = (middle, highest) if fits(middle) else (lowest, middle)
    return lowest / STEPS
