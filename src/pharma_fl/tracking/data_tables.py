"""The tables of a partner's look at its own prepared data."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pharma_fl.tracking.data_charts import counted_bar, percent, quartiles, share_bar, sparkline, written
from pharma_fl.tracking.markup import NOTHING, Child, Html, join, table, tag

MOST_LINES = 50
"""Assays whose values are drawn."""


def tasks_table(lines: Sequence[Mapping[str, Any]]) -> Html:
    """Return how many tasks there are by kind and assay type, and how many pass each quorum."""
    rows: list[list[Child]] = [
        [
            one["kind"],
            one["assay_type"],
            *(f"{one[count]:,}" for count in ("assays", "tasks", "auxiliary", "data_derived")),
            counted_bar(one["training_quorum"], one["tasks"], "pass the training quorum"),
            counted_bar(one["evaluate"], one["tasks"], "pass the evaluation quorum"),
            f"{one['entries']:,}",
            percent(one["filled_share"]),
        ]
        for one in lines
    ]
    header = [
        *("Kind", "Assay type", "Assays", "Tasks", "Auxiliary", "Threshold from data"),
        *("Training quorum", "Evaluation quorum", "Labels or values", "Cells filled"),
    ]
    return table("Tasks by kind and assay type, and how many pass each quorum", header, rows, heads=2)


def balanced_table(name: str, tasks: Sequence[Mapping[str, Any]]) -> Html:
    """Return the tasks at one end, ``most`` or ``least`` balanced."""
    rows: list[list[Child]] = [
        [
            join([one["task"], tag("br"), tag("small", one["assay_type"])]),
            share_bar(one["actives_share"], f"{one['task']}: actives"),
            f"{one['actives']:,}",
            f"{one['labels']:,}",
        ]
        for one in tasks
    ]
    return table(f"{name.capitalize()} balanced tasks", ["Task", "Share of actives", "Actives", "Labels"], rows)


def values_table(tasks: Sequence[Mapping[str, Any]]) -> Html:
    """Return the distribution of values of the first `MOST_LINES` regression tasks."""
    rows = [_values_row(one) for one in tasks[:MOST_LINES]]
    shown = f"the {len(rows):,} of {len(tasks):,} with most" if len(rows) < len(tasks) else "in the units of the tables"
    header = [
        *("Assay", "Values", "Censored", "Distribution"),
        *("Lowest", "Lower quartile", "Median", "Upper quartile", "Highest"),
    ]
    return table(f"Values by assay, {shown}", header, rows)


def _values_row(one: Mapping[str, Any]) -> list[Child]:
    of = one["distribution"]
    words = f"{one['assay']}: {quartiles(of, 'real')}" if of else ""
    marks = ("lowest", "quartile_1", "median", "quartile_3", "highest")
    return [
        join([one["assay"], tag("br"), tag("small", one["assay_type"])]),
        f"{one['values']:,}",
        share_bar(one["censored_share"], f"{one['assay']}: censored"),
        sparkline(of, words),
        *(written(of[mark], "real") if of else NOTHING for mark in marks),
    ]


def folds_table(folds: Sequence[Mapping[str, Any]], *, with_values: bool) -> Html:
    """Return compounds and labels of each fold."""
    rows: list[list[Child]] = [
        [
            str(one["fold"]),
            one["role"] or NOTHING,
            f"{one['compounds']:,}",
            share_bar(one["share"], f"fold {one['fold']}: compounds"),
            f"{one['labels']:,}",
            share_bar(one["actives_share"], f"fold {one['fold']}: actives"),
            *([f"{one['values']:,}"] if with_values else []),
        ]
        for one in folds
    ]
    header = ["Fold", "Used for", "Compounds", "Share of all", "Labels", "Share of actives"]
    return table("Compounds and labels by fold", [*header, *(["Values"] if with_values else [])], rows)


def reasons_table(caption: str, dropped: Mapping[str, Any]) -> Html:
    """Return what was dropped by reason, and what each means."""
    rows: list[list[Child]] = [
        [
            one["reason"],
            f"{one['count']:,}",
            percent(one["count"] / dropped["read"] if dropped["read"] else None),
            one["meaning"],
        ]
        for one in dropped["reasons"]
    ]
    return table(caption, ["Reason", "Number", "Of those read", "Meaning"], rows)


def settings_table(described: Mapping[str, Any]) -> Html:
    """Return settings, key id and versions."""
    pairs = [
        *flat(described["settings"]),
        ("key id", described["key"]["id"] or NOTHING),
        ("key scheme", described["key"]["scheme"] or NOTHING),
        ("format version", str(described["format_version"])),
        *((f"version of {name}", version) for name, version in described["versions"].items()),
        *flat({"imported": described["imported"]} if described["imported"] else {}),
    ]
    return table("What these data were prepared with", ["Setting", "Value"], pairs)


def flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield nested settings as names with dots and texts.

    >>> list(flat({"folds": {"count": 5, "method": "scaffold"}}))
    [('folds.count', '5'), ('folds.method', 'scaffold')]
    """
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
