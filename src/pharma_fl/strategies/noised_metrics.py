"""What noised counts of predicted probabilities say of a model."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_MASS = 5.0
"""Each class must count so many standard deviations of its own noise before an area is computed."""

POOLED = "pooled"


def noised_areas(counts: NDArray[np.float64], catalogue: Sequence[int], *, std: float) -> dict[str, dict[str, float]]:
    """Return the areas under the ROC curve that noised counts allow.

    Parameters
    ----------
    counts : ndarray
        float64 (1 + catalogue tasks, 2, bins): all tasks pooled, then each task of the catalogue; inactive and active;
        bins of ascending probability.
    catalogue : sequence of int
        Ids of the catalogue's tasks.
    std : float
        Standard deviation of the noise on each count.

    Returns
    -------
    dict
        ``value`` and ``standard_error``, by ``pooled`` and catalogue id; without those whose noise is too large.
    """
    areas = {}
    for name, part in zip((POOLED, *map(str, catalogue)), counts, strict=True):
        area = noised_auc_roc(part, std=std)
        if area is not None:
            areas[name] = {"value": area[0], "standard_error": area[1]}
    return areas


def noised_auc_roc(counts: NDArray[np.float64], *, std: float) -> tuple[float, float] | None:
    """Return the area under the ROC curve of binned scores, and its standard error from the noise alone.

    Pairs within a bin count one half. The error is that of the first derivatives of the area by each count, at the
    noised counts, which makes it a little too large rather than too small. How few compounds were measured adds
    nothing to it, and neither do the bins' widths.

    Parameters
    ----------
    counts : ndarray
        float64 (2, bins): inactive and active, bins of ascending score; noised, so also below 0.
    std : float
        Standard deviation of the independent noise on each count.

    Returns
    -------
    tuple or None
        Area, kept within 0 and 1, and standard error. None where a class counts less than 5 standard deviations of
        its noise.

    Examples
    --------
    >>> noised_auc_roc(np.array([[300.0, 100.0], [100.0, 300.0]]), std=0.0)
    (0.75, 0.0)
    """
    inactive, active = counts
    negatives, positives = inactive.sum(), active.sum()
    if not min(negatives, positives) > _MASS * std * math.sqrt(counts.shape[1]):
        return None
    below = (np.cumsum(inactive) - inactive / 2) / negatives
    above = (np.cumsum(active[::-1])[::-1] - active / 2) / positives
    area = float(active @ below / positives)
    slopes = np.concatenate([(below - area) / positives, (above - area) / negatives])
    return min(1.0, max(0.0, area)), float(std * np.linalg.norm(slopes))
