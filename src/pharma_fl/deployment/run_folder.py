"""What the coordinator's folder says of a run, read while a ServerApp writes it and without loading a model."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pharma_fl.atomic import write_atomic
from pharma_fl.deployment.private_files import make_folder
from pharma_fl.deployment.processes import is_held

_SUBMITTED, _TAIL_BYTES = "submitted.json", 1 << 20

State = Literal["none", "starting", "running", "completed", "stopped", "broke-off"]


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    """One look at the folder.

    Attributes
    ----------
    folder : Path
        federation.toml: output.
    alive : bool
        A ServerApp works in it.
    submitted : int or None
        Flower's id of the last run that `pharma-fl run` submitted, or `pharma-fl stop` stopped.
    by_hand : bool
        That run was stopped by hand.
    progress : dict
        progress.json; empty before a ServerApp wrote it.
    rounds : list of dict
        The last records of rounds.jsonl.
    end : dict or None
        end.json.
    model : Path or None
        Folder of the last good model.
    """

    folder: Path
    alive: bool
    submitted: int | None = None
    by_hand: bool = False
    progress: dict[str, Any] = field(default_factory=dict)
    rounds: list[dict[str, Any]] = field(default_factory=list)
    end: dict[str, Any] | None = None
    model: Path | None = None

    @property
    def flower_run(self) -> int | None:
        """Flower's id of the run that a ServerApp wrote progress.json for."""
        number = self.progress.get("flower_run")
        return number if isinstance(number, int) else None

    @property
    def waiting(self) -> int | None:
        """Flower's id of a run that was submitted, and whose ServerApp has not written anything yet."""
        return None if self.submitted == self.flower_run else self.submitted

    @property
    def can_resume(self) -> bool:
        """Whether there is something to go on with."""
        return self.model is not None and self.ended != "completed"

    @property
    def ended(self) -> str:
        """How the run ended, or nothing."""
        return "" if self.end is None else str(self.end.get("status", ""))

    @property
    def state(self) -> State:
        """Where the run stands, as far as the folder knows."""
        if self.ended == "completed":
            return "completed"
        if self.ended:
            return "stopped"
        if self.alive:
            return "running"
        if self.by_hand:
            return "stopped"
        if self.progress or self.model:
            return "broke-off"
        return "starting" if self.submitted else "none"


def look(folder: Path) -> RunFolder:
    """Read the folder, which need not be there; what is not there yet or half written is left out."""
    # First: what a ServerApp wrote before it ended is then read for sure.
    alive = is_held(folder / "run.lock")
    noted = _read(folder / _SUBMITTED)
    submitted = noted.get("flower_run")
    return RunFolder(
        folder=folder,
        alive=alive,
        submitted=submitted if isinstance(submitted, int) else None,
        by_hand=bool(noted.get("stopped")),
        progress=_read(folder / "progress.json"),
        rounds=_last_rounds(folder / "rounds.jsonl"),
        end=_read(folder / "end.json") or None,
        model=_latest(folder / "checkpoints"),
    )


def note_submitted(folder: Path, flower_run: int, *, stopped: bool = False) -> None:
    """Remember which run was submitted, so that it is found again before its ServerApp began, and if it was stopped.

    A ServerApp whose run is stopped through Flower leaves no word of it.
    """
    make_folder(folder)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    noted = {"flower_run": flower_run, "stopped": stopped, "at": now}
    write_atomic(folder / _SUBMITTED, (json.dumps(noted) + "\n").encode())


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _last_rounds(path: Path) -> list[dict[str, Any]]:
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, 2)
            stream.seek(max(0, size - _TAIL_BYTES))
            content = stream.read()
    except OSError:
        return []
    lines = content.split(b"\n")[:-1]
    if size > _TAIL_BYTES:
        # The first of them was cut.
        lines = lines[1:]
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return [one for one in found if isinstance(one, dict)]


def _latest(checkpoints: Path) -> Path | None:
    try:
        return checkpoints / (checkpoints / "latest").read_text("utf-8").strip()
    except OSError:
        return None
