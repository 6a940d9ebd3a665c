"""The tables of the report: utility, budgets, rounds, settings."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from pharma_fl.tracking.comparison import Cell, alone, cells, change, lower_is_better, spread
from pharma_fl.tracking.markup import NOTHING, Child, Html, bar, join, number, table, tag
from pharma_fl.tracking.run_folders import RunFolder
from pharma_fl.tracking.summary import Budget, Setting, Summary

# Where a run is written and who watches it does not decide a result, and may name a machine.
_NOT_SETTINGS = ("output", "tracking.")


def utility_table(summary: Summary) -> Html:
    """Return the headline metric by setting and partner, each with its change against training alone."""
    found = cells(summary.results, summary.metric)
    partners = [one for one in summary.partners if any(one in cell for cell in found.values())]
    rows = [_utility_row(setting, cell, alone(found), partners) for setting, cell in found.items()]
    header = ["Setting", "Mean", "Against alone", *partners, "Seeds"]
    return table("AUC-ROC by partner, mean over seeds; below it the change against alone", header, rows)


def _utility_row(setting: Setting, cell: Cell, baseline: Cell, partners: Sequence[str]) -> list[Child]:
    level = spread(cell)
    moved = spread({} if setting.kind == "sp" else change(cell, baseline))
    values: list[Child] = []
    for partner in partners:
        parts: list[Child] = [number(level.by_partner.get(partner))]
        if partner in moved.by_partner:
            parts += [tag("br"), tag("small", number(moved.by_partner[partner], signed=True))]
        values.append(join(parts))
    mean: list[Child] = [number(level.mean)]
    if level.deviation is not None:
        mean += [tag("br"), tag("small", "SD ", number(level.deviation, 4))]
    if len(level.by_partner) < len(partners):
        mean += [tag("br"), tag("small", f"{len(level.by_partner)} of {len(partners)} partners")]
    seeds = {seed for by_seed in cell.values() for seed in by_seed}
    return [setting.label, join(mean), number(moved.mean, signed=True), *values, str(len(seeds))]


def metrics_table(summary: Summary) -> Html:
    """Return every other metric, mean over the partners that have it; empty without any."""
    others = {metric: cells(summary.results, metric) for metric in sorted({one.metric for one in summary.results})}
    others.pop(summary.metric, None)
    settings = sorted({setting for found in others.values() for setting in found}, key=lambda one: one.order)
    if not settings:
        return Html("")
    caption = "Other metrics, mean over the partners that have the task"
    names = [f"{metric} ({'lower' if lower_is_better(metric) else 'higher'} is better)" for metric in others]
    means = [
        [number(spread(found[one]).mean if one in found else None) for one in settings] for found in others.values()
    ]
    counts = [str(len({partner for cell in found.values() for partner in cell})) for found in others.values()]
    labels = [one.label for one in settings]
    rows: list[list[Child]] = [[name, count, *row] for name, count, row in zip(names, counts, means, strict=True)]
    if len(others) > len(settings):
        return table(caption, ["Metric", "Partners", *labels], rows)
    # Few metrics stand side by side, so that the table stays narrow.
    turned: list[list[Child]] = [
        list(row) for row in zip(["Partners", *labels], *(row[1:] for row in rows), strict=True)
    ]
    return table(caption, ["Setting", *names], turned)


def budgets_table(budgets: Sequence[Budget]) -> Html:
    """Return spent and left by partner as bars; seeds that cost the same share a line."""
    lines: dict[tuple[Setting, str, float, float | None, float | None], list[int]] = {}
    for one in sorted(budgets, key=lambda one: (one.setting.order, one.partner, one.seed)):
        lines.setdefault((one.setting, one.partner, one.spent, one.allowed, one.delta), []).append(one.seed)
    rows: list[list[Child]] = []
    for (setting, partner, spent, allowed, delta), seeds in lines.items():
        left = None if allowed is None else allowed - spent
        words = f"{partner}: epsilon {spent:.3f} spent" + ("" if allowed is None else f" of {allowed:.3f}")
        drawable = allowed is not None and allowed > 0 and math.isfinite(spent)
        rows.append(
            [
                setting.run_label,
                partner,
                bar(spent / (allowed or 1), words) if drawable else NOTHING,
                number(spent) if math.isfinite(spent) else "no bound",
                number(left),
                number(allowed),
                NOTHING if delta is None else f"{delta:g}",
                ", ".join(map(str, dict.fromkeys(seeds))),
            ]
        )
    header = ["Run", "Partner", "Spent of budget", "Spent", "Left", "Budget", "Delta", "Seeds"]
    return table("Epsilon by run and partner, from each partner's own ledger", header, rows, heads=2)


def rounds_table(runs: Sequence[RunFolder]) -> Html:
    """Return one line a run: how it ended, who took part, what it moved and how long it took."""
    rows: list[list[Child]] = []
    for run in runs:
        used, asked = run.replies
        norms = list(run.norm_by_round.values())
        refused = "; ".join(f"{partner}: {code} ({times})" for (partner, code), times in sorted(run.refusals.items()))
        ended = str(run.end.get("status", "not ended"))
        reason = str(run.end.get("reason") or "")
        rows.append(
            [
                run.name,
                f"{ended}: {reason}" if reason else ended,
                str(len(run.rounds)),
                f"{used} of {asked}",
                refused or "none",
                number(max(run.epsilon_by_round.values(), default=None)),
                join([number(norms[0]), " → ", number(norms[-1])]) if norms else NOTHING,
                number(run.seconds, 1),
                number(run.mib_sent, 2),
                number(run.mib_received, 2),
            ]
        )
    header = [
        *("Run", "End", "Rounds", "Replies used", "Left out (rounds)", "Epsilon", "Update norm, first → last"),
        *("Seconds", "MiB sent", "MiB received"),
    ]
    return table("The coordinator's record of each run", header, rows)


def settings_tables(summary: Summary, runs: Sequence[RunFolder]) -> Html:
    """Return the plans, and what each federation.toml said: what all share, then what differs."""
    parts: list[Html] = []
    if summary.plans:
        names = [_numbered(setting, place, summary.plans) for place, (setting, _) in enumerate(summary.plans)]
        plans = [plan for _, plan in summary.plans]
        by_key: list[list[Child]] = [
            [key, *(_written(plan[key]) if key in plan else NOTHING for plan in plans)]
            for key in dict.fromkeys(key for plan in plans for key in plan)
        ]
        parts.append(table("Privacy plan of each run", ["Setting", *names], by_key))
    named = {run.name: _decisive(run.settings) for run in runs if run.settings}
    if named:
        keys = dict.fromkeys(key for settings in named.values() for key in settings)
        first = next(iter(named.values()))
        shared = [
            key for key in keys if all(_written(one.get(key)) == _written(first.get(key)) for one in named.values())
        ]
        rows: list[list[Child]] = [[key, _written(first[key])] for key in shared]
        parts.append(table("Settings that all runs share (federation.toml)", ["Setting", "Value"], rows))
        differing = {
            name: {key: value for key, value in settings.items() if key not in shared}
            for name, settings in named.items()
        }
        if any(differing.values()):
            parts.append(_by_key("Settings that differ between runs (federation.toml)", "Run", differing))
    return join(parts)


def pairs_table(caption: str, header: tuple[str, str], pairs: Mapping[str, Child]) -> Html:
    """Return a table of two columns; empty without pairs."""
    return table(caption, list(header), [[key, value] for key, value in pairs.items()]) if pairs else Html("")


def _by_key(caption: str, first: str, columns: Mapping[str, Mapping[str, Any]]) -> Html:
    keys = list(dict.fromkeys(key for values in columns.values() for key in values))
    rows: list[list[Child]] = [
        [name, *(_written(values[key]) if key in values else NOTHING for key in keys)]
        for name, values in columns.items()
    ]
    return table(caption, [first, *keys], rows)


def _numbered(setting: Setting, place: int, plans: Sequence[tuple[Setting, Mapping[str, Any]]]) -> str:
    again = sum(other == setting for other, _ in plans[:place])
    return setting.run_label + (f" ({again + 1})" if again else "")


def _decisive(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if not key.startswith(_NOT_SETTINGS)}


def _written(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
