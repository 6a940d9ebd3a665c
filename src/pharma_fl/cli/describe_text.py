"""A partner's look at its own prepared data, for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table

from pharma_fl.cli.output import console, table
from pharma_fl.tracking.data_charts import Unit, bin_names, percent, quartiles, written
from pharma_fl.tracking.data_tables import flat

_LINES = 10
_BAR = 30


def parts(described: Mapping[str, Any]) -> Iterator[str | Table]:
    """Yield lines and tables in order, the notice first.

    Parameters
    ----------
    described : mapping
        What `pharma_fl.data.description.description` returns, and ``verified``.
    """
    yield described["notice"]
    yield ""
    yield _glance(described)
    yield from _tasks(described["tasks"]["by_type"])
    assays = described["tasks"]["data_derived_assays"]
    if assays:
        more = f" and {len(assays) - _LINES:,} more" if len(assays) > _LINES else ""
        yield (
            "Private training refuses these data (PFL-P04). Measurements decide the thresholds or tasks of these "
            f"assays ({len(assays):,}): {', '.join(assays[:_LINES])}{more}.\n"
        )
    for name, one in (("Labels", described["labels"]), ("Values", described["values"])):
        yield from _histogram(f"{name} per compound", one["per_compound"], "whole", "compounds")
        yield from _histogram(f"{name} per task", one["per_task"], "whole", "tasks")
    yield from _balance(described["balance"])
    yield from _values(described["values"]["by_task"])
    yield from _histogram("Bits per compound", described["compounds"]["bits_per_compound"], "whole", "compounds")
    yield _folds(described["folds"])
    yield from _dropped(described["dropped"], described["compounds"]["count"])
    yield _settings(described)


def _glance(described: Mapping[str, Any]) -> Table:
    compounds, tasks, labels, values = (described[name] for name in ("compounds", "tasks", "labels", "values"))
    rows = [
        ["compounds", f"{compounds['count']:,}"],
        ["compounds without label or value", f"{compounds['without_label_or_value']:,}"],
        ["classification tasks", f"{tasks['classification']:,}"],
        ["labels", f"{labels['count']:,}"],
        ["share of their cells that is filled", _percent(labels["filled_share"])],
        ["share of actives", _percent(labels["actives_share"])],
        ["regression tasks", f"{tasks['regression']:,}"],
        ["values", f"{values['count']:,}"],
        ["share of their cells that is filled", _percent(values["filled_share"])],
        ["share of censored values", _percent(values["censored_share"])],
        ["auxiliary tasks", f"{tasks['auxiliary']:,}"],
        ["bits that occur in some compound", f"{compounds['bits_in_use']:,} of {compounds['bits']:,}"],
        ["files compared with the manifest", "yes, all as written" if described["verified"] else "no (--verify)"],
    ]
    return table(f"Prepared data in {described['folder']}", ["what", "number"], rows)


def _tasks(lines: Sequence[Mapping[str, Any]]) -> Iterator[Table]:
    names = [f"{one['kind']} {one['assay_type']}" for one in lines]
    counts = ("assays", "tasks", "auxiliary", "data_derived", "training_quorum", "evaluate")
    rows = [[name, *(f"{one[count]:,}" for count in counts)] for name, one in zip(names, lines, strict=True)]
    header = ["", "assays", "tasks", "auxiliary", "from data", "training", "evaluation"]
    title = "Tasks by kind and assay type; with thresholds from data; enough labels for training, for evaluation"
    yield table(title, header, rows)
    shares = ("filled_share", "actives_share", "censored_share")
    rows = [
        [name, f"{one['entries']:,}", *(_percent(one[share]) for share in shares)]
        for name, one in zip(names, lines, strict=True)
    ]
    yield table("Labels and values by kind and assay type", ["", "number", "cells filled", "active", "censored"], rows)


def _histogram(title: str, of: Mapping[str, Any] | None, unit: Unit, counted: str) -> Iterator[Table | str]:
    if of is None:
        return
    counts = of["histogram"]["counts"]
    names = bin_names(of["histogram"]["edges"], unit)
    rows = [[name, f"{count:,}", _bar(count, max(counts))] for name, count in zip(names, counts, strict=True)]
    yield _left(table(title, ["", counted, ""], rows), 2)
    yield f"  {_typed(quartiles(of, unit))}\n"


def _bar(count: int, most: int) -> str:
    mark = "█" if console.encoding.lower().startswith("utf") else "#"
    return mark * max(round(_BAR * count / most), 1) if count else ""


def _balance(balance: Mapping[str, Any]) -> Iterator[Table | str]:
    yield from _histogram("Share of actives by classification task", balance["actives_share"], "share", "tasks")
    if balance["tasks"]:
        yield f"  {balance['without_labels']:,} tasks without labels; {balance['one_class']:,} with one class alone\n"
    for name in ("most", "least"):
        rows = [
            [
                one["task"],
                one["assay_type"],
                f"{one['labels']:,}",
                f"{one['actives']:,}",
                _percent(one["actives_share"]),
            ]
            for one in balance[f"{name}_balanced"]
        ]
        if rows:
            header = ["task", "assay type", "labels", "actives", "share"]
            yield _left(table(f"{name.capitalize()} balanced tasks", header, rows), 1)


def _values(tasks: Sequence[Mapping[str, Any]]) -> Iterator[Table | str]:
    marks = ("lowest", "quartile_1", "median", "quartile_3", "highest")
    rows = []
    for one in tasks[:_LINES]:
        of = one["distribution"]
        cells = [_written(of[mark]) if of else "" for mark in marks]
        rows.append([one["assay"], f"{one['values']:,}", _percent(one["censored_share"]), *cells])
    if rows:
        header = ["assay", "values", "censored", "lowest", "quartile", "median", "quartile", "highest"]
        yield table("Values by assay, most values first", header, rows)
    if len(tasks) > _LINES:
        yield f"  {len(tasks) - _LINES:,} more, and each one's histogram: --html draws 50, --json has all\n"


def _folds(folds: Sequence[Mapping[str, Any]]) -> Table:
    rows = [
        [
            f"{one['fold']}" + (f" ({one['role']})" if one["role"] else ""),
            f"{one['compounds']:,}",
            _percent(one["share"]),
            f"{one['labels']:,}",
            _percent(one["actives_share"]),
            f"{one['values']:,}",
        ]
        for one in folds
    ]
    return table("Folds", ["fold", "compounds", "share", "labels", "active", "values"], rows)


def _dropped(dropped: Mapping[str, Any], compounds: int) -> Iterator[Table | str]:
    for name, one in dropped.items():
        if one is None:
            yield f"What was dropped of {name} is not known: the data were not prepared from tables here.\n"
            continue
        title = f"{name.capitalize()}: {one['read']:,} read = {one['kept']:,} kept + {one['dropped']:,} dropped"
        if name == "structures":
            title += f"; equal structures merged, {compounds:,} compounds"
        if not one["adds_up"]:
            title += " DOES NOT ADD UP: manifest.json was changed"
        rows = [[reason["reason"], f"{reason['count']:,}", reason["meaning"]] for reason in one["reasons"]]
        yield _left(table(title, ["reason", "number", "meaning"], rows), 2) if rows else f"{title}\n"


def _settings(described: Mapping[str, Any]) -> Table:
    key, versions = described["key"], described["versions"]
    rows = [
        *map(list, flat(described["settings"])),
        ["key id", key["id"] or "none"],
        ["key scheme", key["scheme"] or "none"],
        *([f"version of {name}", version] for name, version in versions.items()),
        *map(list, flat({"imported": described["imported"]} if described["imported"] else {})),
    ]
    return _left(table("Settings and versions", ["setting", "value"], rows), 1)


def _left(made: Table, column: int) -> Table:
    """Turn a column of text to the left, and let it wrap."""
    made.columns[column].justify, made.columns[column].no_wrap = "left", False
    return made


def _percent(share: float | None) -> str:
    return "-" if share is None else percent(share)


def _written(value: float) -> str:
    return _typed(written(value, "real"))


def _typed(text: str) -> str:
    """Write minus as on a keyboard, to be copied from a terminal."""
    return text.replace("\N{MINUS SIGN}", "-")
