"""The numbers of the report: levels of a metric, and changes between settings, paired by partner and seed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pharma_fl.tracking.summary import Result, Setting

Cell = Mapping[str, Mapping[int, float]]
"""One setting's values of one metric, by partner and seed."""

SAME = 0.0005
"""Changes below this are nought to the three decimals shown, and count neither as better nor as worse."""


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Values over partners and seeds.

    Attributes
    ----------
    by_partner : dict
        Mean over seeds.
    by_seed : dict
        Mean over partners, for the seeds in which every partner has a value.
    """

    by_partner: Mapping[str, float]
    by_seed: Mapping[int, float]

    @property
    def mean(self) -> float:
        """Mean over partners of their means over seeds; NaN without values."""
        return statistics.fmean(self.by_partner.values()) if self.by_partner else math.nan

    @property
    def low(self) -> float:
        """Lowest seed."""
        return min(self.by_seed.values(), default=self.mean)

    @property
    def high(self) -> float:
        """Highest seed."""
        return max(self.by_seed.values(), default=self.mean)

    @property
    def deviation(self) -> float | None:
        """Standard deviation over seeds; None with fewer than two."""
        return statistics.stdev(self.by_seed.values()) if len(self.by_seed) > 1 else None

    @property
    def better(self) -> int:
        """Partners whose change is above nought."""
        return sum(value >= SAME for value in self.by_partner.values())

    @property
    def worse(self) -> int:
        """Partners whose change is below nought."""
        return sum(value <= -SAME for value in self.by_partner.values())

    @property
    def seeds_above(self) -> int:
        """Seeds whose mean change is above nought."""
        return sum(value >= SAME for value in self.by_seed.values())

    @property
    def gains(self) -> bool:
        """Whether the mean change is above nought, in every seed."""
        return self.mean >= SAME and self.seeds_above == len(self.by_seed)


def cells(results: Iterable[Result], metric: str) -> dict[Setting, dict[str, dict[int, float]]]:
    """Return the values of `metric` by setting, in the order of a table; of equal entries the last counts."""
    found: dict[Setting, dict[str, dict[int, float]]] = {}
    for result in results:
        if result.metric == metric:
            found.setdefault(result.setting, {}).setdefault(result.partner, {})[result.seed] = result.value
    return dict(sorted(found.items(), key=lambda item: item[0].order))


def spread(cell: Cell) -> Spread:
    """Return the means over seeds and over partners.

    >>> spread({"north": {0: 0.7, 1: 0.9}, "south": {0: 0.5, 1: 0.5}}).by_seed
    {0: 0.6, 1: 0.7}
    """
    seeds = sorted({seed for values in cell.values() for seed in values})
    return Spread(
        by_partner={partner: statistics.fmean(values.values()) for partner, values in cell.items() if values},
        by_seed={
            seed: statistics.fmean(values[seed] for values in cell.values())
            for seed in seeds
            if all(seed in values for values in cell.values())
        },
    )


def change(cell: Cell, baseline: Cell) -> dict[str, dict[int, float]]:
    """Return `cell` minus `baseline` for the partners that both have.

    A seed is compared with the same seed; where the baseline lacks it, with the baseline's mean over seeds.
    """
    return {
        partner: {
            seed: value - baseline[partner].get(seed, statistics.fmean(baseline[partner].values()))
            for seed, value in values.items()
        }
        for partner, values in cell.items()
        if baseline.get(partner)
    }


def alone(found: Mapping[Setting, Cell]) -> Cell:
    """Return the baseline; empty when nobody trained alone."""
    return found.get(Setting(kind="sp"), {})


def placebo_for(found: Mapping[Setting, Cell], setting: Setting) -> Setting | None:
    """Return the placebo of the same epsilon, or the only one where no placebo names its epsilon."""
    placebos = [one for one in found if one.kind == "placebo" and one.personalised == setting.personalised]
    same = [one for one in placebos if one.epsilon == setting.epsilon]
    if same:
        return same[0]
    return placebos[0] if len(placebos) == 1 and placebos[0].epsilon is None else None


def federated(found: Mapping[Setting, Cell], *, personalised: bool) -> list[Setting]:
    """Return the federated settings, weakest privacy first."""
    return [one for one in found if (one.kind == "fed" or one.protected) and one.personalised == personalised]


def lower_is_better(metric: str) -> bool:
    """Whether a metric is an error.

    >>> lower_is_better("rmse/assay-2/value"), lower_is_better("auc_pr")
    (True, False)
    """
    return metric.split("/", maxsplit=1)[0] in {"rmse", "mae", "log_loss", "brier"}


def enumerate_words(words: Sequence[str]) -> str:
    """Join words as prose does.

    >>> enumerate_words(["1", "3", "8"])
    '1, 3 and 8'
    """
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))
