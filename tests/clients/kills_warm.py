"""Preloaded into the fork server: one round, so that children find prices and shapes worked out."""

import tempfile
from pathlib import Path

from tests.clients import kills
from tests.partners import a_partner

from pharma_fl.clients.train import train_round

with tempfile.TemporaryDirectory() as scratch:
    train_round(a_partner(Path(scratch), budget=kills.budget()), kills.request(1))
