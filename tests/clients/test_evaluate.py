"""Noised metrics: charged first, exact under the noise, of the validation fold alone, mute on private tasks."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest
from tests.clients.consortium import Consortium
from tests.clients.dying import RELEASE, RESERVE, kill
from tests.conftest import SeededNoise, make_records
from tests.partners import (
    METRICS_ALLOWED,
    MODEL,
    NAMES,
    ONE_STEP,
    a_metrics_request,
    a_partner,
    a_plan,
    a_request,
    a_shared_plan,
)

from pharma_fl.clients import evaluate
from pharma_fl.clients.evaluate import evaluate_round
from pharma_fl.clients.histograms import cell_histograms
from pharma_fl.clients.state import PrivateState
from pharma_fl.clients.train import train_round
from pharma_fl.errors import BudgetExceeded, DataError, FederationError, ModelError, PolicyViolation, PrivacyError
from pharma_fl.messages.wire import metrics_reply
from pharma_fl.model.fit import new_network
from pharma_fl.model.pretrained import initial_trunk
from pharma_fl.model.weights import load_weights
from pharma_fl.privacy.accountant import epsilon
from pharma_fl.privacy.charge import Charge
from pharma_fl.privacy.counts import noised_sum
from pharma_fl.privacy.ledger import Ledger
from pharma_fl.privacy.spend import Spend

BUDGET = METRICS_ALLOWED["budget"]
VALIDATION = 4


class NoNoise(SeededNoise):
    def add_normal(self, tensor, std, scale=1.0):
        tensor.mul_(scale)


def willing(folder, name="north", **changes):
    return a_partner(folder, name, **(METRICS_ALLOWED | changes))


def trained(folder, name="north", *, rounds=1, model=MODEL, **changes):
    partner = willing(folder, name, **changes)
    for number in range(1, rounds + 1):
        train_round(partner, a_request(number, model=model, trunk=initial_trunk(model, 0)))
    return partner


def metrics_entries(partner):
    return [
        (entry.round, entry.kind)
        for entry in Ledger.of(partner).entries()
        if getattr(entry, "purpose", None) == "metrics"
    ]


def by_hand(partner, request, *, norm=1.0, rows=None):
    """The clipped histogram of the validation fold, from the files alone, in float64."""
    folder = partner.path(partner.data)
    raw = {path.stem: np.load(path) for path in folder.glob("*.npy")}
    state, _ = load_weights(partner.path(partner.state) / "current.safetensors")
    trunk = {name: value.numpy().astype(float) for name, value in request.trunk.items()}
    ids = {12: 1 + request.model.catalogue.index(12)} if 12 in request.model.catalogue else {}
    tasks = [line.split(",") for line in (folder / "tasks.csv").read_text().splitlines()]
    wanted = tasks[0].index("catalog_task_id")
    catalogue = [ids.get(int(line[wanted] or 0), 0) for line in tasks[1:] if line[1] == "classification"]
    total = np.zeros(request.shape)
    for row in np.flatnonzero(raw["folds"] == VALIDATION) if rows is None else rows:
        bits = {int(bit) % 64 for bit in raw["x_indices"][raw["x_indptr"][row] : raw["x_indptr"][row + 1]]}
        features = np.tanh(0.4 * sum(trunk["input.weight"][bit] for bit in sorted(bits)) + trunk["input.bias"])
        own = np.zeros(request.shape)
        for cell in range(raw["y_class_indptr"][row], raw["y_class_indptr"][row + 1]):
            task, label = int(raw["y_class_indices"][cell]), int(raw["y_class_values"][cell] > 0)
            column = catalogue[task] - 1
            weight, bias = state["heads/classes.weight"][task].numpy(), float(state["heads/classes.bias"][task])
            if column >= 0:
                weight, bias = trunk["catalogue.weight"][column], trunk["catalogue.bias"][column]
            probability = 1 / (1 + math.exp(-(features @ weight.astype(float) + bias)))
            place = min(int(probability * request.evaluation.bins), request.evaluation.bins - 1)
            own[0, label, place] += 1
            if column >= 0:
                own[1 + column, label, place] += 1
        length = np.linalg.norm(own)
        total += own * min(1.0, norm / length if length else 1.0)
    return total


@pytest.mark.parametrize("catalogue", [(), (31, 12)])
@pytest.mark.parametrize("wanted", [{}, {"clipping_norm": 2.0, "bins": 4}, {"clipping_norm": 0.3, "bins": 100}])
def test_under_the_noise_lies_the_clipped_histogram_of_the_validation_fold(tmp_path, catalogue, wanted):
    model = MODEL.model_copy(update={"catalogue": catalogue})
    partner = trained(tmp_path, model=model, catalogue=(12, None))
    request = a_metrics_request(model=model, evaluation=wanted)
    found = evaluate_round(partner, request, noise=NoNoise()).histogram.numpy()
    assert found.shape == (1 + len(catalogue), 2, wanted.get("bins", 20))
    exact = by_hand(partner, request, norm=wanted.get("clipping_norm", 1.0))
    assert exact.sum() > 5
    np.testing.assert_allclose(found, exact, atol=1e-6)


def test_the_noise_that_leaves_is_the_one_that_is_charged(tmp_path):
    model = MODEL.model_copy(update={"catalogue": tuple(range(1, 61))})
    partner = trained(tmp_path, model=model)
    request = a_metrics_request(model=model, evaluation={"bins": 100, "clipping_norm": 0.5, "noise_multiplier": 12.0})
    found = evaluate_round(partner, request).histogram.numpy()
    noise = (found - by_hand(partner, request, norm=0.5)).ravel()
    assert kstest(noise, "norm", args=(0, 6.0)).pvalue > 1e-4
    for wrong in (2 / 3, 0.9, 1.1, 3 / 2):
        assert kstest(noise, "norm", args=(0, wrong * 6.0)).pvalue < 1e-4
    (entry,) = [e for e in Ledger.of(partner).entries() if e.kind == "reserved" and e.purpose == "metrics"]
    assert entry.charge() == Charge(1.0, 12.0, 1)
    assert (entry.federation, entry.run, entry.round, entry.clipping_norm) == ("trial", "run-1", 1, 0.5)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 40),
    tasks=st.integers(0, 30),
    label_rate=st.sampled_from([0.0, 0.1, 0.9]),
    norm=st.sampled_from([0.1, 1.0, 7.0]),
    seed=st.integers(0, 2**20),
    spread=st.sampled_from([1.0, 1e3, 1e6]),
    data=st.data(),
)
def test_any_one_compound_moves_the_histogram_by_at_most_the_clip(n, tasks, label_rate, norm, seed, spread, data):
    """Bit for bit, also where the coordinator's weights cancel, so that rounding is larger than what remains."""
    model = MODEL.model_copy(update={"hidden": (24, 17), "catalogue": (5, 3, 8)})
    records = make_records(n, class_tasks=tasks, seed=seed, label_rate=label_rate)
    known = torch.full((tasks,), -1)
    known[: min(tasks, 2)] = torch.tensor([2, 0])[: min(tasks, 2)]
    records = replace(records, weights=replace(records.weights, catalogue=known))
    network = new_network(model, records, seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(spread * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)))
    gone = data.draw(st.integers(0, n - 1))
    rest = np.delete(np.arange(n), gone)
    shape = (4, 2, 6)
    whole, fewer = (cell_histograms(network, some, shape) for some in (records, records.select(rest)))
    np.testing.assert_array_equal(whole[rest].toarray(), fewer.toarray())
    assert whole.sum() == records.classes.nnz + (records.classes.indices < 2).sum()

    def summed(rows):
        return noised_sum(rows, clipping_norm=norm, noise_multiplier=1.0, noise=NoNoise())

    assert np.linalg.norm(summed(whole) - summed(fewer)) <= norm * (1 + 1e-12)


