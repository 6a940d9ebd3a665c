"""The partner's own log of what it was asked and how it answered. It stays at the partner.

Nothing leaves that has no line here: an answer waits for its line, and a log that cannot be written is found before
anything is charged. A refusal tells nothing, so it goes out with or without one. The other order would keep a partner
in the run whose owners can no longer see what left; and the ledger, whose echo stands in the same file, would refuse
the next charge anyway.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from pharma_fl.errors import FederationError


def write_audit(path: Path, **fields: object) -> None:
    """Append one JSON line with the time and `fields`.

    Raises
    ------
    FederationError
        ``PFL-F42`` it cannot be written.
    """
    said = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **fields}
    with _opened(path) as file:
        size = os.fstat(file).st_size
        # Half a line, as a full disk leaves it, must not swallow the next.
        torn = size and os.pread(file, 1, size - 1) != b"\n"
        line = ("\n" * bool(torn) + json.dumps(said, default=str) + "\n").encode()
        # One write, so that lines of several processes do not run into each other.
        if os.write(file, line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def check_writable(path: Path) -> None:
    """Open the log as for a line, and make it where there is none; ``PFL-F42`` where that cannot be done."""
    with _opened(path):
        pass


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            yield file
        finally:
            os.close(file)
    except OSError as error:
        raise FederationError(
            "PFL-F42",
            f"The audit log {path} cannot be written ({error.strerror}), so no answer leaves. Mend its path, rights or "
            "disk (partner.toml: audit_log); an answer that is stored leaves when it is asked for again.",
        ) from error
