"""summary.json of a comparison: what it holds, read once and checked at the door."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pharma_fl.errors import DataError

_NAMES = {
    "sp": "Alone",
    "fed": "Federated",
    "fed-dp": "Federated",
    "fed-dp-shared": "Federated, shared noise",
    "placebo": "Placebo",
}
_PROTECTED = ("fed-dp", "fed-dp-shared")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What was compared: who trained, at which epsilon, and whether each partner then adapted the model.

    Attributes
    ----------
    kind : str
        ``sp`` (a partner alone, no privacy), ``fed`` (federated, no privacy), ``fed-dp`` (each partner adds the whole
        noise), ``fed-dp-shared`` (the partners share it), or ``placebo`` (the plan of a private run with noise alone
        and no data in any sum).
    epsilon : float or None
        None where no noise is added.
    """

    kind: str
    epsilon: float | None = None
    personalised: bool = False

    @property
    def label(self) -> str:
        r"""Words for a table.

        >>> Setting(kind="fed-dp", epsilon=3.0, personalised=True).label
        'Federated, ε\xa0=\xa03, personalised'
        """
        if self.kind == "sp":
            return "Alone"
        return f"{self.run_label}, {'personalised' if self.personalised else 'direct'}"

    @property
    def run_label(self) -> str:
        """Words for the run, without what became of its model."""
        name = _NAMES.get(self.kind, self.kind)
        if self.epsilon is not None:
            return f"{name}, {epsilon_words(self.epsilon)}"
        return f"{name}, no privacy" if self.kind == "fed" else name

    @property
    def protected(self) -> bool:
        """Whether it is a federated run with a guarantee, and data in it."""
        return self.kind in _PROTECTED

    @property
    def order(self) -> tuple[int, float, str]:
        """Place in a table: alone, federated directly, personalised, placebo; weakest privacy first."""
        rank = 2 if self.personalised else 1
        if self.kind != "fed" and not self.protected:
            rank = {"sp": 0, "placebo": 3}.get(self.kind, 4)
        return rank, -math.inf if self.epsilon is None else -self.epsilon, self.kind


@dataclass(frozen=True, kw_only=True)
class Result:
    """One number on one partner's test fold."""

    setting: Setting
    seed: int
    partner: str
    metric: str
    value: float


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What one run cost one partner, from that partner's own ledger."""

    setting: Setting
    seed: int
    partner: str
    spent: float
    allowed: float | None
    delta: float | None


@dataclass(frozen=True, kw_only=True)
class Summary:
    """summary.json, checked. Results that are not finite numbers are left out."""

    dataset: str
    partners: tuple[str, ...]
    results: tuple[Result, ...]
    budgets: tuple[Budget, ...]
    headline: Mapping[str, str] = field(default_factory=dict)
    seconds: float | None = None
    phases: Mapping[str, float] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    plans: tuple[tuple[Setting, Mapping[str, Any]], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def metric(self) -> str:
        """Name of the headline metric: plain ``auc_roc``, or that of the headline task where only tasks are listed."""
        task = f"auc_roc/{self.headline.get('task', '')}"
        names = {result.metric for result in self.results}
        return task if "auc_roc" not in names and task in names else "auc_roc"


def read_summary(folder: Path) -> Summary:
    """Read ``folder/summary.json``.

    Raises
    ------
    DataError
        ``PFL-D20`` the file is missing, is not JSON, or an entry lacks what a number needs.
    """
    path = folder / "summary.json"
    try:
        return parse_summary(json.loads(path.read_text("utf-8")))
    except FileNotFoundError:
        problem = "does not exist"
    except (OSError, UnicodeDecodeError) as error:
        problem = f"cannot be read ({type(error).__name__})"
    except json.JSONDecodeError as error:
        problem = f"is not JSON (line {error.lineno}: {error.msg})"
    except (KeyError, TypeError, ValueError) as error:
        problem = f"does not fit: {error.args[0] if error.args else error}"
    raise DataError(
        "PFL-D20",
        f"{path} {problem}. Give the output folder of a finished `pharma-fl demo`, or run the demo again into it.",
    )


def parse_summary(content: Any) -> Summary:
    """Check the parsed JSON; keys other than a result's setting, partner and value may be missing."""
    if not isinstance(content, dict):
        raise TypeError("expected an object at the top")
    results = tuple(
        Result(
            setting=_setting(entry),
            seed=int(entry.get("seed") or 0),
            partner=str(entry["partner"]),
            metric=str(entry.get("metric", "auc_roc")),
            value=value,
        )
        for entry in _entries(content, "results", ("setting", "partner", "value"))
        if (value := _number(entry["value"])) is not None
    )
    budgets = tuple(
        Budget(
            setting=_setting(entry),
            seed=int(entry.get("seed") or 0),
            partner=str(entry["partner"]),
            spent=float(entry["epsilon_spent"]),
            allowed=_number(entry.get("epsilon_budget")),
            delta=_number(entry.get("delta")),
        )
        for entry in _entries(content, "budgets", ("partner", "epsilon_spent"))
        if isinstance(entry["epsilon_spent"], int | float)
    )
    named = [str(name) for name in content.get("partners") or ()]
    return Summary(
        dataset=str(content.get("dataset") or "unnamed data"),
        partners=tuple(dict.fromkeys([*named, *(result.partner for result in results)])),
        results=results,
        budgets=budgets,
        headline={key: str(value) for key, value in _table(content, "headline").items()},
        seconds=_number(content.get("seconds")),
        phases={
            key: seconds for key, value in _table(content, "phases").items() if (seconds := _number(value)) is not None
        },
        versions={key: str(value) for key, value in _table(content, "versions").items()},
        plans=tuple((_setting(entry), _table(entry, "plan")) for entry in _entries(content, "plans", ("plan",))),
        notes=tuple(str(note) for note in content.get("notes") or ()),
    )


def epsilon_words(epsilon: float) -> str:
    """Write an epsilon so that no line breaks inside it."""
    return f"ε = {epsilon:g}".replace(" ", "\N{NO-BREAK SPACE}")


def _setting(entry: Mapping[str, Any]) -> Setting:
    kind = str(entry.get("setting") or "fed-dp")
    alone = kind == "sp"
    return Setting(
        kind=kind,
        epsilon=None if alone or kind == "fed" else _number(entry.get("epsilon")),
        personalised=bool(entry.get("personalised", kind == "placebo")) and not alone,
    )


def _entries(content: Mapping[str, Any], key: str, needed: tuple[str, ...]) -> list[Mapping[str, Any]]:
    entries = content.get(key)
    if entries is None:
        return []
    if not isinstance(entries, list):
        raise TypeError(f'expected a list under "{key}"')
    for place, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise TypeError(f"expected an object at {key}[{place}]")
        if missing := [name for name in needed if name not in entry]:
            raise KeyError(f"{key}[{place}] has no {missing[0]}")
    return entries


def _table(content: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    table = content.get(key) or {}
    if not isinstance(table, dict):
        raise TypeError(f'expected an object under "{key}"')
    return table


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)
