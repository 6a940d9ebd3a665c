"""The coordinator's folders of a comparison, read as plain files; a line that cannot be read is left out."""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    """One federated run as its coordinator recorded it.

    Attributes
    ----------
    settings : dict
        federation.toml, flat: ``{"training.rounds": 10, ...}``.
    rounds : list of dict
        rounds.jsonl, as `pharma_fl.strategies.run_record.RoundRecord` writes it.
    end : dict
        end.json; empty while the run has not ended.
    """

    name: str
    settings: Mapping[str, Any]
    rounds: tuple[Mapping[str, Any], ...]
    end: Mapping[str, Any]

    @property
    def family(self) -> str:
        """The name without its seed: runs of one family share a line style."""
        return re.sub(r"[-_.]?s(eed)?[-_]?\d+$", "", self.name) or self.name

    @property
    def epsilon_by_round(self) -> dict[int, float]:
        """Most that any partner had spent after each round, where partners report a finite epsilon."""
        spent = {_round(record): _finite(record, "epsilon_spent") for record in self.rounds}
        return {number: max(values) for number, values in spent.items() if values}

    @property
    def norm_by_round(self) -> dict[int, float]:
        """Norm of the mean noised change."""
        norms = {_round(record): record.get("change_norm") for record in self.rounds}
        return {number: norm for number, norm in norms.items() if isinstance(norm, int | float) and math.isfinite(norm)}

    @property
    def replies(self) -> tuple[int, int]:
        """Replies used, and replies asked for, over all rounds."""
        used = sum(len(_items(record, "participants")) for record in self.rounds)
        return used, used + sum(len(_items(record, "refused")) for record in self.rounds)

    @property
    def refusals(self) -> Counter[tuple[str, str]]:
        """How often each partner was left out with each code; a run that stopped adds its last round."""
        found: Counter[tuple[str, str]] = Counter()
        # The round that missed the quorum is recorded in end.json alone.
        last = [self.end] if self.end.get("status") == "stopped" else []
        for record in (*self.rounds, *last):
            refused = record.get("refused")
            if isinstance(refused, dict):
                found.update((str(partner), str(code)) for partner, code in refused.items())
        return found

    @property
    def seconds(self) -> float:
        """Wall time of all rounds."""
        return self._total("seconds")

    @property
    def mib_sent(self) -> float:
        """Arrays sent to partners."""
        return self._total("bytes_sent") / 2**20

    @property
    def mib_received(self) -> float:
        """Arrays received from partners."""
        return self._total("bytes_received") / 2**20

    def _total(self, key: str) -> float:
        return sum(float(value) for record in self.rounds if isinstance(value := record.get(key), int | float))


def read_runs(folder: Path) -> list[RunFolder]:
    """Read ``folder/runs/*``, by name; folders that hold nothing of a run are left out."""
    runs = [
        RunFolder(
            name=place.name,
            settings=_flat(_toml(place / "federation.toml")),
            rounds=tuple(_lines(place / "coordinator" / "rounds.jsonl")),
            end=next(iter(_lines(place / "coordinator" / "end.json", whole=True)), {}),
        )
        for place in sorted(folder.glob("runs/*"))
    ]
    return [run for run in runs if run.settings or run.rounds or run.end]


def _lines(path: Path, *, whole: bool = False) -> list[dict[str, Any]]:
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return []
    found = []
    for line in [text] if whole else text.splitlines():
        try:
            content = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(content, dict):
            found.append(content)
    return found


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        return {}


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _round(record: Mapping[str, Any]) -> int:
    number = record.get("round")
    return number if isinstance(number, int) else 0


def _items(record: Mapping[str, Any], key: str) -> list[Any] | dict[str, Any]:
    items = record.get(key)
    return items if isinstance(items, list | dict) else []


def _finite(record: Mapping[str, Any], key: str) -> list[float]:
    values = record.get(key)
    found = values.values() if isinstance(values, dict) else ()
    return [float(value) for value in found if isinstance(value, int | float) and math.isfinite(value)]
