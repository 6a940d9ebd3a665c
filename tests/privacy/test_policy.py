"""Each limit that a coordinator's wish is held against."""

import pytest
from tests.privacy.ledgers import a_plan

from pharma_fl.config.partner import BudgetSettings, PolicySettings
from pharma_fl.errors import PolicyViolation
from pharma_fl.privacy.policy import check_metrics, check_policy

BUDGET = BudgetSettings(epsilon=2.0)


def asked(plan, *, federation="trial", budget=BUDGET, **policy):
    check_policy(plan, PolicySettings(**policy), budget, federation=federation)


def test_what_is_within_passes():
    asked(a_plan())
    asked(a_plan(), federations=("trial", "other"), max_steps_per_run=100)


@pytest.mark.parametrize(
    ("plan", "policy", "named"),
    [
        ({}, {"min_noise_multiplier": 6.0}, "noise_multiplier 5 < policy.min_noise_multiplier 6"),
        ({}, {"max_sample_rate": 0.2}, "sample_rate 0.3 > policy.max_sample_rate 0.2"),
        ({"clipping_norm": 200.0}, {}, "clipping_norm 200 > policy.max_clipping_norm 100"),
        ({"clipping": "groups", "head_clipping_norm": 200.0}, {}, "head_clipping_norm 200 > policy.max_clipping_norm"),
        ({}, {"max_steps_per_run": 99}, "rounds * steps_per_round 100 > policy.max_steps_per_run 99"),
        ({"mechanism": "none", "noise_multiplier": 0.0}, {}, "policy.allow_unprotected is false"),
        ({}, {"federations": ("other",)}, "federation 'trial' is not in policy.federations"),
        ({}, {"federations": ()}, "federation 'trial' is not in policy.federations"),
        ({}, {"actions": ("metrics",)}, "'train' is not in policy.actions"),
    ],
)
def test_each_limit_refuses_what_is_beyond_it(plan, policy, named):
    with pytest.raises(PolicyViolation, match="PFL-P20") as refused:
        asked(a_plan(**plan), **policy)
    assert named in str(refused.value)


def test_every_broken_limit_is_named_at_once():
    with pytest.raises(PolicyViolation) as refused:
        asked(a_plan(), min_noise_multiplier=9.0, max_sample_rate=0.1, federations=("other",))
    assert str(refused.value).count("policy.") == 3


def test_a_budget_for_series_wants_plans_for_series():
    budget = BudgetSettings(epsilon=2.0, unit="series", series_size=20)
    with pytest.raises(PolicyViolation, match='budget.unit is "series"'):
        asked(a_plan(), budget=budget)
    asked(a_plan(unit="series"), budget=budget)
    asked(a_plan(unit="series"))


def test_a_request_for_metrics_needs_the_partners_word_and_enough_noise():
    with pytest.raises(PolicyViolation, match="'metrics' is not in policy.actions"):
        check_metrics(50.0, PolicySettings(), federation="trial")
    allowed = PolicySettings(actions=("train", "metrics"), min_metrics_noise_multiplier=20.0, federations=("trial",))
    check_metrics(20.0, allowed, federation="trial")
    for noise in (19.9, 0.0, float("nan")):
        with pytest.raises(PolicyViolation, match="min_metrics_noise_multiplier 20"):
            check_metrics(noise, allowed, federation="trial")
    with pytest.raises(PolicyViolation, match="federation"):
        check_metrics(20.0, allowed, federation="another")
