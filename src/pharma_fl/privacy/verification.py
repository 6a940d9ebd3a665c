"""A ledger looked at whole, and what others need to look at it themselves."""

from __future__ import annotations

import json
from importlib.metadata import version
from typing import Any

from pharma_fl.config.partner import BudgetSettings
from pharma_fl.errors import PrivacyError
from pharma_fl.privacy import chain
from pharma_fl.privacy.entries import Released, Reserved
from pharma_fl.privacy.ledger import Ledger
from pharma_fl.privacy.second_opinions import epsilon_by_opacus, epsilon_by_rdp


def verified(ledger: Ledger, budget: BudgetSettings) -> dict[str, Any]:
    """Check chain, signatures, place and witnesses, and compute epsilon anew.

    Parameters
    ----------
    ledger : Ledger
    budget : BudgetSettings
        For delta and the unit.

    Returns
    -------
    dict
        Plain values for people and programs. ``epsilon`` is the number of record, of the cohort that spent most; by
        Renyi's divergences it is never less, and by Opacus, where it can price the history, within its error of 0.01.

    Raises
    ------
    PrivacyError
        ``PFL-P12``, ``PFL-P13``, ``PFL-P15``, ``PFL-P18``: what `Ledger` notices, and each single signature.
    """
    ledger.look()
    if not ledger.path.exists():
        raise PrivacyError(
            "PFL-P13", f"There is no ledger at {ledger.path} yet: nothing was spent, or it lies elsewhere (ledger)."
        )
    with ledger.held():
        history = ledger.check()
        links = ledger.links()
        if links:
            chain.check_signatures(links)
            ledger.signing_key()
        entries = [link.entry for link in links]
        charges = history.charges()
        spent = ledger.epsilon(budget)
    stored = {(e.purpose, e.run, e.round) for e in entries if isinstance(e, Released)}
    reserved = [e for e in entries if isinstance(e, Reserved)]
    return {
        "entries": history.length,
        "head": history.head,
        "signed_by": history.opened.public_key if history.opened else None,
        "charges": len(reserved),
        "charges_without_a_reply": sum((e.purpose, e.run, e.round) not in stored for e in reserved),
        "declared_charges": sum(e.purpose == "declared" for e in reserved),
        "delta": budget.delta,
        "epsilon": spent,
        "epsilon_by_renyi": epsilon_by_rdp(charges, budget.delta, unit=budget.unit, members=budget.members),
        "epsilon_by_opacus": epsilon_by_opacus(charges, budget.delta, unit=budget.unit),
        "versions": ", ".join(sorted({e.version for e in entries})),
        "priced_with": f"dp-accounting {version('dp-accounting')}",
    }


def exported(ledger: Ledger) -> str:
    """Return the ledger as JSON lines: ``entry`` is the text that was hashed, with ``hash`` and ``signature``.

    A hash is SHA-256 over the hash before (64 zeros at first), a line end and the entry's text; the signature
    (Ed25519, by the key that the first entry names) is over the hash's 32 bytes.
    """
    lines = ({"entry": link.body, "hash": link.hash, "signature": link.signature} for link in ledger.links())
    return "".join(json.dumps(line) + "\n" for line in lines)
