"""The partner's private state of a run: heads and the last reply, in one file.

One file, replaced atomically, so that heads and reply always belong to the same round. The state comes
from noised gradients alone and may seed the next round; what `personalise` makes never comes here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pharma_fl.model.weights import load_facts, load_weights, save_weights

if TYPE_CHECKING:
    from torch import Tensor

_FILE = "current.safetensors"
METRICS_FILE = "metrics.safetensors"
FILES = (_FILE, METRICS_FILE)
"""What lies in the folder: each remembers the ledger's head after its charge."""


@dataclass(frozen=True, kw_only=True)
class PrivateState:
    """Where the partner stands in a run.

    Attributes
    ----------
    run : str
        The run that the state belongs to.
    round : int
        Last finished round.
    request : str
        Digest of the request that the round answered.
    agreement : str
        Digest of what stays as it is during the run.
    heads : dict
        Head parameters by name.
    clipping_norm : float or None
        Where an adaptive clip stands; it follows from noised counts alone.
    reply : dict
        What was answered: the trunk's noised change by parameter name, or one masked vector.
    ledger : str
        Hash of the ledger's last entry after the charge of the round: a ledger without it went back.
    """

    run: str
    round: int
    request: str
    agreement: str
    heads: dict[str, Tensor]
    reply: dict[str, Tensor]
    ledger: str
    clipping_norm: float | None = None

    def save(self, folder: Path) -> None:
        """Replace the state in `folder`, durably."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        tensors = {f"heads/{k}": v for k, v in self.heads.items()}
        tensors |= {f"reply/{k}": v for k, v in self.reply.items()}
        facts = {
            "run": self.run,
            "round": str(self.round),
            "request": self.request,
            "agreement": self.agreement,
            "ledger": self.ledger,
        }
        if self.clipping_norm is not None:
            facts["clipping_norm"] = repr(self.clipping_norm)
        save_weights(folder / _FILE, tensors, facts)

    @staticmethod
    def standing(folder: Path) -> tuple[str, int] | None:
        """Return run and round of the state in `folder`, without reading more of it; None before the first round."""
        if not (folder / _FILE).exists():
            return None
        facts = load_facts(folder / _FILE)
        return facts["run"], int(facts["round"])

    @classmethod
    def load(cls, folder: Path) -> PrivateState | None:
        """Return the state in `folder`, or None before the first round."""
        if not (folder / _FILE).exists():
            return None
        tensors, metadata = load_weights(folder / _FILE)

        def part(prefix: str) -> dict[str, Tensor]:
            return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

        return cls(
            run=metadata["run"],
            round=int(metadata["round"]),
            request=metadata["request"],
            agreement=metadata["agreement"],
            heads=part("heads/"),
            reply=part("reply/"),
            ledger=metadata["ledger"],
            clipping_norm=float(metadata["clipping_norm"]) if "clipping_norm" in metadata else None,
        )
