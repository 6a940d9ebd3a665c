"""Losses of one record: the sum over its labelled cells, and nothing of any other record."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from pharma_fl.model.batches import Batch, Cells, Records


def record_losses(
    logits: Tensor, values: Tensor, batch: Batch, *, class_weights: Tensor, value_weights: Tensor
) -> Tensor:
    """Return the loss of each record.

    A record's loss depends on that record alone: it is a weighted sum over its own cells and is never
    divided by a count taken from the batch, so one compound cannot change another's gradient. A record
    without labels has loss 0.

    Parameters
    ----------
    logits, values : Tensor
        float32 (b, classification tasks) and (b, regression tasks).
    batch : Batch
        The labelled cells.
    class_weights, value_weights : Tensor
        float32 (tasks,): public constants.

    Returns
    -------
    Tensor
        float32 (b,)
    """
    losses = logits.new_zeros(len(batch))
    cells = batch.classes
    crossed = functional.binary_cross_entropy_with_logits(
        logits[cells.rows, cells.columns], cells.values, reduction="none"
    )
    losses = losses.index_add(0, cells.rows, crossed * class_weights[cells.columns])
    cells = batch.values
    squared = censored_squared_error(values[cells.rows, cells.columns], cells)
    return losses.index_add(0, cells.rows, squared * value_weights[cells.columns])


def network_losses(network: nn.Module, batch: Batch, *, records: Records) -> Tensor:
    """Run a network over a batch and return the loss of each record, with its tasks' public weights."""
    logits, values = network(batch.x)
    return record_losses(
        logits, values, batch, class_weights=records.class_weights, value_weights=records.value_weights
    )


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
