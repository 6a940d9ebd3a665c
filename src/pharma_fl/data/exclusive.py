"""One process at a time in a folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pharma_fl.errors import DataError
from pharma_fl.locks import locked


def lock_of(folder: Path) -> Path:
    """Return the lock file of a folder that is replaced whole: beside it, where it stays."""
    folder = folder.resolve()
    return folder.with_name(f".{folder.name}.lock")


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold a lock file for the length of the block.

    Raises
    ------
    DataError
        ``PFL-D11`` another process holds it.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(path))
        except TimeoutError as error:
            raise DataError(
                "PFL-D11", f"Another process is preparing here ({path}). Wait until it is done, then prepare again."
            ) from error
        yield
