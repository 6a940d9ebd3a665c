"""`pharma-fl init`: a folder to start from, at the coordinator and at each partner."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from pharma_fl.atomic import write_atomic
from pharma_fl.cli.output import console, print_json
from pharma_fl.cli.prepare import JsonOption
from pharma_fl.config import Federation, Partner
from pharma_fl.deployment.kit import KitFile, coordinator_files, partner_files, write_kit
from pharma_fl.deployment.lines import FEDERATION_FILE, PARTNER_FILE
from pharma_fl.deployment.private_files import make_folder
from pharma_fl.deployment.templates import EVERYWHERE, federation_text, partner_text
from pharma_fl.errors import ConfigError

app = typer.Typer(
    no_args_is_help=True,
    help="Make a folder with settings, start scripts and systemd units. Nothing is overwritten, nothing is sent.",
)


@app.command()
def coordinator(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that is not there, or has no such files.")],
    name: Annotated[str, typer.Option(help="Of the federation.")],
    address: Annotated[str, typer.Option(help="host:port by which partners reach this machine.")],
    partners: Annotated[str, typer.Option(help="Names of the partners, with commas between them.")],
    preset: Annotated[str, typer.Option(help="A file of strategies/, without ending.")] = "dp-fedsgd",
    listen: Annotated[str, typer.Option(help="Address of this machine that the SuperLink listens on.")] = EVERYWHERE,
    as_json: JsonOption = False,
) -> None:
    """Make the coordinator's folder.

    Example: `pharma-fl init coordinator fl --name lipids --address fl.example.com:8000 --partners north,east,south`
    """
    names = [one.strip() for one in partners.split(",") if one.strip()]
    text = federation_text(preset=preset, name=name, address=address, partners=names, listen=listen)
    place = folder.resolve()
    files = coordinator_files(place, Federation.parse(text, source=FEDERATION_FILE))
    _write(place, FEDERATION_FILE, text, files, ["cards", "tls"])
    _say(
        place,
        [FEDERATION_FILE, *files],
        [
            f"Look through {FEDERATION_FILE}: the plan, the model, the deadlines.",
            f"pharma-fl provision {place / FEDERATION_FILE}",
        ],
        as_json=as_json,
    )


@app.command()
def partner(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that is not there, or has no such files.")],
    name: Annotated[str, typer.Option(help="Of this partner, as in federation.toml.")],
    superlink: Annotated[str, typer.Option(help="host:port of the coordinator's SuperLink.")],
    preset: Annotated[str, typer.Option(help="A file of clients/, without ending.")] = "standard",
    port: Annotated[int, typer.Option(help="Port on loopback, another for each partner of one machine.")] = 9094,
    as_json: JsonOption = False,
) -> None:
    """Make a partner's folder.

    Example: `pharma-fl init partner north --name north --superlink fl.example.com:8000`
    """
    text = partner_text(preset=preset, name=name, superlink=superlink, port=port)
    place = folder.resolve()
    file = place / PARTNER_FILE
    files = partner_files(place, Partner.parse(text, source=PARTNER_FILE))
    _write(place, PARTNER_FILE, text, files, ["cards", "flwr", "keys", "tls"])
    _say(
        place,
        [PARTNER_FILE, *files],
        [f"Look through {PARTNER_FILE}: the tables, the budget, the policy.", f"pharma-fl provision {file}"],
        as_json=as_json,
    )


def _write(folder: Path, settings: str, text: str, files: dict[str, KitFile], empty: Iterable[str]) -> None:
    there = [name for name in (settings, *files) if (folder / name).exists()]
    if there:
        raise ConfigError(
            "PFL-C07",
            f"{folder} holds {', '.join(there)} already, and nothing is overwritten. Name another folder; "
            "pharma-fl provision brings scripts and units up to date.",
        )
    for name in (".", *empty):
        make_folder(folder / name)
    write_kit(folder, files)
    # Last, since it is what the other commands look for.
    write_atomic(folder / settings, text.encode(), mode=0o600)


def _say(folder: Path, files: list[str], steps: list[str], *, as_json: bool) -> None:
    if as_json:
        print_json({"folder": str(folder), "files": files, "next": steps})
        return
    console.print(f"Made in {folder}: {', '.join(files)}", soft_wrap=True, markup=False)
    console.print("Next:", *(f"  {step}" for step in steps), sep="\n", soft_wrap=True, markup=False)
