"""The mechanism: the sum, the noise and the step it takes, and what it refuses."""

import numpy as np
import pytest
import torch
from opacus.accountants import RDPAccountant
from pydantic import ValidationError
from scipy.stats import kstest
from tests.conftest import SeededNoise, make_records
from torch import nn

from pharma_fl.config import ModelSettings, PrivacySettings, TrainingSettings
from pharma_fl.config.partner import PolicySettings
from pharma_fl.errors import ConfigError, PolicyViolation
from pharma_fl.model.fit import new_network
from pharma_fl.model.losses import network_losses
from pharma_fl.privacy.dp_sgd import DpSgd
from pharma_fl.privacy.noise import SystemNoise
from pharma_fl.privacy.plan import PrivacyPlan, propose
from pharma_fl.privacy.policy import check_policy

MODEL = ModelSettings(input_bits=64, hidden=(8,))


def a_plan(**changes):
    fields = {
        "sample_rate": 0.5,
        "noise_multiplier": 1.3,
        "clipping_norm": 0.7,
        "expected_batch": 50.0,
        "delta": 1e-5,
        "rounds": 4,
        "steps_per_round": 2,
    }
    return PrivacyPlan(**(fields | changes))


UNPROTECTED = {"mechanism": "none", "noise_multiplier": 0.0, "sample_rate": 1.0}


def mechanism(plan, records, *, noise=None, placebo=False, network=None, lr=1.0):
    network = network or new_network(MODEL, records, seed=0)
    return DpSgd(
        plan,
        network,
        torch.optim.SGD(network.parameters(), lr=lr),
        record_losses=lambda n, b: network_losses(n, b, records=records),
        noise=noise or SystemNoise(),
        placebo=placebo,
    ), network


def flat(network):
    return torch.cat([p.detach().flatten() for p in network.parameters()]).clone()


def test_without_clip_and_noise_five_steps_are_plain_sgd():
    records = make_records(40, seed=1)
    private, network = mechanism(a_plan(**UNPROTECTED), records)
    plain = new_network(MODEL, records, seed=0)
    optimizer = torch.optim.SGD(plain.parameters(), lr=1.0)
    for _ in range(5):
        private.step(records)
        optimizer.zero_grad()
        (network_losses(plain, records.all(), records=records).sum() / 50.0).backward()
        optimizer.step()
    torch.testing.assert_close(flat(network), flat(plain), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("placebo", [False, True])
def test_the_steps_noise_has_the_plans_sigma_in_trunk_and_head(placebo):
    """Zero gradients: what moves the parameters is noise alone, and 2/3 or 3/2 of its sigma is rejected."""
    records = make_records(40, seed=1, label_rate=0.7 if placebo else 0.0)
    model = ModelSettings(input_bits=4096, hidden=(32,))
    network = new_network(model, records, seed=0)
    private, _ = mechanism(a_plan(), records, placebo=placebo, network=network)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    records.x.resize((40, 4096))
    for _ in range(3):
        private.step(records)
    sigma = 1.3 * 0.7 / 50.0 * np.sqrt(3)
    moved = {name: (p.detach() - before[name]).numpy().ravel() / sigma for name, p in network.named_parameters()}
    # Every tensor, however small: a bias without noise would be in the clear.
    for part in moved.values():
        assert kstest(part, "norm").pvalue > 1e-6
        assert part.std() == pytest.approx(1, abs=5 / np.sqrt(2 * len(part)))
    whole = moved["trunk.input.weight"]
    assert kstest(whole * 1.5, "norm").pvalue < 1e-9
    assert kstest(whole / 1.5, "norm").pvalue < 1e-9


def test_an_empty_sample_is_a_step_with_noise():
    records = make_records(1)
    private, network = mechanism(a_plan(sample_rate=1e-6), records)
    before = flat(network)
    private.step(records)
    assert private.steps_taken == 1
    assert not torch.equal(flat(network), before)


def test_the_clip_binds_over_trunk_and_head_together():
    records = make_records(1, seed=3, label_rate=1.0)
    private, network = mechanism(a_plan(noise_multiplier=1e-12, sample_rate=1.0, clipping_norm=1e-3), records)
    before = flat(network)
    private.step(records)
    assert float((flat(network) - before).norm()) == pytest.approx(1e-3 / 50, rel=1e-2)


def test_opacus_counts_the_steps_taken():
    records = make_records(10)
    private, _ = mechanism(a_plan(), records)
    accountant = RDPAccountant()
    private.optimizer.attach_step_hook(accountant.get_optimizer_hook_fn(sample_rate=0.5))
    for _ in range(6):
        private.step(records)
    assert accountant.history == [(1.3, 0.5, 6)]
    assert private.steps_taken == 6


def test_two_mechanisms_never_share_noise():
    records = make_records(4, label_rate=0.0)
    outcomes = []
    for _ in range(2):
        torch.manual_seed(0)
        private, network = mechanism(a_plan(), records)
        private.step(records)
        outcomes.append(flat(network))
    assert not torch.equal(*outcomes)


def test_a_head_left_out_of_the_mechanism_is_refused():
    records = make_records(4)
    network = new_network(MODEL, records, seed=0)
    with pytest.raises(ValueError, match="every parameter"):
        DpSgd(
            a_plan(),
            network,
            torch.optim.SGD(network.trunk.parameters(), lr=1.0),
            record_losses=lambda n, b: network_losses(n, b, records=records),
            noise=SeededNoise(),
        )


def test_the_mechanism_works_on_any_linear_network():
    class Rows:
        def __len__(self):
            return 8

        def batch(self, rows):
            return torch.ones(len(rows), 3)

    network = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 1))
    private = DpSgd(
        a_plan(),
        network,
        torch.optim.SGD(network.parameters(), lr=0.1),
        record_losses=lambda n, b: n(b).square().sum(1),
        noise=SeededNoise(),
    )
    private.step(Rows())
    assert private.steps_taken == 1


