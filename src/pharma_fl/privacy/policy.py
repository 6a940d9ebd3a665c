"""The partner's limits: a coordinator may ask for more privacy than these, never for less."""

from __future__ import annotations

from typing import Literal

from pharma_fl.config.partner import BudgetSettings, PolicySettings
from pharma_fl.errors import PolicyViolation
from pharma_fl.privacy.plan import PrivacyPlan

Action = Literal["train", "metrics"]


def check_policy(plan: PrivacyPlan, policy: PolicySettings, budget: BudgetSettings, *, federation: str) -> None:
    """Hold a proposed plan against the partner's policy.

    Raises
    ------
    PolicyViolation
        ``PFL-P20`` naming every limit that the plan breaks.
    """
    broken = [*_refused_request(policy, federation, "train")]
    if not plan.protected:
        if not policy.allow_unprotected:
            broken.append('privacy.mechanism = "none", but policy.allow_unprotected is false')
    else:
        broken += _little_noise(plan, policy)
    steps = plan.rounds * plan.steps_per_round
    for name, value, limit, most in (
        ("sample_rate", plan.sample_rate, "max_sample_rate", policy.max_sample_rate),
        ("clipping_norm", plan.clipping_norm, "max_clipping_norm", policy.max_clipping_norm),
        ("head_clipping_norm", plan.head_clipping_norm or 0, "max_clipping_norm", policy.max_clipping_norm),
        ("rounds * steps_per_round", steps, "max_steps_per_run", policy.max_steps_per_run),
    ):
        if value > most:
            broken.append(f"{name} {value:g} > policy.{limit} {most:g}")
    if policy.plans is not None and plan.digest not in policy.plans:
        broken.append(f"plan {plan.digest} is not in policy.plans")
    if budget.unit == "series" and plan.protected and plan.unit != "series":
        broken.append('privacy.unit = "compound", but budget.unit is "series"')
    _refuse(broken)


def check_metrics(noise_multiplier: float, policy: PolicySettings, *, federation: str) -> None:
    """Hold a request for noised metrics against the partner's policy.

    Raises
    ------
    PolicyViolation
        ``PFL-P20`` naming every limit that the request breaks.
    """
    broken = [*_refused_request(policy, federation, "metrics")]
    least = policy.min_metrics_noise_multiplier
    if not noise_multiplier >= least:
        broken.append(_low("noise_multiplier of metrics", noise_multiplier, "min_metrics_noise_multiplier", least))
    _refuse(broken)


def _little_noise(plan: PrivacyPlan, policy: PolicySettings) -> list[str]:
    shared, least = plan.noise_mode == "shared", policy.min_noise_multiplier
    # Under shared noise a lower clip makes the common noise count for more.
    if plan.noise_multiplier / (policy.min_contribution if shared else 1.0) < least:
        return [_low("noise_multiplier", plan.noise_multiplier, "min_noise_multiplier", least)]
    if not shared:
        return []
    wanted = (
        ("tolerated_colluders", plan.tolerated_colluders, policy.min_tolerated_colluders),
        ("contributors", plan.contributors, policy.min_contributors or 0),
    )
    return [_low(name, value, f"min_{name}", most) for name, value, most in wanted if value < most]


def _refused_request(policy: PolicySettings, federation: str, action: Action) -> list[str]:
    broken = []
    if policy.federations is not None and federation not in policy.federations:
        broken.append(f"federation {federation!r} is not in policy.federations {list(policy.federations)}")
    if action not in policy.actions:
        broken.append(f"{action!r} is not in policy.actions {list(policy.actions)}")
    return broken


def _low(name: str, value: float, limit: str, least: float) -> str:
    return f"{name} {value:g} < policy.{limit} {least:g}"


def _refuse(broken: list[str]) -> None:
    if broken:
        raise PolicyViolation(
            "PFL-P20", "The request is outside partner.toml: " + "; ".join(broken) + ". Nothing was computed."
        )
