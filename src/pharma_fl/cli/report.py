"""`pharma-fl report`: the page that shows what was gained and what it cost."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pharma_fl.cli.output import console, print_json
from pharma_fl.cli.prepare import JsonOption


def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Output folder of `pharma-fl demo`.")],
    as_json: JsonOption = False,
) -> None:
    """Write DIR/report.html, one file without outside links, and DIR/utility.png, from what DIR holds.

    Example: `pharma-fl report demo-out`
    """
    from pharma_fl.tracking.report import write_report

    page, figure = write_report(folder)
    if as_json:
        print_json({"report": str(page), "figure": str(figure)})
    else:
        console.print(f"Report: {page}\nFigure: {figure}", soft_wrap=True)
