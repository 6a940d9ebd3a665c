"""What a partner's state remembers of its ledger, so that everything that spends notices a ledger that went back."""

from __future__ import annotations

from pharma_fl.clients.state import FILES
from pharma_fl.config import Partner
from pharma_fl.model.weights import load_facts
from pharma_fl.privacy.ledger import Ledger


def ledger_of(partner: Partner) -> Ledger:
    """Return a partner's ledger, which must know the last charges of rounds and metrics that the state remembers."""
    folder = partner.path(partner.state)
    stored = [folder / name for name in FILES if (folder / name).exists()]
    return Ledger.of(partner, witnesses=[load_facts(path)["ledger"] for path in stored])
