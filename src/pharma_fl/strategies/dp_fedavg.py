"""Federated averaging over private rounds."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy
from torch import Tensor

from pharma_fl.config import Federation
from pharma_fl.messages.metrics import MetricsRequest
from pharma_fl.messages.rounds import RoundRequest
from pharma_fl.messages.wire import from_arrays, round_request, to_arrays
from pharma_fl.privacy.plan import PrivacyPlan
from pharma_fl.strategies.boundary import Answer, read_answer
from pharma_fl.strategies.evaluation import Evaluation
from pharma_fl.strategies.ledger_heads import LedgerHeads
from pharma_fl.strategies.roster import Roster, call_roster
from pharma_fl.strategies.run_record import Checkpoints, Observer, RoundRecord, RunEnd
from pharma_fl.strategies.server_optimizer import ServerOptimizer, norm, weighted_mean

_LOG = logging.getLogger("flwr")  # beside Flower's own strategies


class DpFedAvg(Strategy):
    """Partners take private steps from the common trunk; the coordinator averages their noised changes.

    Each partner adds the plan's whole noise itself, so its guarantee holds against the coordinator, the
    other partners and everybody who later sees the model. Weights are public constants from
    federation.toml, never counts from replies. Metrics are exact at the partners alone: where federation.toml asks for
    an evaluation, partners whose policy and budget allow it answer noised counts.

    Parameters
    ----------
    federation : Federation
        The whole of federation.toml.
    plan : PrivacyPlan
        What every partner is asked to run.
    checkpoints : Checkpoints
        Where models and round records are kept.
    observers : sequence of Observer
        Told of every round.
    ledger_heads : LedgerHeads, optional
        What is remembered of the partners' ledgers from earlier runs.
    """

    def __init__(
        self,
        federation: Federation,
        plan: PrivacyPlan,
        checkpoints: Checkpoints,
        observers: Sequence[Observer] = (),
        ledger_heads: LedgerHeads | None = None,
    ) -> None:
        self.federation = federation
        self.plan = plan
        self.checkpoints = checkpoints
        self.observers = observers
        self.ledger_heads = ledger_heads
        self.roster = Roster()
        self.run = f"{federation.name}-{secrets.token_hex(8)}"
        self._trunk: dict[str, Tensor] = {}
        self._optimizer: ServerOptimizer | None = None
        self._answers: dict[str, Answer] = {}
        self._witnesses: dict[str, tuple[str, ...]] = {}
        self._evaluation: Evaluation | None = None
        self._rounds_done = 0

    def summary(self) -> None:
        """Log the configuration of the strategy."""
        epsilon = (
            f"{self.plan.epsilon():.3f} at delta {self.plan.delta:g}" if self.plan.protected else "none: unprotected"
        )
        _LOG.info("\t├──> Rounds: %d of %d private steps", self.plan.rounds, self.plan.steps_per_round)
        _LOG.info("\t├──> Epsilon a partner, whole run: %s", epsilon)
        _LOG.info(
            "\t├──> Partners: %s, of whom %d are needed",
            list(self.federation.partners),
            self.federation.min_partners,
        )
        _LOG.info("\t└──> Server optimizer: %s", self.federation.training.server_optimizer)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return one message for each partner of the roster."""
        del config, grid
        self._trunk = from_arrays(arrays)
        request = RoundRequest(
            federation=self.federation.name,
            run=self.run,
            round=server_round,
            plan=self.plan,
            model=self.federation.model,
            training=self.federation.training,
            seed=self.federation.seed,
            trunk=self._trunk,
        )
        return [
            Message(
                round_request(replace(request, witnesses=self._witnesses.get(name, ()))),
                dst_node_id=node,
                message_type=MessageType.TRAIN,
                # Delivered later, it would be charged for a round that is over.
                ttl=self.federation.quorum.round_timeout_s,
            )
            for name, node in self.roster.nodes.items()
        ]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average the good replies and step the trunk; None when fewer than the quorum are good."""
        names = {node: name for name, node in self.roster.nodes.items()}
        self._answers = {}
        for reply in replies:
            name = names.get(reply.metadata.src_node_id)
            if name is not None and name not in self._answers:
                self._answers[name] = read_answer(reply, self._trunk)
        changes = {name: answer.released for name, answer in self._answers.items() if answer.released is not None}
        for name in sorted(self.roster.nodes.keys() - changes.keys()):
            _LOG.warning("Round %d: no update of %s (%s).", server_round, name, self._code(name))
        if len(changes) < self.federation.min_partners:
            return None, None
        mean = weighted_mean(changes, self.federation.partners)
        if self._optimizer is None:
            self._optimizer = ServerOptimizer(self._trunk, self.federation.training)
        self._optimizer.step(mean)
        return to_arrays(self._optimizer.trunk), MetricRecord({"change_norm": norm(mean)})

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return one message for each partner whose change is in the model, where the round is to be evaluated.

        The others' heads are of another round.
        """
        del config, grid
        every, self._evaluation = self.federation.evaluation.every, None
        if not every or server_round % every:
            return []
        request = MetricsRequest(
            federation=self.federation.name,
            run=self.run,
            round=server_round,
            evaluation=self.federation.evaluation,
            model=self.federation.model,
            seed=self.federation.seed,
            trunk=from_arrays(arrays),
        )
        took_part = {name for name, answer in self._answers.items() if answer.released is not None}
        self._evaluation = Evaluation(request, {n: node for n, node in self.roster.nodes.items() if n in took_part})
        return self._evaluation.messages(self._witnesses, lifetime_s=self.federation.quorum.round_timeout_s)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Add the good histograms up; None when they allow no metric. What is refused ends nothing."""
        del server_round
        return None if self._evaluation is None else self._evaluation.take(replies)

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int | None = None,
        timeout: float | None = None,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
    ) -> Result:
        """Run the federation until its rounds are done or the quorum is missed.

        A missed quorum ends the run cleanly: the last good model stays on disk and is the result.

        Parameters
        ----------
        grid : Grid
            Flower's connection to the nodes.
        initial_arrays : ArrayRecord
            The trunk's public start.
        num_rounds, timeout : optional
            Left out, the plan's rounds and the federation's round deadline in seconds.
        train_config, evaluate_config
            As in Flower's own strategies.
        evaluate_fn
            Not used: the coordinator has no data.
        """
        del evaluate_fn
        rounds = self.plan.rounds if num_rounds is None else min(num_rounds, self.plan.rounds)
        deadline = self.federation.quorum.round_timeout_s if timeout is None else timeout
        self.summary()
        self.checkpoints.check_free()
        self.checkpoints.save(0, from_arrays(initial_arrays), self.plan, run=self.run)
        for observer in self.observers:
            observer.run_started(self.federation, self.plan, self.checkpoints.folder)
        self.roster = call_roster(grid, self.federation, self.plan)
        self._recall_ledgers()
        result = Result(arrays=initial_arrays)
        end = self._quorum_missed(0, len(self.roster.nodes)) or self._set_up(grid, deadline)
        for server_round in range(1, rounds + 1):
            if end is not None:
                break
            begun = time.monotonic()
            self.roster.refresh(grid, self.federation, self.plan)
            messages = self.configure_train(server_round, result.arrays, train_config or ConfigRecord(), grid)
            arrays, metrics = self.aggregate_train(server_round, grid.send_and_receive(messages, timeout=deadline))
            good = [name for name, answer in self._answers.items() if answer.released is not None]
            self._remember_ledgers(good)
            if arrays is None or metrics is None:
                end = self._failed(server_round, len(good), time.monotonic() - begun)
                continue
            self._rounds_done += 1
            result.arrays = arrays
            result.train_metrics_clientapp[server_round] = metrics
            self.checkpoints.save(server_round, from_arrays(arrays), self.plan, run=self.run)
            seconds = time.monotonic() - begun
            questions = list(self.configure_evaluate(server_round, arrays, evaluate_config or ConfigRecord(), grid))
            if questions:
                answers = grid.send_and_receive(questions, timeout=deadline)
                scores = self.aggregate_evaluate(server_round, answers)
                if scores is not None:
                    result.evaluate_metrics_clientapp[server_round] = scores
            self._tell(self._record(server_round, metrics, seconds))
        end = end or RunEnd(status="completed", rounds=self._rounds_done, refused=self._refused())
        self.checkpoints.finish(end)
        _LOG.info("Run %s after %d rounds. %s", end.status, end.rounds, end.reason)
        for observer in self.observers:
            observer.run_finished(end)
        return result

    def _set_up(self, grid: Grid, timeout: float) -> RunEnd | None:
        """Do what the first round needs; a run that cannot begin ends."""
        del grid, timeout
        return None

    def _failed(self, server_round: int, good: int, seconds: float) -> RunEnd | None:
        """Handle a round that gave no model, and return the run's end, or None where it goes on."""
        del server_round, seconds
        return self._quorum_missed(self._rounds_done, good)

    def _recall_ledgers(self) -> None:
        """Let each partner check in every round that its ledger still has what it told in this run and before."""
        before = self.ledger_heads.load() if self.ledger_heads else {}
        told = (before, self.roster.ledgers)
        self._witnesses = {
            name: tuple(dict.fromkeys(heads[name] for heads in told if name in heads)) for name in self.roster.nodes
        }

    def _remember_ledgers(self, names: Iterable[str]) -> None:
        """Keep for later runs what partners told that have taken part, and so have found what they told before.

        What a ledger says that went back must not take the place of what is known of it.
        """
        told = {name: self.roster.ledgers[name] for name in names if name in self.roster.ledgers}
        if self.ledger_heads and told.items() - self.ledger_heads.load().items():
            self.ledger_heads.save(told)

    def _quorum_missed(self, done: int, good: int) -> RunEnd | None:
        if good >= self.federation.min_partners:
            return None
        refused = self._refused()
        reasons = ", ".join(f"{name} ({code})" for name, code in sorted(refused.items()))
        return RunEnd(
            status="stopped",
            rounds=done,
            reason=f"{good} partners took part where {self.federation.min_partners} are needed; missing: {reasons}. "
            "The model of the last good round stands.",
            refused=refused,
        )

    def _refused(self) -> dict[str, str]:
        took_part = {name for name, answer in self._answers.items() if answer.released is not None}
        if not self._answers:
            took_part = set(self.roster.nodes)
        return {name: self._code(name) for name in self.federation.partners if name not in took_part}

    def _code(self, name: str) -> str:
        answer = self._answers.get(name)
        return answer.code if answer is not None else self.roster.refused.get(name, "PFL-F13")

    def _record(self, server_round: int, metrics: MetricRecord, seconds: float, *, void: bool = False) -> RoundRecord:
        good, asked = {name: a for name, a in self._answers.items() if a.released is not None}, self._evaluation
        return RoundRecord(
            round=server_round,
            participants=sorted(good),
            refused=self._refused(),
            epsilon_spent=_reported(good, "epsilon_spent"),
            epsilon_left=_reported(good, "epsilon_left"),
            change_norm=float(str(metrics["change_norm"])),
            partner_change_norms={n: norm(a.released) for n, a in good.items() if a.released},
            bytes_sent=self._trunk_bytes() * len(self.roster.nodes),
            bytes_received=self._reply_bytes() * len(good),
            seconds=seconds,
            void=void,
            evaluated=[] if asked is None else asked.evaluated,
            evaluation_refused={} if asked is None else asked.refused,
            noised_auc_roc={} if asked is None else asked.areas,
        )

    def _trunk_bytes(self) -> int:
        return sum(value.numel() * value.element_size() for value in self._trunk.values())

    def _reply_bytes(self) -> int:
        """Return the array payload of a good reply."""
        return self._trunk_bytes()

    def _tell(self, record: RoundRecord) -> None:
        self.checkpoints.append(record)
        for observer in self.observers:
            observer.round_finished(record)


def _reported(answers: dict[str, Answer], metric: str) -> dict[str, float]:
    return {name: answer.metrics[metric] for name, answer in answers.items() if metric in answer.metrics}
