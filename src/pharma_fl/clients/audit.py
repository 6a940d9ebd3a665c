"""The partner's own log of what it was asked and how it answered. It stays at the partner."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path


def write_audit(path: Path, **fields: object) -> None:
    """Append one JSON line with the time and `fields`."""
    line = json.dumps({"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **fields}, default=str)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    with path.open("a", encoding="utf-8") as stream:
        stream.write(line + "\n")
