"""`pharma-fl report`: the page that shows what was gained and what it cost."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from pharma_fl.cli.output import console, print_json, table
from pharma_fl.cli.prepare import JsonOption


def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Output folder of `pharma-fl demo`.")],
    as_json: JsonOption = False,
) -> None:
    """Print the comparison, and write DIR/report.html (one file without outside links) and DIR/utility.png.

    Example: `pharma-fl report demo-out`
    """
    from pharma_fl.tracking.report import write_report

    page, figure = write_report(folder)
    if as_json:
        print_json({"report": str(page), "figure": str(figure)})
    else:
        print_comparison(folder)
        console.print(f"Report   {page}\nFigure   {figure}", soft_wrap=True)


def print_comparison(folder: Path) -> None:
    """Print the utility and the price of every setting that summary.json of `folder` compares."""
    from pharma_fl.tracking.comparison import alone, cells, change, spread
    from pharma_fl.tracking.summary import read_summary

    summary = read_summary(folder)
    found = cells(summary.results, summary.metric)
    rows = []
    for setting, cell in found.items():
        levels, against = spread(cell), spread(change(cell, alone(found)))
        deviation = "" if levels.deviation is None else f" ±{levels.deviation:.3f}"
        gain = "" if setting.kind == "sp" else f"{against.mean:+.3f}"
        by_partner = [f"{levels.by_partner.get(partner, math.nan):.3f}" for partner in summary.partners]
        rows.append([setting.label, *by_partner, f"{levels.mean:.3f}{deviation}", gain])
    title = f"AUC-ROC on each partner's held-out fold ({summary.headline.get('description', summary.metric)})"
    console.print(table(title, ["", *summary.partners, "mean", "vs alone"], rows))
    spent: dict[str, dict[str, str]] = {}
    for budget in summary.budgets:
        if budget.seed == 0:
            spent.setdefault(budget.setting.run_label, {})[budget.partner] = f"{budget.spent:.4f}"
    deltas = " or ".join(sorted({f"{b.delta:g}" for b in summary.budgets if b.delta is not None}))
    title = f"Epsilon spent by each partner's ledger (delta {deltas}; unit: one compound)"
    rows = [[run, *(by.get(partner, "") for partner in summary.partners)] for run, by in spent.items()]
    console.print(table(title, ["", *summary.partners], rows))
