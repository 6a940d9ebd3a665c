"""The partner's limits: a coordinator may ask for more privacy than these, never for less."""

from __future__ import annotations

from pharma_fl.config.partner import PolicySettings
from pharma_fl.errors import PolicyViolation
from pharma_fl.privacy.plan import PrivacyPlan


def check_policy(plan: PrivacyPlan, policy: PolicySettings) -> None:
    """Hold a proposed plan against the partner's policy.

    Raises
    ------
    PolicyViolation
        ``PFL-P20`` naming every limit that the plan breaks.
    """
    broken = []
    if not plan.protected:
        if not policy.allow_unprotected:
            broken.append('privacy.mechanism = "none", but policy.allow_unprotected is false')
    elif plan.noise_multiplier < policy.min_noise_multiplier:
        broken.append(
            f"noise_multiplier {plan.noise_multiplier:g} < policy.min_noise_multiplier {policy.min_noise_multiplier:g}"
        )
    if plan.sample_rate > policy.max_sample_rate:
        broken.append(f"sample_rate {plan.sample_rate:g} > policy.max_sample_rate {policy.max_sample_rate:g}")
    if (plan.head_clipping_norm or 0) > policy.max_clipping_norm:
        broken.append(
            f"head_clipping_norm {plan.head_clipping_norm:g} > policy.max_clipping_norm {policy.max_clipping_norm:g}"
        )
    if plan.clipping_norm > policy.max_clipping_norm:
        broken.append(f"clipping_norm {plan.clipping_norm:g} > policy.max_clipping_norm {policy.max_clipping_norm:g}")
    if broken:
        raise PolicyViolation(
            "PFL-P20", "The plan is outside partner.toml: " + "; ".join(broken) + ". Nothing was trained."
        )
