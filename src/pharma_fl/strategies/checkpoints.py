"""The coordinator's folder: a checkpoint a round from which a run goes on, the record of every round, and the end."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from pharma_fl.atomic import write_atomic
from pharma_fl.errors import FederationError
from pharma_fl.locks import locked
from pharma_fl.model.weights import load_weights, save_weights
from pharma_fl.privacy.plan import PrivacyPlan
from pharma_fl.strategies.run_record import RoundRecord, RunEnd

_TRUNK, _OPTIMIZER, _STATE = "trunk.safetensors", "optimizer.safetensors", "state.json"
_LATEST = "latest"


@dataclass(frozen=True, kw_only=True)
class RunState:
    """Where a run stands after a round: all that the next one depends on.

    Attributes
    ----------
    run : str
        Identity of the run.
    round : int
        The round that is done, void or not; 0 before the first.
    agreed : str
        Digest of what stays as it is during the run.
    plan : PrivacyPlan
        As it was settled with those who joined.
    trunk, optimizer : dict
        Tensors by name.
    members : tuple of str
        Partners that take part; empty as long as that is not settled.
    refused : dict
        Code of each partner that does not, by name.
    ledgers : dict
        What the partners' ledgers were at joining.
    bad_replies : dict
        How many replies of a partner could not be used, by name.
    rounds_done, void_in_a_row : int
        How many rounds count so far, and how many of the last were void.
    secure_sum : dict
        What the coordinator hands on of a secure sum's keys; empty under local noise.
    record : RoundRecord or None
        What is known of the round; its evaluation may be missing.
    """

    run: str
    round: int
    agreed: str
    plan: PrivacyPlan
    trunk: dict[str, Tensor] = field(repr=False)
    optimizer: dict[str, Tensor] = field(default_factory=dict, repr=False)
    members: tuple[str, ...] = ()
    refused: dict[str, str] = field(default_factory=dict)
    ledgers: dict[str, str] = field(default_factory=dict)
    bad_replies: dict[str, int] = field(default_factory=dict)
    rounds_done: int = 0
    void_in_a_row: int = 0
    secure_sum: dict[str, Any] = field(default_factory=dict, repr=False)
    record: RoundRecord | None = None


class Checkpoints:
    """The coordinator's folder.

    Parameters
    ----------
    folder : Path
        Holds ``checkpoints/round-NNNN/{trunk.safetensors,optimizer.safetensors,state.json}``, ``rounds.jsonl``,
        ``progress.json`` and ``end.json``.
    keep : int
        How many rounds' checkpoints stay besides the public start.
    """

    def __init__(self, folder: Path, *, keep: int = 5) -> None:
        self.folder, self._keep = folder, keep

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other coordinators out of the folder for the length of the block.

        Raises
        ------
        FederationError
            ``PFL-F23`` another process runs a federation there.
        """
        try:
            with locked(self.folder / "run.lock"):
                yield
        except TimeoutError as error:
            raise FederationError(
                "PFL-F23",
                f"Another process runs a federation in {self.folder} (federation.toml: output). Wait for its end, or "
                "stop it: pharma-fl stop.",
            ) from error

    def check_free(self) -> None:
        """Refuse a folder that holds a run already, with ``PFL-F20``."""
        # Until the first checkpoint is whole, nothing was asked of anybody.
        if (self.folder / "checkpoints" / _LATEST).exists():
            raise FederationError(
                "PFL-F20",
                f"{self.folder} holds a run already. Name another folder in federation.toml: output; a run that broke "
                "off goes on with pharma-fl run --resume.",
            )

    def save(self, state: RunState) -> None:
        """Write where a run stands, so that a crash leaves this state or the one before."""
        place = self._place(state.round)
        of = {"run": state.run, "round": str(state.round)}
        save_weights(place / _TRUNK, state.trunk, of)
        save_weights(place / _OPTIMIZER, state.optimizer, of)
        facts = {key: getattr(state, key) for key in RunState.__dataclass_fields__ if key not in ("trunk", "optimizer")}
        facts["plan"] = state.plan.model_dump(mode="json")
        facts["record"] = None if state.record is None else asdict(state.record)
        write_atomic(place / _STATE, _json(facts))
        write_atomic(self.folder / "checkpoints" / _LATEST, f"{place.name}\n".encode())
        self._prune(state.round)

    def load(self) -> RunState:
        """Return where the run stands.

        Raises
        ------
        FederationError
            ``PFL-F22`` there is no run in the folder, or it cannot be read.
        """
        if not (self.folder / "checkpoints" / _LATEST).exists():
            raise FederationError(
                "PFL-F22", f"{self.folder} holds no run to go on with (federation.toml: output). Start one."
            )
        place = self.latest()
        trunk, optimizer = load_weights(place / _TRUNK)[0], load_weights(place / _OPTIMIZER)[0]
        try:
            facts = json.loads((place / _STATE).read_text("utf-8"))
            facts["plan"] = PrivacyPlan.model_validate(facts["plan"])
            facts["members"] = tuple(facts["members"])
            facts["record"] = None if facts["record"] is None else RoundRecord(**facts["record"])
            return RunState(**facts, trunk=trunk, optimizer=optimizer)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise FederationError(
                "PFL-F22",
                f"{place / _STATE} cannot be read ({type(error).__name__}). Go on with the version of pharma-fl that "
                "began the run, or restore the folder from a backup.",
            ) from error

    def append(self, record: RoundRecord) -> None:
        """Add a line to rounds.jsonl."""
        with (self.folder / "rounds.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(asdict(record)) + "\n")

    def finish(self, end: RunEnd) -> None:
        """Write end.json."""
        write_atomic(self.folder / "end.json", _json(asdict(end)))

    def reopen(self, round_number: int) -> None:
        """Take back the end, and lines of rounds.jsonl that are half written or of a later round than this."""
        (self.folder / "end.json").unlink(missing_ok=True)
        path = self.folder / "rounds.jsonl"
        if path.exists():
            kept = [line for line in _lines(path) if json.loads(line)["round"] <= round_number]
            write_atomic(path, "".join(f"{line}\n" for line in kept).encode())

    def latest(self) -> Path:
        """Return the folder of the last good model."""
        return self.folder / "checkpoints" / (self.folder / "checkpoints" / _LATEST).read_text("utf-8").strip()

    def rounds(self) -> list[RoundRecord]:
        """Return the rounds so far."""
        path = self.folder / "rounds.jsonl"
        return [RoundRecord(**json.loads(line)) for line in _lines(path)] if path.exists() else []

    def has_told(self, round_number: int) -> bool:
        """Whether the record of a round is written."""
        told = self.rounds()
        return bool(told) and told[-1].round >= round_number

    def end(self) -> RunEnd | None:
        """Return how the run ended, or None while it has not."""
        path = self.folder / "end.json"
        return RunEnd(**json.loads(path.read_text("utf-8"))) if path.exists() else None

    def survivors(self, run: str, round_number: int) -> set[str]:
        """Return whose vectors a round's secure sum is opened for, if that was settled; nobody's if it was not."""
        path = self.folder / "survivors.json"
        known = json.loads(path.read_text("utf-8")) if path.exists() else {}
        settled = (known.get("run"), known.get("round")) == (run, round_number)
        return set(known["survivors"]) if settled else set()

    def settle_survivors(self, run: str, round_number: int, names: set[str]) -> None:
        """Settle whose vectors a round's sum is opened for, before anybody is asked to help with it.

        A partner helps for one set of survivors alone. A coordinator that was killed after it asked has to ask for the
        same ones again.
        """
        content = {"run": run, "round": round_number, "survivors": sorted(names)}
        write_atomic(self.folder / "survivors.json", _json(content))

    def _prune(self, round_number: int) -> None:
        for place in sorted((self.folder / "checkpoints").glob("round-*")):
            number = int(place.name.removeprefix("round-"))
            if 0 < number <= round_number - self._keep:
                shutil.rmtree(place)

    def _place(self, round_number: int) -> Path:
        return self.folder / "checkpoints" / f"round-{round_number:04d}"


def _lines(path: Path) -> list[str]:
    # What follows the last line's end is half a line, written by a process that was killed.
    return path.read_text("utf-8").split("\n")[:-1]


def _json(content: object) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()
