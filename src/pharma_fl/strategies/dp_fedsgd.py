"""One private step a round, summed under masks: the coordinator sees a noised sum, and no partner's part of it."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from pydantic import ValidationError
from torch import Tensor

from pharma_fl.errors import FederationError
from pharma_fl.privacy.plan import PrivacyPlan
from pharma_fl.secagg.opening import Opening
from pharma_fl.strategies.asking import Inquiry
from pharma_fl.strategies.boundary import Answer, Wanted, dropped, largest_sum, read_masked
from pharma_fl.strategies.checkpoints import RunState
from pharma_fl.strategies.dp_fedavg import DpFedAvg
from pharma_fl.strategies.run_record import RunEnd
from pharma_fl.strategies.secure_sum import SecureSum

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
    _opening: Opening
    _settled: frozenset[str] | set[str] = frozenset()
    _timeout: float

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
        """Return one message for each partner that is there."""
        self._opening = self._sums.opening(server_round)
        self._settled = self.checkpoints.survivors(self.run, server_round)
        return super().configure_train(server_round, arrays, config, grid)

    @property
    def _needed(self) -> int:
        """Fewest vectors that open a sum; all of those that it was asked for before."""
        return len(self._settled) or self._sums.terms.threshold

    def _read(self, name: str, reply: Message, wanted: Wanted) -> Answer:
        """Check a masked vector, and keep it for the sum."""
        terms = self._sums.terms
        if self._settled and name not in self._settled:
            # The others were asked to open a sum without it, before the coordinator was killed.
            return dropped("PFL-F13")
        answer, vector = read_masked(reply, wanted, values=terms.values, dtype=terms.dtype)
        if vector is not None:
            self._opening.add(name, vector)
        return answer

    def _change(self, server_round: int) -> dict[str, Tensor] | None:
        """Open the sum, and return what the trunk shall move by; None where it cannot be opened or is too large."""
        survivors = self._opening.survivors
        self.checkpoints.settle_survivors(self.run, server_round, survivors)
        try:
            total = self._opening.opened(self._sums.unmaskings(server_round, survivors, self._timeout))
        except FederationError as error:
            self._why_void = str(error)
            return None
        values = torch.from_numpy(self.plan.shared.values_of(total))
        largest = largest_sum(self.plan, largest_sample=self.federation.quorum.largest_sample)
        if float(torch.linalg.vector_norm(values)) > largest:
            # Nobody can tell whose it was, but it need not move the trunk.
            self._why_void = f"The sum's norm exceeds {largest:g}, more than the plan allows (PFL-F17)."
            return None
        return self._moved_by(values)

    def _moved_by(self, total: Tensor) -> dict[str, Tensor]:
        """Return what the trunk shall move by, from the sum of all partners' clipped gradients."""
        rate = self.federation.training.trunk_learning_rate / (self.plan.expected_batch * self.plan.contributors)
        parts = {name: self._trunk[name].numel() for name in sorted(self._trunk)}
        pieces = torch.split(total * -rate, list(parts.values()))
        return {name: piece.reshape(self._trunk[name].shape) for name, piece in zip(parts, pieces, strict=True)}

    def _reply_bytes(self) -> int:
        """Return the array payload of a good reply: one integer of the ring for each value."""
        return self._sums.terms.values * self._sums.terms.dtype.itemsize

    def _secure_sum(self, grid: Grid, timeout: float) -> SecureSum:
        self._timeout = timeout

        def inquire(kind: str, questions: dict[str, RecordDict], seconds: float) -> Inquiry:
            return self._inquiry(grid, kind, questions, seconds)

        return SecureSum(self.federation.name, self.run, self.plan, inquire)

    def _set_up(self, grid: Grid, timeout: float) -> RunEnd | None:
        """Fix who contributes, and let them agree on keys."""
        joined = len(self.roster.nodes)
        if joined < self.plan.contributors:
            _LOG.warning("%d of %d partners joined: their shares of the noise grow.", joined, self.plan.contributors)
            try:
                self.plan = PrivacyPlan.model_validate(self.plan.model_dump() | {"contributors": joined})
            except ValidationError as error:
                said = error.errors()[0]["msg"].removeprefix("Value error, ")
                return self._answers.stopped(f"{joined} partners are too few for the plan: {said}.", rounds=0)
        self._sums = self._secure_sum(grid, timeout)
        refused = self._sums.set_up(sorted(self.roster.nodes), timeout)
        if not refused:
            return None
        for name, code in refused.items():
            self.roster.drop(name, code)
        said = ", ".join(f"{name} ({code})" for name, code in sorted(refused.items()))
        return self._answers.stopped(
            f"The secure sum could not be set up; partners that did not take part: {said}.", rounds=0
        )

    def _set_up_again(self, grid: Grid, timeout: float, begun: RunState) -> None:
        """Take up the keys that the partners agreed on."""
        self._sums = self._secure_sum(grid, timeout)
        self._sums.resume(begun.secure_sum)

    def _secure_sum_state(self) -> dict[str, Any]:
        return self._sums.state if hasattr(self, "_sums") else {}
