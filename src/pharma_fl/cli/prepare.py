"""`pharma-fl prepare`: a partner's tables become training matrices."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from pharma_fl.cli.output import console, print_json, progress, table
from pharma_fl.config import Partner

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object for programs.")]
WorkersOption = Annotated[
    int, typer.Option("--workers", min=1, help="Processes to use.", default_factory=lambda: os.cpu_count() or 1)
]


def prepare(
    partner_file: Annotated[Path, typer.Argument(metavar="PARTNER.TOML", help="The partner's own settings.")],
    workers: WorkersOption,
    as_json: JsonOption = False,
) -> None:
    """Standardise structures, make fingerprints, folds and labels, and write the matrices.

    Bad structures and values go to side files with the reason and never stop the run. An existing data
    folder is replaced only when everything was written.

    Example: `pharma-fl prepare partners/north/partner.toml`
    """
    from pharma_fl.data.prepare import prepare as prepare_data

    partner = Partner.load(partner_file)
    with progress(f"Preparing {partner.name}") as report:
        manifest = prepare_data(partner, workers=workers, progress=report)
    if as_json:
        print_json(manifest)
        return
    counts = manifest["counts"]
    console.print(
        table(
            f"Prepared for {partner.name}",
            ["what", "number"],
            [[key.replace("_", " "), str(value)] for key, value in _flat(counts)],
        )
    )
    console.print(f"Matrices: {partner.path(partner.data)}")


def _flat(counts: dict[str, object], prefix: str = "") -> list[tuple[str, object]]:
    rows: list[tuple[str, object]] = []
    for key, value in counts.items():
        rows += _flat(value, f"{prefix}{key}: ") if isinstance(value, dict) else [(prefix + key, value)]
    return rows
