"""The report as one page: sections in order, pictures and style inside, nothing fetched from anywhere."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from importlib.resources import files

from pharma_fl.tracking.comparison import alone, cells, change, enumerate_words, federated, spread
from pharma_fl.tracking.markup import Child, Html, bullets, number, tag
from pharma_fl.tracking.report_answer import answer
from pharma_fl.tracking.report_guarantee import guarantee
from pharma_fl.tracking.report_tables import (
    budgets_table,
    metrics_table,
    pairs_table,
    rounds_table,
    settings_tables,
    utility_table,
)
from pharma_fl.tracking.run_folders import RunFolder
from pharma_fl.tracking.summary import Summary


def page(summary: Summary, runs: Sequence[RunFolder], pictures: Mapping[str, bytes]) -> str:
    """Return the whole document.

    Parameters
    ----------
    pictures : dict
        PNG files: ``utility`` and ``partners``, and where rounds were recorded ``epsilon`` and ``norms``.
    """
    style = files("pharma_fl.tracking").joinpath("report.css").read_text("utf-8")
    title = f"Federated or alone: {summary.dataset}"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", Html(style)),
    )
    body = tag(
        "body",
        tag("header", tag("h1", title), *_introduction(summary)),
        tag(
            "main",
            answer(summary),
            guarantee(summary),
            _section("utility", "Utility", utility_table(summary), metrics_table(summary)),
            _section("figure", "Utility against epsilon", _utility_figure(summary, pictures)),
            _section("budgets", "What each partner spent", *_budgets(summary)),
            _section("rounds", "Round by round", *_rounds(runs, pictures)),
            _section("settings", "Settings, versions and time", *_settings(summary, runs)),
        ),
    )
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"


def _introduction(summary: Summary) -> list[Html]:
    task = summary.headline.get("task")
    words = ": ".join(filter(None, [task, summary.headline.get("description")]))
    said = [
        tag("p", f"Headline task: {words}") if words else Html(""),
        tag("p", f"Partners ({len(summary.partners)}): {enumerate_words(summary.partners)}."),
    ]
    if summary.notes:
        said.append(tag("div", tag("p", tag("strong", "Notes")), bullets(summary.notes), class_="notes"))
    return said


def _section(name: str, heading: str, *children: Child) -> Html:
    return tag("section", tag("h2", heading, id=name), *children, aria_labelledby=name)


def _utility_figure(summary: Summary, pictures: Mapping[str, bytes]) -> Html:
    found = cells(summary.results, summary.metric)
    if not found:
        return tag("p", "There is no result of the headline metric to draw.")
    levels = "; ".join(f"{setting.label} {spread(cell).mean:.3f}" for setting, cell in found.items())
    settings = federated(found, personalised=True) or federated(found, personalised=False)
    moved = "; ".join(
        f"{one.label}: " + ", ".join(f"{name} {value:+.3f}" for name, value in by_partner.items())
        for one in settings
        if (by_partner := spread(change(found[one], alone(found))).by_partner)
    )
    caption = (
        "Left: mean AUC-ROC over partners; with several seeds, bars reach from the lowest to the highest seed. "
        "Right: each partner's change against training alone, one mark for each epsilon; with several seeds the mark "
        "is the mean and the line reaches over the seeds."
    )
    return tag(
        "figure",
        tag(
            "div",
            _picture(pictures["utility"], f"Mean AUC-ROC over partners by setting. {levels}."),
            _picture(pictures["partners"], f"Change against training alone. {moved or 'No baseline'}."),
            class_="panels",
        ),
        tag("figcaption", caption),
    )


def _budgets(summary: Summary) -> list[Html]:
    if not summary.budgets:
        return [tag("p", "The summary lists no budgets.")]
    words = (
        "Each run was charged to a ledger of its own, as if it were the only one. The dark part of a bar is spent, the "
        "light part is left."
    )
    return [tag("p", words), budgets_table(summary.budgets)]


def _rounds(runs: Sequence[RunFolder], pictures: Mapping[str, bytes]) -> list[Html]:
    if not runs:
        return [tag("p", "There are no round records beside this summary.")]
    parts = [rounds_table(runs)]
    drawn = []
    if "epsilon" in pictures:
        ends = "; ".join(f"{run.name} {max(run.epsilon_by_round.values()):.3f}" for run in runs if run.epsilon_by_round)
        drawn.append(
            _picture(pictures["epsilon"], f"Epsilon spent after each round, one line a run. At the end: {ends}.")
        )
    if "norms" in pictures:
        drawn.append(_picture(pictures["norms"], "Norm of the mean noised change by round, one line a run."))
    if drawn:
        caption = (
            "One line a run; runs that differ by seed alone share a style. Epsilon is that of the partner that has "
            "spent most. With privacy, the norm is that of the data's part and the noise together."
        )
        parts.append(tag("figure", tag("div", *drawn, class_="panels"), tag("figcaption", caption)))
    return parts


def _settings(summary: Summary, runs: Sequence[RunFolder]) -> list[Html]:
    seconds: dict[str, Child] = {name: number(value, 1) for name, value in summary.phases.items()}
    if summary.seconds is not None:
        seconds["whole"] = number(summary.seconds, 1)
    return [
        settings_tables(summary, runs),
        pairs_table("Versions", ("Package", "Version"), summary.versions),
        pairs_table("Time", ("Phase", "Seconds"), seconds),
    ]


def _picture(content: bytes, alt: str) -> Html:
    return tag("img", src=f"data:image/png;base64,{b64encode(content).decode()}", alt=alt)
