"""`pharma-fl statistics`: noised counts of a partner's data that may be shown to the others."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pharma_fl.cli.output import console, print_json, table
from pharma_fl.cli.prepare import JsonOption
from pharma_fl.config import Partner

if TYPE_CHECKING:
    from rich.table import Table

    from pharma_fl.clients.statistics import Statistics


def statistics(
    partner_file: Annotated[Path, typer.Argument(metavar="PARTNER.TOML", help="The partner's own settings.")],
    noise_multiplier: Annotated[
        float,
        typer.Option("--noise-multiplier", min=0.1, max=1e6, help="Noise on each count, over --clipping-norm."),
    ],
    out: Annotated[Path, typer.Option("--out", help="The file to write; it must not exist.")],
    clipping_norm: Annotated[
        float,
        typer.Option("--clipping-norm", min=1.1, max=1e6, help="Most that one compound adds to all counts together."),
    ] = 4.0,
    as_json: JsonOption = False,
) -> None:
    """Release noised counts of the prepared data: compounds, labels and values by assay type.

    They are charged to the partner's ledger before the data are read, within budget.epsilon_for_metrics. **Every call
    is a charge of its own**, also where settings are the same or an earlier call was interrupted: what was charged
    stays charged, and noise that was drawn again could be averaged away. `pharma-fl agree` shows such files side by
    side.

    Example: `pharma-fl statistics partners/north/partner.toml --noise-multiplier 20 --out north-statistics.json`
    """
    from pharma_fl.clients.statistics import release_statistics

    partner = Partner.load(partner_file)
    made = release_statistics(partner, out, noise_multiplier=noise_multiplier, clipping_norm=clipping_norm)
    if as_json:
        print_json(made.model_dump(mode="json"))
        return
    console.print(counts_table({partner.name: made}))
    console.print(
        f"Cost of this release: epsilon {made.epsilon:.4g} at delta {made.delta:g} (unit: {made.unit}). "
        f"Written to {out}, which may be shown.",
        soft_wrap=True,
        markup=False,
    )


def counts_table(files: dict[str, Statistics]) -> Table:
    """Show noised counts side by side, a column for each file; rows of which no file has anything are left out."""
    from rich.markup import escape

    from pharma_fl.clients.statistics import ASSAY_TYPES

    rows = [["compounds", *(_count(one, one.compounds) for one in files.values())]]
    for what in ("labels", "values"):
        for kind in ASSAY_TYPES:
            found = [(one, getattr(one, what).get(kind)) for one in files.values()]
            if any(value is not None for _, value in found):
                rows.append([f"{what}, {kind}", *(_count(one, value) for one, value in found)])
    rows.append(["released", *(str(one.released) for one in files.values())])
    rows.append(["a unit adds at most", *(f"{one.clipping_norm:g}" for one in files.values())])
    rows.append(["epsilon", *(f"{one.epsilon:.3g} at {one.delta:g}, {one.unit}" for one in files.values())])
    return table("Noised counts, with the standard deviation of their noise", ["what", *map(escape, files)], rows)


def _count(of: Statistics, value: float | None) -> str:
    return "" if value is None else f"{value:,.0f} ± {of.noise_std:,.3g}"
