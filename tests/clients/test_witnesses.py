"""Ledger and audit log that went back together are noticed by everything that spends, as long as the state is there."""

import pytest
from tests.partners import METRICS_ALLOWED, a_metrics_request, a_partner, a_plan, a_request

from pharma_fl.clients.evaluate import evaluate_round
from pharma_fl.clients.statistics import release_statistics
from pharma_fl.clients.train import train_round
from pharma_fl.clients.witnesses import ledger_of
from pharma_fl.errors import PrivacyError
from pharma_fl.privacy.verification import verified


def kept(partner):
    return {path: path.read_bytes() for path in (partner.path(partner.ledger), partner.path(partner.audit_log))}


def roll_back(before):
    for path, content in before.items():
        path.write_bytes(content)


def verify(partner):
    verified(ledger_of(partner), partner.budget)


def loosen(partner):
    ledger_of(partner).loosen(budget=partner.budget, policy=partner.policy, by="A. Roe", why="a try")


SPENDERS = {
    "a round": lambda partner, _: train_round(partner, a_request(1, run="another")),
    "statistics": lambda partner, folder: release_statistics(
        partner, folder / "statistics.json", noise_multiplier=20.0, clipping_norm=4.0
    ),
    "verify": lambda partner, _: verify(partner),
    "loosen": lambda partner, _: loosen(partner),
}


@pytest.mark.parametrize("lost", ["the last round", "the last metrics"])
@pytest.mark.parametrize("spender", SPENDERS)
def test_what_went_back_is_noticed(tmp_path, lost, spender):
    partner = a_partner(tmp_path, **METRICS_ALLOWED)
    if lost == "the last round":
        train_round(partner, a_request(1))
        before = kept(partner)
        train_round(partner, a_request(2))
    else:
        train_round(partner, a_request(1))
        before = kept(partner)
        evaluate_round(partner, a_metrics_request())
    roll_back(before)
    with pytest.raises(PrivacyError, match="PFL-P15"):
        SPENDERS[spender](partner, tmp_path)
    assert not (tmp_path / "statistics.json").exists()


def test_what_did_not_go_back_is_let_through(tmp_path):
    partner = a_partner(tmp_path, **METRICS_ALLOWED)
    train_round(partner, a_request(1))
    evaluate_round(partner, a_metrics_request())
    for spend in SPENDERS.values():
        spend(partner, tmp_path)
    train_round(partner, a_request(1, run="third", plan=a_plan(noise_multiplier=9.0)))
