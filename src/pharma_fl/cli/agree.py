"""`pharma-fl agree`: whether partners prepared alike, and if not, in what they differ."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pharma_fl.cli.output import console, print_json, say, table
from pharma_fl.cli.prepare import JsonOption
from pharma_fl.errors import DataError

if TYPE_CHECKING:
    from pharma_fl.clients.statistics import Statistics
    from pharma_fl.data.differences import Verdict

_DIFFER = 3


def agree(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="AGREEMENT...",
            help="agreement.json of each partner, or prepared folders; and, where there are, files of statistics.",
        ),
    ],
    as_json: JsonOption = False,
) -> None:
    """Compare the agreements of two partners or more, and name each difference, its consequence and the remedy.

    `pharma-fl prepare` writes agreement.json into the data folder. It may be shown: it holds settings, digests and
    what public molecules became, and nothing of a partner's data. Exit code 0: all agree. 3: they differ.

    Files that `pharma-fl statistics` wrote are shown side by side where they are given, or lie beside an agreement
    under its name with "statistics" in the place of "agreement". Noised counts decide nothing.

    Example: `pharma-fl agree north/data/agreement.json south-agreement.json`
    """
    from pharma_fl.data.agreement import read_agreement
    from pharma_fl.data.differences import check

    paths, counts = _parted(files)
    if not paths and counts:
        _show_counts(counts, as_json=as_json)
        return
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
                "statistics": _plain(counts),
            }
        )
    else:
        _show(verdict)
        if counts:
            _show_counts(counts, as_json=False)
    if not verdict.agree:
        raise typer.Exit(_DIFFER)


def _parted(files: list[Path]) -> tuple[list[Path], dict[str, Statistics]]:
    """Tell agreements from files of statistics, and find those that lie beside agreements."""
    from pharma_fl.clients.statistics import read_statistics

    paths: list[Path] = []
    counts: dict[str, Statistics] = {}
    for path in dict.fromkeys(files):
        given = read_statistics(path)
        if given:
            counts[str(path)] = given
            continue
        paths.append(path)
        for beside in _beside(path):
            try:
                found = read_statistics(beside)
            except DataError as error:
                say(f"Left out: {error}")
                continue
            if found:
                counts[str(beside)] = found
    return paths, counts


def _beside(path: Path) -> list[Path]:
    # A prepared folder is replaced whole, so what is to stay lies one folder up.
    folder = path if path.is_dir() else path.parent
    prepared = (folder / "manifest.json").exists()
    name = "agreement.json" if path.is_dir() else path.name
    place = (folder.parent if prepared else folder) / name.replace("agreement", "statistics")
    return [place] if "agreement" in name and place.is_file() else []


def _show_counts(counts: dict[str, Statistics], *, as_json: bool) -> None:
    from pharma_fl.cli.statistics import counts_table

    if as_json:
        print_json({"statistics": _plain(counts)})
        return
    # Paths are too wide for columns.
    console.print(counts_table({str(number): one for number, one in enumerate(counts.values(), start=1)}))
    for number, name in enumerate(counts, start=1):
        _say(f"{number}: {name}")
    _say("Noised counts decide nothing.\n")


def _plain(counts: dict[str, Statistics]) -> dict[str, object]:
    return {name: one.model_dump(mode="json") for name, one in counts.items()}


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
