"""One private step a round, summed under masks: the coordinator sees a noised sum, and no partner's part of it."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from pydantic import ValidationError
from torch import Tensor

from pharma_fl.errors import FederationError
from pharma_fl.messages.wire import to_arrays
from pharma_fl.privacy.plan import PrivacyPlan
from pharma_fl.strategies.boundary import read_masked
from pharma_fl.strategies.dp_fedavg import DpFedAvg
from pharma_fl.strategies.run_record import RunEnd
from pharma_fl.strategies.secure_sum import SecureSum
from pharma_fl.strategies.server_optimizer import ServerOptimizer, norm

_LOG = logging.getLogger("flwr")  # beside Flower's own strategies


class DpFedSgd(DpFedAvg):
    """Partners clip and sum one Poisson sample a round; the sum over partners is opened, and the coordinator steps.

    Each partner adds a share of the noise and masks the whole, so that nothing but the sum can be read, which holds the
    plan's noise. What is added up is divided by a public constant, whoever is missing: the expected batch times the
    contributors. Up to ``tolerated_losses`` partners may be missing in a round. A round that misses more is void: the
    trunk stays, and what it cost stays charged.

    Parameters are those of `DpFedAvg`. The trunk moves against the mean gradient times ``trunk_learning_rate``, by the
    server optimizer.

    References
    ----------
    Bonawitz et al. 2017, "Practical secure aggregation for privacy-preserving machine learning"; Kairouz, Liu, Steinke
    2021, arXiv 2102.06387. What is the same and what is not: `secagg`, `privacy.shared_noise`.
    """

    _sums: SecureSum
    _grid: Grid
    _timeout: float
    _void_in_a_row = 0
    _why_void = ""

    def summary(self) -> None:
        """Log the configuration of the strategy."""
        super().summary()
        plan = self.plan
        _LOG.info(
            "\t└──> Secure sum: of %d partners, of whom %d may collude with the coordinator and %d be missing; "
            "%d values of %d bits",
            plan.contributors,
            plan.tolerated_colluders,
            plan.tolerated_losses,
            plan.summed_values,
            plan.ring_bits,
        )

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return one message for each partner of the roster."""
        self._grid, self._evaluation = grid, None  # a void round is not evaluated
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Open the sum of the good replies and step the trunk; None where it cannot be opened."""
        names = {node: name for name, node in self.roster.nodes.items()}
        opening, terms = self._sums.opening(server_round), self._sums.terms
        self._answers = {}
        for reply in replies:
            name = names.get(reply.metadata.src_node_id)
            if name is not None and name not in self._answers:
                self._answers[name], vector = read_masked(reply, values=terms.values, dtype=terms.dtype)
                if vector is not None:
                    opening.add(name, vector)
        for name in sorted(self.roster.nodes.keys() - opening.survivors):
            _LOG.warning("Round %d: no vector of %s (%s).", server_round, name, self._code(name))
        if len(opening.survivors) < terms.threshold:
            self._why_void = f"{len(opening.survivors)} vectors came where {terms.threshold} open a sum."
            return None, None
        unmaskings = self._sums.unmaskings(self._grid, server_round, opening.survivors, self._timeout)
        try:
            total = opening.opened(unmaskings)
        except FederationError as error:
            self._why_void = str(error)
            return None, None
        change = self._change(torch.from_numpy(self.plan.shared.values_of(total)))
        if self._optimizer is None:
            self._optimizer = ServerOptimizer(self._trunk, self.federation.training)
        self._optimizer.step(change)
        self._void_in_a_row = 0
        return to_arrays(self._optimizer.trunk), MetricRecord({"change_norm": norm(change)})

    def _change(self, total: Tensor) -> dict[str, Tensor]:
        """Return what the trunk shall move by, from the sum of all partners' clipped gradients."""
        rate = self.federation.training.trunk_learning_rate / (self.plan.expected_batch * self.plan.contributors)
        parts = {name: self._trunk[name].numel() for name in sorted(self._trunk)}
        pieces = torch.split(total * -rate, list(parts.values()))
        return {name: piece.reshape(self._trunk[name].shape) for name, piece in zip(parts, pieces, strict=True)}

    def _reply_bytes(self) -> int:
        """Return the array payload of a good reply: one integer of the ring for each value."""
        return self._sums.terms.values * self._sums.terms.dtype.itemsize

    def _set_up(self, grid: Grid, timeout: float) -> RunEnd | None:
        """Fix who contributes, and let them agree on keys."""
        self._timeout = timeout
        joined = len(self.roster.nodes)
        if joined < self.plan.contributors:
            _LOG.warning("%d of %d partners joined: their shares of the noise grow.", joined, self.plan.contributors)
            try:
                self.plan = PrivacyPlan.model_validate(self.plan.model_dump() | {"contributors": joined})
            except ValidationError as error:
                said = error.errors()[0]["msg"].removeprefix("Value error, ")
                return self._ended(f"{joined} partners are too few for the plan: {said}.")
        self._sums = SecureSum(self.federation.name, self.run, self.plan, self.roster.nodes)
        refused = self._sums.set_up(grid, timeout)
        if not refused:
            return None
        self.roster.refused |= refused
        for name in refused:
            del self.roster.nodes[name]
        said = ", ".join(f"{name} ({code})" for name, code in sorted(refused.items()))
        return self._ended(f"The secure sum could not be set up; partners that did not take part: {said}.")

    def _failed(self, server_round: int, good: int, seconds: float) -> RunEnd | None:
        """Let a void round pass, but not too many in a row."""
        del good
        self._void_in_a_row += 1
        self._tell(self._record(server_round, MetricRecord({"change_norm": 0.0}), seconds, void=True))
        if self._void_in_a_row <= self.federation.quorum.void_rounds:
            _LOG.warning("Round %d is void, the trunk stays as it was. %s", server_round, self._why_void)
            return None
        return self._ended(
            f"{self._void_in_a_row} rounds in a row were void (federation.toml: quorum.void_rounds). {self._why_void}"
        )

    def _ended(self, reason: str) -> RunEnd:
        return RunEnd(
            status="stopped",
            rounds=self._rounds_done,
            reason=f"{reason} The model of the last good round stands.",
            refused=self._refused(),
        )