def test_no_compound_decides_how_others_are_rounded():
    """Weights that cancel leave nothing but rounding, and a product rounds a row by how many there are and where."""
    model = MODEL.model_copy(update={"hidden": (34, 17)})
    records = make_records(300, class_tasks=20, label_rate=1.0)
    network = new_network(model, records, 0)
    with torch.no_grad():
        network.trunk.input.weight[:, 17:] = network.trunk.input.weight[:, :17]
        network.trunk.middle[0].weight.mul_(1e7)
        network.trunk.middle[0].weight[:, 17:] = -network.trunk.middle[0].weight[:, :17].flip(0)
        network.trunk.middle[0].weight[:, :17] = network.trunk.middle[0].weight[:, :17].flip(0)
        network.heads.classes.weight.mul_(10)
    whole = cell_histograms(network, records, (1, 2, 100))
    assert (whole.sum(axis=0).reshape(2, 100) > 0).sum() > 20
    for gone in (0, 1, 150, 299):
        rest = np.delete(np.arange(300), gone)
        assert (cell_histograms(network, records.select(rest), (1, 2, 100)) != whole[rest]).nnz == 0
    few = np.arange(3)
    assert (cell_histograms(network, records.select(few), (1, 2, 100)) != whole[few]).nnz == 0


def test_a_cell_without_a_probability_is_not_counted():
    records = make_records(20, class_tasks=2)
    network = new_network(MODEL, records, 0)
    with torch.no_grad():
        network.heads.classes.bias[0] = torch.nan
        network.heads.classes.bias[1] = torch.inf
    counts = cell_histograms(network, records, (1, 2, 3)).sum(axis=0).reshape(2, 3)
    assert counts[:, :2].sum() == 0
    assert counts.sum() == (records.classes.indices == 1).sum()


