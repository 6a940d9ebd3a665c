"""A weighted average of networks: the form of every model that a partner finally uses."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pharma_fl.atomic import write_atomic
from pharma_fl.config.federation import ModelSettings
from pharma_fl.model.network import SparseMultitaskNetwork
from pharma_fl.model.predict import predict
from pharma_fl.model.records import Records
from pharma_fl.model.weights import save_weights

Array = NDArray[np.float32]
RecordsAt = Callable[[ModelSettings], Records]
"""Gives the same records at the input width that a network wants."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """One network of an ensemble.

    Attributes
    ----------
    network : SparseMultitaskNetwork
        The network.
    weight : float
        Its share.
    center, spread : ndarray
        float32 (classification tasks,): mean and standard deviation of its logits on the partner's
        training records. Networks differ in the scale of their logits, and an average without these would
        follow the loudest. They are constants of the model, so a prediction depends on its row alone.
    """

    network: SparseMultitaskNetwork
    weight: float
    center: Array
    spread: Array


class Ensemble:
    """Members whose weights sum to one.

    Parameters
    ----------
    members : sequence of Member
        At least one.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        self.members = tuple(members)

    @classmethod
    def of(cls, weighted: Sequence[tuple[SparseMultitaskNetwork, float]], training: RecordsAt) -> Ensemble:
        """Make an ensemble, measuring each network's logits on the training records."""
        total = sum(weight for _, weight in weighted)
        members = []
        for network, weight in weighted:
            logits, _ = predict(network, training(network.settings))
            members.append(
                Member(
                    network=network,
                    weight=weight / total,
                    center=logits.mean(0),
                    spread=logits.std(0) + np.float32(1e-6),
                )
            )
        return cls(members)

    def predict(self, records: RecordsAt) -> tuple[Array, Array]:
        """Predict logits float32 (n, classification tasks) and values float32 (n, regression tasks)."""
        spread = sum(m.weight * m.spread for m in self.members)
        center = sum(m.weight * m.center for m in self.members)
        logits: list[Array] = []
        values: list[Array] = []
        for member in self.members:
            own, value = predict(member.network, records(member.network.settings))
            logits.append(member.weight * (own - member.center) / member.spread)
            values.append(member.weight * value)
        return np.sum(logits, axis=0) * spread + center, np.sum(values, axis=0)

    def save(self, folder: Path, description: dict[str, object]) -> None:
        """Write the members and `description` to a folder; model.json goes last and completes it."""
        folder.mkdir(parents=True, exist_ok=True)
        for number, member in enumerate(self.members):
            scales = {"center": torch.from_numpy(member.center), "spread": torch.from_numpy(member.spread)}
            save_weights(folder / f"member-{number}.safetensors", member.network.state_dict() | scales)
        listed = [
            {"settings": m.network.settings.model_dump(), "weight": m.weight, "beside": m.network.beside is not None}
            for m in self.members
        ]
        write_atomic(folder / "model.json", json.dumps(description | {"members": listed}, indent=2).encode())
