"""One round at a partner: policy, charge, private steps, stored reply. In that order, whatever happens."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from pharma_fl.clients.cohorts import dated, of_cohorts
from pharma_fl.clients.preconditions import check_public_tasks
from pharma_fl.clients.records import check_folds, open_records, training_folds
from pharma_fl.clients.secure_sum import session_of
from pharma_fl.clients.start import start_network
from pharma_fl.clients.state import PrivateState
from pharma_fl.clients.witnesses import ledger_of
from pharma_fl.config import Partner
from pharma_fl.data.matrices import PreparedData
from pharma_fl.errors import FederationError, ModelError, PrivacyError
from pharma_fl.messages.rounds import MASKED, RoundReply, RoundRequest, digest
from pharma_fl.model.devices import choose_device, made_batch, on_device
from pharma_fl.model.kernel_choice import choose_kernel
from pharma_fl.model.losses import network_losses
from pharma_fl.model.network import TRUNK_PREFIX, SparseMultitaskNetwork, load_trunk, trunk_of
from pharma_fl.model.records import Records
from pharma_fl.model.weights import check_shapes
from pharma_fl.privacy.clip import Clip
from pharma_fl.privacy.contribution import contribution
from pharma_fl.privacy.dp_sgd import DpSgd
from pharma_fl.privacy.ledger import Ledger
from pharma_fl.privacy.noise import NoiseSource, SystemNoise
from pharma_fl.privacy.plan import PrivacyPlan
from pharma_fl.privacy.policy import check_policy
from pharma_fl.privacy.row_independence import block_rows
from pharma_fl.privacy.sampling import known_series
from pharma_fl.privacy.spend import Spend


def train_round(partner: Partner, request: RoundRequest, *, noise: NoiseSource | None = None) -> RoundReply:
    """Carry out one round, or refuse it.

    The ledger is charged, on disk, before the first private step; the reply is stored, on disk, before
    it is returned. The same request again gets the stored reply and costs nothing; a round that was
    charged but left no reply is refused. A crash at any point may over-count, never under-count.

    Parameters
    ----------
    partner : Partner
        The partner's own settings and folders.
    request : RoundRequest
        What the coordinator asks for.
    noise : NoiseSource, optional
        For tests; otherwise the operating system's randomness.

    Raises
    ------
    PolicyViolation, BudgetExceeded, PrivacyError, FederationError, ModelError, DataError
        The round is refused and nothing leaves.
    """
    check_policy(request.plan, partner.policy, partner.budget, federation=request.federation)
    ledger = ledger_of(partner)
    # Whoever asks for the same round meanwhile waits, and then gets the stored reply.
    with ledger.held():
        return _round(partner, request, ledger, noise)


def _round(partner: Partner, request: RoundRequest, ledger: Ledger, noise: NoiseSource | None) -> RoundReply:
    state = PrivateState.load(partner.path(partner.state))
    ledger.check_witnesses(*request.witnesses)
    if state is None or state.run != request.run:
        ledger.check_new(run=request.run)
        state = None
    elif state.round >= request.round:
        return _stored_reply(partner, request, ledger, state)
    if state is not None and state.agreement != request.agreement:
        raise PrivacyError(
            "PFL-P14",
            f"Run {request.run} began with another plan, model or training. Within a run they stay as they began; "
            "start another run.",
        )
    if not 1 <= request.round <= request.plan.rounds:
        raise FederationError(
            "PFL-F02", f"Expected a round from 1 to {request.plan.rounds} (the plan's), got {request.round}."
        )

    tasks = _known_tasks(partner, request)
    network = start_network(partner, request.model, tasks, request.seed)
    check_shapes(trunk_of(network), request.trunk, place="The coordinator's trunk")
    load_trunk(network, request.trunk)
    if state is not None:
        check_shapes(network.heads.state_dict(), state.heads, place="The partner's stored heads")
        network.heads.load_state_dict(state.heads)
    noise = noise or SystemNoise(secure=partner.compute.secure_noise)
    shared = request.plan.noise_mode == "shared"
    session = session_of(partner, request.federation, request.run, request.plan) if shared else None
    share = contribution(request.plan, ledger, budget=partner.budget, policy=partner.policy, run=request.run)
    mechanism, device = _mechanism(partner, request, network, tasks, _clip(request.plan, state, share), noise)
    spend = Spend.of_round(
        request.plan,
        federation=request.federation,
        run=request.run,
        round_number=request.round,
        generator=_generator(partner, device),
        contribution=share,
    )
    cohorts = ledger.reserve(spend, budget=partner.budget, policy=partner.policy, witnesses=request.witnesses)
    try:
        # Only now: what is wrong with records, or too large in them, would be told by a refusal that costs nothing.
        records = open_records(partner, request.model, training_folds(partner))
        source = on_device(of_cohorts(records, cohorts), device)
        if session is None:
            for _ in range(request.plan.steps_per_round):
                mechanism.step(source)
            after = trunk_of(network)
            released = {name: after[name] - value for name, value in request.trunk.items()}
        else:
            vector = mechanism.summed_step(source, partial(session.add_masks, round_number=request.round))
            released = {MASKED: torch.from_numpy(vector)}
        new_state = _new_state(request, network, mechanism, released, ledger.head)
        new_state.save(partner.path(partner.state))
    except Exception as error:
        # From here on the sample is drawn, so a code for each cause would tell about it.
        raise PrivacyError(
            "PFL-P17",
            f"Round {request.round} of run {request.run} failed after it was charged ({type(error).__name__}: {error})."
            " It stays charged and is not repeated; mend the cause, and the next round can go on.",
        ) from error
    return _stored_reply(partner, request, ledger, new_state)


def _known_tasks(partner: Partner, request: RoundRequest) -> Records:
    """Return records without rows: what tasks there are is public, and all else is looked at after the charge."""
    data = PreparedData.open(partner.path(partner.data))
    check_folds(data, training_folds(partner))
    if request.plan.protected:
        check_public_tasks(data.data_derived_assays)
    if request.plan.unit == "series":
        known_series(data.series)
    if partner.budget.cohorts:
        dated(data)
    return Records.from_prepared(data, np.empty(0, dtype=np.int64), request.model)


def _generator(partner: Partner, device: torch.device) -> str:
    if device.type == "cpu":
        return "aes-128-ctr"
    return "chacha20" if partner.compute.secure_noise else "philox"


def _mechanism(
    partner: Partner,
    request: RoundRequest,
    network: SparseMultitaskNetwork,
    records: Records,
    clip: Clip,
    noise: NoiseSource,
) -> tuple[DpSgd, torch.device]:
    compute, plan = partner.compute, request.plan
    device = choose_device(compute.device)
    try:
        network.to(device).train()
        choose_kernel(network.trunk, rows=block_rows(plan.expected_batch), precision=compute.precision)
        rates = {"trunk": request.training.trunk_learning_rate, "heads": request.training.head_learning_rate}
        optimizer = torch.optim.SGD(
            [
                {"params": [p for p in getattr(network, part).parameters() if p.requires_grad], "lr": rate}
                for part, rate in rates.items()
            ]
        )
        mechanism = DpSgd(
            plan,
            network,
            optimizer,
            record_losses=partial(network_losses, weights=records.weights.to(device)),
            noise=noise,
            placebo=partner.policy.placebo,
            clip=clip,
            physical_batch=compute.physical_batch,
            precision=compute.precision,
            summed=[f"{TRUNK_PREFIX}{name}" for name in sorted(request.trunk)] if plan.noise_mode == "shared" else (),
        )
        if device.type == "cuda":
            tasks = len(records.weights.classes), len(records.weights.values)
            mechanism.rehearse(lambda rows: made_batch(request.model, tasks, rows).to(device))
    except torch.OutOfMemoryError as error:
        raise ModelError(
            "PFL-M10",
            f"The network does not fit into the memory of {device}. Nothing was charged. Ask for a smaller network, or "
            "name another device (partner.toml: compute.device).",
        ) from error
    return mechanism, device


def _clip(plan: PrivacyPlan, state: PrivateState | None, share: float) -> Clip:
    clip = plan.first_clip
    if plan.noise_mode == "shared":
        return replace(clip, norm=plan.shared.clip_of(share))
    if plan.clipping == "adaptive" and state is not None and state.clipping_norm is not None:
        return replace(clip, norm=state.clipping_norm)
    return clip


def _new_state(
    request: RoundRequest,
    network: SparseMultitaskNetwork,
    mechanism: DpSgd,
    released: dict[str, Tensor],
    ledger_head: str,
) -> PrivateState:
    return PrivateState(
        run=request.run,
        round=request.round,
        request=request.digest,
        agreement=request.agreement,
        heads=network.heads.state_dict(),
        reply=released,
        ledger=ledger_head,
        clipping_norm=mechanism.clip.norm if mechanism.clip.mode == "adaptive" else None,
    )


def _stored_reply(partner: Partner, request: RoundRequest, ledger: Ledger, state: PrivateState) -> RoundReply:
    if state.round != request.round or state.request != request.digest:
        raise FederationError(
            "PFL-F02",
            f"Round {request.round} was asked for with other content or out of order; round {state.round} of this run "
            "is done. Only the very same request gets the stored reply.",
        )
    ledger.release("train", request.run, request.round, digest(state.reply, "reply"))
    spent = left = None
    if partner.policy.report_budget and request.plan.protected:
        spent = ledger.epsilon(partner.budget)
        left = max(0.0, partner.budget.epsilon - spent)
    return RoundReply(released=state.reply, epsilon_spent=spent, epsilon_left=left)