def test_other_folds_change_nothing(tmp_path):
    partner = trained(tmp_path)
    request = a_metrics_request()
    exact = by_hand(partner, request)
    place = partner.path(partner.data)
    folds, labels = np.load(place / "folds.npy"), np.load(place / "y_class_values.npy")
    labels[np.repeat(folds != VALIDATION, np.diff(np.load(place / "y_class_indptr.npy")))] *= -1
    np.save(place / "y_class_values.npy", labels)
    (place / "manifest.json").touch()
    np.testing.assert_allclose(evaluate_round(partner, request, noise=NoNoise()).histogram, exact, atol=1e-6)


def test_the_same_request_gets_the_same_bytes_and_is_charged_once(tmp_path):
    partner = trained(tmp_path)
    replies = [evaluate_round(partner, a_metrics_request()) for _ in range(3)]
    sent = {metrics_reply(reply, a_metrics_request()).array_records["arrays"]["histogram"].data for reply in replies}
    assert len(sent) == 1
    assert metrics_entries(partner) == [(1, "reserved"), (1, "released")]
    # Also after the next round of training.
    train_round(partner, a_request(2))
    assert torch.equal(evaluate_round(partner, a_metrics_request()).histogram, replies[0].histogram)
    assert metrics_entries(partner) == [(1, "reserved"), (1, "released")]
    assert not torch.equal(evaluate_round(partner, a_metrics_request(2)).histogram, replies[0].histogram)


def test_metrics_and_training_are_paid_from_one_budget(tmp_path):
    partner = trained(tmp_path)
    evaluate_round(partner, a_metrics_request())
    paid = [Charge(0.5, 4.0, 2), Charge(1.0, 10.0, 1)]
    assert Ledger.of(partner).epsilon(partner.budget) == epsilon(paid, 1e-5) > epsilon(paid[:1], 1e-5)
    assert train_round(partner, a_request(2)).epsilon_spent == epsilon([Charge(0.5, 4.0, 4), paid[1]], 1e-5)


