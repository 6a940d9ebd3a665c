"""`pharma-fl pretrain`: a public start for a federation's trunk."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pharma_fl.cli.output import console, print_json, say
from pharma_fl.cli.prepare import JsonOption
from pharma_fl.config import Federation, Partner
from pharma_fl.errors import ConfigError


def pretrain(
    public_file: Annotated[
        Path, typer.Argument(metavar="PARTNER.TOML", help="Settings of the public tables, already prepared.")
    ],
    federation_file: Annotated[
        Path, typer.Option("--federation", metavar="FEDERATION.TOML", help="Whose network is trained.")
    ],
    source: Annotated[str, typer.Option(help="Where the tables come from, with version and licence.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The checkpoint.")] = Path("pretrained.safetensors"),
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the compounds.")] = 20,
    learning_rate: Annotated[float, typer.Option(min=1e-8, max=10.0, help="Of AdamW.")] = 1e-3,
    batch_size: Annotated[int, typer.Option(min=1, help="Compounds a step.")] = 256,
    seed: Annotated[int, typer.Option(min=0, help="Of the start and the order of compounds.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Train a trunk on public tables, without any protection, for every partner to start from.

    Prepare the public tables with the consortium's key first, as a partner prepares its own. Give the file to every
    partner (partner.toml: pretrained) and to the coordinator (federation.toml: pretrained), and put the digest that
    is printed under model.pretrained of federation.toml.

    Example: `pharma-fl pretrain public/partner.toml --federation federation.toml --source "ChEMBL 34, CC BY-SA 3.0"`
    """
    if out.exists():
        raise ConfigError("PFL-C10", f"{out} exists. Name another file with --out, or remove it.")
    federation, public = Federation.load(federation_file), Partner.load(public_file)
    from pharma_fl.clients.pretrain import PretrainSettings
    from pharma_fl.clients.pretrain import pretrain as run

    settings = PretrainSettings(epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, seed=seed)
    say(f"Training without protection on {public.name}: what its tables hold can be found in the checkpoint.")
    outcome = run(public, federation.model, settings, source=source, out=out)
    if as_json:
        print_json(outcome)
        return
    console.print(
        f"{outcome['compounds']:,} compounds, {sum(outcome['tasks']):,} tasks; validation score "
        f"{outcome['validation_score']:.3f}\nCheckpoint {out}\n\n\\[model]  # federation.toml\n"
        f'pretrained = "{outcome["digest"]}"',
        soft_wrap=True,
    )
