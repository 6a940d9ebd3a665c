"""The report of a comparison: one page and one figure, from what its folder holds."""

from __future__ import annotations

from pathlib import Path

from pharma_fl.atomic import write_atomic
from pharma_fl.tracking.comparison import cells
from pharma_fl.tracking.figures import epsilon_by_round, norm_by_round, partner_changes, png, utility
from pharma_fl.tracking.report_page import page
from pharma_fl.tracking.run_folders import RunFolder, read_runs
from pharma_fl.tracking.summary import Summary, read_summary


def write_report(folder: Path) -> tuple[Path, Path]:
    """Write ``report.html`` and ``utility.png`` into `folder` and return their paths.

    Parameters
    ----------
    folder : Path
        Holds ``summary.json`` and, where runs were federated,
        ``runs/*/{federation.toml,coordinator/rounds.jsonl,coordinator/end.json}``.

    Raises
    ------
    DataError
        ``PFL-D20`` there is no summary.json, or it cannot be used.
    """
    summary = read_summary(folder)
    runs = read_runs(folder)
    found = cells(summary.results, summary.metric)
    report, figure = folder / "report.html", folder / "utility.png"
    write_atomic(figure, png([utility(found), partner_changes(found, summary.partners)]))
    write_atomic(report, page(summary, runs, draw(summary, runs)).encode())
    return report, figure


def draw(summary: Summary, runs: list[RunFolder]) -> dict[str, bytes]:
    """Return the page's pictures: each panel by itself, so that a narrow screen can stack them."""
    found = cells(summary.results, summary.metric)
    pictures = {
        "utility": png([utility(found)]),
        "partners": png([partner_changes(found, summary.partners)]),
    }
    if any(run.epsilon_by_round for run in runs):
        pictures["epsilon"] = png([epsilon_by_round(runs)], height=3.8)
    if any(run.norm_by_round for run in runs):
        pictures["norms"] = png([norm_by_round(runs)], height=3.8)
    return pictures
