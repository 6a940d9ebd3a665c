"""What the coordinator may know about a run, written to its folder and shown to whoever watches."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from torch import Tensor

from pharma_fl.atomic import write_atomic
from pharma_fl.config import Federation
from pharma_fl.errors import FederationError
from pharma_fl.model.weights import save_weights
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


class Checkpoints:
    """The coordinator's folder: one checkpoint a round, the record of every round, and how the run ended.

    Parameters
    ----------
    folder : Path
        Holds ``checkpoints/round-NNNN/{trunk.safetensors,state.json}``, ``rounds.jsonl`` and ``end.json``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def check_free(self) -> None:
        """Refuse a folder that holds a run already, with ``PFL-F20``."""
        if (self.folder / "checkpoints").exists():
            raise FederationError(
                "PFL-F20", f"{self.folder} holds a run already. Name another folder in federation.toml: output."
            )

    def save(self, round_number: int, trunk: dict[str, Tensor], plan: PrivacyPlan, *, run: str) -> None:
        """Write the model of a round; round 0 is the public start."""
        place = self._place(round_number)
        save_weights(place / "trunk.safetensors", trunk, {"run": run, "round": str(round_number)})
        write_atomic(place / "state.json", _json({"run": run, "round": round_number, "plan": plan.model_dump()}))
        write_atomic(self.folder / "checkpoints" / "latest", f"{place.name}\n".encode())

    def append(self, record: RoundRecord) -> None:
        """Add a line to rounds.jsonl."""
        with (self.folder / "rounds.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(asdict(record)) + "\n")

    def finish(self, end: RunEnd) -> None:
        """Write end.json."""
        write_atomic(self.folder / "end.json", _json(asdict(end)))

    def latest(self) -> Path:
        """Return the folder of the last good model."""
        return self.folder / "checkpoints" / (self.folder / "checkpoints" / "latest").read_text("utf-8").strip()

    def rounds(self) -> list[RoundRecord]:
        """Return the rounds so far."""
        path = self.folder / "rounds.jsonl"
        lines = path.read_text("utf-8").splitlines() if path.exists() else []
        return [RoundRecord(**json.loads(line)) for line in lines]

    def end(self) -> RunEnd | None:
        """Return how the run ended, or None while it has not."""
        path = self.folder / "end.json"
        return RunEnd(**json.loads(path.read_text("utf-8"))) if path.exists() else None

    def _place(self, round_number: int) -> Path:
        return self.folder / "checkpoints" / f"round-{round_number:04d}"


def _json(content: object) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()
