"""The coordinator's side of secure sums: it hands keys and shares on before a run, and opens one sum a round."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping
from typing import TypeVar

from flwr.app import Message, MessageType, RecordDict
from flwr.serverapp import Grid

from pharma_fl.errors import FederationError
from pharma_fl.messages.secure_sum import (
    KEEP,
    KEYS,
    SHARES,
    UNMASK,
    keep_request,
    keys_request,
    read_keys_reply,
    read_shares_reply,
    read_unmask_reply,
    shares_request,
    terms_of,
    unmask_request,
)
from pharma_fl.messages.wire import CONFIG
from pharma_fl.privacy.plan import PrivacyPlan
from pharma_fl.secagg.keys import Advert, list_digest
from pharma_fl.secagg.opening import Opening
from pharma_fl.secagg.session import Unmasking
from pharma_fl.strategies.boundary import code_of

_LOG = logging.getLogger("flwr")  # beside Flower's own strategies
_POLL_S = 0.1
T = TypeVar("T")


class SecureSum:
    """One run's secure sums, as the coordinator serves them. It learns sums alone, of noised vectors.

    Parameters
    ----------
    federation, run : str
        Which run.
    plan : PrivacyPlan
        With ``noise_mode = "shared"``.
    nodes : mapping of str to int
        Where each contributor is; read anew for each question.
    """

    def __init__(self, federation: str, run: str, plan: PrivacyPlan, nodes: Mapping[str, int]) -> None:
        self.terms = terms_of(federation, run, plan)
        self._plan, self._nodes = plan, nodes
        self._adverts: tuple[Advert, ...] = ()
        self._digest = ""

    def set_up(self, grid: Grid, timeout: float) -> dict[str, str]:
        """Let the partners agree on keys; return the code of each that did not, by name. Empty when all is ready."""
        terms, names = self.terms, list(self._nodes)
        question = keys_request(terms.federation, terms.run, self._plan)
        adverts, refused = self._ask(grid, KEYS, dict.fromkeys(names, question), read_keys_reply, timeout)
        refused |= {name: "PFL-F11" for name, advert in adverts.items() if advert.name != name}
        if refused:
            return refused
        self._adverts = tuple(adverts[name] for name in sorted(adverts))
        self._digest = list_digest(self._adverts, terms)
        question = shares_request(terms.run, self._adverts)
        sealed, refused = self._ask(grid, SHARES, dict.fromkeys(names, question), read_shares_reply, timeout)
        refused |= {name: "PFL-F11" for name, bundle in sealed.items() if bundle.keys() != set(names) - {name}}
        if refused:
            return refused
        keep = {
            to: keep_request(terms.run, {sender: sealed[sender][to] for sender in names if sender != to})
            for to in names
        }
        _, refused = self._ask(grid, KEEP, keep, lambda _: None, timeout)
        return refused

    def opening(self, round_number: int) -> Opening:
        """Return what takes a round's masked vectors as they come."""
        return Opening(adverts=self._adverts, digest=self._digest, terms=self.terms, round_number=round_number)

    def unmaskings(
        self, grid: Grid, round_number: int, survivors: Collection[str], timeout: float
    ) -> dict[str, Unmasking]:
        """Ask the survivors for what opens their sum. One who is lost meanwhile does not keep the others waiting."""
        question = unmask_request(self.terms.run, round_number, survivors)
        answers, refused = self._ask(
            grid, UNMASK, dict.fromkeys(survivors, question), read_unmask_reply, timeout, enough=self.terms.threshold
        )
        for name, code in sorted(refused.items()):
            _LOG.warning("Round %d: %s did not help to open the sum (%s).", round_number, name, code)
        return answers

    def _ask(
        self,
        grid: Grid,
        action: str,
        questions: Mapping[str, RecordDict],
        read: Callable[[RecordDict], T],
        timeout: float,
        *,
        enough: int | None = None,
    ) -> tuple[dict[str, T], dict[str, str]]:
        """Ask each partner, and return answers and codes by name; after `enough` answers wait a moment more at most."""
        kind = f"{MessageType.QUERY}.{action}"
        # A list: the grid of a deployment reads it twice.
        messages = [
            Message(content, dst_node_id=self._nodes[name], message_type=kind, ttl=timeout)
            for name, content in questions.items()
        ]
        # What could not be sent has no number, or there are none at all.
        asked = {number: name for number, name in zip(grid.push_messages(messages), questions, strict=False) if number}
        open_questions = set(asked)
        answers: dict[str, T] = {}
        codes: dict[str, str] = {}
        begun, deadline = time.monotonic(), time.monotonic() + timeout
        while open_questions and time.monotonic() < deadline:
            for question in sorted(open_questions):
                reply = _pulled(grid, question)
                if reply is None:
                    continue
                open_questions.discard(question)
                name = asked[question]
                answer, code = _read(reply, read)
                if answer is None:
                    codes[name] = code
                else:
                    answers[name] = answer[0]
            if enough is not None and len(answers) >= enough:
                # The others were as quick to answer, if they are there: twice as long as it took is enough for them.
                deadline = min(deadline, begun + 2 * (time.monotonic() - begun) + 1.0)
                enough = None
            if open_questions:
                time.sleep(_POLL_S)
        return answers, {name: codes.get(name, "PFL-F13") for name in questions if name not in answers}


def _pulled(grid: Grid, question: str) -> Message | Exception | None:
    """Return the reply to a question where there is one, or what its bytes broke when Flower unpacked them."""
    try:
        return next(iter(grid.pull_messages([question])), None)
    except Exception as error:  # noqa: BLE001 - the bytes are the partner's, and so is the exception
        return error


def _read(reply: Message | Exception, read: Callable[[RecordDict], T]) -> tuple[tuple[T] | None, str]:
    if isinstance(reply, Exception):
        return None, "PFL-F11"
    if reply.has_error():
        return None, "PFL-F10"
    config = reply.content.config_records.get(CONFIG)
    if config is not None and config.get("status") == "refused":
        return None, code_of(config)
    try:
        return (read(reply.content),), ""
    except FederationError:
        return None, "PFL-F11"
