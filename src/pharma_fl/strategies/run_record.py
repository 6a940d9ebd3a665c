"""What the coordinator may know about a run, and shows to whoever watches."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from pharma_fl.config import Federation
from pharma_fl.privacy.plan import PrivacyPlan


@dataclass(frozen=True, kw_only=True)
class RoundRecord:
    """One round, as the coordinator saw it.

    Attributes
    ----------
    participants : list of str
        Partners whose reply was used.
    refused : dict
        Code of every other partner, by name.
    epsilon_spent, epsilon_left : dict
        By partner, where reported.
    change_norm : float
        Norm of the mean noised change.
    partner_change_norms : dict
        Norm of each partner's noised change; empty under shared noise, where nobody sees one.
    bytes_sent, bytes_received : int
        Array payload of the round, all partners together.
    seconds : float
        Wall time of the round at the coordinator, without its evaluation.
    void : bool
        The sum could not be opened: the trunk stayed as it was.
    evaluated : list of str
        Partners whose noised counts are in the metrics; empty in a round without evaluation.
    evaluation_refused : dict
        Code of every other partner that was asked for them, by name.
    noised_auc_roc : dict
        ``value`` and ``standard_error``, which is that of the noise alone, by ``pooled`` and catalogue id.
    """

    round: int
    participants: list[str]
    refused: dict[str, str]
    epsilon_spent: dict[str, float]
    epsilon_left: dict[str, float]
    change_norm: float
    partner_change_norms: dict[str, float]
    bytes_sent: int
    bytes_received: int
    seconds: float
    void: bool = False
    evaluated: list[str] = field(default_factory=list)
    evaluation_refused: dict[str, str] = field(default_factory=dict)
    noised_auc_roc: dict[str, dict[str, float]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RunEnd:
    """How a run ended.

    Attributes
    ----------
    status : {"completed", "stopped"}
        Stopped: the quorum was missed, and the last good model stands.
    rounds : int
        Rounds that count.
    reason : str
        Why it stopped, in words; empty when completed.
    """

    status: Literal["completed", "stopped"]
    rounds: int
    reason: str = ""
    refused: dict[str, str] = field(default_factory=dict)


class Observer(Protocol):
    """Somebody who watches a run. Nothing it does may fail or delay a round."""

    def run_started(self, federation: Federation, plan: PrivacyPlan, folder: Path) -> None:
        """Handle the start of the run."""

    def round_finished(self, record: RoundRecord) -> None:
        """Handle a finished round."""

    def run_finished(self, end: RunEnd) -> None:
        """Handle the end of the run."""
