"""Where a partner's network trains, and its records beside it."""

from __future__ import annotations

import logging
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pharma_fl.config import ModelSettings
from pharma_fl.errors import ModelError
from pharma_fl.model.batches import Batch, Cells, SparseRows
from pharma_fl.model.records import Records, TaskWeights

_LOG = logging.getLogger(__name__)
_RESIDENT_SHARE = 0.5
"""Of a GPU's free memory, what the records may take; the network, its gradients and activations need the rest."""


class BatchSource(Protocol):
    """Records that gives batches on the device that trains."""

    @property
    def weights(self) -> TaskWeights:
        """Public constants of the tasks."""

    @property
    def series(self) -> NDArray[np.int32] | None:
        """Number of each record's series, on the CPU, where samples are drawn."""

    def __len__(self) -> int: ...

    def batch(self, rows: NDArray[np.int64], size: int | None = None) -> Batch:
        """Gather some records; blank rows fill the batch up to `size`."""


def choose_device(wanted: str) -> torch.device:
    """Return the device that a setting names.

    Parameters
    ----------
    wanted : str
        ``"cpu"``, ``"cuda"``, ``"cuda:N"``, or ``"auto"``: the GPU where there is exactly one, else the CPU.

    Raises
    ------
    ModelError
        ``PFL-M09`` there is no such GPU, or several and none is named: a network trains on one.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted == "cpu" or (wanted == "auto" and count == 0):
        return torch.device("cpu")
    if wanted in {"auto", "cuda"} and count > 1:
        raise ModelError(
            "PFL-M09",
            f"This machine shows {count} GPUs, and one network trains on one. Name it: compute.device = "
            f'"cuda:0" to "cuda:{count - 1}" in partner.toml, or "cpu".',
        )
    index = int(wanted.removeprefix("cuda:")) if wanted.startswith("cuda:") else 0
    if index >= count:
        raise ModelError(
            "PFL-M09",
            f'Expected compute.device to name a GPU that is there, got "{wanted}" with {count} GPUs. '
            'Use "cpu", or install a build of PyTorch for this GPU.',
        )
    return torch.device("cuda", index)


def on_device(records: Records, device: torch.device) -> BatchSource:
    """Return the records where batches are gathered for a device: whole in a GPU's memory if they fit there."""
    if device.type == "cpu":
        return records
    resident = ResidentRecords.bytes_of(records)
    free, _ = torch.cuda.mem_get_info(device)
    if resident <= _RESIDENT_SHARE * free:
        return ResidentRecords(records, device)
    _LOG.warning(
        "The records need %d MiB of the GPU's %d MiB free; each batch is copied there instead.",
        resident >> 20,
        free >> 20,
    )
    return _Copied(records, device)


def made_batch(model: ModelSettings, tasks: tuple[int, int], rows: int) -> Batch:
    """Return a batch of made rows with more bits and labels than most compounds have, to try a block's memory with."""
    bits = min(256, model.input_bits)
    return Batch(
        x=SparseRows(
            indices=torch.arange(bits).repeat(rows),
            offsets=torch.arange(rows + 1) * bits,
            values=torch.ones(bits * rows),
            columns=model.input_bits,
        ),
        classes=_made_cells(tasks[0], rows),
        values=_made_cells(tasks[1], rows),
    )


def _made_cells(tasks: int, rows: int) -> Cells:
    each = min(64, tasks)
    return Cells(
        columns=torch.arange(each).repeat(rows),
        offsets=torch.arange(rows + 1) * each,
        values=torch.ones(each * rows),
        censor=torch.zeros(each * rows),
    )


class ResidentRecords:
    """Records whose rows lie in the device's memory and are gathered there.

    Parameters
    ----------
    records : Records
        What to copy.
    device : torch.device
        Where to.
    """

    def __init__(self, records: Records, device: torch.device) -> None:
        whole = records.all().to(device)
        self.weights, self.series = records.weights.to(device), records.series
        self._x, self._classes, self._values = whole.x, whole.classes, whole.values
        self._device = device

    def __len__(self) -> int:
        return len(self._x)

    @staticmethod
    def bytes_of(records: Records) -> int:
        """Return the memory that `records` will take."""
        entries = records.x.nnz * (8 if records.binary else 12)
        cells = (records.classes.nnz + records.values.nnz) * 16
        return int(entries + cells + 24 * len(records))

    def batch(self, rows: NDArray[np.int64], size: int | None = None) -> Batch:
        """Gather some records, which may be none; blank rows fill the batch up to `size`."""
        places = torch.from_numpy(rows).to(self._device)
        blank = max(0, (size or 0) - len(rows))
        x = self._x.take(places)
        return Batch(
            x=SparseRows(indices=x.indices, offsets=_filled(x.offsets, blank), values=x.values, columns=x.columns),
            classes=_taken(self._classes, places, blank),
            values=_taken(self._values, places, blank),
        )


class _Copied:
    def __init__(self, records: Records, device: torch.device) -> None:
        self.weights, self.series = records.weights.to(device), records.series
        self._records, self._device = records, device

    def __len__(self) -> int:
        return len(self._records)

    def batch(self, rows: NDArray[np.int64], size: int | None = None) -> Batch:
        return self._records.batch(rows, size).to(self._device)


def _taken(cells: Cells, rows: Tensor, blank: int) -> Cells:
    numbers = torch.arange(len(cells), device=rows.device)
    picked = SparseRows(indices=numbers, offsets=cells.offsets, values=None, columns=0).take(rows)
    return Cells(
        columns=cells.columns[picked.indices],
        offsets=_filled(picked.offsets, blank),
        values=cells.values[picked.indices],
        censor=cells.censor[picked.indices],
    )


def _filled(offsets: Tensor, blank: int) -> Tensor:
    return torch.cat([offsets, offsets[-1:].expand(blank)])
