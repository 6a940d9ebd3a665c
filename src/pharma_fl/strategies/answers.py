"""What the partners of a run answered in one round, and what that says of the round."""

from __future__ import annotations

import logging

from pharma_fl.config import Federation
from pharma_fl.strategies.boundary import BAD, Answer
from pharma_fl.strategies.roster import Roster
from pharma_fl.strategies.run_record import RoundRecord, RunEnd
from pharma_fl.strategies.server_optimizer import norm

_LOG = logging.getLogger("flwr")  # beside Flower's own strategies
QUARANTINED = "PFL-F14"


class Answers:
    """One round's answers; each partner's first counts.

    Parameters
    ----------
    federation : Federation
        Who may take part.
    roster : Roster
        Who does.
    """

    def __init__(self, federation: Federation, roster: Roster) -> None:
        self._federation, self._roster = federation, roster
        self._answers: dict[str, Answer] = {}

    def enter(self, name: str, answer: Answer) -> None:
        """Enter what a partner answered."""
        self._answers.setdefault(name, answer)

    def has(self, name: str) -> bool:
        """Whether a partner has answered."""
        return name in self._answers

    @property
    def good(self) -> dict[str, Answer]:
        """Answers that can be used, by name in ascending order: the same answers are to give the same bits."""
        return {name: self._answers[name] for name in sorted(self._answers) if self._answers[name].released is not None}

    @property
    def missing(self) -> dict[str, str]:
        """Code of each of the federation's partners that has no good answer; before any answer, that does not join."""
        there = set(self.good) if self._answers else self._roster.members
        return {name: self.code(name) for name in self._federation.partners if name not in there}

    def code(self, name: str) -> str:
        """Return why a partner has no good answer."""
        answer = self._answers.get(name)
        return answer.code if answer is not None else self._roster.refused.get(name, "PFL-F13")

    def quarantine(self, bad_replies: dict[str, int]) -> None:
        """Count bad replies; whoever sent too many is left out from now on."""
        for name, answer in self._answers.items():
            if answer.code not in BAD:
                continue
            bad_replies[name] = bad_replies.get(name, 0) + 1
            if bad_replies[name] >= self._federation.quorum.quarantine_after and name in self._roster.members:
                _LOG.warning("Partner %s is left out (%s): %d bad replies.", name, QUARANTINED, bad_replies[name])
                self._roster.drop(name, QUARANTINED)

    def record(
        self,
        round_number: int,
        *,
        change_norm: float,
        seconds: float,
        sent_bytes: int,
        reply_bytes: int,
        void: bool = False,
    ) -> RoundRecord:
        """Return the round as the coordinator saw it; `sent_bytes` is of all messages, `reply_bytes` of one reply."""
        good = self.good
        return RoundRecord(
            round=round_number,
            participants=list(good),
            refused=self.missing,
            epsilon_spent=_reported(good, "epsilon_spent"),
            epsilon_left=_reported(good, "epsilon_left"),
            change_norm=change_norm,
            partner_change_norms={name: norm(answer.released) for name, answer in good.items() if answer.released},
            bytes_sent=sent_bytes,
            bytes_received=reply_bytes * len(good),
            seconds=seconds,
            void=void,
        )

    def stopped(self, reason: str, *, rounds: int) -> RunEnd:
        """Return the end of a run that cannot go on."""
        reason = f"{reason} The model of the last good round stands."
        return RunEnd(status="stopped", rounds=rounds, reason=reason, refused=self.missing)

    def quorum_missed(self, there: int, needed: int, *, rounds: int) -> RunEnd | None:
        """Return the end of a run where fewer partners are there than are needed."""
        if there >= needed:
            return None
        reasons = ", ".join(f"{name} ({code})" for name, code in sorted(self.missing.items()))
        return self.stopped(f"{there} partners took part where {needed} are needed; missing: {reasons}.", rounds=rounds)


def _reported(answers: dict[str, Answer], metric: str) -> dict[str, float]:
    return {name: answer.metrics[metric] for name, answer in answers.items() if metric in answer.metrics}
