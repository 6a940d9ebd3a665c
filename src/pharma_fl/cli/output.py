"""How commands speak: tables for people, JSON for programs, progress on a terminal and plain lines elsewhere."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

console = Console(highlight=False, width=None if Console().is_terminal else 120)
_errors = Console(stderr=True, highlight=False)
_LINE_EVERY_S = 30


def fail(message: str) -> None:
    """Print an error for a person."""
    _errors.print(f"[bold red]error[/] {_plain(message)}", soft_wrap=True)


def say(message: str) -> None:
    """Print a line of progress to stderr, so that stdout stays for results."""
    _errors.print(_plain(message), soft_wrap=True)


def terminal() -> Console | None:
    """Return where progress is shown, if somebody looks: a bar can be drawn there."""
    return _errors if _errors.is_terminal else None


def print_json(content: object) -> None:
    """Print one JSON object."""
    print(json.dumps(content, indent=2))  # noqa: T201 - for programs, without a console's wrapping


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Make a table whose first column is text and whose others are numbers."""
    made = Table(title=title, title_justify="left", header_style="bold", box=box.SIMPLE_HEAD, min_width=len(title))
    for number, column in enumerate(columns):
        made.add_column(column, justify="left" if number == 0 else "right", no_wrap=True)
    for row in rows:
        made.add_row(*(_plain(cell) for cell in row))
    return made


@contextmanager
def progress(label: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a function ``(done, total)`` that shows a bar with rate and remaining time on a terminal.

    Elsewhere it writes a line every half minute, and nothing where all is done before.
    """
    if not _errors.is_terminal:
        yield _Lines(label)
        return
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        console=_errors,
        transient=True,
    ) as bar:
        task = bar.add_task(label, total=None, rate="")

        def show(done: int, total: int) -> None:
            speed = bar.tasks[0].speed
            bar.update(task, completed=done, total=total, rate=f"{speed:,.0f}/s" if speed else "")

        yield show


class _Lines:
    """Progress as plain lines."""

    def __init__(self, label: str) -> None:
        self._label = label.strip()
        self._begun = self._said = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._said < _LINE_EVERY_S:
            return
        self._said = now
        rate = done / (now - self._begun)
        left = timedelta(seconds=round((total - done) / rate)) if rate else "unknown"
        say(f"{self._label}: {done:,} of {total:,}, {rate:,.0f}/s, {left} left")


def _plain(text: str) -> str:
    return text.replace("[", r"\[")
