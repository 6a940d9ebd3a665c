"""The coordinator's side of secure sums: it hands keys and shares on before a run, and opens one sum a round."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypeVar

from flwr.app import MessageType, RecordDict

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
from pharma_fl.privacy.plan import PrivacyPlan
from pharma_fl.secagg.keys import Advert, list_digest
from pharma_fl.secagg.opening import Opening
from pharma_fl.secagg.session import Unmasking
from pharma_fl.strategies.asking import Inquiry, Reply
from pharma_fl.strategies.boundary import refusal_of

_LOG = logging.getLogger("flwr")  # beside Flower's own strategies
Inquire = Callable[[str, dict[str, RecordDict], float], Inquiry]
T = TypeVar("T")


class SecureSum:
    """One run's secure sums, as the coordinator serves them. It learns sums alone, of noised vectors.

    Parameters
    ----------
    federation, run : str
        Which run.
    plan : PrivacyPlan
        With ``noise_mode = "shared"``.
    inquire : callable
        Makes an `Inquiry` of a kind of question, the questions by partner, and a timeout.
    """

    def __init__(self, federation: str, run: str, plan: PrivacyPlan, inquire: Inquire) -> None:
        self.terms = terms_of(federation, run, plan)
        self._plan, self._inquire = plan, inquire
        self._adverts: tuple[Advert, ...] = ()
        self._digest = ""

    def set_up(self, names: Collection[str], timeout: float) -> dict[str, str]:
        """Let the partners agree on keys; return the code of each that did not, by name. Empty when all is ready."""
        terms = self.terms
        question = keys_request(terms.federation, terms.run, self._plan)
        adverts, refused = self._ask(KEYS, dict.fromkeys(names, question), read_keys_reply, timeout)
        refused |= {name: "PFL-F11" for name, advert in adverts.items() if advert.name != name}
        if refused:
            return refused
        self._show(adverts[name] for name in sorted(adverts))
        question = shares_request(terms.run, self._adverts)
        sealed, refused = self._ask(SHARES, dict.fromkeys(names, question), read_shares_reply, timeout)
        refused |= {name: "PFL-F11" for name, bundle in sealed.items() if bundle.keys() != set(names) - {name}}
        if refused:
            return refused
        keep = {
            to: keep_request(terms.run, {sender: sealed[sender][to] for sender in names if sender != to})
            for to in names
        }
        _, refused = self._ask(KEEP, keep, lambda _: None, timeout)
        return refused

    @property
    def state(self) -> dict[str, Any]:
        """What a resumed run needs of the setup: public keys alone, as JSON can hold them."""
        columns = ("sealing", "rounds", "signature")
        return {one.name: {key: getattr(one, key).hex() for key in columns} for one in self._adverts}

    def resume(self, state: Mapping[str, Mapping[str, str]]) -> None:
        """Take up a finished setup."""
        self._show(
            Advert(name=name, **{key: bytes.fromhex(value) for key, value in one.items()})
            for name, one in sorted(state.items())
        )

    def opening(self, round_number: int) -> Opening:
        """Return what takes a round's masked vectors as they come."""
        return Opening(adverts=self._adverts, digest=self._digest, terms=self.terms, round_number=round_number)

    def unmaskings(self, round_number: int, survivors: Collection[str], timeout: float) -> dict[str, Unmasking]:
        """Ask the survivors for what opens their sum. One who is lost meanwhile does not keep the others waiting."""
        question = unmask_request(self.terms.run, round_number, survivors)
        answers, refused = self._ask(
            UNMASK, dict.fromkeys(survivors, question), read_unmask_reply, timeout, enough=self.terms.threshold
        )
        for name, code in sorted(refused.items()):
            _LOG.warning("Round %d: %s did not help to open the sum (%s).", round_number, name, code)
        return answers

    def _show(self, adverts: Iterable[Advert]) -> None:
        self._adverts = tuple(adverts)
        self._digest = list_digest(self._adverts, self.terms)

    def _ask(
        self,
        action: str,
        questions: Mapping[str, RecordDict],
        read: Callable[[RecordDict], T],
        timeout: float,
        *,
        enough: int | None = None,
    ) -> tuple[dict[str, T], dict[str, str]]:
        """Ask each partner, and return answers and codes by name; after `enough` answers wait a moment more at most."""
        inquiry = self._inquire(f"{MessageType.QUERY}.{action}", dict(questions), timeout)
        answers: dict[str, T] = {}
        codes = dict.fromkeys(questions, "PFL-F13")
        begun = time.monotonic()
        last: list[float] = []

        def done() -> bool:
            if enough is None or len(answers) < enough:
                return False
            now = time.monotonic()
            # The others were as quick to answer, if they are there: twice as long as it took is enough for them.
            last.append(begun + 2 * (now - begun) + 1.0)
            return now > last[0] or inquiry.silent == inquiry.lost

        for name, reply in inquiry.replies(begun + timeout, enough=done):
            answer, codes[name] = _read(reply, read)
            if answer is not None:
                answers[name] = answer[0]
        codes |= {name: refusal_of(error) for name, error in inquiry.errors()}
        return answers, {name: code for name, code in codes.items() if name not in answers}


def _read(reply: Reply, read: Callable[[RecordDict], T]) -> tuple[tuple[T] | None, str]:
    if isinstance(reply, Exception):
        return None, "PFL-F11"
    code = refusal_of(reply)
    if code:
        return None, code
    try:
        return (read(reply.content),), ""
    except FederationError:
        return None, "PFL-F11"
