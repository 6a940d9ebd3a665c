"""Following a run until it ends: through the files that its ServerApp writes on this machine, and Flower's word."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import IO, Literal

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pharma_fl.cli.flower import Flower, FlowerRun, without_colour
from pharma_fl.cli.news import new_rounds, news, round_line, rounds_of
from pharma_fl.cli.output import say, terminal
from pharma_fl.deployment.run_folder import RunFolder, look
from pharma_fl.errors import FederationError

LOOK_S, ASK_S = 0.5, 10.0
_BEFORE_S = 60.0
"""How long a SuperLink may be silent while nothing is known of the run."""
_LAST_LINES = 15


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run that was followed ended."""

    status: Literal["completed", "stopped", "broke-off"]
    reason: str
    rounds: int
    folder: RunFolder
    log: list[str] = field(default_factory=list)
    """Last lines of the ServerApp, where it broke off."""


def follow(flower: Flower, folder: Path, number: int, show: Callable[[RunFolder], None]) -> Outcome:
    """Wait for the end of a run, and show each look at it.

    A ServerApp that was killed leaves no word, and Flower takes a minute to notice. That nobody holds the folder's lock
    any more says it at once.

    Raises
    ------
    FederationError
        ``PFL-F24`` the SuperLink does not answer, and no ServerApp ever began.
    """
    asking = _Asking(flower, number)
    while True:
        now = look(folder)
        mine = now.flower_run == number
        if mine and now.end is not None:
            return _ended(now)
        found = asking.now_and_then(began=mine, gone=mine and not now.alive)
        if (mine and not now.alive) or (found is not None and found.finished):
            # What it wrote last may have come after the look.
            now = look(folder)
            if now.flower_run == number and now.end is not None:
                return _ended(now)
            if not (now.flower_run == number and now.alive):
                return _gone(flower, now, number, found)
        if mine:
            show(now)
        time.sleep(LOOK_S)


class _Asking:
    """What Flower knows of the run, asked rarely: each question starts a process."""

    def __init__(self, flower: Flower, number: int) -> None:
        self._flower, self._number = flower, number
        self._begun = time.monotonic()
        self._asked = -ASK_S
        self._silent = False

    def now_and_then(self, *, began: bool, gone: bool) -> FlowerRun | None:
        now = time.monotonic()
        if now - self._asked < ASK_S and not gone:
            return None
        self._asked = now
        try:
            found = self._flower.run(self._number)
        except FederationError as error:
            if not began and now - self._begun > _BEFORE_S:
                raise
            if not self._silent and not gone:
                say(f"{error} The run is followed through its files.")
            self._silent = True
            return None
        self._silent = False
        return found


def _ended(now: RunFolder) -> Outcome:
    end = now.end or {}
    status: Literal["completed", "stopped"] = "completed" if now.ended == "completed" else "stopped"
    return Outcome(status=status, reason=str(end.get("reason", "")), rounds=int(end.get("rounds", 0)), folder=now)


def _gone(flower: Flower, now: RunFolder, number: int, found: FlowerRun | None) -> Outcome:
    rounds = rounds_of(now)[0]
    if found is not None and found.status == "finished:stopped":
        return Outcome(status="stopped", reason="It was stopped by hand.", rounds=rounds, folder=now)
    if found is not None and found.finished:
        reason = f"Flower says {found.status}{f': {found.details}' if found.details else ''}."
    else:
        reason = "The ServerApp's process is gone, and left no word of an end."
    try:
        log = flower.log(number)[-_LAST_LINES:]
    except FederationError:
        log = []
    return Outcome(status="broke-off", reason=reason, rounds=rounds, folder=now, log=log)


class Display:
    """A bar of rounds on a terminal, and lines of what happens; elsewhere lines alone."""

    def __init__(self, bar: Progress | None) -> None:
        self._bar, self._before = bar, None
        self._task = None if bar is None else bar.add_task("starting", total=None, last="")

    _before: RunFolder | None

    def show(self, now: RunFolder) -> None:
        """Show what is new."""
        done, rounds = rounds_of(now)
        for line in news(self._before, now):
            say(line)
        if self._bar is None or self._task is None:
            for record in new_rounds(self._before, now):
                say(round_line(record, rounds))
        else:
            last = f"{now.rounds[-1]['seconds']:.1f} s a round" if now.rounds else ""
            phase = str(now.progress.get("phase", "starting"))
            if self._before is None:
                # Rounds that were done before say nothing of how fast the next ones are.
                self._bar.reset(self._task, completed=done, total=rounds or None)
            self._bar.update(self._task, description=phase, completed=done, total=rounds or None, last=last)
        self._before = now


@contextmanager
def display() -> Iterator[Display]:
    """Yield what shows a run."""
    console = terminal()
    if console is None:
        yield Display(None)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[last]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        yield Display(bar)


@contextmanager
def log_lines(flower: Flower, number: int, *, wanted: bool) -> Iterator[None]:
    """Show the ServerApp's own log beside, where it is wanted."""
    if not wanted:
        yield
        return
    process = flower.stream(number)
    assert process.stdout is not None
    reader = Thread(target=_pass_on, args=(process.stdout,), daemon=True)
    reader.start()
    try:
        yield
        # The last lines come a moment after the end.
        reader.join(LOOK_S * 4)
    finally:
        process.kill()
        process.wait()
        reader.join()
        process.stdout.close()


def _pass_on(stream: IO[str]) -> None:
    for line in stream:
        say(without_colour(line.rstrip("\n")))