@pytest.mark.parametrize(
    "other",
    [
        {"trunk": {name: value + 1 for name, value in initial_trunk(MODEL, 0).items()}},
        {"evaluation": {"noise_multiplier": 11.0}},
        {"evaluation": {"bins": 10}},
        {"seed": 7},
    ],
)
def test_the_same_round_with_other_content_is_refused(tmp_path, other):
    partner = trained(tmp_path)
    evaluate_round(partner, a_metrics_request())
    with pytest.raises(FederationError, match="PFL-F02"):
        evaluate_round(partner, a_metrics_request(**other))
    assert metrics_entries(partner) == [(1, "reserved"), (1, "released")]


def test_a_run_keeps_its_settings(tmp_path):
    partner = trained(tmp_path, rounds=2)
    evaluate_round(partner, a_metrics_request(2))
    train_round(partner, a_request(3))
    with pytest.raises(PrivacyError, match="PFL-P14"):
        evaluate_round(partner, a_metrics_request(3, evaluation={"noise_multiplier": 11.0}))
    evaluate_round(partner, a_metrics_request(3))


def test_only_the_round_that_was_just_done_is_evaluated(tmp_path):
    fresh = willing(tmp_path, "fresh")
    with pytest.raises(FederationError, match="PFL-F02"):
        evaluate_round(fresh, a_metrics_request())
    partner = trained(tmp_path, rounds=2)
    for number in (1, 3, 0, -1):
        with pytest.raises(FederationError, match="PFL-F02"):
            evaluate_round(partner, a_metrics_request(number))
    with pytest.raises(FederationError, match="PFL-F02"):
        evaluate_round(partner, a_metrics_request(2, run="run-2"))
    assert metrics_entries(partner) == metrics_entries(fresh) == []


def test_heads_of_another_run_are_no_heads(tmp_path):
    partner = trained(tmp_path)
    train_round(partner, a_request(run="run-2"))
    with pytest.raises(PrivacyError, match="PFL-P16"):
        evaluate_round(partner, a_metrics_request(run="run-1"))


REFUSED = {
    "an action that the policy lacks": ({"policy": {}}, PolicyViolation, "PFL-P20.*actions"),
    "another federation": ({"policy": METRICS_ALLOWED["policy"] | {"federations": ["ours"]}}, PolicyViolation, "P20"),
    "too little noise": (
        {"policy": METRICS_ALLOWED["policy"] | {"min_metrics_noise_multiplier": 10.5}},
        PolicyViolation,
        "PFL-P20.*min_metrics_noise_multiplier",
    ),
    "nothing set aside": ({"budget": {"epsilon": 5.0}}, BudgetExceeded, "PFL-P10.*epsilon_for_metrics"),
    "too little set aside": (
        {"budget": BUDGET | {"epsilon_for_metrics": 0.1}},
        BudgetExceeded,
        "PFL-P10.*epsilon_for_metrics",
    ),
    "a spent budget": (
        {"budget": BUDGET | {"epsilon": 1.01 * epsilon([Charge(0.5, 4.0, 2)], 1e-5)}},
        BudgetExceeded,
        "P10",
    ),
    "tasks that follow from data": ({"data_derived": (7,)}, PrivacyError, "PFL-P04"),
    "cohorts without dates": (
        {"budget": BUDGET | {"cohorts": ["2025-01-01"]}, "tables": {"date": "date"}},
        DataError,
        "PFL-D17",
    ),
    "series that are not known": ({"budget": BUDGET | {"unit": "series", "series_size": 3}}, PrivacyError, "PFL-P08"),
}


