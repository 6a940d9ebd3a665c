"""Noised metrics at a partner: policy, charge, counts of the validation fold, stored reply; in that order."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from pharma_fl.clients.cohorts import of_cohorts
from pharma_fl.clients.histograms import cell_histograms
from pharma_fl.clients.preconditions import check_countable
from pharma_fl.clients.records import open_records
from pharma_fl.clients.start import start_network
from pharma_fl.clients.state import METRICS_FILE, PrivateState
from pharma_fl.clients.witnesses import ledger_of
from pharma_fl.config import Partner
from pharma_fl.data.matrices import PreparedData
from pharma_fl.errors import FederationError, PrivacyError
from pharma_fl.messages.metrics import MetricsReply, MetricsRequest
from pharma_fl.messages.rounds import digest
from pharma_fl.model.network import SparseMultitaskNetwork, load_trunk, trunk_of
from pharma_fl.model.records import Records
from pharma_fl.model.weights import check_shapes, load_weights, save_weights
from pharma_fl.privacy.charge import Charge
from pharma_fl.privacy.counts import noised_sum, series_rows
from pharma_fl.privacy.ledger import Ledger
from pharma_fl.privacy.noise import NoiseSource, SystemNoise
from pharma_fl.privacy.policy import check_metrics
from pharma_fl.privacy.spend import Spend


def evaluate_round(partner: Partner, request: MetricsRequest, *, noise: NoiseSource | None = None) -> MetricsReply:
    """Release noised counts of how the model of a round predicts the validation fold, or refuse to.

    All that leaves is one noised histogram. It has the shape that the request's settings give, whatever tasks the
    partner has; a partner without any classification task answers noise. The test fold is not looked at. Rules of
    charge and reply are those of `train_round`: charged, on disk, before anything is computed from the fold; stored, on
    disk, before it is returned; the same request again gets the stored reply and costs nothing.

    Heads are the partner's own. They are an output of the charged mechanism of training, so what is computed from them
    costs nothing more for the compounds that were trained on.

    Parameters
    ----------
    partner : Partner
        The partner's own settings and folders.
    request : MetricsRequest
        What the coordinator asks for.
    noise : NoiseSource, optional
        For tests; otherwise the operating system's randomness.

    Raises
    ------
    PolicyViolation, BudgetExceeded, PrivacyError, FederationError, ModelError, DataError
        Nothing leaves.
    """
    check_metrics(request.evaluation.noise_multiplier, partner.policy, federation=request.federation)
    ledger = ledger_of(partner)
    with ledger.held():
        return _evaluate(partner, request, ledger, noise or SystemNoise())


@dataclass(frozen=True, kw_only=True)
class _Stored:
    """The last reply; `ledger` is the hash of the ledger's last entry after its charge."""

    run: str
    round: int
    request: str
    ledger: str
    histogram: Tensor

    def save(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        facts = {"run": self.run, "round": str(self.round), "request": self.request, "ledger": self.ledger}
        save_weights(folder / METRICS_FILE, {"histogram": self.histogram}, facts)

    @classmethod
    def load(cls, folder: Path) -> _Stored | None:
        if not (folder / METRICS_FILE).exists():
            return None
        tensors, facts = load_weights(folder / METRICS_FILE)
        return cls(
            run=facts["run"],
            round=int(facts["round"]),
            request=facts["request"],
            ledger=facts["ledger"],
            histogram=tensors["histogram"],
        )


def _evaluate(partner: Partner, request: MetricsRequest, ledger: Ledger, noise: NoiseSource) -> MetricsReply:
    folder = partner.path(partner.state)
    state, stored = PrivateState.load(folder), _Stored.load(folder)
    ledger.check_witnesses(*request.witnesses)
    if stored is not None and stored.run == request.run and stored.round >= request.round:
        return _reply(request, ledger, stored)
    network = _network(partner, request, _trained_heads(request, ledger, state))
    spend = _spend(partner, request)
    cohorts = ledger.reserve(spend, budget=partner.budget, policy=partner.policy, witnesses=request.witnesses)
    try:
        records = of_cohorts(open_records(partner, request.model, (partner.folds.validation,)), cohorts)
        counts = noised_sum(
            _contributions(partner, request, network, records),
            clipping_norm=spend.clipping_norm,
            noise_multiplier=spend.charge.noise_multiplier,
            noise=noise,
        )
        stored = _Stored(
            run=request.run,
            round=request.round,
            request=request.digest,
            ledger=ledger.head,
            histogram=torch.from_numpy(counts).reshape(request.shape),
        )
        stored.save(folder)
    except Exception as error:
        # From here on the fold is read, so a code for each cause would tell about it.
        raise PrivacyError(
            "PFL-P17",
            f"{spend.name} failed after they were charged ({type(error).__name__}: {error}). They stay charged and are "
            "not repeated; mend the cause, and later rounds' metrics can go on.",
        ) from error
    return _reply(request, ledger, stored)


def _trained_heads(request: MetricsRequest, ledger: Ledger, state: PrivateState | None) -> dict[str, Tensor]:
    if state is None or state.run != request.run:
        ledger.check_new(run=request.run)
    if state is None or (state.run, state.round) != (request.run, request.round):
        raise FederationError(
            "PFL-F02",
            f"Metrics of round {request.round} of run {request.run} were asked for, and this partner's last round is "
            f"{'none' if state is None else f'{state.round} of run {state.run}'}. They follow the round they are of.",
        )
    return state.heads


def _network(partner: Partner, request: MetricsRequest, heads: dict[str, Tensor]) -> SparseMultitaskNetwork:
    # Only what tasks there are is read: a refusal that follows from rows would tell about them.
    data = PreparedData.open(partner.path(partner.data))
    check_countable(partner, data)
    tasks = Records.from_prepared(data, np.empty(0, dtype=np.int64), request.model)
    network = start_network(partner, request.model, tasks, request.seed)
    check_shapes(trunk_of(network), request.trunk, place="The coordinator's trunk")
    load_trunk(network, request.trunk)
    check_shapes(network.heads.state_dict(), heads, place="The partner's stored heads")
    network.heads.load_state_dict(heads)
    return network


def _spend(partner: Partner, request: MetricsRequest) -> Spend:
    wanted = request.evaluation
    return Spend(
        federation=request.federation,
        run=request.run,
        round=request.round,
        purpose="metrics",
        charge=Charge(1.0, wanted.noise_multiplier, 1, partner.budget.unit),
        coordinator_noise=wanted.noise_multiplier,
        clipping="flat",
        clipping_norm=wanted.clipping_norm,
        plan=request.plan,
    )


def _contributions(
    partner: Partner, request: MetricsRequest, network: SparseMultitaskNetwork, records: Records
) -> sp.csr_array:
    counts = cell_histograms(network, records, request.shape)
    if partner.policy.placebo:
        return counts[:0]
    if partner.budget.unit == "series":
        assert records.series is not None
        return series_rows(counts, records.series)
    return counts


def _reply(request: MetricsRequest, ledger: Ledger, stored: _Stored) -> MetricsReply:
    if stored.round != request.round or stored.request != request.digest:
        raise FederationError(
            "PFL-F02",
            f"Metrics of round {request.round} were asked for with other content or out of order; those of round "
            f"{stored.round} of this run are done. Only the very same request gets the stored reply.",
        )
    ledger.release("metrics", request.run, request.round, digest({"histogram": stored.histogram}, "metrics"))
    return MetricsReply(histogram=stored.histogram)
