"""Losses of one record: the sum over its labelled cells, and nothing of any other record."""

from __future__ import annotations

from torch import Tensor

from pharma_fl.model.batches import Batch, Cells
from pharma_fl.model.elementwise import cross_entropy
from pharma_fl.model.network import SparseMultitaskNetwork
from pharma_fl.model.records import TaskWeights


def network_losses(
    network: SparseMultitaskNetwork, batch: Batch, *, weights: TaskWeights, labelled_cells: bool = True
) -> Tensor:
    """Run a network over a batch and return the loss of each record.

    A record's loss depends on that record alone: it is a weighted sum over its own cells and is never
    divided by a count taken from the batch, so one compound cannot change another's gradient. A record
    without labels has loss 0.

    Parameters
    ----------
    network : SparseMultitaskNetwork
        Trunk and heads.
    batch : Batch
        b rows with their labelled cells.
    weights : TaskWeights
        Public constants of the tasks.
    labelled_cells : bool
        Compute the heads at the labelled cells alone, which is all that a loss needs. Heads that are computed whole
        are for comparison: their product's rounding is not measured for private training.

    Returns
    -------
    Tensor
        float32 (b,)
    """
    if labelled_cells:
        logits, values = network.at_cells(batch)
    else:
        all_logits, all_values = network(batch.x)
        logits = all_logits[batch.classes.rows, batch.classes.columns]
        values = all_values[batch.values.rows, batch.values.columns]
    return record_losses(logits, values, batch, weights=weights)


def record_losses(logits: Tensor, values: Tensor, batch: Batch, *, weights: TaskWeights) -> Tensor:
    """Return the loss of each record, float32 (b,), from predictions at the labelled cells, float32 (cells,)."""
    losses = logits.new_zeros(len(batch)).float()
    cells = batch.classes
    crossed = cross_entropy(logits.float(), cells.values)
    losses = losses.index_add(0, cells.rows, crossed * weights.classes[cells.columns])
    cells = batch.values
    if not len(cells):
        return losses
    weight = weights.values[cells.columns]
    weight = weight.where(cells.censor == 0, weight * weights.censored[cells.columns])
    return losses.index_add(0, cells.rows, censored_squared_error(values.float(), cells) * weight)


def censored_squared_error(predicted: Tensor, cells: Cells) -> Tensor:
    """Squared error that a censored value pays only on its wrong side.

    With ``d = measured - predicted``: ``d^2`` for an exact value, ``max(d, 0)^2`` where the true value is
    above the measured one, ``max(-d, 0)^2`` where it is below.

    Parameters
    ----------
    predicted : Tensor
        float32 (cells,)
    cells : Cells
        Measured values with their censoring.

    References
    ----------
    SparseChem 1.0, ``censored_mse_loss``.
    """
    difference = cells.values - predicted
    above = difference.clamp(min=0)
    below = difference.clamp(max=0)
    error = difference.where(cells.censor == 0, above.where(cells.censor > 0, below))
    return error.square()
