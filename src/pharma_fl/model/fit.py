"""Training without privacy: what a partner does for itself with a model that never leaves."""

from __future__ import annotations

import numpy as np
import torch

from pharma_fl.config.base import Settings
from pharma_fl.config.federation import ModelSettings
from pharma_fl.errors import ModelError
from pharma_fl.model.losses import network_losses
from pharma_fl.model.network import SparseMultitaskNetwork
from pharma_fl.model.records import Records


class FitSettings(Settings):
    """Minibatch AdamW for a fixed number of epochs.

    Attributes
    ----------
    model : ModelSettings
        Network to train.
    learning_rate, weight_decay : float
        Of AdamW; the decay is decoupled.
    epochs, batch_size : int
        Passes over the records, and records a step.
    """

    model: ModelSettings
    learning_rate: float
    epochs: int
    weight_decay: float = 0.0
    batch_size: int = 32


def new_network(model: ModelSettings, records: Records, seed: int) -> SparseMultitaskNetwork:
    """Return a network at its start, with the head that `records` need."""
    weights = records.weights
    return SparseMultitaskNetwork(
        model,
        class_tasks=len(weights.classes),
        value_tasks=len(weights.values),
        seed=seed,
        catalogue=weights.catalogue,
    )


def fit(network: SparseMultitaskNetwork, records: Records, settings: FitSettings, *, seed: int) -> None:
    """Train all parameters that require a gradient, in place.

    Parameters
    ----------
    network : SparseMultitaskNetwork
        Where to start; its input width is that of `records`.
    records : Records
        The partner's own training records.
    settings : FitSettings
        How.
    seed : int
        Of the order of records and of dropout.

    Raises
    ------
    ModelError
        ``PFL-M05`` there is no record to train on.
    """
    if not len(records):
        raise ModelError(
            "PFL-M05",
            "The training folds hold no compound, so no model can be fitted. Prepare more compounds, or choose other "
            "folds (partner.toml: folds).",
        )
    rng = np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(
        [parameter for parameter in network.parameters() if parameter.requires_grad],
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network.train()
        for _ in range(settings.epochs):
            order = rng.permutation(len(records))
            for start in range(0, len(order), settings.batch_size):
                batch = records.batch(order[start : start + settings.batch_size])
                optimizer.zero_grad()
                network_losses(network, batch, weights=records.weights).mean().backward()  # type: ignore[no-untyped-call]
                optimizer.step()
