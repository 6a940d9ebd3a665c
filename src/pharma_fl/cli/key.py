"""`pharma-fl key`: draw the secret that the partners of a federation share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pharma_fl.cli.output import console, print_json
from pharma_fl.cli.prepare import JsonOption


def key(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="The file to make; an existing one is never replaced.")],
    as_json: JsonOption = False,
) -> None:
    """Draw a new consortium key, write it to PATH with rights for its owner alone, and print its public id.

    One partner does this, once for a federation. The key itself is never printed.

    Example: `pharma-fl key partners/north/consortium.key`
    """
    from pharma_fl.data.keys import make_key

    identity = make_key(path)
    if as_json:
        print_json({"key_file": str(path), "key_id": identity})
        return
    console.print(f"Key file   {path}\nPublic id  {identity}\n", soft_wrap=True, markup=False)
    console.print(
        "Pass the file to every other partner on a channel that the coordinator does not see, and keep a copy: it "
        "cannot\nbe made again. Each partner names it in partner.toml (key_file), gives it mode 600 and compares the "
        "public id.\nKeep it out of repositories and images. A new key means to prepare again, everywhere.",
        soft_wrap=True,
        markup=False,
    )
