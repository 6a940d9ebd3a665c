"""Entry point of `pharma-fl`."""

from __future__ import annotations

import sys
from typing import Annotated

import click
import typer

from pharma_fl import __version__
from pharma_fl.cli import (
    agree,
    budget,
    commands,
    demo,
    describe,
    doctor,
    identity,
    init,
    key,
    prepare,
    pretrain,
    provision,
    report,
    run,
    simulate,
    statistics,
    status,
)
from pharma_fl.cli.output import fail
from pharma_fl.errors import PharmaFlError

_INTERRUPTED = 130

app = typer.Typer(
    help="Federated, differentially private models for drug discovery, on Flower.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.command()(demo.demo)
app.command()(key.key)
app.command()(identity.identity)
app.command()(prepare.prepare)
app.command()(describe.describe)
app.command()(agree.agree)
app.command()(statistics.statistics)
app.command()(pretrain.pretrain)
app.command()(simulate.simulate)
app.command()(run.run)
app.command()(run.stop)
app.command()(status.status)
app.command()(doctor.doctor)
app.add_typer(budget.app, name="budget")
app.command()(report.report)
app.add_typer(init.app, name="init")
app.command()(provision.provision)
app.command()(commands.commands)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"pharma-fl {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    del version


def main() -> None:
    """Run the command; an expected failure is one message on stderr and exit code 2."""
    try:
        code = app(standalone_mode=False)
    except PharmaFlError as error:
        fail(str(error))
        sys.exit(2)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    if code == _INTERRUPTED:
        fail("Interrupted. What was finished is on disk.")
    sys.exit(code if isinstance(code, int) else 0)
