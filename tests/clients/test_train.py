"""One round at a partner: charged first, answered once, exact after every crash."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from scipy.stats import kstest
from tests.clients.dying import RELEASE, RESERVE, kill
from tests.partners import MODEL, ONE_STEP, TRAINING, a_partner, a_plan, a_request, a_shared_plan

from pharma_fl.clients.records import open_records, training_folds
from pharma_fl.clients.state import PrivateState
from pharma_fl.clients.train import train_round
from pharma_fl.data.matrices import PreparedData
from pharma_fl.errors import (
    BudgetExceeded,
    DataError,
    FederationError,
    ModelError,
    PharmaFlError,
    PolicyViolation,
    PrivacyError,
)
from pharma_fl.model.fit import new_network
from pharma_fl.model.pretrained import initial_trunk
from pharma_fl.model.records import fold_columns
from pharma_fl.privacy.accountant import epsilon
from pharma_fl.privacy.charge import Charge
from pharma_fl.privacy.dp_sgd import DpSgd
from pharma_fl.privacy.entries import Released, Reserved
from pharma_fl.privacy.ledger import Ledger
from pharma_fl.privacy.noise import SystemNoise


def ledger_of(partner):
    return Ledger.of(partner)


def kinds(partner):
    return [
        (entry.round, entry.kind) for entry in ledger_of(partner).entries() if isinstance(entry, Reserved | Released)
    ]


def test_a_round_is_charged_and_answered(tmp_path):
    partner = a_partner(tmp_path)
    request = a_request()
    reply = train_round(partner, request)
    assert kinds(partner) == [(1, "reserved"), (1, "released")]
    assert reply.released.keys() == request.trunk.keys()
    assert reply.epsilon_spent == epsilon([Charge(0.5, 4.0, 2)], 1e-5)
    assert reply.epsilon_left == partner.budget.epsilon - reply.epsilon_spent


def test_the_same_request_gets_the_same_reply_and_costs_nothing(tmp_path):
    partner = a_partner(tmp_path)
    first, second = train_round(partner, a_request()), train_round(partner, a_request())
    assert all(torch.equal(first.released[name], second.released[name]) for name in first.released)
    assert kinds(partner) == [(1, "reserved"), (1, "released")]


@pytest.mark.parametrize(
    "other",
    [
        lambda: a_request(trunk={k: v + 1 for k, v in a_request().trunk.items()}),
        lambda: a_request(plan=a_plan(noise_multiplier=5.0)),
        lambda: a_request(seed=7),
    ],
)
def test_the_same_round_with_other_content_is_refused(tmp_path, other):
    partner = a_partner(tmp_path)
    train_round(partner, a_request())
    before = kinds(partner)
    with pytest.raises(FederationError, match="PFL-F02"):
        train_round(partner, other())
    assert kinds(partner) == before


def test_an_old_round_and_one_past_the_plan_are_refused(tmp_path):
    partner = a_partner(tmp_path)
    train_round(partner, a_request(1))
    train_round(partner, a_request(2))
    for number in (1, 7, 0, -3):
        with pytest.raises(FederationError, match="PFL-F02"):
            train_round(partner, a_request(number))


def test_a_run_keeps_its_plan(tmp_path):
    partner = a_partner(tmp_path)
    train_round(partner, a_request(1))
    for other in ({"noise_multiplier": 9.0}, {"sample_rate": 0.1}, {"clipping_norm": 0.1}, {"steps_per_round": 1}):
        with pytest.raises(PrivacyError, match="PFL-P14"):
            train_round(partner, a_request(2, plan=a_plan(**other)))
    train_round(partner, a_request(1, run="run-2", plan=a_plan(noise_multiplier=9.0)))


def test_a_lost_or_rolled_back_ledger_is_noticed(tmp_path):
    partner = a_partner(tmp_path)
    train_round(partner, a_request(1))
    old = partner.path(partner.ledger).read_bytes()
    train_round(partner, a_request(2))
    for spoil in (partner.path(partner.ledger).unlink, lambda: partner.path(partner.ledger).write_bytes(old)):
        spoil()
        # Whether a file that was made anew has the old one's place on the disk, and passes for it, is up to the system.
        with pytest.raises(PrivacyError, match="PFL-P1[58]"):
            train_round(partner, a_request(3))


def test_dropout_takes_its_masks_from_the_partners_own_randomness(tmp_path):
    partner = a_partner(tmp_path)

    class Watched(SystemNoise):
        asked = ()

        def keep_mask(self, count, probability, device):
            self.asked += ((count, probability),)
            return super().keep_mask(count, probability, device)

    noise = Watched()
    before = torch.random.get_rng_state()
    train_round(partner, a_request(model=MODEL.model_copy(update={"dropout": 0.25})), noise=noise)
    assert noise.asked
    assert {probability for _, probability in noise.asked} == {0.75}
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_catalogue_column_travels_and_is_found_by_its_id(tmp_path):
    """Without noise: what two partners call by one id moves one column, wherever their tasks stand."""
    model = MODEL.model_copy(update={"catalogue": (31, 12)})
    trunk = initial_trunk(model, 0)
    assert trunk["catalogue.weight"].shape == (2, 8)
    plan = a_plan(mechanism="none", noise_multiplier=0.0, sample_rate=1.0)
    for name, ids, moves in (("north", (12, None), [1]), ("south", (None, 31), [0]), ("east", (7, 31), [0])):
        partner = a_partner(tmp_path, name, catalogue=ids, policy={"allow_unprotected": True})
        change = train_round(partner, a_request(plan=plan, model=model, trunk=trunk)).released
        assert torch.nonzero(change["catalogue.weight"].any(dim=1)).flatten().tolist() == moves
        start = new_network(model, open_records(partner, model, training_folds(partner)), 0).heads.classes.weight
        own = PrivateState.load(partner.path(partner.state)).heads["classes.weight"]
        columns = [column for column, task in enumerate(ids) if task not in model.catalogue]
        assert torch.nonzero((own != start).any(dim=1)).flatten().tolist() == columns


def test_a_clip_that_adapts_goes_on_from_round_to_round(tmp_path):
    partner = a_partner(tmp_path)
    plan = a_plan(clipping="adaptive", clipping_norm=100.0)
    train_round(partner, a_request(1, plan=plan))
    first = PrivateState.load(partner.path(partner.state)).clipping_norm
    assert first != 100.0
    train_round(partner, a_request(2, plan=plan))
    second = PrivateState.load(partner.path(partner.state)).clipping_norm
    # Noise of 8 on a share of 40: a step moves the norm by a factor of at most e^(0.2 * 3).
    assert abs(np.log(second / first)) < 2 * 0.6
    assert second != first
    train_round(partner, a_request(1, run="run-2", plan=plan))
    assert abs(np.log(PrivateState.load(partner.path(partner.state)).clipping_norm / 100.0)) < 2 * 0.6


@pytest.mark.parametrize(
    "changes",
    [{"clipping": "groups", "head_clipping_norm": 0.5}, {"clipping": "automatic"}],
)
def test_each_kind_of_clipping_carries_out_a_round(tmp_path, changes):
    partner = a_partner(tmp_path)
    reply = train_round(partner, a_request(plan=a_plan(**changes)))
    assert reply.epsilon_spent == epsilon([Charge(0.5, 4.0, 2)], 1e-5)
    assert PrivateState.load(partner.path(partner.state)).clipping_norm is None


def test_a_network_too_large_for_the_device_is_refused_uncharged(tmp_path, monkeypatch):
    partner = a_partner(tmp_path)

    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("pharma_fl.clients.train.DpSgd", full)
    with pytest.raises(ModelError, match="PFL-M10"):
        train_round(partner, a_request())
    assert kinds(partner) == []


def test_records_are_placed_after_the_charge(tmp_path, monkeypatch):
    """Whether they fit depends on them: a refusal before the charge would be an answer that costs nothing."""
    partner = a_partner(tmp_path)

    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("pharma_fl.clients.train.on_device", full)
    with pytest.raises(PrivacyError, match="PFL-P17"):
        train_round(partner, a_request())
    assert kinds(partner) == [(1, "reserved")]


@pytest.mark.parametrize(
    "changes",
    [
        {"plan": a_plan(clipping="automatic")},
        {"plan": a_plan(expected_batch=41.0)},
        {"model": MODEL.model_copy(update={"regression_weight": 0.2})},
        {"training": TRAINING.model_copy(update={"head_learning_rate": 0.2})},
        {"seed": 1},
    ],
)
def test_what_was_agreed_stays_for_the_run(tmp_path, changes):
    partner = a_partner(tmp_path)
    train_round(partner, a_request(1))
    with pytest.raises(PrivacyError, match="PFL-P14"):
        train_round(partner, a_request(2, **changes))
    assert kinds(partner) == [(1, "reserved"), (1, "released")]
    train_round(partner, a_request(2))


def test_a_gpu_that_is_not_there_is_refused_uncharged(tmp_path):
    partner = a_partner(tmp_path, compute={"device": "cuda:7"})
    with pytest.raises(ModelError, match="PFL-M09"):
        train_round(partner, a_request())
    assert kinds(partner) == []


def test_damaged_labels_fail_the_round_after_its_charge(tmp_path):
    """Which compound is damaged, and how, would be told by a code of its own."""
    partner = a_partner(tmp_path)
    path = partner.path(partner.data) / "y_regr_values.npy"
    values = np.load(path)
    values[3] = np.nan
    np.save(path, values)
    with pytest.raises(PrivacyError, match="PFL-P17"):
        train_round(partner, a_request())
    assert kinds(partner) == [(1, "reserved")]


def test_runs_that_share_a_state_folder_are_refused_before_heads_are_lost(tmp_path):
    partner = a_partner(tmp_path)
    train_round(partner, a_request(1, run="run-1"))
    train_round(partner, a_request(1, run="run-2"))
    with pytest.raises(PrivacyError, match="PFL-P16.*run-1"):
        train_round(partner, a_request(2, run="run-1"))
    train_round(partner, a_request(2, run="run-2"))


def test_the_charge_comes_before_the_first_private_step(tmp_path, monkeypatch):
    partner = a_partner(tmp_path)
    seen = []
    step = DpSgd.step

    def watched(self, records):
        seen.append(kinds(partner))
        step(self, records)

    monkeypatch.setattr(DpSgd, "step", watched)
    train_round(partner, a_request())
    assert seen == [[(1, "reserved")]] * 2


@pytest.mark.parametrize("cause", [ValueError("expected another sample"), MemoryError(), DataError("PFL-D04", "gone")])
def test_after_the_charge_every_failure_has_one_code(tmp_path, monkeypatch, cause):
    def fail(self, records):
        raise cause

    partner = a_partner(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(DpSgd, "step", fail)
        with pytest.raises(PrivacyError, match="PFL-P17"):
            train_round(partner, a_request())
    assert kinds(partner) == [(1, "reserved")]
    train_round(partner, a_request(2))


def test_only_training_folds_are_trained_on(tmp_path, monkeypatch):
    partner = a_partner(tmp_path)
    sizes = set()
    step = DpSgd.step

    def watched(self, records):
        sizes.add(len(records))
        held = PreparedData.open(partner.path(partner.data)).rows_of(training_folds(partner))
        assert (records.x != fold_columns(PreparedData.open(partner.path(partner.data)).x()[held], 64)).nnz == 0
        step(self, records)

    monkeypatch.setattr(DpSgd, "step", watched)
    train_round(partner, a_request())
    assert sizes == {90}
    assert not {partner.folds.test, partner.folds.validation} & set(training_folds(partner))


def test_state_and_ledger_are_for_the_partners_eyes(tmp_path):
    partner = a_partner(tmp_path)
    train_round(partner, a_request())
    assert partner.path(partner.ledger).stat().st_mode & 0o077 == 0
    assert partner.path(partner.state).stat().st_mode & 0o077 == 0


def test_heads_continue_within_a_run_and_start_anew_in_another(tmp_path):
    partner = a_partner(tmp_path)
    quiet = a_plan(clipping_norm=1e-9)
    train_round(partner, a_request(1, plan=quiet))
    first = PrivateState.load(partner.path(partner.state)).heads
    train_round(partner, a_request(2, plan=quiet))
    second = PrivateState.load(partner.path(partner.state)).heads
    assert torch.allclose(first["classes.weight"], second["classes.weight"], atol=1e-6)
    train_round(partner, a_request(1, run="run-2", plan=quiet))
    third = PrivateState.load(partner.path(partner.state)).heads
    assert torch.allclose(third["classes.weight"], first["classes.weight"], atol=1e-6)
    train_round(partner, a_request(1, run="run-3"))
    fourth = PrivateState.load(partner.path(partner.state)).heads
    assert not torch.allclose(fourth["classes.weight"], first["classes.weight"], atol=1e-3)


def test_a_budget_too_small_refuses_before_anything_happens(tmp_path):
    partner = a_partner(tmp_path, budget={"epsilon": 0.05})
    with pytest.raises(BudgetExceeded, match="budget.epsilon"):
        train_round(partner, a_request())
    assert kinds(partner) == []
    assert not partner.path(partner.state).exists()


def test_a_budget_lasts_as_long_as_it_says(tmp_path):
    partner = a_partner(tmp_path, budget={"epsilon": 1.2})
    affordable = ledger_of(partner).affordable_rounds(a_plan(), partner.budget)
    assert 0 < affordable < 6
    for number in range(1, affordable + 1):
        assert train_round(partner, a_request(number)).epsilon_spent <= 1.2
    with pytest.raises(BudgetExceeded):
        train_round(partner, a_request(affordable + 1))


def test_epsilon_is_reported_at_the_partners_delta(tmp_path):
    partner = a_partner(tmp_path)
    assert train_round(partner, a_request(plan=a_plan(delta=0.5))).epsilon_spent == epsilon([Charge(0.5, 4.0, 2)], 1e-5)


def test_the_policy_comes_first(tmp_path):
    partner = a_partner(tmp_path, policy={"min_noise_multiplier": 6.0})
    with pytest.raises(PolicyViolation):
        train_round(partner, a_request())
    assert not partner.path(partner.ledger).exists()


def test_an_unprotected_run_needs_the_partners_word(tmp_path):
    plan = a_plan(mechanism="none", noise_multiplier=0.0)
    with pytest.raises(PolicyViolation):
        train_round(a_partner(tmp_path, "careful"), a_request(plan=plan))
    reply = train_round(a_partner(tmp_path, "simulated", policy={"allow_unprotected": True}), a_request(plan=plan))
    assert reply.epsilon_spent is None


def test_thresholds_taken_from_the_data_are_refused_under_privacy(tmp_path):
    with pytest.raises(PrivacyError, match="PFL-P04"):
        train_round(a_partner(tmp_path, data_derived=(7,)), a_request())


def test_a_plan_for_series_on_data_that_know_none_is_refused_uncharged(tmp_path):
    partner = a_partner(tmp_path)
    with pytest.raises(PrivacyError, match="PFL-P08"):
        train_round(partner, a_request(plan=a_plan(unit="series")))
    assert kinds(partner) == []


def test_a_share_of_the_noise_that_no_secure_sum_hides_is_refused_uncharged(tmp_path):
    partner = a_partner(tmp_path)
    with pytest.raises(FederationError, match="PFL-F34"):
        train_round(partner, a_request(plan=a_shared_plan(), training=ONE_STEP))
    assert kinds(partner) == []
    assert not partner.path(partner.state).exists()


def test_two_rounds_at_once_wait_for_each_other(tmp_path):
    """The same round asked for again while it is worked on gets the stored reply, and not a second charge."""
    partner = a_partner(tmp_path)
    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(lambda _: train_round(partner, a_request()), range(2))
    assert all(torch.equal(one.released[name], other.released[name]) for name in one.released)
    assert kinds(partner) == [(1, "reserved"), (1, "released")]


def test_a_ledger_that_went_back_is_noticed_by_the_state(tmp_path):
    partner = a_partner(tmp_path)
    train_round(partner, a_request(1))
    old = [(path, path.read_bytes()) for path in (partner.path(partner.ledger), partner.path(partner.audit_log))]
    train_round(partner, a_request(2))
    for path, content in old:
        path.write_bytes(content)
    with pytest.raises(PrivacyError, match="PFL-P15"):
        train_round(partner, a_request(3))


@pytest.mark.parametrize(
    "trunk",
    [
        {},
        {"input.weight": torch.zeros(64, 8)},
        {"input.weight": torch.zeros(65, 8), "input.bias": torch.zeros(8)},
        {"input.weight": torch.full((64, 8), torch.nan), "input.bias": torch.zeros(8)},
        {"input.weight": torch.zeros(64, 8), "input.bias": torch.zeros(8), "head.weight": torch.zeros(3, 8)},
    ],
)
def test_a_trunk_that_does_not_fit_is_refused_uncharged(tmp_path, trunk):
    partner = a_partner(tmp_path)
    with pytest.raises(ModelError, match="PFL-M03"):
        train_round(partner, a_request(trunk=trunk or {"x": torch.zeros(1)}))
    assert kinds(partner) == []


def test_prepared_data_that_is_too_narrow_or_truncated_is_refused_uncharged(tmp_path):
    narrow = a_partner(tmp_path, "narrow", bits=32)
    with pytest.raises(ModelError, match="PFL-M01"):
        train_round(narrow, a_request())
    damaged = a_partner(tmp_path, "damaged")
    path = damaged.path(damaged.data) / "x_indices.npy"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match="PFL-D04.*x_indices"):
        train_round(damaged, a_request())
    assert kinds(narrow) == []
    assert kinds(damaged) == []


def test_policy_may_keep_the_budget_secret(tmp_path):
    reply = train_round(a_partner(tmp_path, policy={"report_budget": False}), a_request())
    assert reply.epsilon_spent is None
    assert reply.epsilon_left is None


def test_the_change_that_leaves_carries_the_plans_noise(tmp_path):
    """With zero gradients (placebo) the reply is noise alone: its sigma is the plan's, not 2/3 or 3/2 of it."""
    partner = a_partner(tmp_path, bits=4096, policy={"placebo": True})
    model = MODEL.model_copy(update={"input_bits": 4096})
    reply = train_round(partner, a_request(model=model, trunk=initial_trunk(model, 0)))
    noise = torch.cat([v.flatten() for v in reply.released.values()]).numpy()
    sigma = 0.45 * 4.0 * 1.0 / 40.0 * np.sqrt(2)
    assert kstest(noise / sigma, "norm").pvalue > 1e-6
    assert kstest(noise / sigma * 1.5, "norm").pvalue < 1e-9
    assert kstest(noise / sigma / 1.5, "norm").pvalue < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize(
    ("point", "charged", "finished"),
    [
        (("before", RESERVE), False, True),
        (("after", RESERVE), True, False),
        (("after", "pharma_fl.privacy.dp_sgd:DpSgd.step"), True, False),
        (("before", "pharma_fl.clients.state:PrivateState.save"), True, False),
        (("after", "pharma_fl.clients.state:PrivateState.save"), True, True),
        (("after", RELEASE), True, True),
    ],
)
def test_killed_at_any_point_the_ledger_counts_what_could_have_left(tmp_path, point, charged, finished):
    partner = a_partner(tmp_path)
    kill("train", point, tmp_path / "north" / "partner.toml")
    assert (len(ledger_of(partner).charges()) == 1) is charged
    if finished:
        train_round(partner, a_request())
        assert kinds(partner) == [(1, "reserved"), (1, "released")]
    else:
        with pytest.raises(PharmaFlError, match="PFL-P11"):
            train_round(partner, a_request())
        assert kinds(partner) == [(1, "reserved")]
    # Whatever happened, the next round goes on.
    train_round(partner, a_request(2))
