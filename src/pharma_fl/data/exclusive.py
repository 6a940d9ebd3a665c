"""One process at a time in a folder."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pharma_fl.errors import DataError


def lock_of(folder: Path) -> Path:
    """Return the lock file of a folder that is replaced whole: beside it, where it stays."""
    folder = folder.resolve()
    return folder.with_name(f".{folder.name}.lock")


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold a lock file for the length of the block; the system lets go of it when the process ends, however it ends.

    Raises
    ------
    DataError
        ``PFL-D11`` another process holds it.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(
                "PFL-D11", f"Another process is preparing here ({path}). Wait until it is done, then prepare again."
            ) from error
        yield
    finally:
        os.close(handle)
