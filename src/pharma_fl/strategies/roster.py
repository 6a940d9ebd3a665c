"""Which node is which partner: the strategy addresses partners by name, never all connected nodes."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from flwr.app import ConfigRecord, Message, MessageType
from flwr.serverapp import Grid

from pharma_fl.config import Federation
from pharma_fl.messages.wire import CONFIG, join_request
from pharma_fl.privacy.plan import PrivacyPlan
from pharma_fl.strategies.boundary import code_of
from pharma_fl.strategies.ledger_heads import is_head

_LOG = logging.getLogger("flwr")  # beside Flower's own strategies
_POLL_S = 0.2


@dataclass(kw_only=True)
class Roster:
    """The partners of a run.

    Attributes
    ----------
    nodes : dict
        Flower node id of each partner that joined, by name.
    refused : dict
        Code of each partner that refused to join, by name.
    affordable_rounds : dict
        Rounds of this plan that each partner's budget still covers, where it says so.
    ledgers : dict
        Hash of each partner's ledger, by name.
    """

    nodes: dict[str, int] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    affordable_rounds: dict[str, int] = field(default_factory=dict)
    ledgers: dict[str, str] = field(default_factory=dict)
    _asked: set[int] = field(default_factory=set, repr=False)
    _open: set[str] = field(default_factory=set, repr=False)  # questions without an answer yet
    _said: dict[int, str] = field(default_factory=dict, repr=False)  # who each node says it is, youngest last

    @property
    def answered(self) -> set[str]:
        """Partners that said yes or no."""
        return self.nodes.keys() | self.refused.keys()

    def admit(self, node: int, answer: ConfigRecord, federation: Federation) -> None:
        """Enter one answer; a node that is not on the federation's list is ignored."""
        name = self._heard(node, answer, federation)
        if not name:
            return
        if name in self.answered:
            _LOG.warning("Node %s is ignored: its name, %s, is taken.", node, name)
            return
        rounds = answer.get("affordable_rounds")
        if isinstance(rounds, int):
            self.affordable_rounds[name] = rounds
        head = answer.get("ledger")
        if is_head(head):
            self.ledgers[name] = str(head)
        if answer.get("status") == "joined":
            self.nodes[name] = node
        else:
            self.refused[name] = code_of(answer)

    def refresh(self, grid: Grid, federation: Federation, plan: PrivacyPlan) -> None:
        """Let partners whose SuperNode was started anew go on under their new node. To be called before each round.

        A SuperNode that starts anew without Flower's node authentication gets a new node id. Nodes never seen before
        are asked who they are; who takes part is fixed, so only the name of a partner of this run counts, and it moves
        only when its node is gone. While that node is connected, whoever else says the name is ignored.

        This never waits: a node takes seconds to answer, so what it says is heard before a later round. How soon a
        name moves is up to Flower, which counts a killed node as connected until 60 s after its last sign of life; one
        that was shut down in order is gone at once. With node authentication the id stays the same and nothing moves.

        Parameters
        ----------
        grid : Grid
            Flower's connection to the nodes.
        federation, plan
            What every partner was asked at the start.
        """
        connected = set(grid.get_node_ids())
        self.ask(grid, connected, federation, plan)
        for node, answer in self.answers(grid):
            name = self._heard(node, answer, federation)
            if self.nodes.get(name) in connected - {node}:
                _LOG.warning("Node %s is ignored as long as another node of its name, %s, is connected.", node, name)
        for name, old in self.nodes.items():
            heirs = [node for node, said in self._said.items() if said == name and node in connected]
            if old not in connected and heirs:
                self.nodes[name] = heirs[-1]
                _LOG.info("Partner %s goes on as node %s; node %s is gone.", name, heirs[-1], old)

    def ask(self, grid: Grid, nodes: Iterable[int], federation: Federation, plan: PrivacyPlan) -> None:
        """Ask each of these nodes who it is, once."""
        new = [node for node in nodes if node not in self._asked]
        self._asked.update(new)
        # A list: the grid of a deployment reads it twice, and refuses to send nothing.
        questions = [
            Message(join_request(federation.name, plan), dst_node_id=node, message_type=f"{MessageType.QUERY}.join")
            for node in new
        ]
        if questions:
            self._open.update(filter(None, grid.push_messages(questions)))

    def answers(self, grid: Grid) -> list[tuple[int, ConfigRecord]]:
        """Take what has been answered so far; a node that stays silent does not keep the others waiting."""
        found: list[tuple[int, ConfigRecord]] = []
        for question in sorted(self._open):
            try:
                replies = [(r.metadata.src_node_id, _content(r)) for r in grid.pull_messages([question])]
            except Exception as error:  # noqa: BLE001 - Flower unpacks here what a node sent, whatever that is
                _LOG.warning("A node's answer cannot be read (%s).", type(error).__name__)
                self._open.discard(question)
                continue
            if replies:
                self._open.discard(question)
            found.extend((node, answer) for node, answer in replies if answer is not None)
        return found

    def _heard(self, node: int, answer: ConfigRecord, federation: Federation) -> str:
        """Return the partner that a node says it is, or nothing."""
        name = str(answer.get("partner", ""))
        if not name:
            _LOG.warning("Node %s cannot say who it is (%s).", node, code_of(answer))
            return ""
        if name not in federation.partners:
            _LOG.warning("Node %s is ignored: it is not a partner of this federation.", node)
            return ""
        if answer.get("status") == "joined":
            self._said[node] = name
        elif name in self.nodes:
            _LOG.warning("Node %s of partner %s refuses to go on (%s).", node, name, code_of(answer))
        return name


def call_roster(grid: Grid, federation: Federation, plan: PrivacyPlan) -> Roster:
    """Ask every connected node who it is until all partners answered or the join deadline passed."""
    roster = Roster()
    deadline = time.monotonic() + federation.quorum.join_timeout_s
    while roster.answered != federation.partners.keys() and time.monotonic() < deadline:
        roster.ask(grid, grid.get_node_ids(), federation, plan)
        for node, answer in roster.answers(grid):
            roster.admit(node, answer, federation)
        time.sleep(_POLL_S)
    for name, rounds in sorted(roster.affordable_rounds.items()):
        if rounds < plan.rounds:
            _LOG.warning("Partner %s can afford %d of the plan's %d rounds.", name, rounds, plan.rounds)
    _LOG.info("Joined: %s. Refused: %s.", sorted(roster.nodes), roster.refused or "none")
    return roster


def _content(reply: Message) -> ConfigRecord | None:
    return None if reply.has_error() else reply.content.config_records.get(CONFIG)
