"""Predictions of a network: each row's depends on that row alone."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from pharma_fl.model.network import SparseMultitaskNetwork
from pharma_fl.model.records import Records

_CHUNK = 4096


def predict(network: SparseMultitaskNetwork, records: Records) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Predict every record.

    Returns
    -------
    tuple of ndarray
        Logits float32 (n, classification tasks) and standardised values float32 (n, regression tasks).
    """
    network.eval()
    parts = []
    with torch.no_grad():
        for start in range(0, max(1, len(records)), _CHUNK):
            rows = np.arange(start, min(start + _CHUNK, len(records)))
            parts.append(network(records.batch(rows).x))
    logits, values = (torch.cat(column).numpy() for column in zip(*parts, strict=True))
    return logits, values
