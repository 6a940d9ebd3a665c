"""`pharma-fl simulate`: a federation on this machine, through the apps of a deployment."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from pharma_fl.cli.output import console, print_json, say
from pharma_fl.cli.prepare import JsonOption, WorkersOption
from pharma_fl.config import Federation


def simulate(
    federation_file: Annotated[Path, typer.Argument(metavar="FEDERATION.TOML", help="The coordinator's settings.")],
    partners: Annotated[Path, typer.Option(help="Folder with NAME/partner.toml of every simulated partner.")],
    workers: WorkersOption,
    verbose: Annotated[bool, typer.Option(help="Show Flower's own log.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Run a federation with simulated partners on Flower's simulation runtime.

    Every partner charges its own ledger and refuses as it would in a deployment. Exit code 3 means that
    the run stopped before its last round; the last good model is kept.

    Example: `pharma-fl simulate federation.toml --partners partners`
    """
    federation = Federation.load(federation_file)
    from pharma_fl.clients.app import app as client_app
    from pharma_fl.strategies.simulation import simulate as run

    say(f"Running {federation.name}: {federation.training.rounds} rounds, {len(federation.partners)} partners")
    end = run(federation_file, partners, client_app, workers=workers, verbose=verbose)
    folder = federation_file.resolve().parent / federation.output
    if as_json:
        print_json(asdict(end) | {"folder": str(folder)})
    else:
        console.print(f"{end.status.capitalize()} after {end.rounds} rounds. {end.reason}", soft_wrap=True)
        console.print(f"Model and round records: {folder}", soft_wrap=True)
    if end.status != "completed":
        raise typer.Exit(3)
