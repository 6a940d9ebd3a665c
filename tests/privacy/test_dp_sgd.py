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
from pharma_fl.config.partner import BudgetSettings, PolicySettings
from pharma_fl.errors import ConfigError, PolicyViolation, PrivacyError
from pharma_fl.model.fit import new_network
from pharma_fl.model.losses import network_losses
from pharma_fl.privacy.clip import Clip, gradient_multiplier, group_multipliers
from pharma_fl.privacy.clipping import clipped_gradients
from pharma_fl.privacy.dp_sgd import DpSgd
from pharma_fl.privacy.noise import SystemNoise
from pharma_fl.privacy.plan import PrivacyPlan, propose
from pharma_fl.privacy.policy import check_policy

MODEL = ModelSettings(input_bits=64, hidden=(8,))
BUDGET = BudgetSettings(epsilon=1.0)


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


def mechanism(plan, records, *, noise=None, placebo=False, network=None, lr=1.0, physical_batch=None):
    network = network or new_network(MODEL, records, seed=0)
    return DpSgd(
        plan,
        network,
        torch.optim.SGD(network.parameters(), lr=lr),
        record_losses=lambda n, b: network_losses(n, b, weights=records.weights),
        noise=noise or SystemNoise(),
        placebo=placebo,
        physical_batch=physical_batch,
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
        (network_losses(plain, records.all(), weights=records.weights).sum() / 50.0).backward()
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
    with pytest.raises(ValueError, match="every trained parameter"):
        DpSgd(
            a_plan(),
            network,
            torch.optim.SGD(network.trunk.parameters(), lr=1.0),
            record_losses=lambda n, b: network_losses(n, b, weights=records.weights),
            noise=SeededNoise(),
        )


def test_the_mechanism_works_on_any_linear_network():
    class Rows:
        def __len__(self):
            return 8

        def batch(self, rows, size):
            return torch.ones(max(len(rows), size), 3)

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
    check_policy(a_plan(), policy, BUDGET, federation="trial")
    with pytest.raises(PolicyViolation, match=named):
        check_policy(a_plan(**change), policy, BUDGET, federation="trial")


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

        def batch(self, rows, size):
            self.samples.append(tuple(rows))
            return self.records.batch(rows, size)

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


def noise_alone(plan, *, steps=1, **rest):
    """Move a network by noise alone, and return each parameter's movement over lr / expected batch."""
    records = make_records(40, seed=1, label_rate=0.0)
    network = new_network(ModelSettings(input_bits=64, hidden=(128,)), records, seed=0)
    private, _ = mechanism(plan, records, network=network, **rest)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    for _ in range(steps):
        private.step(records)
    return {name: ((p.detach() - before[name]) * 50.0).numpy().ravel() for name, p in network.named_parameters()}


def test_two_groups_have_their_own_noise_and_together_cost_the_plans_multiplier():
    plan = a_plan(
        noise_multiplier=0.96, clipping="groups", clipping_norm=0.7, head_clipping_norm=3.0, head_noise_ratio=4 / 3
    )
    assert plan.multipliers == pytest.approx((1.2, 1.6))
    moved = noise_alone(plan)
    for name, part in moved.items():
        std = 1.6 * 3.0 if name.startswith("heads.") else 1.2 * 0.7
        assert kstest(part / std, "norm").pvalue > 1e-6
    assert kstest(moved["trunk.input.weight"] / (0.96 * 0.7), "norm").pvalue < 1e-9


def test_the_noise_of_two_groups_is_one_gaussian_mechanism():
    """Both sums of one compound, in units of their noise, are a vector of length 1 / noise_multiplier."""
    for multiplier, ratio in ((0.96, 4 / 3), (5.0, 0.1), (1.0, 100.0)):
        trunk, head = group_multipliers(multiplier, ratio)
        assert np.hypot(1 / trunk, 1 / head) == pytest.approx(1 / multiplier)
        assert head / trunk == pytest.approx(ratio)
        assert np.hypot(1 / gradient_multiplier(multiplier, 20.0), 0.5 / 20.0) == pytest.approx(1 / multiplier)


def test_an_adaptive_clip_follows_the_quantile_and_pays_for_it():
    records = make_records(400, seed=3, label_rate=1.0)
    plan = a_plan(
        clipping="adaptive",
        sample_rate=1.0,
        expected_batch=400.0,
        clipping_norm=50.0,
        clip_quantile=0.5,
        clip_learning_rate=0.5,
    )
    assert plan.count_noise == 20.0
    assert plan.multipliers[0] == pytest.approx((1.3**-2 - 40.0**-2) ** -0.5)
    # A learning rate of next to nothing holds the network, and so the norms, where they are.
    private, network = mechanism(plan, records, lr=1e-9)
    for _ in range(60):
        private.step(records)
    clip = Clip(norm=private.clip.norm)
    sums = clipped_gradients(network, lambda: network_losses(network, records.all(), weights=records.weights), clip)
    assert 0.35 < sums.below / 400 < 0.65
    assert private.clip.norm < 50.0
    placebo, _ = mechanism(plan, records, placebo=True)
    placebo.step(records)
    assert placebo.clip.norm == pytest.approx(50.0, rel=0.2)  # noise around one half: nothing of the data


def test_the_count_of_an_adaptive_clip_moves_by_one_half_a_record():
    """With and without any one record, in any clip: the sensitivity that its noise is made for."""
    records = make_records(12, seed=5, label_rate=0.5)

    class Exact(SeededNoise):
        counts = ()

        def add_normal(self, tensor, std, scale=1.0):
            if tensor.dtype == torch.float64:
                self.counts += (float(tensor[0]),)

    for norm in (0.01, 0.3, 100.0):
        seen = []
        for kept in (list(range(12)), *([r for r in range(12) if r != gone] for gone in range(12))):
            noise = Exact()
            plan = a_plan(clipping="adaptive", sample_rate=1.0, clipping_norm=norm)
            some = records.select(np.array(kept))
            mechanism(plan, some, noise=noise)[0].step(some)
            seen += noise.counts
        assert {abs(count - seen[0]) for count in seen[1:]} == {0.5}


def test_physical_batches_add_up_and_get_noise_once():
    records = make_records(150, seed=2)
    outcomes, draws = [], []
    for rows in (32, 64, 256):

        class Counted(SeededNoise):
            drawn = 0

            def add_normal(self, tensor, std, scale=1.0):
                self.drawn += 1
                super().add_normal(tensor, std, scale)

        noise = Counted()
        plan = a_plan(noise_multiplier=1e-12, sample_rate=1.0)
        private, network = mechanism(plan, records, noise=noise, physical_batch=rows)
        assert private.physical_batch == rows
        for _ in range(3):
            private.step(records)
        outcomes.append(flat(network))
        draws.append(noise.drawn)
    torch.testing.assert_close(outcomes[0], outcomes[2], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(outcomes[1], outcomes[2], rtol=1e-5, atol=1e-7)
    assert draws == [3 * 6] * 3


class TooLarge:
    """Losses that run out of memory above some rows, as a GPU does."""

    def __init__(self, records, rows):
        self.records, self.rows, self.tried = records, rows, []

    def __call__(self, network, batch):
        self.tried.append(len(batch))
        if len(batch) > self.rows:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return network_losses(network, batch, weights=self.records.weights)


def out_of_memory(records, rows, **rest):
    network = new_network(MODEL, records, seed=0)
    losses = TooLarge(records, rows)
    private = DpSgd(
        a_plan(noise_multiplier=1e-12, sample_rate=1.0),
        network,
        torch.optim.SGD(network.parameters(), lr=1.0),
        record_losses=losses,
        noise=SeededNoise(),
        **rest,
    )
    return private, network, losses


def test_a_rehearsal_finds_the_physical_batch_that_fits_and_says_so(caplog):
    records = make_records(150, seed=2)
    private, network, losses = out_of_memory(records, 64, physical_batch=256)
    before = flat(network)
    private.rehearse(lambda rows: records.batch(np.arange(20), rows))
    assert losses.tried == [256, 128, 64]
    assert private.physical_batch == 64
    assert "physical batches of 64 records" in caplog.text
    assert torch.equal(flat(network), before)
    private.step(records)
    assert losses.tried[3:] == [64, 64, 64]
    whole, other = mechanism(a_plan(noise_multiplier=1e-12, sample_rate=1.0), records, physical_batch=256)
    whole.step(records)
    torch.testing.assert_close(flat(network), flat(other), rtol=1e-5, atol=1e-7)
    hopeless, _, _ = out_of_memory(records, 0)
    with pytest.raises(PrivacyError, match="PFL-P07"):
        hopeless.rehearse(lambda rows: records.batch(np.arange(20), rows))


def test_a_step_that_runs_out_of_memory_fails_whole():
    """Smaller blocks would round all others otherwise, and one compound's labels may have filled the memory."""
    records = make_records(150, seed=2)
    private, network, losses = out_of_memory(records, 64, physical_batch=256)
    before = flat(network)
    with pytest.raises(PrivacyError, match="PFL-P07.*physical_batch"):
        private.step(records)
    assert losses.tried == [256]
    assert torch.equal(flat(network), before)
    assert private.steps_taken == 0


def test_a_step_that_fails_is_not_half_applied():
    records = make_records(40, seed=2)
    private, network = mechanism(a_plan(sample_rate=1.0), records)
    before = flat(network)
    records.values.data[:] = 1.0

    def broken(network, batch):
        raise RuntimeError("a defect")

    private._record_losses = broken
    with pytest.raises(RuntimeError, match="a defect"):
        private.step(records)
    assert torch.equal(flat(network), before)
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_bfloat16_lowers_the_clip_and_learns_the_same():
    records = make_records(60, seed=2, label_rate=1.0)
    outcomes = {}
    for precision in ("float32", "bfloat16"):
        network = new_network(ModelSettings(input_bits=64, hidden=(16, 8)), records, seed=0)
        plan = a_plan(noise_multiplier=1e-12, sample_rate=1.0, clipping_norm=0.05)
        private = DpSgd(
            plan,
            network,
            torch.optim.SGD(network.parameters(), lr=1.0),
            record_losses=lambda n, b: network_losses(n, b, weights=records.weights),
            noise=SeededNoise(),
            precision=precision,
        )
        before = flat(network)
        private.step(records)
        outcomes[precision] = (flat(network) - before) * 50.0
    exact, rounded = outcomes.values()
    assert float((rounded / 0.99 - exact).norm() / exact.norm()) < 0.02
    assert float(rounded.norm()) < 60 * 0.05


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"clipping": "groups"}, "head_clipping_norm"),
        ({"head_clipping_norm": 1.0}, "head_clipping_norm"),
        ({"clipping": "automatic", **UNPROTECTED}, "clips nothing"),
        ({"clipping": "adaptive", "clip_count_noise": 0.5}, "clip_count_noise"),
        ({"clipping": "sometimes"}, "clipping"),
    ],
)
def test_clipping_that_contradicts_itself_is_refused(changes, named):
    with pytest.raises(ValidationError, match=named):
        a_plan(**changes)


def test_the_policy_limits_the_heads_clip_too():
    policy = PolicySettings(max_clipping_norm=10.0)
    with pytest.raises(PolicyViolation, match="head_clipping_norm 50"):
        check_policy(a_plan(clipping="groups", head_clipping_norm=50.0), policy, BUDGET, federation="trial")


def test_a_network_that_opacus_would_refuse_is_refused():
    network = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    with pytest.raises(PrivacyError, match="PFL-P01"):
        DpSgd(
            a_plan(),
            network,
            torch.optim.SGD(network.parameters(), lr=1.0),
            record_losses=lambda n, b: n(b).sum(1),
            noise=SeededNoise(),
        )
