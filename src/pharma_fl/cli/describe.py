"""`pharma-fl describe`: a partner's look at its own prepared data, in exact numbers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from pharma_fl.cli.describe_text import parts
from pharma_fl.cli.output import console, print_json
from pharma_fl.cli.prepare import JsonOption
from pharma_fl.config import Partner
from pharma_fl.errors import DataError

_PRIVATE = 0o077


def describe(
    place: Annotated[
        Path,
        typer.Argument(metavar="PLACE", help="A prepared folder, the folder of a partner.toml, or a partner.toml."),
    ],
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", dir_okay=False, help="Also draw it, as one HTML page.")
    ] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Read every file and compare its hash.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show what prepared data hold: compounds, tasks, density, balance, values, folds, and what was dropped.

    The numbers are exact and for the partner's own eyes: no privacy guarantee covers them. Do not send them, or
    the page, to anybody.

    Example: `pharma-fl describe partners/north --html north.html`
    """
    from pharma_fl.data.description import description
    from pharma_fl.data.matrices import PreparedData

    folder, partner = _prepared(place)
    if html is not None:
        _check_page(html, folder)
    data = PreparedData.open(folder)
    if verify:
        data.verify()
    described = description(data) | {"partner": partner, "verified": verify}
    if html is not None:
        from pharma_fl.tracking.data_page import page

        _write(html, page(described))
    if as_json:
        print_json(described)
        return
    for part in parts(described):
        text = isinstance(part, str)
        console.print(part, soft_wrap=text, markup=not text)
    if html is not None:
        console.print(f"Page: {html}", soft_wrap=True, markup=False)


def _prepared(place: Path) -> tuple[Path, str | None]:
    """Return the prepared folder, and the partner's name where its file was found."""
    file = place / "partner.toml" if place.is_dir() else place
    if place.is_dir() and not file.exists():
        if (place / "manifest.json").exists():
            return place, None
        raise DataError(
            "PFL-D04",
            f"Cannot describe {place}: it holds neither a partner.toml nor a manifest.json. Name a prepared folder, or "
            "the folder of a partner.toml.",
        )
    partner = Partner.load(file)
    return partner.path(partner.data), partner.name


def _check_page(html: Path, folder: Path) -> None:
    """Keep the page out of the prepared folder, where it could overwrite data and `prepare` would refuse it."""
    if folder.resolve() in (html.resolve(), *html.resolve().parents):
        raise typer.BadParameter(f"{html} is inside the prepared folder; name a file elsewhere.", param_hint="--html")


def _write(html: Path, page: str) -> None:
    from pharma_fl.atomic import write_atomic

    # As the prepared folder, so the page: for its owner alone.
    before = os.umask(_PRIVATE)
    try:
        write_atomic(html, page.encode())
    except OSError as error:
        raise typer.BadParameter(f"cannot write {html}: {error.strerror}.", param_hint="--html") from error
    finally:
        os.umask(before)
