"""One process at a time."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_POLL_S = 0.02


@contextmanager
def locked(path: Path, *, wait_s: float = 0.0) -> Iterator[None]:
    """Hold a lock file for the length of the block; the system lets go of it when the process ends, however it ends.

    Threads of one process exclude each other too.

    Parameters
    ----------
    path : Path
        The lock file; made when missing, for its owner alone.
    wait_s : float
        Seconds to wait for whoever holds it.

    Raises
    ------
    TimeoutError
        Somebody else still holds it.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + wait_s
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if time.monotonic() >= deadline:
                    raise TimeoutError(str(path)) from error
                time.sleep(_POLL_S)
            else:
                break
        yield
    finally:
        # A process that was forked meanwhile has the handle too, and must not hold the lock on.
        fcntl.flock(handle, fcntl.LOCK_UN)
        os.close(handle)
