"""Chemistry on several processes, each molecule with a time limit that holds inside RDKit too."""

from __future__ import annotations

import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import TimeoutError as OutOfTime
from typing import Any

from pebble import ProcessExpired, ProcessPool

from pharma_fl.data.molecules import Molecule, Recipe
from pharma_fl.data.structures import Reason
from pharma_fl.errors import DataError

BATCH = 32
"""Molecules that one process gets at a time."""

_AHEAD = 16
# A process that has worked on this many batches is replaced, so that nothing that RDKit keeps can grow for ever.
_BATCHES_OF_A_PROCESS = 2_000
_MOST_CRASHES = 20

Task = Callable[[Sequence[str], Recipe], list[Molecule]]


def in_batches(texts: Iterable[str], size: int = BATCH) -> Iterator[list[str]]:
    """Cut a stream of texts into lists of `size`; the last may be shorter."""
    batch: list[str] = []
    for text in texts:
        batch.append(text)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def work(
    task: Task, batches: Iterable[list[str]], recipe: Recipe, *, workers: int
) -> Iterator[tuple[list[str], list[Molecule]]]:
    """Apply `task` to each batch on other processes and yield both, in order.

    A batch that takes longer than one molecule may (`recipe.structures.time_limit_s`), or whose process dies, is
    repeated molecule by molecule: the one that is too slow becomes ``timed_out``, the one that kills its process
    twice ``crashed``, the others are what they always are. RDKit runs in C++ and cannot be interrupted, so the
    process is killed from outside. The time is the wall clock's, of a machine that may be busy: the limit is a
    guard against a search without end and should be far beyond what real molecules take.

    Parameters
    ----------
    task : callable
        `molecules` or one like it; it and the recipe are sent to the processes. No key is.
    batches : iterable of list of str
        Read only a little ahead of what is yielded.
    recipe : Recipe
    workers : int
        Processes. They are forked from a server process that has loaded RDKit once, so a script that calls this
        needs the usual ``if __name__ == "__main__"``.

    Raises
    ------
    DataError
        ``PFL-D07`` processes die over and over.
    """
    if workers < 1:
        raise ValueError(f"expected workers >= 1, got {workers}")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    limit = recipe.structures.time_limit_s
    crashes = 0
    pool = ProcessPool(workers, max_tasks=_BATCHES_OF_A_PROCESS, initializer=_leave_interrupts, context=context)
    try:
        waiting: deque[tuple[list[str], Any]] = deque()
        for batch in batches:
            waiting.append((batch, pool.schedule(task, args=[batch, recipe], timeout=limit)))
            if len(waiting) > _AHEAD * workers:
                done, lost = _settle(*waiting.popleft(), pool, task, recipe)
                crashes = _endure(crashes + lost)
                yield done
        while waiting:
            done, lost = _settle(*waiting.popleft(), pool, task, recipe)
            crashes = _endure(crashes + lost)
            yield done
    finally:
        # An interrupt must not wait for what is still queued.
        pool.stop()  # type: ignore[no-untyped-call]
        pool.join()


def _leave_interrupts() -> None:
    """Let Ctrl-C end the process that asked; it stops the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _settle(
    batch: list[str], future: Any, pool: ProcessPool, task: Task, recipe: Recipe
) -> tuple[tuple[list[str], list[Molecule]], int]:
    try:
        return (batch, future.result()), 0
    except (OutOfTime, ProcessExpired):
        alone = [_alone(text, pool, task, recipe) for text in batch]
        return (batch, alone), sum(one.reason == "crashed" for one in alone)


def _alone(text: str, pool: ProcessPool, task: Task, recipe: Recipe) -> Molecule:
    reason: Reason = "crashed"
    for _ in range(2):
        try:
            (answer,) = pool.schedule(task, args=[[text], recipe], timeout=recipe.structures.time_limit_s).result()
        except OutOfTime:
            return Molecule(reason="timed_out")
        except ProcessExpired:
            continue
        else:
            assert isinstance(answer, Molecule)
            return answer
    return Molecule(reason=reason)


def _endure(crashes: int) -> int:
    if crashes >= _MOST_CRASHES:
        raise DataError(
            "PFL-D07",
            f"{crashes} times a process that standardised structures died, most often for lack of memory. "
            "Prepare with fewer workers; what was finished is kept.",
        )
    return crashes
