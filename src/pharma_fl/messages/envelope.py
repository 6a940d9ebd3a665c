"""What all messages of partner and coordinator have in common.

Each holds at most three records: ``arrays`` (the trunk, its change, or a noised histogram), ``metrics`` (public
numbers) and ``config`` (names, codes and settings). Anything else in a message is refused. A partner says no with a
code and a fixed sentence.
"""

from __future__ import annotations

import re
from typing import TypeVar

from flwr.app import ConfigRecord, RecordDict

from pharma_fl.config import Settings
from pharma_fl.errors import ConfigError, FederationError, PharmaFlError

ARRAYS, METRICS, CONFIG = "arrays", "metrics", "config"
NAME = re.compile(r"[A-Za-z0-9._-]{1,128}")

T = TypeVar("T", bound=Settings)


def refusal(error: BaseException) -> RecordDict:
    """Pack a refusal: a code and a fixed sentence, never the error's own text."""
    code, reason = "PFL-X00", "The partner met an unexpected error; its own audit log says more."
    if isinstance(error, PharmaFlError):
        code, reason = error.code, error.public
    return RecordDict({CONFIG: ConfigRecord({"status": "refused", "code": code, "reason": reason})})


def done(run: str, number: int) -> ConfigRecord:
    """Return what a reply says of itself, so that one of another run or round is known as such."""
    return ConfigRecord({"status": "done", "run": run, "round": number})


def config_of(content: RecordDict, keys: set[str]) -> ConfigRecord:
    """Return a message's names, codes and settings, which must be exactly these; ``PFL-F01`` otherwise."""
    config = content.config_records.get(CONFIG)
    if config is None or set(config) != keys:
        found = sorted(config or ())
        raise FederationError(
            "PFL-F01", f"Expected the message's keys {sorted(keys)}, got {found}. Both sides need the same version."
        )
    return config


def settings_of(content: RecordDict, key: str, kind: type[T]) -> T:
    """Read one part of the settings; ``PFL-F01`` where it is none."""
    config = content.config_records.get(CONFIG) or ConfigRecord()
    try:
        return kind.parse_json(str(config.get(key, "")), source=f"message: {key}")
    except ConfigError as error:
        raise FederationError("PFL-F01", str(error)) from error
