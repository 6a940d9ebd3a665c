"""Files that hold a secret: made once, for their owner alone, and never overwritten."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from pharma_fl.atomic import flush
from pharma_fl.errors import ConfigError


def make_once(path: Path, content: Callable[[], bytes]) -> bool:
    """Write a secret where there is none, on disk before it is used.

    Parameters
    ----------
    path : Path
        The file, mode 0600 from its first byte; folders that are missing are made, mode 0700.
    content : callable
        Makes the secret; called only where it is needed.

    Returns
    -------
    bool
        Whether it was made; a file that was there is kept.

    Raises
    ------
    ConfigError
        ``PFL-C12`` the file that is there can be opened by others.
    """
    if path.exists():
        _for_its_owner(path)
        return False
    make_folder(path.parent)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "wb") as stream:
        stream.write(content())
        stream.flush()
        os.fsync(handle)
    try:
        # Whoever comes second keeps the first one's.
        os.link(part, path)
    except FileExistsError:
        return False
    finally:
        part.unlink()
    flush(path.parent)
    return True


def make_folder(path: Path) -> None:
    """Make a folder and those above it that are missing, for their owner alone; one that is there stays as it is."""
    missing = [one for one in (path, *path.parents) if not one.exists()]
    for folder in reversed(missing):
        folder.mkdir(mode=0o700, exist_ok=True)


def _for_its_owner(path: Path) -> None:
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        raise ConfigError("PFL-C12", f"Others may open the key {path} (mode {mode:04o}). chmod 600 it.")
