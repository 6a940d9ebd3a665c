"""`pharma-fl budget`: what a partner has spent and may spend, and the book that it keeps of it."""

from __future__ import annotations

import typer

from pharma_fl.cli.budget_keep import backup, declare, export, loosen, restore, verify
from pharma_fl.cli.budget_plan import plan
from pharma_fl.cli.budget_show import show

app = typer.Typer(
    help="What a partner has spent and may spend, and the ledger that it keeps of it.", no_args_is_help=True
)
for command in (show, plan, verify, export, backup, restore, loosen, declare):
    app.command()(command)
