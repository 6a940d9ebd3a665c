"""What each held-out compound adds to the counts of predicted probabilities."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray

from pharma_fl.model.network import SparseMultitaskNetwork
from pharma_fl.model.records import Records
from pharma_fl.privacy.row_independence import independent_rows

_BLOCK = 512
"""Rows that are scored at a time. A constant, so that no compound decides how others are rounded."""


def cell_histograms(network: SparseMultitaskNetwork, records: Records, shape: tuple[int, int, int]) -> sp.csr_array:
    """Count each compound's labelled classification cells by task, class and predicted probability.

    A row follows from its own compound alone, bit for bit on a CPU: blocks have a fixed number of rows, in which no
    row's result depends on its place, and logits are compared with the bins' edges as they are. A cell without a
    probability, because the network gives none, is not counted.

    Parameters
    ----------
    network : SparseMultitaskNetwork
        On the CPU; its catalogue says which of its tasks are the consortium's.
    records : Records
        n compounds.
    shape : tuple of int
        ``(1 + catalogue tasks, 2, bins)``: all tasks pooled, then each task of the catalogue; inactive and active;
        bins of equal width between probability 0 and 1, each with its lower edge.

    Returns
    -------
    csr_array
        float64 (n, product of `shape`): whole numbers, in the order of `shape`.
    """
    # Factors rounded to fewer bits would round a row by its place.
    torch.set_float32_matmul_precision("highest")
    network.eval()
    groups, classes, bins = shape
    shares = np.arange(1, bins) / bins
    edges = np.log(shares / (1 - shares))
    size = independent_rows(network, _BLOCK)
    rows, places = [], []
    for start in range(0, len(records), size):
        batch = records.batch(np.arange(start, min(start + size, len(records))), size=size)
        with torch.no_grad():
            logits = network.at_cells(batch)[0].numpy().astype(np.float64)
        cells = batch.classes
        there = ~np.isnan(logits)
        cell = cells.values.numpy().astype(np.int64) * bins + np.searchsorted(edges, logits, side="right")
        common = network.catalogue[cells.columns].numpy()
        for kept, group in ((there, np.zeros_like(common)), (there & (common >= 0), 1 + common)):
            rows.append(start + cells.rows.numpy()[kept])
            places.append((group * classes * bins + cell)[kept])
    return _counts(rows, places, (len(records), groups * classes * bins))


def _counts(rows: list[NDArray[np.int64]], places: list[NDArray[np.int64]], shape: tuple[int, int]) -> sp.csr_array:
    none = np.empty(0, dtype=np.int64)
    where = np.concatenate([none, *rows]), np.concatenate([none, *places])
    return sp.csr_array(sp.coo_array((np.ones(len(where[0])), where), shape=shape))
