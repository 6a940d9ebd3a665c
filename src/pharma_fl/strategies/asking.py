"""Questions to partners that may be slow, restarted or gone: asked, asked again, and waited for until a deadline."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

_LOG = logging.getLogger("flwr")  # beside Flower's own strategies
_POLL_S = 0.1
_LOOK_S = 3.0
_SOON_S = 5.0
ALIVE = {1, 2, 7, 8}
"""Flower's codes for an app that could not be loaded, raised or crashed, and for a bad bundle: the partner is there.
Asking once more may help where its process died, but no oftener."""

Reply = Message | Exception
"""What came back; an exception where Flower could not unpack what a partner sent."""


class Inquiry:
    """One question to each of several partners, of whom each answers once, however often it is asked.

    All that partners are asked is answered from what they stored when it is asked again, so asking again costs nothing
    but the message: a reply that Flower lost on its way is had at the second try, and so is that of a partner that was
    restarted.

    Parameters
    ----------
    grid : Grid
        Flower's connection to the nodes.
    nodes : mapping of str to int
        Where each partner is now; read anew whenever somebody is asked.
    kind : str
        Flower's message type.
    questions : mapping of str to RecordDict
        What to ask each partner. One that is nowhere yet is asked when it comes.
    lifetime_s : float
        How late a question may still be delivered: later, it would be charged for a round that is over.
    again_s : float
        After so long without an answer a partner is asked again.
    look : callable, optional
        Called now and then while waiting, to notice partners that came back elsewhere.
    """

    def __init__(
        self,
        grid: Grid,
        nodes: Mapping[str, int],
        kind: str,
        questions: Mapping[str, RecordDict],
        *,
        lifetime_s: float,
        again_s: float,
        look: Callable[[], object] = lambda: None,
    ) -> None:
        self._grid, self._nodes, self._kind, self._again_s, self._look = grid, nodes, kind, again_s, look
        self._questions = dict(questions)
        self._asked: dict[str, str] = {}  # number of a question to partner
        self._at: dict[str, tuple[int, float]] = {}  # where and when a partner was asked last
        self._errors: dict[str, list[Message]] = {}
        self._looked = time.monotonic()
        self._connected: set[int] = set()
        self._send(list(questions), lifetime_s)

    @property
    def silent(self) -> set[str]:
        """Partners that have not answered and may still do so."""
        return set(self._questions)

    @property
    def lost(self) -> set[str]:
        """Those of them who are not there: no question to them is open."""
        return self._questions.keys() - set(self._asked.values())

    def replies(
        self, deadline: float, *, lifetime_s: float | None = None, enough: Callable[[], bool] = lambda: False
    ) -> Iterator[tuple[str, Reply]]:
        """Yield partner and reply as they come, until all have answered or the deadline passed. May be called again.

        Parameters
        ----------
        deadline : float
            In terms of `time.monotonic`.
        lifetime_s : float, optional
            Of questions that are asked again; left out, until the deadline.
        enough : callable, optional
            Whether to stop earlier; asked whenever all that had come was taken.
        """
        while self._questions:
            for number in sorted(self._asked):
                # Taking a reply closes the other questions to its partner.
                name = self._asked.get(number)
                reply = None if name is None else _pulled(self._grid, number)
                if name is None or reply is None:
                    continue
                del self._asked[number]
                if self._is_final(name, reply):
                    del self._questions[name]
                    self._asked = {other: whom for other, whom in self._asked.items() if whom != name}
                    yield name, reply
            now = time.monotonic()
            if not self._questions or now >= deadline or enough():
                return
            self._ask_again(now, lifetime_s or deadline - now)
            time.sleep(_POLL_S)

    def errors(self) -> Iterator[tuple[str, Message]]:
        """Yield the last error in the place of a reply for each partner that never answered, where there was one."""
        yield from ((name, errors[-1]) for name, errors in self._errors.items() if name in self._questions)

    def _is_final(self, name: str, reply: Reply) -> bool:
        if isinstance(reply, Exception) or not reply.has_error():
            return True
        # It is gone, or its process died. Back again, it answers from what it stored.
        self._errors.setdefault(name, []).append(reply)
        return sum(error.error.code in ALIVE for error in self._errors[name]) > 1

    def _ask_again(self, now: float, lifetime_s: float) -> None:
        if now - self._looked >= _LOOK_S:
            self._look()
            self._looked = now
            self._connected = set(self._grid.get_node_ids()) if self.lost else set()
        due = [name for name in self._questions if self._is_due(name, now)]
        for name in due:
            if name in self._at:
                _LOG.info("Partner %s is asked again.", name)
        self._send(due, lifetime_s)

    def _is_due(self, name: str, now: float) -> bool:
        if name not in self._at or self._nodes.get(name) != self._at[name][0]:
            return True
        node, when = self._at[name]
        if name not in self.lost:
            return now - when >= self._again_s
        errors = self._errors.get(name)
        if errors and errors[-1].error.code in ALIVE:
            return True
        return now - when >= (_SOON_S if node in self._connected else self._again_s)

    def _send(self, names: list[str], lifetime_s: float) -> None:
        names = sorted(name for name in names if name in self._nodes)
        questions = {name: self._questions[name] for name in names}
        messages = messages_to(self._nodes, self._kind, questions, lifetime_s=max(lifetime_s, 1.0))
        if not messages:
            # The grid of a deployment refuses to send nothing.
            return
        self._at |= {name: (self._nodes[name], time.monotonic()) for name in names}
        # What could not be sent has no number, or there are none at all.
        numbers = self._grid.push_messages(messages)
        self._asked |= {number: name for number, name in zip(numbers, names, strict=False) if number}


def messages_to(
    nodes: Mapping[str, int], kind: str, questions: Mapping[str, RecordDict], *, lifetime_s: float
) -> list[Message]:
    """Return one message for each partner that is somewhere, in the order of their names."""
    return [
        Message(questions[name], dst_node_id=nodes[name], message_type=kind, ttl=lifetime_s)
        for name in sorted(questions)
        if name in nodes
    ]


def questions_of(messages: Iterable[Message], nodes: Mapping[str, int]) -> dict[str, RecordDict]:
    """Return what each partner is asked, by name: where it is may change while it is waited for."""
    names = {node: name for name, node in nodes.items()}
    return {names[message.metadata.dst_node_id]: message.content for message in messages}


def named(replies: Iterable[Message], nodes: Mapping[str, int]) -> list[tuple[str, Message]]:
    """Return the replies of partners, with their names."""
    names = {node: name for name, node in nodes.items()}
    return [(names[reply.metadata.src_node_id], reply) for reply in replies if reply.metadata.src_node_id in names]


def _pulled(grid: Grid, number: str) -> Reply | None:
    """Return the reply to a question where there is one, or what its bytes broke when Flower unpacked them."""
    try:
        # One by one: of several, one that cannot be unpacked would take the others with it.
        return next(iter(grid.pull_messages([number])), None)
    except Exception as error:  # noqa: BLE001 - the bytes are the partner's, and so is the exception
        return error
