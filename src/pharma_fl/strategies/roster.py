"""Which node is which partner: the strategy addresses partners by name, never all connected nodes."""

from __future__ import annotations

import logging
import time
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

    @property
    def answered(self) -> set[str]:
        """Partners that said yes or no."""
        return self.nodes.keys() | self.refused.keys()

    def admit(self, node: int, answer: ConfigRecord, federation: Federation) -> None:
        """Enter one answer; a node that is not on the federation's list is ignored."""
        name = str(answer.get("partner", ""))
        if not name:
            _LOG.warning("Node %s cannot say who it is (%s).", node, code_of(answer))
            return
        if name not in federation.partners or name in self.answered:
            _LOG.warning("Node %s is ignored: it is not a partner of this federation, or its name is taken.", node)
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


def call_roster(grid: Grid, federation: Federation, plan: PrivacyPlan) -> Roster:
    """Ask every connected node who it is until all partners answered or the join deadline passed."""
    roster = Roster()
    asked: set[int] = set()
    open_questions: set[str] = set()
    deadline = time.monotonic() + federation.quorum.join_timeout_s
    while roster.answered != federation.partners.keys() and time.monotonic() < deadline:
        new = [node for node in grid.get_node_ids() if node not in asked]
        asked.update(new)
        open_questions.update(
            grid.push_messages(
                Message(join_request(federation.name, plan), dst_node_id=node, message_type=f"{MessageType.QUERY}.join")
                for node in new
            )
        )
        # A node that stays silent must not keep the others waiting, so answers are taken as they come.
        for reply in grid.pull_messages(open_questions):
            open_questions.discard(reply.metadata.reply_to_message_id)
            answer = None if reply.has_error() else reply.content.config_records.get(CONFIG)
            if answer is not None:
                roster.admit(reply.metadata.src_node_id, answer, federation)
        time.sleep(_POLL_S)
    for name, rounds in sorted(roster.affordable_rounds.items()):
        if rounds < plan.rounds:
            _LOG.warning("Partner %s can afford %d of the plan's %d rounds.", name, rounds, plan.rounds)
    _LOG.info("Joined: %s. Refused: %s.", sorted(roster.nodes), roster.refused or "none")
    return roster
