"""Federated averaging over private rounds."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy
from torch import Tensor

from pharma_fl.config import Federation, RosterKeys
from pharma_fl.messages.join import CHALLENGE_BYTES, JoinRequest
from pharma_fl.messages.metrics import MetricsRequest
from pharma_fl.messages.rounds import RoundRequest
from pharma_fl.messages.wire import from_arrays, round_request, to_arrays
from pharma_fl.privacy.plan import PrivacyPlan
from pharma_fl.strategies.answers import Answers
from pharma_fl.strategies.asking import Inquiry, Reply, messages_to, named, questions_of
from pharma_fl.strategies.boundary import Answer, Wanted, dropped, largest_norm, read_answer
from pharma_fl.strategies.checkpoints import Checkpoints, RunState
from pharma_fl.strategies.evaluation import Evaluation
from pharma_fl.strategies.ledger_heads import LedgerHeads, Witnesses
from pharma_fl.strategies.progress import Progress
from pharma_fl.strategies.quorum import gather
from pharma_fl.strategies.resume import agreed, check_same
from pharma_fl.strategies.roster import Roster, call_roster
from pharma_fl.strategies.run_record import Observer, RoundRecord, RunEnd
from pharma_fl.strategies.server_optimizer import ServerOptimizer, norm, weighted_mean

_LOG = logging.getLogger("flwr")  # beside Flower's own strategies
_LOOK_S = 3.0


class DpFedAvg(Strategy):
    """Partners take private steps from the common trunk; the coordinator averages their noised changes.

    Each partner adds the plan's whole noise itself, so its guarantee holds against the coordinator, the
    other partners and everybody who later sees the model. Weights are public constants from
    federation.toml, never counts from replies. Metrics are exact at the partners alone: where federation.toml asks for
    an evaluation, partners whose policy and budget allow it answer noised counts.

    After every round all that the next one depends on is on disk, and partners answer what they were asked before with
    what they stored: a run that broke off anywhere goes on as if it had not.

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
    keys : RosterKeys, optional
        By which keys partners are known; without them a node is believed who it says it is.
    run : str, optional
        Identity of a new run; left out, a random one. A resumed run keeps its own.
    flower_run : int
        Flower's id of the run, for whoever looks at progress.json.
    """

    def __init__(
        self,
        federation: Federation,
        plan: PrivacyPlan,
        checkpoints: Checkpoints,
        observers: Sequence[Observer] = (),
        ledger_heads: LedgerHeads | None = None,
        *,
        keys: RosterKeys | None = None,
        run: str = "",
        flower_run: int = 0,
    ) -> None:
        self.federation = federation
        self.plan = plan
        self.checkpoints = checkpoints
        self.observers = observers
        self.ledger_heads = ledger_heads
        self.keys = keys
        self.roster = Roster()
        self.run = run or f"{federation.name}-{secrets.token_hex(8)}"
        self.flower_run = flower_run
        self._trunk: dict[str, Tensor] = {}
        self._optimizer: ServerOptimizer | None = None
        self._answers = Answers(federation, self.roster)
        self._witnesses = Witnesses(ledger_heads, {})
        self._evaluation: Evaluation | None = None
        self._bad_replies: dict[str, int] = {}
        self._rounds_done = 0
        self._void_in_a_row = 0
        self._why_void = ""
        self._begun: RunState | None = None
        self._last: RoundRecord | None = None
        self._took_part: tuple[str, ...] = ()
        self._sent = 0
        self._largest_norm = float("inf")

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

    def resume(self) -> None:
        """Go on from where the run in the coordinator's folder stands. To be called before `start`.

        Raises
        ------
        FederationError
            ``PFL-F22`` there is none, or it began with other settings.
        """
        state = self.checkpoints.load()
        check_same(state, self.federation)
        self._begun = state
        if state.members:
            self.run, self.plan = state.run, state.plan

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return one message for each partner that is there."""
        del config, grid
        self._trunk, self._why_void = from_arrays(arrays), ""
        self._answers = Answers(self.federation, self.roster)
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
        questions = {
            name: round_request(replace(request, witnesses=self._witnesses.of(name))) for name in self.roster.members
        }
        return messages_to(
            self.roster.nodes, MessageType.TRAIN, questions, lifetime_s=self.federation.quorum.round_timeout_s
        )

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average the good replies and step the trunk; None when fewer than the quorum are good.

        Replies that were taken before, as `start` takes them while it waits, need not be among these.
        """
        for name, reply in named(replies, self.roster.nodes):
            self._take(server_round, name, reply)
        good = self._answers.good
        for name in sorted(self.roster.members - good.keys()):
            _LOG.warning("Round %d: no update of %s (%s).", server_round, name, self._answers.code(name))
        self._took_part = tuple(good)
        change = self._change(server_round) if len(good) >= self._needed else None
        if change is None:
            return None, None
        if self._optimizer is None:
            self._optimizer = ServerOptimizer(self._trunk, self.federation.training)
        self._optimizer.step(change)
        return to_arrays(self._optimizer.trunk), MetricRecord({"change_norm": norm(change)})

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
        self._evaluation = Evaluation(request, self._took_part)
        questions = self._evaluation.questions(self._witnesses)
        lifetime = self.federation.quorum.round_timeout_s
        return messages_to(self.roster.nodes, MessageType.EVALUATE, questions, lifetime_s=lifetime)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Add the good histograms up; None when they allow no metric. What is refused ends nothing.

        Replies that were taken before need not be among these.
        """
        del server_round
        if self._evaluation is None:
            return None
        for name, reply in named(replies, self.roster.nodes):
            self._evaluation.take(name, reply)
        return self._evaluation.result()

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
        train_config, evaluate_config, evaluate_fn
            Not used: what partners are told is in federation.toml, and the coordinator has no data.
        """
        del train_config, evaluate_config, evaluate_fn
        rounds = self.plan.rounds if num_rounds is None else min(num_rounds, self.plan.rounds)
        deadline = self.federation.quorum.round_timeout_s if timeout is None else timeout
        self.summary()
        with self.checkpoints.held():
            return self._rounds(grid, from_arrays(initial_arrays), rounds, deadline)

    def _rounds(self, grid: Grid, start: dict[str, Tensor], rounds: int, timeout: float) -> Result:
        done = self._begin(start)
        for observer in self.observers:
            observer.run_started(self.federation, self.plan, self.checkpoints.folder)
        self._progress = Progress(self.checkpoints.folder, run=self.run, flower_run=self.flower_run, rounds=rounds)
        result = Result(arrays=to_arrays(self._trunk))
        end = self._join(grid, done, timeout)
        if end is None and self._last is not None and not self.checkpoints.has_told(done):
            # The coordinator was killed between a round's checkpoint and its line in the record.
            self._evaluate(grid, result, self._last, timeout)
        for server_round in range(done + 1, rounds + 1):
            if end is not None:
                break
            begun = time.monotonic()
            self._await_partners(grid, server_round)
            messages = list(self.configure_train(server_round, result.arrays, ConfigRecord(), grid))
            self._sent = len(messages)
            self._gather(grid, server_round, messages, timeout)
            arrays, metrics = self.aggregate_train(server_round, ())
            self._witnesses.remember(self._took_part)
            self._answers.quarantine(self._bad_replies)
            seconds = time.monotonic() - begun
            if arrays is None or metrics is None:
                end = self._failed(server_round, seconds)
                continue
            self._rounds_done, self._void_in_a_row = self._rounds_done + 1, 0
            self._trunk, result.arrays = from_arrays(arrays), arrays
            result.train_metrics_clientapp[server_round] = metrics
            record = self._record(server_round, float(str(metrics["change_norm"])), seconds)
            self._evaluate(grid, result, record, timeout)
            _LOG.info("Round %d of %d: %d partners, %.0f s.", server_round, rounds, len(self._took_part), seconds)
        end = end or RunEnd(status="completed", rounds=self._rounds_done, refused=self._answers.missing)
        self.checkpoints.finish(end)
        self._progress.write("ended", end.rounds, self.roster, last=self._last)
        _LOG.info("Run %s after %d rounds. %s", end.status, end.rounds, end.reason)
        for observer in self.observers:
            observer.run_finished(end)
        return result

    @property
    def _needed(self) -> int:
        """Fewest good replies that a round needs."""
        return self.federation.min_partners

    def _begin(self, start: dict[str, Tensor]) -> int:
        """Start the folder, or go on from what is in it; return the last round that is done."""
        state = self._begun
        if state is None:
            self.checkpoints.check_free()
        else:
            self.checkpoints.reopen(state.round)
        values = sum(value.numel() for value in start.values())
        most = self.federation.quorum.largest_sample
        self._largest_norm = largest_norm(self.plan, self.federation.training, values, largest_sample=most)
        self._trunk = start
        if state is None or not state.members:
            self.checkpoints.save(self._state(0))
            return 0
        self._trunk = state.trunk
        if state.rounds_done:
            self._optimizer = ServerOptimizer(state.trunk, self.federation.training)
            self._optimizer.resume(state.optimizer)
        self._bad_replies, self._last = dict(state.bad_replies), state.record
        self._rounds_done, self._void_in_a_row = state.rounds_done, state.void_in_a_row
        self._took_part = tuple(state.record.participants) if state.record is not None else ()
        _LOG.info("Run %s goes on after round %d.", self.run, state.round)
        return state.round

    def _join(self, grid: Grid, done: int, timeout: float) -> RunEnd | None:
        """Find the partners and settle who takes part; a run that too few join ends."""
        begun = self._begun if self._begun is not None and self._begun.members else None
        self._progress.write("joining", done, self.roster, last=self._last)
        self.roster = call_roster(
            grid,
            self.federation,
            self._join_request(),
            keys=self.keys,
            members=None if begun is None else begun.members,
        )
        self._answers = Answers(self.federation, self.roster)
        if begun is not None:
            self.roster.refused |= begun.refused
            # What they told when the run began is what their ledgers must still have.
            self.roster.ledgers |= begun.ledgers
            self._witnesses = Witnesses(self.ledger_heads, self.roster.ledgers)
            self._set_up_again(grid, timeout, begun)
            return None
        self._witnesses = Witnesses(self.ledger_heads, self.roster.ledgers)
        end = self._answers.quorum_missed(len(self.roster.members), self.federation.min_partners, rounds=0)
        if end is None:
            self._progress.write("setting-up", done, self.roster)
            end = self._set_up(grid, timeout)
        if end is None:
            self.checkpoints.save(self._state(0))  # from here on plan and partners are settled
        return end

    def _await_partners(self, grid: Grid, server_round: int) -> None:
        """Let partners come back that are needed and away, as long as the federation waits for them."""
        quorum = self.federation.quorum
        deadline = time.monotonic() + (quorum.wait_s if quorum.when_missed == "wait" else 0.0)
        self._look(grid)
        self._progress.write("training", server_round, self.roster, asked_for=self.roster.members, last=self._last)
        while self.roster.away and len(self.roster.nodes) < self._needed and time.monotonic() < deadline:
            time.sleep(_LOOK_S)
            self._look(grid)

    def _look(self, grid: Grid) -> None:
        self.roster.refresh(grid, self.federation, self._join_request())

    def _join_request(self) -> JoinRequest:
        # The roster gives each node a challenge of its own.
        challenge = bytes(CHALLENGE_BYTES)
        return JoinRequest(federation=self.federation.name, run=self.run, plan=self.plan, challenge=challenge)

    def _inquiry(self, grid: Grid, kind: str, questions: dict[str, RecordDict], timeout: float) -> Inquiry:
        return Inquiry(
            grid,
            self.roster.nodes,
            kind,
            questions,
            lifetime_s=timeout,
            again_s=self.federation.quorum.ask_again_s,
            look=lambda: self._look(grid),
        )

    def _gather(self, grid: Grid, server_round: int, messages: Iterable[Message], timeout: float) -> None:
        """Ask for a round, and take what comes."""
        inquiry = self._inquiry(grid, MessageType.TRAIN, questions_of(messages, self.roster.nodes), timeout)

        def take(name: str, reply: Reply) -> bool:
            self._take(server_round, name, reply)
            self.roster.note(name)
            self._progress.write("training", server_round, self.roster, asked_for=inquiry.silent, last=self._last)
            return name in self._answers.good

        gather(inquiry, self.federation.quorum, timeout=timeout, needed=self._needed, take=take)
        for name, error in inquiry.errors():
            self._take(server_round, name, error)

    def _take(self, server_round: int, name: str, reply: Reply) -> None:
        """Enter a partner's reply of a round; its first counts."""
        if not self._answers.has(name):
            wanted = Wanted(run=self.run, round=server_round, largest_norm=self._largest_norm)
            answer = dropped("PFL-F12") if isinstance(reply, Exception) else self._read(name, reply, wanted)
            self._answers.enter(name, answer)

    def _read(self, name: str, reply: Message, wanted: Wanted) -> Answer:
        """Check a partner's reply."""
        del name
        return read_answer(reply, self._trunk, wanted)

    def _change(self, server_round: int) -> dict[str, Tensor] | None:
        """Return what the trunk shall move by; None where the replies do not say."""
        del server_round
        changes = {name: answer.released for name, answer in self._answers.good.items() if answer.released is not None}
        return weighted_mean(changes, self.federation.partners)

    def _evaluate(self, grid: Grid, result: Result, record: RoundRecord, timeout: float) -> None:
        """Ask for metrics where the round is to be evaluated, and tell of the round."""
        messages = list(self.configure_evaluate(record.round, result.arrays, ConfigRecord(), grid))
        if self._evaluation is not None and not record.void:
            self._progress.write("evaluating", record.round, self.roster, asked_for=self._took_part, last=record)
            inquiry = self._inquiry(grid, MessageType.EVALUATE, questions_of(messages, self.roster.nodes), timeout)
            enough = partial(_all_lost, inquiry)
            for name, reply in inquiry.replies(time.monotonic() + timeout, enough=enough):
                self._evaluation.take(name, reply)
            for name, error in inquiry.errors():
                self._evaluation.take(name, error)
            scores = self.aggregate_evaluate(record.round, ())
            if scores is not None:
                result.evaluate_metrics_clientapp[record.round] = scores
            record = replace(
                record,
                evaluated=self._evaluation.evaluated,
                evaluation_refused=self._evaluation.refused,
                noised_auc_roc=self._evaluation.areas,
            )
        self._tell(record)

    def _set_up(self, grid: Grid, timeout: float) -> RunEnd | None:
        """Do what the first round needs; a run that cannot begin ends."""
        del grid, timeout
        return None

    def _set_up_again(self, grid: Grid, timeout: float, begun: RunState) -> None:
        """Take up what was set up before the run broke off."""

    def _secure_sum_state(self) -> dict[str, Any]:
        return {}

    def _failed(self, server_round: int, seconds: float) -> RunEnd | None:
        """Handle a round that gave no model, and return the run's end, or None where it goes on."""
        good, quorum = len(self._took_part), self.federation.quorum
        if not self._why_void and quorum.when_missed != "skip":
            return self._answers.quorum_missed(good, self._needed, rounds=self._rounds_done)
        why = self._why_void or f"{good} partners took part where {self._needed} are needed."
        self._void_in_a_row += 1
        self._tell(self._record(server_round, 0.0, seconds, void=True))
        if self._void_in_a_row <= quorum.void_rounds:
            _LOG.warning("Round %d is void, the trunk stays as it was. %s", server_round, why)
            return None
        reason = f"{self._void_in_a_row} rounds in a row were void (federation.toml: quorum.void_rounds). {why}"
        return self._answers.stopped(reason, rounds=self._rounds_done)

    def _record(self, server_round: int, change_norm: float, seconds: float, *, void: bool = False) -> RoundRecord:
        """Put a round on disk: from here on it is done."""
        self._last = self._answers.record(
            server_round,
            change_norm=change_norm,
            seconds=seconds,
            sent_bytes=_bytes(self._trunk) * self._sent,
            reply_bytes=self._reply_bytes(),
            void=void,
        )
        self.checkpoints.save(self._state(server_round))
        return self._last

    def _state(self, server_round: int) -> RunState:
        return RunState(
            run=self.run,
            round=server_round,
            agreed=agreed(self.federation),
            plan=self.plan,
            trunk=self._trunk,
            optimizer={} if self._optimizer is None else self._optimizer.state,
            members=tuple(sorted(self.roster.members)),
            refused=dict(self.roster.refused),
            ledgers=dict(self.roster.ledgers),
            bad_replies=dict(self._bad_replies),
            rounds_done=self._rounds_done,
            void_in_a_row=self._void_in_a_row,
            secure_sum=self._secure_sum_state(),
            record=self._last,
        )

    def _reply_bytes(self) -> int:
        """Return the array payload of a good reply."""
        return _bytes(self._trunk)

    def _tell(self, record: RoundRecord) -> None:
        self.checkpoints.append(record)
        for observer in self.observers:
            observer.round_finished(record)


def _all_lost(inquiry: Inquiry) -> bool:
    return inquiry.silent == inquiry.lost


def _bytes(tensors: dict[str, Tensor]) -> int:
    return sum(value.numel() * value.element_size() for value in tensors.values())
