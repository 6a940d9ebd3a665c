"""Personalisation: it starts from the federated model, chooses by validation, and leaves the private state alone."""

import numpy as np
import pytest
import torch
from tests.partners import MODEL, a_partner, a_request, a_task

from pharma_fl.clients.personalise import candidates_for, federated_network, personalise
from pharma_fl.clients.records import records_at, training_folds
from pharma_fl.clients.state import PrivateState
from pharma_fl.clients.train import train_round
from pharma_fl.errors import ModelError
from pharma_fl.evaluation.held_out import held_out_scores
from pharma_fl.evaluation.single_partner import SETTINGS, single_partner
from pharma_fl.model.ensemble import Ensemble
from pharma_fl.model.metrics import rmse
from pharma_fl.model.network import trunk_of
from pharma_fl.model.predict import predict
from pharma_fl.model.pretrained import initial_trunk
from pharma_fl.model.selection import choose


@pytest.fixture
def partner(tmp_path):
    # Wide enough for the partner's own networks.
    return a_partner(tmp_path, n=250, bits=8192)


@pytest.fixture
def network(partner):
    train_round(partner, a_request())
    return federated_network(partner, MODEL, initial_trunk(MODEL, 0), seed=0, run="run-1")


def test_the_federated_model_is_the_trunk_with_the_partners_heads(partner, network):
    state = PrivateState.load(partner.path(partner.state))
    assert torch.equal(network.heads.classes.weight, state.heads["classes.weight"])
    assert all(torch.equal(v, initial_trunk(MODEL, 0)[k]) for k, v in trunk_of(network).items())


def test_heads_of_another_run_are_refused(partner, network):
    with pytest.raises(ModelError, match="PFL-M06"):
        federated_network(partner, MODEL, initial_trunk(MODEL, 0), seed=0, run="another")


def test_it_chooses_among_as_many_as_the_single_partner(partner, network):
    candidates = candidates_for(network, records_at(partner, training_folds(partner)), 0)
    assert len(candidates) == len(SETTINGS)
    assert {"federated", "local"} <= candidates.keys()


def test_it_changes_neither_the_federated_model_nor_the_private_state(partner, network):
    before = {k: v.clone() for k, v in network.state_dict().items()}
    stored = (partner.path(partner.state) / "current.safetensors").read_bytes()
    name, model = personalise(partner, network, seed=0)
    assert name
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    assert (partner.path(partner.state) / "current.safetensors").read_bytes() == stored
    model.save(partner.path(partner.model), {"chosen": name})
    assert (partner.path(partner.model) / "model.json").exists()


def test_a_prediction_of_an_ensemble_does_not_depend_on_its_neighbours(partner, network):
    training = records_at(partner, training_folds(partner))
    model = candidates_for(network, training, 0)["tuned average 0.5"]
    whole, _ = model.predict(records_at(partner, (0, 1)))
    part, _ = model.predict(records_at(partner, (0,)))
    rows = np.flatnonzero(np.isin(np.arange(250) % 5, (0, 1)))
    np.testing.assert_allclose(whole[rows % 5 == 0], part, rtol=1e-4, atol=1e-5)


def test_an_ensemble_of_one_is_its_network(partner, network):
    training = records_at(partner, training_folds(partner))
    logits, values = Ensemble.of([(network, 1.0)], training).predict(training)
    own_logits, own_values = predict(network, training(MODEL))
    np.testing.assert_allclose(logits, own_logits, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(values, own_values, rtol=1e-5)


@pytest.mark.slow
def test_the_single_partner_learns_what_there_is_to_learn(partner):
    validation = records_at(partner, (partner.folds.validation,))
    name, model = single_partner(records_at(partner, training_folds(partner)), validation, seed=0)
    assert name in SETTINGS
    tasks = [a_task(0, "classification"), a_task(1, "classification"), a_task(0, "regression")]
    scores = held_out_scores(model, records_at(partner, (partner.folds.test,)), tasks, headline="classification-0")
    assert scores.keys() == {
        "auc_roc",
        "auc_pr",
        "auc_roc/classification-1",
        "auc_pr/classification-1",
        "rmse/regression-0",
    }
    assert all(0 <= scores[name] <= 1 for name in scores if name.startswith("auc"))


def test_a_partner_with_values_alone_gets_a_model(tmp_path):
    partner = a_partner(tmp_path, "values", n=250, bits=8192, classes=0)
    train_round(partner, a_request())
    network = federated_network(partner, MODEL, initial_trunk(MODEL, 0), seed=0, run="run-1")
    training, validation = (
        records_at(partner, folds) for folds in (training_folds(partner), (partner.folds.validation,))
    )
    candidates = candidates_for(network, training, 0)
    name, score = choose(candidates, validation)
    measured = validation(MODEL).values.toarray()[:, 0]
    errors = {n: rmse(measured, c.predict(validation)[1][:, 0]) for n, c in candidates.items()}
    assert name == min(errors, key=errors.get)
    assert score == pytest.approx(-errors[name])


@pytest.mark.parametrize(("fold", "code"), [(4, "PFL-M05"), (1, "PFL-M04")])
def test_a_partner_without_compounds_to_train_on_or_to_choose_by_is_told(tmp_path, fold, code):
    partner = a_partner(tmp_path, "lopsided", n=40, bits=8192, folds=[fold] * 40)
    train_round(partner, a_request())
    network = federated_network(partner, MODEL, initial_trunk(MODEL, 0), seed=0, run="run-1")
    with pytest.raises(ModelError, match=code):
        personalise(partner, network, seed=0)
