"""One round's request and reply: every field that travels, and nothing else does."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from torch import Tensor

from pharma_fl.config import ModelSettings, TrainingSettings
from pharma_fl.privacy.plan import PrivacyPlan

MASKED = "masked"
"""Name of the one array of a reply under shared noise: integers of the ring, the trunk's arrays by ascending name."""


@dataclass(frozen=True, kw_only=True)
class RoundRequest:
    """What the coordinator asks for; everything in it is public.

    Attributes
    ----------
    federation : str
        Name of the federation.
    run : str
        Identity of the run.
    round : int
        From 1 to ``plan.rounds``.
    plan, model, training : settings
        As agreed for the run.
    seed : int
        Of the public start of the heads.
    trunk : dict
        Current shared parameters by name.
    witnesses : tuple of str
        What the coordinator remembers of this partner's ledger: bare hashes, told at joining. They change nothing of
        what is asked for.
    """

    federation: str
    run: str
    round: int
    plan: PrivacyPlan
    model: ModelSettings
    training: TrainingSettings
    seed: int
    trunk: dict[str, Tensor]
    witnesses: tuple[str, ...] = ()

    @property
    def agreement(self) -> str:
        """Identifies what stays as it is during the run: plan, model, training and seed."""
        settings = (self.plan.model_dump(), self.model.model_dump(), self.training.model_dump(), self.seed)
        return digest({}, self.federation, self.run, *settings)

    @property
    def digest(self) -> str:
        """Identifies the request, so that only the very same one gets a stored reply."""
        settings = (self.plan.model_dump(), self.model.model_dump(), self.training.model_dump(), self.seed)
        return digest(self.trunk, self.federation, self.run, self.round, *settings)


@dataclass(frozen=True, kw_only=True)
class RoundReply:
    """All that leaves the partner.

    Attributes
    ----------
    released : dict
        The trunk's change over the round, by name: a function of noised gradients alone. Under shared noise one vector,
        `MASKED`: this partner's part of a sum, which nobody can read by itself.
    epsilon_spent, epsilon_left : float or None
        From the ledger's public charges; None where the policy does not report them, and in a run that has
        no epsilon.
    """

    released: dict[str, Tensor]
    epsilon_spent: float | None
    epsilon_left: float | None


def digest(arrays: dict[str, Tensor], *parts: object) -> str:
    """Return SHA-256 over arrays and any JSON-like parts."""
    running = hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode())
    for name in sorted(arrays):
        value = arrays[name].detach().cpu().contiguous()
        running.update(f"{name}:{tuple(value.shape)}:{value.dtype};".encode())
        running.update(value.numpy().tobytes())
    return running.hexdigest()
