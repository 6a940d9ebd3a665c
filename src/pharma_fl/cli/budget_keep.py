"""`pharma-fl budget` and the ledger itself: check it, copy it, put it back, and say what it cannot know."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from pharma_fl.cli.budget_show import PartnerArgument, finite, text
from pharma_fl.cli.output import console, print_json, table
from pharma_fl.cli.prepare import JsonOption
from pharma_fl.config import Partner
from pharma_fl.config.federation import Unit


def _said(text: str) -> str:
    if not text.strip():
        raise typer.BadParameter("say it in words.")
    return text


ByOption = Annotated[str, typer.Option(callback=_said, help="Who decides it; written into the ledger.")]
WhyOption = Annotated[str, typer.Option(callback=_said, help="Why; written into the ledger.")]


def verify(partner_file: PartnerArgument, as_json: JsonOption = False) -> None:
    """Check the ledger whole: chain, every signature, place, what audit log and state remember, and epsilon anew.

    Three accountants price the history: privacy-loss distributions, whose word counts, Renyi, and Opacus.

    Example: `pharma-fl budget verify partners/north/partner.toml`
    """
    from pharma_fl.clients.witnesses import ledger_of
    from pharma_fl.privacy.verification import verified

    partner = Partner.load(partner_file)
    found = verified(ledger_of(partner), partner.budget)
    if as_json:
        print_json(finite(found))
        return
    rows = [[key.replace("_", " "), text(value)] for key, value in found.items()]
    console.print(table(f"Ledger of {partner.name}: whole", ["what", "value"], rows))


def export(
    partner_file: PartnerArgument,
    to: Annotated[Path | None, typer.Option(metavar="FILE", help="Where to; left out, to standard output.")] = None,
) -> None:
    """Write the ledger as JSON lines: each entry as it was hashed, its hash and signature.

    docs/budget.md has the few lines with which a public tool computes epsilon from them.

    Example: `pharma-fl budget export partners/north/partner.toml --to ledger.jsonl`
    """
    from pharma_fl.atomic import write_atomic
    from pharma_fl.privacy.ledger import Ledger
    from pharma_fl.privacy.verification import exported

    lines = exported(Ledger.of(Partner.load(partner_file)))
    if to is None:
        typer.echo(lines, nl=False)
    else:
        write_atomic(to, lines.encode())
        to.chmod(0o600)
        typer.echo(f"Written to {to}.", err=True)


def backup(
    partner_file: PartnerArgument,
    to: Annotated[Path, typer.Option(metavar="FILE", help="Where to.")],
) -> None:
    """Copy the ledger, also while rounds run. The signing key is not in the copy: keep one of its own elsewhere.

    Example: `pharma-fl budget backup partners/north/partner.toml --to /backup/ledger.sqlite`
    """
    from pharma_fl.privacy.ledger import Ledger

    entries = Ledger.of(Partner.load(partner_file)).back_up(to)
    console.print(f"{entries} entries are in {to}.", soft_wrap=True)


def restore(
    partner_file: PartnerArgument,
    by: ByOption,
    why: WhyOption,
    source: Annotated[
        Path | None,
        typer.Option("--from", metavar="FILE", help="A backup; left out, the file that lies in the ledger's place."),
    ] = None,
) -> None:
    """Put a backup in the ledger's place, or adopt a file that was moved or copied there.

    What the backup does not know comes back from the audit log. What is lost for good stays noticed: rounds are refused
    until it is declared.

    Example: `pharma-fl budget restore partner.toml --from /backup/ledger.sqlite --by "A. Roe" --why "disk died"`
    """
    from pharma_fl.privacy.ledger import Ledger
    from pharma_fl.privacy.restoring import restore as put_back

    ledger = Ledger.of(Partner.load(partner_file))
    lacked = put_back(ledger, source, by=by, why=why)
    console.print(f"Restored. {lacked} entries that it lacked came back from the audit log.", soft_wrap=True)
    lost = len(ledger.history().lost)
    if lost:
        said = f"{lost} more that the log tells of are lost. Nothing is spent until they are declared (--covers-lost)."
        console.print(said, soft_wrap=True)


def loosen(partner_file: PartnerArgument, by: ByOption, why: WhyOption) -> None:
    """Let limits of partner.toml that were raised after spending hold, on the record.

    Tightening needs no command. Without this one, every round after a loosening is refused.

    Example: `pharma-fl budget loosen partners/north/partner.toml --by "A. Roe" --why "second year of the contract"`
    """
    from pharma_fl.clients.witnesses import ledger_of

    partner = Partner.load(partner_file)
    changed = ledger_of(partner).loosen(budget=partner.budget, policy=partner.policy, by=by, why=why)
    for line in changed:
        console.print(line, soft_wrap=True, markup=False)
    said = f"Recorded in the ledger, by {by}." if changed else "Nothing is looser than before; what is tighter holds."
    console.print(said, soft_wrap=True, markup=False)


def declare(
    partner_file: PartnerArgument,
    steps: Annotated[int, typer.Option(min=1, help="Steps that were taken.")],
    noise_multiplier: Annotated[float, typer.Option(min=0, help="Their noise; 0 says that there was none.")],
    by: ByOption,
    why: WhyOption,
    sample_rate: Annotated[float, typer.Option(min=1e-6, max=1, help="Their rate of sampling.")] = 1.0,
    unit: Annotated[Unit, typer.Option(help="What was sampled and clipped as one.")] = "compound",
    covers: Annotated[
        list[str] | None,
        typer.Option(metavar="HASH", help="Entries lost for good that the charge stands for; may be repeated."),
    ] = None,
    covers_lost: Annotated[
        bool, typer.Option("--covers-lost", help="All entries that the ledger itself says it lacks.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Also where the charge has no noise.")] = False,
) -> None:
    """Charge what was spent on these data elsewhere, or by entries that are lost for good. It cannot be taken back.

    Example: `pharma-fl budget declare partner.toml --noise-multiplier 5 --steps 40 --by "A. Roe" --why "a study"`
    """
    from pharma_fl.clients.witnesses import ledger_of
    from pharma_fl.privacy.charge import Charge
    from pharma_fl.privacy.spend import Spend

    hashes = tuple(covers or ())
    if not all(re.fullmatch("[0-9a-f]{64}", one) for one in hashes):
        raise typer.BadParameter("a hash has 64 hexadecimal digits.", param_hint="--covers")
    if not noise_multiplier and not yes:
        raise typer.BadParameter(
            "0 ends every guarantee for ever; add --yes to mean it.", param_hint="--noise-multiplier"
        )
    partner = Partner.load(partner_file)
    ledger = ledger_of(partner)
    with ledger.held():
        before = ledger.epsilon(partner.budget)
        lost = ledger.history().lost if covers_lost else ()
        spend = Spend(
            federation="declared",
            run="declared",
            round=1 + ledger.history().last_round("declared", "declared"),
            purpose="declared",
            charge=Charge(sample_rate, noise_multiplier, steps, unit),
            coordinator_noise=noise_multiplier,
            clipping="unknown",
            clipping_norm=1.0,
            plan="declared",
            generator="unknown",
            covers=tuple(dict.fromkeys((*hashes, *lost))),
            by=by,
            why=why,
        )
        ledger.reserve(spend, budget=partner.budget, policy=partner.policy)
        after, most = ledger.epsilon(partner.budget), partner.budget.epsilon
    over = "" if after <= most else f", above the budget of {most:g}"
    said = f"Spent at delta {partner.budget.delta:g}: {text(before)} before, {text(after)} now{over}."
    console.print(said, soft_wrap=True)
