"""`pharma-fl prepare`: a partner's tables become training matrices."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from pharma_fl.cli.output import console, print_json, progress, say, table
from pharma_fl.config import Partner
from pharma_fl.errors import ConfigError

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object for programs.")]
WorkersOption = Annotated[
    int,
    typer.Option(
        "--workers",
        min=1,
        help="Processes to use.",
        show_default="one for each core",
        default_factory=lambda: os.cpu_count() or 1,
    ),
]


_NAMES = {
    "activities: aggregated": "activities: values (replicates are one)",
    "labels: dropped: ambiguous": "labels: left open by a qualifier",
    "tasks: data_derived": "tasks: with thresholds from the data",
    "tasks: training_quorum": "tasks: above MELLODDY-TUNER's training quorum (told, not applied)",
    "tasks: evaluate": "tasks: with labels enough in each fold to be evaluated",
}


class Exchange(StrEnum):
    """Formats of other programs."""

    TUNER = "tuner"


def prepare(
    partner_file: Annotated[Path, typer.Argument(metavar="PARTNER.TOML", help="The partner's own settings.")],
    workers: WorkersOption,
    as_json: JsonOption = False,
    manifest: Annotated[
        bool,
        typer.Option("--manifest", help="At the end print agreement.json, the manifest that may be shown to partners."),
    ] = False,
    export: Annotated[
        Exchange | None, typer.Option("--export", help="Also write MELLODDY-TUNER's files, which SparseChem reads.")
    ] = None,
    to: Annotated[
        Path | None, typer.Option("--to", help="Folder for --export; left out, the data folder's name with -tuner.")
    ] = None,
    import_: Annotated[
        Exchange | None, typer.Option("--import", help="Take MELLODDY-TUNER's matrices in the place of tables.")
    ] = None,
    from_: Annotated[Path | None, typer.Option("--from", help="Folder for --import.")] = None,
    public_tasks: Annotated[
        bool,
        typer.Option(
            "--public-tasks",
            help="With --import: vouch that the list of tasks and their weights does not follow from the measurements.",
        ),
    ] = False,
) -> None:
    """Standardise structures, make fingerprints, folds and labels, and write the matrices.

    Bad structures and values go to side files with the reason and never stop the run. An existing data
    folder is replaced only when everything was written. Interrupted, even by a kill, the same command goes on where
    it was; after more compounds came, only those are worked out.

    Example: `pharma-fl prepare partners/north/partner.toml`
    """
    partner = Partner.load(partner_file)
    _check_together(import_, from_, export, to, manifest=manifest, public_tasks=public_tasks)
    if import_:
        _import(partner, from_ or Path(), public_tasks=public_tasks, as_json=as_json)
        return
    from pharma_fl.data.prepare import prepare as prepare_data

    with progress(f"Preparing {partner.name}") as report:
        made = prepare_data(partner, workers=workers, progress=report)
    data = partner.path(partner.data)
    if export:
        _export(data, to or data.with_name(f"{data.name}-tuner"))
    if manifest:
        from pharma_fl.data.agreement import read_agreement

        print_json(read_agreement(data))
    elif as_json:
        print_json(made)
    else:
        _print_counts(partner, made)


def _check_together(
    import_: Exchange | None,
    from_: Path | None,
    export: Exchange | None,
    to: Path | None,
    *,
    manifest: bool,
    public_tasks: bool,
) -> None:
    if (import_ is None) != (from_ is None):
        raise ConfigError("PFL-C11", "Expected --import and --from together: --import tuner --from FOLDER.")
    if to is not None and export is None:
        raise ConfigError("PFL-C11", "Expected --export with --to: --export tuner --to FOLDER.")
    if import_ and (export or manifest):
        raise ConfigError(
            "PFL-C11",
            "Expected --import without --export and --manifest: imported matrices hold no structures to compare.",
        )
    if public_tasks and not import_:
        raise ConfigError("PFL-C11", "Expected --public-tasks with --import tuner.")


def _export(data: Path, folder: Path) -> None:
    from pharma_fl.data.matrices import PreparedData
    from pharma_fl.data.tuner_export import export_tuner

    counts = export_tuner(PreparedData.open(data), folder)
    say(
        f"Exported to {folder}: {counts['compounds']:,} compounds, {counts['classification_tasks']:,} classification "
        f"and {counts['regression_tasks']:,} regression tasks; {counts['dropped_tasks']:,} tasks are below their quorum"
    )


def _import(partner: Partner, source: Path, *, public_tasks: bool, as_json: bool) -> None:
    from pharma_fl.data.tuner_import import import_tuner

    made = import_tuner(source, partner.path(partner.data), fold_count=partner.folds.count, public_tasks=public_tasks)
    if as_json:
        print_json(made)
        return
    rows = [[key.replace("_", " "), f"{value:,}"] for key, value in made["sizes"].items()]
    console.print(table(f"Imported for {partner.name}", ["what", "number"], rows))
    console.print(f"Matrices: {partner.path(partner.data)}", soft_wrap=True, markup=False)


def _print_counts(partner: Partner, made: dict[str, Any]) -> None:
    rows = [["compounds (equal structures are one)", f"{made['sizes']['compounds']:,}"]]
    rows += [[_NAMES.get(key, key.replace("_", " ")), f"{value:,}"] for key, value in _flat(made["counts"])]
    console.print(table(f"Prepared for {partner.name}", ["what", "number"], rows))
    for remark in made["remarks"]:
        console.print(f"Note: {remark}", soft_wrap=True, markup=False)
    console.print(f"Matrices: {partner.path(partner.data)}", soft_wrap=True, markup=False)


def _flat(counts: dict[str, Any], prefix: str = "") -> list[tuple[str, int]]:
    rows: list[tuple[str, int]] = []
    for key, value in counts.items():
        rows += _flat(value, f"{prefix}{key}: ") if isinstance(value, dict) else [(prefix + key, value)]
    return rows
