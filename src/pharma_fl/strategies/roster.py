"""Which node is which partner: the strategy addresses partners by name, never all connected nodes."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from flwr.app import Message, MessageType
from flwr.serverapp import Grid

from pharma_fl.config import Federation, RosterKeys
from pharma_fl.errors import FederationError
from pharma_fl.messages.join import CHALLENGE_BYTES, JOIN, JoinAnswer, JoinRequest, join_request, read_join_answer
from pharma_fl.strategies.asking import ALIVE
from pharma_fl.strategies.boundary import is_code, refusal_of
from pharma_fl.strategies.joining import NOT_ALIKE, check_answer, not_alike, shown
from pharma_fl.strategies.ledger_heads import is_head

_LOG = logging.getLogger("flwr")  # beside Flower's own strategies
_POLL_S = 0.2


@dataclass(kw_only=True)
class Roster:
    """The partners of a run.

    Attributes
    ----------
    keys : RosterKeys or None
        By which keys partners are known; without them a node is believed who it says it is.
    nodes : dict
        Flower node id of each partner that takes part, by name; last known.
    away : set of str
        Partners of a resumed run that have not been heard of since. They take part again when they are.
    refused : dict
        Code of each partner that does not take part, by name.
    affordable_rounds : dict
        Rounds of this plan that each partner's budget still covers, where it says so.
    ledgers : dict
        Hash of each partner's ledger, by name.
    heard : dict
        When something of a partner came last, by name.
    """

    keys: RosterKeys | None = None
    nodes: dict[str, int] = field(default_factory=dict)
    away: set[str] = field(default_factory=set)
    refused: dict[str, str] = field(default_factory=dict)
    affordable_rounds: dict[str, int] = field(default_factory=dict)
    ledgers: dict[str, str] = field(default_factory=dict)
    heard: dict[str, str] = field(default_factory=dict)
    agreements: dict[str, str] = field(default_factory=dict, repr=False)
    _asked: set[int] = field(default_factory=set, repr=False)
    # questions without an answer yet: whom, and what
    _open: dict[str, tuple[int, JoinRequest]] = field(default_factory=dict, repr=False)
    _said: dict[int, str] = field(default_factory=dict, repr=False)  # who each node is, youngest last

    @property
    def members(self) -> set[str]:
        """Partners that take part."""
        return self.nodes.keys() | self.away

    @property
    def answered(self) -> set[str]:
        """Partners that said yes or no."""
        return self.nodes.keys() | self.refused.keys()

    def note(self, name: str) -> None:
        """Remember that something of a partner came now."""
        self.heard[name] = datetime.now(UTC).isoformat(timespec="seconds")

    def drop(self, name: str, code: str) -> None:
        """Leave a partner out for the rest of the run."""
        self.nodes.pop(name, None)
        self.away.discard(name)
        self.refused[name] = code

    def admit(self, node: int, answer: JoinAnswer, federation: Federation) -> None:
        """Enter one answer; a node that is not on the federation's list is ignored."""
        name = self._heard(node, answer, federation)
        if not name:
            return
        if name in self.answered:
            _LOG.warning("Node %s is ignored: its name, %s, is taken.", node, name)
            return
        if answer.affordable_rounds >= 0:
            self.affordable_rounds[name] = answer.affordable_rounds
        if is_head(answer.ledger):
            self.ledgers[name] = answer.ledger
        if answer.status == "joined":
            self.nodes[name] = node
            self.agreements[name] = answer.agreement
        else:
            self.refused[name] = answer.code

    def check_alike(self) -> None:
        """Leave out partners that prepared otherwise than the others; in what they differ is logged."""
        for name, said in not_alike(self.agreements).items():
            _LOG.warning("Partner %s is left out (%s): %s", name, NOT_ALIKE, said)
            self.drop(name, NOT_ALIKE)
            del self.agreements[name]

    def refresh(self, grid: Grid, federation: Federation, request: JoinRequest) -> None:
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
        federation, request
            What every partner was asked at the start.
        """
        connected = set(grid.get_node_ids())
        self.ask(grid, connected, request)
        for node, answer in self.answers(grid):
            name = self._heard(node, answer, federation)
            if self.nodes.get(name) in connected - {node}:
                _LOG.warning("Node %s is ignored as long as another node of its name, %s, is connected.", node, name)
        for name in sorted(self.members):
            old = self.nodes.get(name)
            heirs = [node for node, said in self._said.items() if said == name and node in connected]
            if old not in connected and heirs:
                self.nodes[name] = heirs[-1]
                self.away.discard(name)
                _LOG.info("Partner %s goes on as node %s; node %s is gone.", name, heirs[-1], old)

    def ask(self, grid: Grid, nodes: Iterable[int], request: JoinRequest) -> None:
        """Ask each of these nodes who it is, once, each with a challenge of its own."""
        new = [node for node in nodes if node not in self._asked]
        self._asked.update(new)
        asked = [replace(request, challenge=secrets.token_bytes(CHALLENGE_BYTES)) for _ in new]
        # A list: the grid of a deployment reads it twice, and refuses to send nothing.
        questions = [
            Message(join_request(one), dst_node_id=node, message_type=f"{MessageType.QUERY}.{JOIN}")
            for node, one in zip(new, asked, strict=True)
        ]
        if questions:
            numbers = list(grid.push_messages(questions))
            self._open |= {n: (node, one) for n, node, one in zip(numbers, new, asked, strict=False) if n}

    def answers(self, grid: Grid) -> list[tuple[int, JoinAnswer]]:
        """Take what has been answered so far; a node that stays silent does not keep the others waiting."""
        found: list[tuple[int, JoinAnswer]] = []
        for number in sorted(self._open):
            try:
                replies = list(grid.pull_messages([number]))
            except Exception as error:  # noqa: BLE001 - Flower unpacks here what a node sent, whatever that is
                _LOG.warning("A node's answer cannot be read (%s).", type(error).__name__)
                del self._open[number]
                continue
            if not replies:
                continue
            # Who answers is who was asked; what else the reply says of its sender is not relied on.
            node, request = self._open.pop(number)
            if replies[0].has_error() and replies[0].error.code not in ALIVE:
                # It went before it answered, and is asked again when it is back.
                self._asked.discard(node)
                continue
            answer = _believed(node, replies[0], request, self.keys)
            if answer is not None:
                found.append((node, answer))
        return found

    def _heard(self, node: int, answer: JoinAnswer, federation: Federation) -> str:
        """Return the partner that a node is, or nothing."""
        name = answer.partner
        if name not in federation.partners:
            _LOG.warning("Node %s is ignored: it is not a partner of this federation.", node)
            return ""
        self.note(name)
        if name not in self.members:
            return name
        if answer.status != "joined":
            _LOG.warning("Node %s of partner %s refuses to go on (%s).", node, name, answer.code)
        elif self.agreements.get(name, answer.agreement) != answer.agreement:
            _LOG.warning("Node %s is ignored: partner %s prepared otherwise since the run began.", node, name)
        else:
            self._said[node] = name
        return name


def call_roster(
    grid: Grid,
    federation: Federation,
    request: JoinRequest,
    *,
    keys: RosterKeys | None = None,
    members: Collection[str] | None = None,
) -> Roster:
    """Ask every connected node who it is until all partners answered or the join deadline passed.

    With `members`, those of a run that is resumed, nobody else is let in, and whoever is away may come later.
    """
    roster = Roster(keys=keys)
    wanted = set(federation.partners if members is None else members)
    deadline = time.monotonic() + federation.quorum.join_timeout_s
    while not roster.answered >= wanted and time.monotonic() < deadline:
        roster.ask(grid, grid.get_node_ids(), request)
        for node, answer in roster.answers(grid):
            roster.admit(node, answer, federation)
        time.sleep(_POLL_S)
    roster.check_alike()
    if members is not None:
        for name in roster.nodes.keys() - wanted:
            roster.drop(name, "PFL-F13")
        # A no may become a yes before the run is over; who takes part was settled when it began.
        roster.away = wanted - roster.nodes.keys()
    for name, node in roster.nodes.items():
        roster._said[node] = name  # noqa: SLF001 - its own
    for name, rounds in sorted(roster.affordable_rounds.items()):
        if rounds < request.plan.rounds:
            _LOG.warning("Partner %s can afford %d of the plan's %d rounds.", name, rounds, request.plan.rounds)
    _LOG.info("Joined: %s. Refused: %s.", sorted(roster.nodes), roster.refused or "none")
    return roster


def _believed(node: int, reply: Message, request: JoinRequest, keys: RosterKeys | None) -> JoinAnswer | None:
    """Return what a node says, if it can be read and believed; the reason is logged where not."""
    try:
        answer = None if reply.has_error() else read_join_answer(reply.content)
    except FederationError:
        answer = None
    if answer is None:
        _LOG.warning("Node %s cannot say who it is (%s).", node, refusal_of(reply) or "PFL-F11")
        return None
    if answer.status == "refused" and not is_code(answer.code):
        answer = replace(answer, code="PFL-X00")
    code = check_answer(answer, request, keys)
    if not code:
        return answer
    _LOG.warning("Node %s says it is %s, which is not believed (%s).", node, shown(answer.partner), code)
    # Another plan than was sent is that partner's trouble; another's name is nobody's.
    return replace(answer, status="refused", code=code) if code == NOT_ALIKE else None
