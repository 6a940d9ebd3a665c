"""What the epsilon promises, in words: the unit, the relation, the numbers, and the exceptions."""

from __future__ import annotations

import math

from pharma_fl.tracking.markup import NOTHING, Html, bullets, join, number, table, tag
from pharma_fl.tracking.summary import Setting, Summary

_PROMISE = (
    "Unit: one compound, which is one standardised structure with all its measurements at that partner.",
    "Relation: two data sets are neighbours when one compound is added or removed.",
    (
        "Promise: for every conclusion that somebody could draw from a partner's updates, the probability with and "
        "without any one compound differs by a factor of at most e to the power epsilon, and beyond that by at most "
        "delta."
    ),
    (
        "Against whom: anybody who sees the partner's noised updates. These are the coordinator, the other partners, "
        "and outsiders who obtain the shared model. Nobody has to be trusted with the data but the partner itself."
    ),
)
_SHARED = (
    "Runs with shared noise: nobody sees a single partner's update, only the sum over partners, and the partners make "
    "its noise together. The promise holds as long as enough of them add their shares: against the coordinator "
    "together with {colluders} of {contributors} partners."
)
_READING = (
    "The last column reads: somebody who knows everything but whether one compound is in the data, and holds it for as "
    "likely as not, can be at most this sure afterwards (delta left aside). It is a bound, not a measured attack."
)
_COMPARISON = (
    "The comparison itself: the settings shown here were each run on the same data as if each were the only one. A "
    "company that ran them all would pay their sum."
)
_OWNERS = "A compound that several partners own: each partner's epsilon counts, and they add up."
_PUBLIC = "The list of tasks, the settings of the run, who took part and when: these are public."
_REST = (
    (
        "The choice of hyper-parameters: they were chosen on simulated public data, and no budget is charged for it. "
        "Choosing them on private data would cost."
    ),
    "Floating point: the proof is about real numbers, while noise is drawn in float64 and added in float32.",
    "Training alone and federated training without privacy: both are here for comparison and promise nothing.",
    "The scores on this page: they are exact, and come from each partner's test fold. A company keeps its own inside.",
    "The personalised model: it is fitted without noise, stays at its partner, and is not protected if handed on.",
)


def guarantee(summary: Summary) -> Html:
    """Return section 2: what the epsilon promises, to whom, and what it does not cover."""
    rows = [_cost(summary, run) for run in sorted(_protected(summary), key=lambda one: one.order)]
    header = ["Run", "Epsilon spent", "Delta", "Factor e^epsilon", "Even odds become at most"]
    parts = [tag("h2", "What is promised, and to whom", id="guarantee"), bullets([*_PROMISE, *_trust(summary)])]
    if rows:
        parts += [table("What one whole run cost a partner at most", header, rows), tag("p", _READING)]
    parts += [
        tag("h3", "What is not covered"),
        bullets([_OWNERS, _PUBLIC, join([_COMPARISON, *_sum(summary)]), *_REST]),
    ]
    return tag("section", *parts, aria_labelledby="guarantee")


def _protected(summary: Summary) -> set[Setting]:
    return {one.setting for one in summary.budgets if one.setting.protected and math.isfinite(one.spent)}


def _trust(summary: Summary) -> list[str]:
    shared = [plan for setting, plan in summary.plans if setting.protected and plan.get("noise_mode") == "shared"]
    if not shared:
        return []
    least = min(shared, key=lambda plan: int(plan.get("tolerated_colluders", 0)))
    return [
        _SHARED.format(
            colluders=int(least.get("tolerated_colluders", 0)), contributors=int(least.get("contributors", 0))
        )
    ]


def _cost(summary: Summary, run: Setting) -> list[Html | str]:
    mine = [one for one in summary.budgets if one.setting == run and math.isfinite(one.spent)]
    spent = max(one.spent for one in mine)
    deltas = sorted({one.delta for one in mine if one.delta is not None})
    return [
        run.run_label,
        number(spent),
        ", ".join(f"{one:g}" for one in deltas) or NOTHING,
        _factor(spent),
        f"{100 / (1 + math.exp(-spent)):.4g} %",
    ]


def _sum(summary: Summary) -> list[Html | str]:
    total: dict[str, float] = {}
    for one in summary.budgets:
        if one.setting.protected and math.isfinite(one.spent):
            total[one.partner] = total.get(one.partner, 0.0) + one.spent
    if not total:
        return []
    return [" Simply added, that is up to epsilon ", number(max(total.values())), " for the runs with privacy here."]


def _factor(epsilon: float) -> str:
    factor = math.exp(min(epsilon, 700.0))
    return f"{factor:.3g}" if factor < 100 or factor > 1e6 else f"{float(f'{factor:.3g}'):,.0f}"
