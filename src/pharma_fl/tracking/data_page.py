"""A partner's look at its own prepared data as one page: charts and style inside, nothing fetched from anywhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from typing import Any

from pharma_fl.tracking.data_charts import histogram, percent
from pharma_fl.tracking.data_tables import (
    MOST_LINES,
    balanced_table,
    folds_table,
    reasons_table,
    settings_table,
    tasks_table,
    values_table,
)
from pharma_fl.tracking.markup import Child, Html, bar, bullets, join, tag

_MOST_NAMES = 20
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
STYLES = ("report.css", "data_page.css")
_KEY_ID = "The key id is a public name of the consortium's secret. The secret itself is not in the prepared data."
_THINGS = {"structures": "Structures", "activities": "Measurements", "labels": "Labels"}


def page(described: Mapping[str, Any]) -> str:
    """Return the whole document.

    Parameters
    ----------
    described : mapping
        What `pharma_fl.data.description.description` returns; ``partner`` and ``verified`` may be added. It is
        read as plain numbers and names.
    """
    title = f"Prepared data of {described['partner']}" if described.get("partner") else "Prepared data"
    style = "".join(files("pharma_fl.tracking").joinpath(name).read_text("utf-8") for name in STYLES)
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", Html(style)),
    )
    body = tag(
        "body",
        tag(
            "header",
            tag("p", tag("strong", described["notice"]), class_="confidential", role="note"),
            tag("h1", title),
            tag("p", _origin(described)),
            _glance(described),
        ),
        tag(
            "main",
            _section("tasks", "Tasks", *_tasks(described)),
            _section("density", "Density of labels", *_density(described)),
            _section("balance", "Actives and inactives", *_balance(described["balance"])),
            _section("values", "Values", *_values(described["values"])),
            _section("bits", "Fingerprints", *_bits(described["compounds"])),
            _section("folds", "Folds", folds_table(described["folds"], with_values=bool(described["values"]["count"]))),
            _section("dropped", "What was dropped, and why", *_dropped(described)),
            _section("settings", "Settings, key and versions", settings_table(described), tag("p", _KEY_ID)),
        ),
    )
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"


def _section(name: str, heading: str, *children: Child) -> Html:
    return tag("section", tag("h2", heading, id=name), *children, aria_labelledby=name)


def _origin(described: Mapping[str, Any]) -> Html:
    checked: list[Child] = (
        ["Every file was read and has the content that the manifest names."]
        if described.get("verified")
        else ["The files' content was not compared with the manifest; ", tag("code", "--verify"), " does that."]
    )
    return join([f"Folder: {described['folder']}. ", *checked])


def _glance(described: Mapping[str, Any]) -> Html:
    tasks, labels, values = described["tasks"], described["labels"], described["values"]
    lost = described["dropped"]["structures"]
    tiles = [("Compounds", f"{described['compounds']['count']:,}", _without(described["compounds"]))]
    if tasks["classification"]:
        tiles += [
            ("Classification tasks", f"{tasks['classification']:,}", f"{tasks['auxiliary']:,} auxiliary"),
            ("Labels", f"{labels['count']:,}", f"{percent(labels['filled_share'])} of all cells"),
            ("Actives", percent(labels["actives_share"]), f"{labels['actives']:,} labels"),
        ]
    if tasks["regression"]:
        tiles += [
            ("Regression tasks", f"{tasks['regression']:,}", f"{percent(values['censored_share'])} of values censored"),
            ("Values", f"{values['count']:,}", f"{percent(values['filled_share'])} of all cells"),
        ]
    if lost is not None:
        tiles.append(("Structures dropped", f"{lost['dropped']:,}", f"of {lost['read']:,} read"))
    return tag(
        "dl",
        *(tag("div", tag("dt", name), tag("dd", big, tag("small", small))) for name, big, small in tiles),
        class_="tiles",
    )


def _without(compounds: Mapping[str, Any]) -> str:
    count = compounds["without_label_or_value"]
    return f"{count:,} without label or value" if count else "each has a label or a value"


def _tasks(described: Mapping[str, Any]) -> Iterator[Html]:
    tasks = described["tasks"]
    yield tasks_table(tasks["by_type"])
    yield tag(
        "p",
        "A quorum says whether there are labels enough to train on a task, or to report a metric for it. It is shown "
        "here and decides nothing: private training has every task. Auxiliary tasks are never evaluated.",
    )
    assays = tasks["data_derived_assays"]
    if assays:
        yield tag(
            "div",
            tag("p", tag("strong", "Private training refuses these data (PFL-P04).")),
            tag(
                "p", f"Measurements decide the thresholds or tasks of these assays ({len(assays):,}): {_names(assays)}"
            ),
            class_="notes",
        )


def _names(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {more:,} more." if more > 0 else ".")


def _density(described: Mapping[str, Any]) -> Iterator[Html]:
    total = described["compounds"]["count"]
    for what, one in (("Labels", described["labels"]), ("Values", described["values"])):
        if one["per_task"] is None:
            continue
        tasks = "classification" if what == "Labels" else "regression"
        yield tag(
            "p",
            tag("strong", f"{what}: "),
            f"{one['count']:,} of the cells of compounds and {tasks} tasks are filled, {percent(one['filled_share'])}; "
            f"{one['compounds']:,} of {total:,} compounds have at least one.",
        )
        yield tag(
            "div",
            histogram(f"{what} per compound", one["per_compound"], "whole", counted="compounds"),
            histogram(f"{what} per task", one["per_task"], "whole", counted="tasks"),
            class_="panels",
        )


def _balance(balance: Mapping[str, Any]) -> Iterator[Html]:
    if not balance["tasks"]:
        yield tag("p", "No classification task has a label.")
        return
    left_out = balance["auxiliary_left_out"]
    facts = [
        f"{balance['tasks']:,} classification tasks have labels, {balance['without_labels']:,} have none.",
        f"{balance['one_class']:,} tasks have labels of one class alone: no metric can be computed for them.",
        "The tables below name the tasks at both ends"
        + (f", leaving out {left_out:,} auxiliary ones." if left_out else "."),
    ]
    chart = histogram("Share of actives by task", balance["actives_share"], "share", counted="tasks")
    yield tag("div", chart, bullets(facts), class_="panels")
    listed = [(name, balance[f"{name}_balanced"]) for name in ("most", "least")]
    yield tag("div", *(balanced_table(name, tasks) for name, tasks in listed if tasks), class_="panels")


def _values(values: Mapping[str, Any]) -> Iterator[Html]:
    tasks = values["by_task"]
    if not tasks:
        yield tag("p", "There is no regression task, so no value is kept as it is; classes were made of them.")
        return
    yield tag(
        "p",
        f"{values['censored']:,} of {values['count']:,} values are censored ({percent(values['censored_share'])}): the "
        f"true value is below what is written for {values['below']:,}, above it for {values['above']:,}.",
    )
    yield values_table(tasks)
    if len(tasks) > MOST_LINES:
        yield tag("p", "All of them are in the output of ", tag("code", "--json"), ".")


def _bits(compounds: Mapping[str, Any]) -> Iterator[Html]:
    share = compounds["bits_in_use"] / compounds["bits"]
    facts = [
        f"{compounds['bits_in_use']:,} of {compounds['bits']:,} bits ({percent(share)}) occur in some compound.",
        "How often each bit occurs in a compound is stored too."
        if compounds["counts_stored"]
        else "Whether a bit occurs in a compound is stored, not how often.",
    ]
    chart = histogram("Bits per compound", compounds["bits_per_compound"], "whole", counted="compounds")
    yield tag("div", chart, bullets(facts), class_="panels")


def _dropped(described: Mapping[str, Any]) -> Iterator[Html]:
    merged = described["merged"]
    after = {
        "structures": f"Equal standardised structures are one compound: {merged['compounds']:,} compounds.",
        "activities": f"Measurements of one compound in one assay are one value: {merged['values']:,} values."
        if merged["values"] is not None
        else "",
        "labels": "A label is a value held against a threshold.",
    }
    for name, heading in _THINGS.items():
        one = described["dropped"][name]
        yield tag("h3", heading)
        if one is None:
            yield tag("p", "The manifest does not say: these data were not prepared from tables here.")
            continue
        yield tag(
            "p",
            f"{one['read']:,} read = {one['kept']:,} kept + {one['dropped']:,} dropped. {after[name]}"
            if one["adds_up"]
            else tag(
                "strong",
                f"The manifest's counts do not add up: {one['read']:,} read, {one['kept']:,} kept, "
                f"{one['dropped']:,} dropped. The file was changed; prepare again.",
            ),
        )
        if one["read"]:
            yield bar(one["kept"] / one["read"], f"{heading}: {one['kept']:,} of {one['read']:,} kept")
        if one["reasons"]:
            yield reasons_table(f"{heading} dropped, by reason", one)
