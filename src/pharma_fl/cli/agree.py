"""`pharma-fl agree`: whether partners prepared alike, and if not, in what they differ."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pharma_fl.cli.output import console, print_json, table
from pharma_fl.cli.prepare import JsonOption

if TYPE_CHECKING:
    from pharma_fl.data.differences import Verdict

_DIFFER = 3


def agree(
    files: Annotated[
        list[Path], typer.Argument(metavar="AGREEMENT...", help="agreement.json of each partner, or prepared folders.")
    ],
    as_json: JsonOption = False,
) -> None:
    """Compare the agreements of two partners or more, and name each difference, its consequence and the remedy.

    `pharma-fl prepare` writes agreement.json into the data folder. It may be shown: it holds settings, digests and
    what public molecules became, and nothing of a partner's data. Exit code 0: all agree. 3: they differ.

    Example: `pharma-fl agree north/data/agreement.json south-agreement.json`
    """
    from pharma_fl.data.agreement import read_agreement
    from pharma_fl.data.differences import check

    paths = list(dict.fromkeys(files))
    if len(paths) < 2:
        raise typer.BadParameter("name two different agreements or more.", param_hint="AGREEMENT...")
    verdict = check({str(path): read_agreement(path) for path in paths})
    if as_json:
        print_json(
            {
                "agree": verdict.agree,
                "groups": verdict.groups,
                "reference": verdict.reference,
                "differences": {
                    name: [asdict(difference) for difference in differences]
                    for name, differences in verdict.differences.items()
                },
            }
        )
    else:
        _show(verdict)
    if not verdict.agree:
        raise typer.Exit(_DIFFER)


def _show(verdict: Verdict) -> None:
    rows = []
    for number, group in enumerate(verdict.groups, start=1):
        for name in group:
            found = verdict.differences.get(name, ())
            serious = sum(difference.serious for difference in found)
            rows.append([name, str(number), str(serious), str(len(found) - serious)])
    title = "Those of one group agree"
    console.print(table(title, ["agreement", "group", "differences", "remarks"], rows))
    _say(f"Differences are from {verdict.reference}.\n")
    for name, found in verdict.differences.items():
        for difference in found:
            kind = "" if difference.serious else "remark, "
            _say(f"{name}: {kind}{difference.where}\n    {difference.what}\n")
    _say("All agree." if verdict.agree else "They do not agree. Train together only when they do.")


def _say(text: str) -> None:
    console.print(text, soft_wrap=True, markup=False)