def test_a_plan_without_noise_says_so():
    assert a_plan(**UNPROTECTED).epsilon() == float("inf")
    for wrong in ({"noise_multiplier": 0.0}, {"mechanism": "none"}):
        with pytest.raises(ValueError, match="noise_multiplier"):
            a_plan(**wrong)


def test_a_proposed_plan_costs_what_was_asked_for():
    training = TrainingSettings(rounds=7, local_steps=3)
    plan = propose(PrivacySettings(epsilon=2.0), training)
    assert 1.99 < plan.epsilon() <= 2.0
    assert plan.charge_of(7).steps == 21
    assert propose(PrivacySettings(noise_multiplier=4.0), training).noise_multiplier == 4.0


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"noise_multiplier": 0.4}, "min_noise_multiplier"),
        ({"sample_rate": 0.9}, "max_sample_rate"),
        ({"clipping_norm": 50.0}, "max_clipping_norm"),
        (UNPROTECTED | {"sample_rate": 0.1}, "allow_unprotected"),
    ],
)
def test_each_limit_of_the_policy_holds(change, named):
    policy = PolicySettings(min_noise_multiplier=1.0, max_sample_rate=0.5, max_clipping_norm=10.0)
    check_policy(a_plan(), policy)
    with pytest.raises(PolicyViolation, match=named):
        check_policy(a_plan(**change), policy)


@pytest.mark.parametrize("text", ['{"epsilon": -1}', '{"epsilon": 1, "noise_multiplier": 1}', "{}", '{"epsilon": NaN}'])
def test_impossible_privacy_settings_are_refused(text):
    with pytest.raises(ConfigError, match="PFL-C03"):
        PrivacySettings.parse_json(text, source="test")


def test_every_step_draws_a_new_sample():
    class Watched:
        def __init__(self, records):
            self.records, self.samples = records, []

        def __len__(self):
            return len(self.records)

        def batch(self, rows):
            self.samples.append(tuple(rows))
            return self.records.batch(rows)

    records = make_records(40)
    watched = Watched(records)
    private, _ = mechanism(a_plan(), records)
    for _ in range(5):
        private.step(watched)
    assert len(set(watched.samples)) == 5
    assert len({len(sample) for sample in watched.samples}) > 1


def test_a_plan_that_takes_minutes_to_price_is_refused():
    with pytest.raises(ValidationError, match="steps_per_round <= 1,000,000"):
        a_plan(rounds=100_000, steps_per_round=11)
    for field, value in (("sample_rate", 1e-300), ("clipping_norm", 1e-30), ("clipping_norm", 1e30)):
        with pytest.raises(ValidationError, match=field):
            a_plan(**{field: value})