@pytest.mark.parametrize(("changes", "error", "code"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_refused_computes_nothing(tmp_path, monkeypatch, changes, error, code):
    partner = willing(tmp_path, **changes)
    with_state(partner)
    touched = []
    for name in ("open_records", "cell_histograms", "noised_sum"):
        monkeypatch.setattr(evaluate, name, lambda *_, name=name, **__: touched.append(name))
    with pytest.raises(error, match=code):
        evaluate_round(partner, a_metrics_request())
    assert touched == []
    assert metrics_entries(partner) == []


def test_nothing_set_aside_is_nothing_however_large_the_noise(tmp_path):
    """At so much noise epsilon is 0 at this delta, and 0 would fit a budget of 0."""
    wanted = {"noise_multiplier": 1e6}
    assert epsilon([Charge(1.0, 1e6, 1)], 1e-5) == 0.0
    with pytest.raises(BudgetExceeded, match="PFL-P10"):
        evaluate_round(trained(tmp_path, budget={"epsilon": 5.0}), a_metrics_request(evaluation=wanted))


def with_state(partner, *, run="run-1"):
    """As after a round, which some of these partners would refuse."""
    spend = Spend.of_round(a_plan(), federation="trial", run=run, round_number=1)
    generous = partner.budget.model_copy(update={"unit": "compound", "series_size": None, "cohorts": ()})
    ledger = Ledger.of(partner)
    with ledger.held():
        ledger.reserve(
            spend, budget=partner.budget if partner.budget.unit == "compound" else generous, policy=partner.policy
        )
        network = new_network(MODEL, make_records(1, class_tasks=2, value_tasks=1), 0)
        PrivateState(
            run=run,
            round=1,
            request="",
            agreement="",
            heads=network.heads.state_dict(),
            reply={},
            ledger=ledger.head,
        ).save(partner.path(partner.state))


def test_what_is_set_aside_for_metrics_lasts_as_long_as_it_says(tmp_path):
    one = epsilon([Charge(1.0, 10.0, 1)], 1e-5)
    two = epsilon([Charge(1.0, 10.0, 2)], 1e-5)
    partner = trained(tmp_path, budget=BUDGET | {"epsilon_for_metrics": (one + two) / 2})
    evaluate_round(partner, a_metrics_request())
    train_round(partner, a_request(2))
    with pytest.raises(BudgetExceeded, match="PFL-P10"):
        evaluate_round(partner, a_metrics_request(2))
    # Training goes on, and what was released before can be asked for again.
    train_round(partner, a_request(3))
    evaluate_round(partner, a_metrics_request())


@pytest.mark.parametrize("cause", [ValueError("no"), MemoryError(), DataError("PFL-D04", "gone")])
def test_after_the_charge_every_failure_has_one_code(tmp_path, monkeypatch, cause):
    partner = trained(tmp_path)

    def fail(*_, **__):
        raise cause

    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "cell_histograms", fail)
        with pytest.raises(PrivacyError, match="PFL-P17"):
            evaluate_round(partner, a_metrics_request())
    with pytest.raises(PrivacyError, match="PFL-P11"):
        evaluate_round(partner, a_metrics_request())
    assert metrics_entries(partner) == [(1, "reserved")]
    train_round(partner, a_request(2))
    evaluate_round(partner, a_metrics_request(2))


def test_the_fold_is_opened_after_the_charge(tmp_path, monkeypatch):
    partner = trained(tmp_path)
    seen, opened = [], evaluate.open_records

    def watched(*arguments):
        seen.append((metrics_entries(partner), arguments[2]))
        return opened(*arguments)

    monkeypatch.setattr(evaluate, "open_records", watched)
    evaluate_round(partner, a_metrics_request())
    assert seen == [([(1, "reserved")], (VALIDATION,))]


def test_labels_that_are_damaged_in_the_fold_alone_are_not_told_apart(tmp_path):
    """A refusal before the charge may not follow from the held-out rows."""
    partner = trained(tmp_path)
    place = partner.path(partner.data)
    labels, folds = np.load(place / "y_regr_values.npy"), np.load(place / "folds.npy")
    labels[np.flatnonzero(folds == VALIDATION)[0]] = np.nan
    np.save(place / "y_regr_values.npy", labels)
    (place / "manifest.json").touch()
    with pytest.raises(PrivacyError, match="PFL-P17"):
        evaluate_round(partner, a_metrics_request())
    assert metrics_entries(partner) == [(1, "reserved")]


@pytest.mark.parametrize(
    "trunk", [{"x": torch.zeros(1)}, {"input.weight": torch.full((64, 8), torch.nan), "input.bias": torch.zeros(8)}]
)
def test_a_trunk_that_does_not_fit_is_refused_uncharged(tmp_path, trunk):
    partner = trained(tmp_path)
    with pytest.raises(ModelError, match="PFL-M03"):
        evaluate_round(partner, a_metrics_request(trunk=trunk))
    assert metrics_entries(partner) == []


def test_a_partner_without_classification_answers_noise_of_the_same_shape(tmp_path):
    """How many private tasks there are cannot be read off a reply: neither shape nor size depends on it."""
    replies = {}
    for name, classes in (("two", 2), ("none", 0)):
        partner = trained(tmp_path, name, classes=classes)
        content = metrics_reply(evaluate_round(partner, a_metrics_request()), a_metrics_request())
        replies[name] = content.array_records["arrays"]["histogram"]
    assert replies["two"].shape == replies["none"].shape == (1, 2, 20)
    assert replies["two"].dtype == replies["none"].dtype == "float64"
    assert len(replies["two"].data) == len(replies["none"].data)
    partner = trained(tmp_path, "silent", classes=0)
    assert not evaluate_round(partner, a_metrics_request(), noise=NoNoise()).histogram.any()


def test_a_validation_fold_without_compounds_answers_noise(tmp_path):
    partner = trained(tmp_path, folds=np.arange(150) % 4)
    assert not evaluate_round(partner, a_metrics_request(), noise=NoNoise()).histogram.any()


def test_a_placebo_sends_noise_alone_and_is_charged(tmp_path):
    partner = trained(tmp_path, policy=METRICS_ALLOWED["policy"] | {"placebo": True})
    assert not evaluate_round(partner, a_metrics_request(), noise=NoNoise()).histogram.any()
    assert metrics_entries(partner) == [(1, "reserved"), (1, "released")]


def test_a_series_is_one_unit(tmp_path):
    """All compounds of a series share one clip, and the charge says so."""
    series = np.arange(150) // 30
    budget = BUDGET | {"unit": "series", "series_size": 30}
    partner = willing(tmp_path, series=series, folds=np.repeat([1, 2, 3, 0, 4], 30), budget=budget)
    train_round(partner, a_request(plan=a_plan(unit="series", max_series_size=30)))
    request = a_metrics_request()
    found = evaluate_round(partner, request, noise=NoNoise()).histogram.numpy()
    unclipped = by_hand(partner, request, norm=1e9)
    np.testing.assert_allclose(found, unclipped / np.linalg.norm(unclipped), atol=1e-6)
    (entry,) = [e for e in Ledger.of(partner).entries() if e.kind == "reserved" and e.purpose == "metrics"]
    assert entry.charge() == Charge(1.0, 10.0, 1, "series")


def test_cohorts_that_can_pay_are_counted_and_no_others(tmp_path, monkeypatch):
    from datetime import date

    from pharma_fl.privacy.entries import Cohort

    days = np.where(np.arange(150) < 75, 18_000, 20_000)
    partner = trained(tmp_path, days=days, budget=BUDGET | {"cohorts": ["2022-01-01"]}, tables={"date": "date"})
    reserve = Ledger.reserve

    def later_alone(self, *arguments, **named):
        assert len(reserve(self, *arguments, **named)) == 2
        return (Cohort(since=date(2022, 1, 1), until=None),)

    monkeypatch.setattr(Ledger, "reserve", later_alone)
    request = a_metrics_request()
    found = evaluate_round(partner, request, noise=NoNoise()).histogram.numpy()
    np.testing.assert_allclose(found, by_hand(partner, request, rows=range(79, 150, 5)), atol=1e-6)


def test_heads_of_a_run_that_shares_the_noise_have_all_of_it_so_that_metrics_may_leave(tmp_path):
    model = MODEL.model_copy(update={"hidden": (512,)})
    plan = a_shared_plan(contributors=3, tolerated_losses=0, summed_values=65 * 512)
    settings = METRICS_ALLOWED | {"policy": METRICS_ALLOWED["policy"] | {"placebo": True}}
    request = {"model": model, "trunk": initial_trunk(model, 0)}
    partners = Consortium(tmp_path, plan, names=NAMES[:3], request=request, **settings).set_up()
    partners.round("north")
    start, noise = public_heads(model), []
    for name, value in PrivateState.load(partners.state("north")).heads.items():
        noise.append((start[name] - value).double().flatten() * plan.expected_batch / ONE_STEP.head_learning_rate)
    noise = torch.cat(noise).numpy()
    assert plan.shared.head_std >= plan.noise_multiplier * plan.shared.sensitivity
    assert kstest(noise / plan.shared.head_std, "norm").pvalue > 1e-6
    for wrong in (2 / 3, 3 / 2):
        assert kstest(noise / (wrong * plan.shared.head_std), "norm").pvalue < 1e-9
    partner = partners.partner("north")
    evaluate_round(partner, a_metrics_request(model=model))
    assert metrics_entries(partner) == [(1, "reserved"), (1, "released")]


def public_heads(model):
    """Heads at their start, for two classes and a value."""
    return new_network(model, make_records(1, class_tasks=2, value_tasks=1), 0).heads.state_dict()


def test_a_ledger_that_went_back_is_noticed(tmp_path):
    partner = trained(tmp_path, rounds=2)
    ledger = partner.path(partner.ledger)
    with pytest.raises(PrivacyError, match="PFL-P15"):
        evaluate_round(partner, a_metrics_request(2, witnesses=("ab" * 32,)))
    evaluate_round(partner, a_metrics_request(2, witnesses=(Ledger.of(partner).head,)))
    ledger.unlink()
    with pytest.raises(PrivacyError, match="PFL-P15"):
        evaluate_round(partner, a_metrics_request(2))


def test_the_stored_reply_is_for_the_partners_eyes(tmp_path):
    partner = trained(tmp_path)
    evaluate_round(partner, a_metrics_request())
    assert {path.name for path in partner.path(partner.state).iterdir()} == {
        "current.safetensors",
        "metrics.safetensors",
    }
    assert partner.path(partner.state).stat().st_mode & 0o077 == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("point", "charged", "finished"),
    [
        (("before", RESERVE), False, True),
        (("after", RESERVE), True, False),
        (("before", "pharma_fl.clients.evaluate:_Stored.save"), True, False),
        (("after", "pharma_fl.clients.evaluate:_Stored.save"), True, True),
        (("after", RELEASE), True, True),
    ],
)
def test_killed_at_any_point_the_ledger_counts_what_could_have_left(tmp_path, point, charged, finished):
    partner = trained(tmp_path)
    kill("evaluate", point, tmp_path / "north" / "partner.toml")
    assert ((1, "reserved") in metrics_entries(partner)) is charged
    if finished:
        evaluate_round(partner, a_metrics_request())
        assert metrics_entries(partner) == [(1, "reserved"), (1, "released")]
    else:
        with pytest.raises(PrivacyError, match="PFL-P11"):
            evaluate_round(partner, a_metrics_request())
        assert metrics_entries(partner) == [(1, "reserved")]
    train_round(partner, a_request(2))
    evaluate_round(partner, a_metrics_request(2))
