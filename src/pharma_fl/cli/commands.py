"""`pharma-fl commands`: the exact lines of one side, as its scripts and units run them."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from pharma_fl.cli.output import console, print_json
from pharma_fl.cli.prepare import JsonOption
from pharma_fl.config import Federation, Partner
from pharma_fl.deployment.lines import FEDERATION_FILE, PARTNER_FILE, Lines, coordinator_lines, partner_lines
from pharma_fl.errors import ConfigError


def commands(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that pharma-fl init made.")],
    as_json: JsonOption = False,
) -> None:
    """Print the commands of this side: what its start script and its systemd unit run, and what you call yourself.

    Example: `pharma-fl commands fl`
    """
    lines = lines_of(folder)
    if as_json:
        print_json(asdict(lines) | {"folder": str(lines.folder)})
        return
    for part in _text(lines):
        console.print(part, soft_wrap=True, markup=False)


def lines_of(folder: Path) -> Lines:
    """Return the lines of the side whose folder this is.

    Raises
    ------
    ConfigError
        ``PFL-C08`` it holds neither federation.toml nor partner.toml, or both; and as `coordinator_lines`.
    """
    place = folder.resolve()
    found = [name for name in (FEDERATION_FILE, PARTNER_FILE) if (place / name).is_file()]
    if len(found) != 1:
        raise ConfigError(
            "PFL-C08",
            f"Expected {FEDERATION_FILE} or {PARTNER_FILE} in {folder}, one of the two, and found "
            f"{' and '.join(found) or 'neither'}. Name a folder that pharma-fl init made.",
        )
    if found == [FEDERATION_FILE]:
        return coordinator_lines(place, Federation.load(place / FEDERATION_FILE))
    return partner_lines(place, Partner.load(place / PARTNER_FILE))


def _text(lines: Lines) -> list[str]:
    where = "At the coordinator" if lines.role == "coordinator" else f"At {lines.name}"
    text = [f"# {where}, before every command: . {lines.folder / 'environment'} does the same"]
    text += [f"export {key}={shlex.quote(value)}" for key, value in lines.environment.items()]
    text += ["", f"# For good: {lines.folder / 'start'} runs this line, and so does the unit in systemd/"]
    text += [shlex.join(lines.start)]
    if lines.register:
        text += ["", f"# Once the SuperLink runs: {lines.folder / 'register'} runs these lines"]
        text += [shlex.join(command) for command in lines.register.values()]
    for purpose, command in lines.then.items():
        text += ["", f"# To {purpose}" if not purpose.startswith("the") else f"# Or {purpose}", shlex.join(command)]
    return text
