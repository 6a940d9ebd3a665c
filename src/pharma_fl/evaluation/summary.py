"""summary.json: every result of a comparison, one line each, and the table that people read."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Setting = Literal["sp", "fed", "fed-dp", "placebo"]

HEADLINE = "auc_roc"


@dataclass(frozen=True, kw_only=True)
class Result:
    """One metric of one model at one partner.

    Attributes
    ----------
    setting : str
        ``sp`` alone, ``fed`` federated without privacy, ``fed-dp`` with it, ``placebo`` noise alone.
    epsilon : float or None
        Of the federated run; None where there is no guarantee.
    personalised : bool
        After the partner refitted it for itself.
    seed, partner, metric, value
        What was measured.
    """

    setting: Setting
    epsilon: float | None
    personalised: bool
    seed: int
    partner: str
    metric: str
    value: float


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table: a setting's headline metric.

    Attributes
    ----------
    partners : dict
        Mean over seeds, by partner.
    mean, spread : float
        Mean over partners and seeds, and the standard deviation over seeds of the partners' mean (NaN
        with one seed).
    gain : float
        Mean minus the single partners' mean.
    """

    setting: Setting
    epsilon: float | None
    personalised: bool
    partners: dict[str, float]
    mean: float
    spread: float
    gain: float

    @property
    def label(self) -> str:
        """Name for people."""
        names = {
            "sp": "alone, tuned, no privacy",
            "fed": "federated, no privacy",
            "fed-dp": f"federated, epsilon {self.epsilon:g}" if self.epsilon is not None else "federated",
            "placebo": "placebo (noise alone)",
        }
        suffix = ", personalised" if self.personalised else ""
        return names[self.setting] + suffix


def table_rows(results: Iterable[Result], partners: Sequence[str]) -> list[Row]:
    """Average the headline metric by setting, in order of first appearance.

    >>> one = dict(epsilon=None, personalised=False, seed=0, metric="auc_roc")
    >>> alone = Result(setting="sp", partner="a", value=0.75, **one)
    >>> together = Result(setting="fed", partner="a", value=0.875, **one)
    >>> rows = table_rows([alone, together], ["a"])
    >>> [(row.label, row.mean, row.gain) for row in rows]
    [('alone, tuned, no privacy', 0.75, 0.0), ('federated, no privacy', 0.875, 0.125)]
    """
    grouped: dict[tuple[Setting, float | None, bool], list[Result]] = {}
    for result in results:
        if result.metric == HEADLINE:
            grouped.setdefault((result.setting, result.epsilon, result.personalised), []).append(result)
    alone = statistics.fmean(r.value for key, group in grouped.items() if key[0] == "sp" for r in group)
    rows = []
    for (setting, epsilon, personalised), group in grouped.items():
        seeds = sorted({r.seed for r in group})
        by_seed = [statistics.fmean(r.value for r in group if r.seed == seed) for seed in seeds]
        mean = statistics.fmean(by_seed)
        rows.append(
            Row(
                setting=setting,
                epsilon=epsilon,
                personalised=personalised,
                partners={p: statistics.fmean(r.value for r in group if r.partner == p) for p in partners},
                mean=mean,
                spread=statistics.stdev(by_seed) if len(by_seed) > 1 else float("nan"),
                gain=mean - alone,
            )
        )
    return rows
