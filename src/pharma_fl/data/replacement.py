"""Replacing a folder by a finished one, whole or not at all."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pharma_fl.atomic import flush

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
# No such system call, or a file system that cannot exchange (NFS, some FUSE).
_UNSUPPORTED = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP}


@contextmanager
def replacement(folder: Path) -> Iterator[Path]:
    """Give an empty folder beside `folder`; put it in the place of `folder` if the block succeeds.

    All files in it are flushed to the disk first. If the block raises, or is interrupted, `folder` stays as
    it was and the new folder is removed; if the process is killed, a folder ``.NAME.*.part`` may be left
    behind, which is safe to delete. The new folder can be entered by its owner alone.

    Where the file system can exchange two names, there is no moment without a whole `folder`. Elsewhere the
    old folder is moved aside to ``.NAME.*.part`` for the length of one rename.

    Yields
    ------
    Path
        The new folder.

    Raises
    ------
    OSError
        The disk refuses.
    """
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent))
    try:
        yield part
        for path in sorted(part.iterdir()):
            flush(path)
        flush(part)
        _put(part, folder)
        flush(folder.parent)
    finally:
        # After an exchange this is what was there before.
        shutil.rmtree(part, ignore_errors=True)


def leftovers(folder: Path) -> list[Path]:
    """Return what killed processes left beside `folder`; nothing where `folder` is not there, for one may be it."""
    folder = folder.resolve()
    if not folder.exists():
        return []
    mine = re.compile(re.escape(f".{folder.name}.") + r"[a-z0-9_]{8}\.part")
    return [path for path in folder.parent.iterdir() if mine.fullmatch(path.name)]


def _put(new: Path, folder: Path) -> None:
    if not folder.exists():
        new.rename(folder)
        return
    code = _exchange(new, folder)
    if code == 0:
        return
    if code not in _UNSUPPORTED:
        raise OSError(code, os.strerror(code), str(folder))
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent))
    folder.rename(aside)
    try:
        new.rename(folder)
    except BaseException:
        aside.rename(folder)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _exchange(one: Path, other: Path) -> int:
    """Exchange two names in one step; return 0 or the error number."""
    library = ctypes.CDLL(None, use_errno=True)
    call = getattr(library, "renameat2", None)
    if call is None:
        return errno.ENOSYS
    call.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    done = call(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
    return 0 if done == 0 else ctypes.get_errno()
