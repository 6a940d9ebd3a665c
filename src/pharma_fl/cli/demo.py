"""`pharma-fl demo`: the whole path on real measurements, and an honest comparison at its end."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from pharma_fl.cli import demo_steps as steps
from pharma_fl.cli.output import console, print_json, progress, say
from pharma_fl.cli.prepare import JsonOption, WorkersOption
from pharma_fl.cli.report import print_comparison
from pharma_fl.errors import ConfigError, FederationError
from pharma_fl.evaluation.results import Result

PARTNERS = ("north", "east", "south", "west")
EPSILONS = (8.0, 3.0, 1.0)
_MARKER = ".pharma-fl-demo"
_FAST = {"every": 12, "epsilons": (3.0,), "training": {"rounds": 3}}


def demo(
    workers: WorkersOption,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where everything goes.")] = Path("demo-out"),
    seeds: Annotated[int, typer.Option(min=1, max=20, help="Repetitions, for a mean and its spread.")] = 1,
    rounds: Annotated[int | None, typer.Option(min=1, help="Rounds of each run; the noise follows.")] = None,
    fast: Annotated[bool, typer.Option(help="A twelfth of the data and few rounds: under a minute.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Train federated models on measured blood-brain barrier permeability, with and without privacy.

    Four simulated partners own whole scaffold families of B3DB. The comparison is made on each partner's
    held-out fold: alone, federated without privacy, federated at epsilon 8, 3 and 1, and a placebo.

    Example: `pharma-fl demo --out demo-out --seeds 3`
    """
    begun = time.monotonic()
    _take_folder(out)
    phases: dict[str, float] = {}
    epsilons = _FAST["epsilons"] if fast else EPSILONS
    training: dict[str, Any] = dict(_FAST["training"]) if fast else {}  # type: ignore[call-overload]
    if rounds is not None:
        training["rounds"] = rounds

    with _phase(phases, "prepare"):
        _prepare(out, workers, every=int(_FAST["every"]) if fast else 1)  # type: ignore[call-overload]
    runs = steps.planned_runs(epsilons, seeds)  # type: ignore[arg-type]
    with _phase(phases, "federate"):
        _federate(out, runs, training, workers)
    with _phase(phases, "score"):
        results = _score(out, runs, seeds, workers)

    summary = _summary(out, runs, results, phases, fast=fast, seconds=time.monotonic() - begun)
    page, figure = _report(out, runs)
    if as_json:
        print_json(summary)
        return
    print_comparison(out)
    console.print(f"Report   {page}\nFigure   {figure}\nNumbers  {out / 'summary.json'}", soft_wrap=True)
    console.print(f"MLflow   {_mlflow_command(out)}", soft_wrap=True)
    console.print(
        f"Budget   pharma-fl budget show {out / 'runs' / runs[1].name / 'partners/north/partner.toml'}", soft_wrap=True
    )


def _prepare(out: Path, workers: int, *, every: int) -> None:
    from pharma_fl.data.b3db import write_partner_tables
    from pharma_fl.data.prepare import prepare

    counts = write_partner_tables(out / "partners", PARTNERS, steps.SECRET, every=every)
    total = sum(count.compounds for count in counts)
    say(f"1. B3DB: {total:,} measured compounds, split by scaffold family over {len(PARTNERS)} partners")
    for count in counts:
        key_file = out / "partners" / count.name / "consortium.key"
        key_file.touch(mode=0o600)
        key_file.write_bytes(steps.SECRET + b"\n")
        partner = steps.write_partner(out / "partners", count.name, {})
        with progress(f"   preparing {count.name}") as report:
            manifest = prepare(partner, workers=workers, progress=report)
        dropped = sum(manifest["counts"]["structures"]["dropped"].values())
        say(
            f"   {count.name}: {manifest['sizes']['compounds']:,} distinct structures from {count.compounds:,} rows, "
            f"{dropped} rows unusable"
        )


def _federate(out: Path, runs: list[steps.Run], training: dict[str, Any], workers: int) -> None:
    from pharma_fl.clients.app import app as client_app
    from pharma_fl.strategies.simulation import simulate

    say(f"2. {len(runs)} federated runs on Flower's simulation runtime")
    uri = f"sqlite:///{(out / 'mlflow.db').resolve()}"
    for run in runs:
        begun = time.monotonic()
        folder = steps.write_run(out, run, PARTNERS, tracking_uri=uri, training=training)
        end = simulate(folder / "federation.toml", folder / "partners", client_app, workers=workers)
        say(f"   {run.name}: {end.status} after {end.rounds} rounds, {time.monotonic() - begun:.0f} s")
        if end.status != "completed":
            raise FederationError("PFL-F21", f"The run {run.name} stopped: {end.reason}")


def _score(out: Path, runs: list[steps.Run], seeds: int, workers: int) -> list[Result]:
    say("3. Each partner alone, tuned; each federated model as it stands and personalised")
    jobs: list[steps.Job] = [
        (steps.alone_scores, out / "partners" / name / "partner.toml", seed)
        for seed in range(seeds)
        for name in PARTNERS
    ]
    for run in runs:
        folder = out / "runs" / run.name
        jobs += [
            (steps.federated_scores, folder / "partners" / name / "partner.toml", folder, run) for name in PARTNERS
        ]
    with progress("   scoring") as report:
        return steps.in_parallel(jobs, workers, report)


def _summary(
    out: Path, runs: list[steps.Run], results: list[Result], phases: dict[str, float], *, fast: bool, seconds: float
) -> dict[str, Any]:
    from pharma_fl.tracking.versions import versions

    content = {
        "dataset": "B3DB, blood-brain barrier permeability (qc-B3DB)" + (", every 12th compound" if fast else ""),
        "partners": list(PARTNERS),
        "results": [asdict(result) for result in results],
        "budgets": steps.budgets(out, runs, PARTNERS),
        "headline": {"task": steps.HEADLINE_TASK, "description": "crosses the blood-brain barrier"},
        "plans": steps.plans(out, runs),
        "seconds": round(seconds, 1),
        "phases": {name: round(value, 1) for name, value in phases.items()},
        "versions": versions(),
    }
    (out / "summary.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return content


def _report(out: Path, runs: list[steps.Run]) -> tuple[Path, Path]:
    from pharma_fl.tracking.mlflow_observer import attach_artifacts
    from pharma_fl.tracking.report import write_report

    page, figure = write_report(out)
    for run in runs:
        attach_artifacts(out / "runs" / run.name / "coordinator", (page, figure))
    return page, figure


def _mlflow_command(out: Path) -> str:
    remote = os.environ.get("MLFLOW_TRACKING_URI")
    command = Path(sys.executable).parent / "mlflow"
    return remote or f"{command} ui --backend-store-uri sqlite:///{(out / 'mlflow.db').resolve()}"


def _take_folder(out: Path) -> None:
    """Make the folder; a former demo's output is moved aside, anything else is left alone."""
    if out.exists() and any(out.iterdir()):
        if not (out / _MARKER).exists():
            raise ConfigError("PFL-C10", f"{out} holds other files. Name an empty folder with --out.")
        aside = out.with_name(f"{out.name}-{time.strftime('%Y%m%d-%H%M%S')}")
        out.rename(aside)
        say(f"The former output was moved to {aside}")
    out.mkdir(parents=True, exist_ok=True)
    (out / _MARKER).touch()


@contextmanager
def _phase(phases: dict[str, float], name: str) -> Iterator[None]:
    begun = time.monotonic()
    yield
    phases[name] = time.monotonic() - begun
