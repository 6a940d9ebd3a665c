"""Which processes of this machine are there: who holds a lock, and which SuperNode is a partner's. Linux alone."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

_LOCKS, _PROCESSES = Path("/proc/locks"), Path("/proc")


def is_held(lock: Path) -> bool:
    """Whether a process holds a lock file (`pharma_fl.locks`).

    The system's list is asked first: whoever tried the lock would for that moment keep out a process that starts. Only
    a process in another container is not on the list.
    """
    try:
        inode = lock.stat().st_ino
    except OSError:
        return False
    return _is_listed(inode) or _is_refused(lock)


def supernode_of(partner_file: Path) -> int | None:
    """Return the process of the SuperNode that was started for a partner.toml, if it runs."""
    wanted = f'partner="{partner_file.resolve()}"'.encode()
    for place in sorted(_PROCESSES.glob("[0-9]*")):
        try:
            words = (place / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if wanted in words and any(Path(os.fsdecode(word)).name == "flower-supernode" for word in words[:2]):
            return int(place.name)
    return None


def _is_listed(inode: int) -> bool:
    try:
        lines = _LOCKS.read_text("utf-8").splitlines()
    except OSError:
        return False
    # "1: FLOCK  ADVISORY  WRITE 4711 fe:00:2146996 0 EOF"; waiting ones have an arrow in the second place.
    rows = [line.split() for line in lines]
    return any(len(row) > 5 and row[1] == "FLOCK" and row[5].rpartition(":")[2] == str(inode) for row in rows)


def _is_refused(lock: Path) -> bool:
    try:
        handle = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        # Closing lets go of it.
        os.close(handle)
    return False
