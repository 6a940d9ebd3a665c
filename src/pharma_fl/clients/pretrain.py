"""Training a trunk on public measurements, without noise, for a federation to start from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pharma_fl import __version__
from pharma_fl.clients.records import open_records, records_at, training_folds
from pharma_fl.config import ModelSettings, Partner
from pharma_fl.data.matrices import PreparedData
from pharma_fl.model.ensemble import Ensemble
from pharma_fl.model.fit import FitSettings, fit, new_network
from pharma_fl.model.pretrained import save_pretrained
from pharma_fl.model.selection import validation_score


@dataclass(frozen=True, kw_only=True)
class PretrainSettings:
    """How long and how a public trunk is trained.

    Attributes
    ----------
    epochs, batch_size, seed : int
        Passes over the public compounds, compounds a step, and the seed of start and order.
    learning_rate, weight_decay : float
        Of AdamW.
    """

    epochs: int = 20
    batch_size: int = 256
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    seed: int = 0


def pretrain(
    public: Partner, model: ModelSettings, settings: PretrainSettings, *, source: str, out: Path
) -> dict[str, Any]:
    """Train a trunk on tables that anybody may see, and write it with its provenance.

    There is no clip, no noise and no ledger: whatever the tables hold can be found in the checkpoint, which goes to
    every partner. Tables that are not public must never be given.

    Parameters
    ----------
    public : Partner
        Folder and settings of the public tables, prepared with the consortium's key as every partner's are.
    model : ModelSettings
        The federation's network; what it freezes or adapts later is trained here.
    settings : PretrainSettings
        How.
    source : str
        Where the tables come from, with version and licence; it travels with the checkpoint.
    out : Path
        The checkpoint's file.

    Returns
    -------
    dict
        The provenance that was written, with the file's ``digest``.
    """
    whole = model.model_copy(update={"frozen_layers": 0, "adapter_rank": 0, "pretrained": None, "catalogue": ()})
    records = open_records(public, whole, training_folds(public))
    network = new_network(whole, records, settings.seed)
    how = FitSettings(
        model=whole,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        epochs=settings.epochs,
        batch_size=settings.batch_size,
    )
    fit(network, records, how, seed=settings.seed)
    held_out = records_at(public, (public.folds.validation,))
    logits, values = Ensemble.of([(network, 1.0)], records_at(public, training_folds(public))).predict(held_out)
    manifest = PreparedData.open(public.path(public.data)).manifest
    provenance = {
        "source": source,
        "model": whole.model_dump(mode="json"),
        "training": how.model_dump(mode="json", exclude={"model"}) | {"seed": settings.seed},
        "compounds": len(records),
        "tasks": [network.class_tasks, network.value_tasks],
        "validation_score": validation_score(logits, values, held_out(whole)),
        "key_id": manifest.get("key_id"),
        "key_scheme": manifest.get("key_scheme"),
        "fingerprint": manifest.get("settings", {}).get("fingerprint"),
        "versions": manifest.get("versions", {}) | {"pharma_fl": __version__, "torch": str(torch.__version__)},
    }
    digest = save_pretrained(out, network.trunk, provenance)
    return provenance | {"digest": digest}
