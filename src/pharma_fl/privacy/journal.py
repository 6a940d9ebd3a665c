"""The ledger's echo in the partner's audit log: every entry, so that a ledger that went back is noticed and mended."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from pharma_fl.privacy.chain import Link

_EVENT = "ledger"
_MARK = f'"event": "{_EVENT}"'
_BLOCK = 1 << 16


class Echo(NamedTuple):
    """One ledger entry as the audit log has it."""

    seq: int
    link: Link


class Journal:
    """The lines of an audit log that tell of ledger entries; other lines are nobody's business here.

    Parameters
    ----------
    path : Path
        The log: JSON lines, appended to by others too.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, entries: Sequence[Echo]) -> None:
        """Append entries, on disk before it returns."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.touch(mode=0o600)
        torn = self.path.stat().st_size and not self._ends_a_line()
        # A full disk raises here; a bare os.write would write a part and say nothing.
        with self.path.open("ab") as stream:
            stream.write(("\n" * bool(torn) + "".join(map(_line, entries))).encode())
            stream.flush()
            os.fsync(stream.fileno())

    def last(self) -> Echo | None:
        """Return the last entry that the log tells of, reading from its end."""
        return next(self._backwards(), None)

    def all(self) -> tuple[Echo, ...]:
        """Return every entry that the log tells of, oldest first."""
        return tuple(self._backwards())[::-1]

    def _ends_a_line(self) -> bool:
        with self.path.open("rb") as stream:
            stream.seek(-1, os.SEEK_END)
            return stream.read(1) == b"\n"

    def _backwards(self) -> Iterator[Echo]:
        if not self.path.exists():
            return
        with self.path.open("rb") as stream:
            left = stream.seek(0, os.SEEK_END)
            rest = b""
            while left:
                size = min(_BLOCK, left)
                left -= size
                stream.seek(left)
                lines = (stream.read(size) + rest).split(b"\n")
                rest = lines.pop(0) if left else b""
                yield from filter(None, map(_echo, reversed(lines)))


def _line(echo: Echo) -> str:
    seq, link = echo
    said = {"event": _EVENT, "seq": seq, "entry": link.body, "hash": link.hash, "signature": link.signature}
    return json.dumps(said) + "\n"


def _echo(line: bytes) -> Echo | None:
    # A crash may leave half a line, and what others wrote here is not for us to judge.
    if _MARK.encode() not in line:
        return None
    try:
        said = json.loads(line)
        return Echo(int(said["seq"]), Link(str(said["entry"]), str(said["hash"]), str(said["signature"])))
    except (ValueError, KeyError, TypeError):
        return None
