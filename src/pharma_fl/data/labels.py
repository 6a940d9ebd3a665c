"""Labels of a threshold, and whether they suffice for evaluation."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

_CLASS_QUORUM = 10
_VALUE_QUORUM = 25
_SPREAD = 0.5


def label(
    values: npt.NDArray[np.float64],
    censor: npt.NDArray[np.int8],
    threshold: float,
    direction: Literal["high", "low"],
) -> npt.NDArray[np.int8]:
    """Return +1 for active, -1 for inactive, 0 where a censored value leaves it open.

    ``high`` counts ``value >= threshold`` as active, ``low`` counts ``value <= threshold``.

    Parameters
    ----------
    values : float64 array (n,)
    censor : int8 array (n,)
        The true value is -1 below, 0 at, +1 above the written one.
    threshold : float
    direction : str

    Returns
    -------
    int8 array (n,)

    Examples
    --------
    A value known to lie below 5 is inactive at threshold 5 and open at threshold 4.

    >>> label(np.array([5.0, 5.0]), np.array([-1, 0], dtype=np.int8), 5.0, "high").tolist()
    [-1, 1]
    >>> label(np.array([5.0]), np.array([-1], dtype=np.int8), 4.0, "high").tolist()
    [0]
    """
    sign = 1 if direction == "high" else -1
    # Seen from the active side both directions are the same.
    distance, bound = sign * (values - threshold), sign * censor
    active = (distance >= 0) & (bound != -1)
    inactive = ((distance < 0) & (bound != 1)) | ((distance == 0) & (bound == -1))
    labels: npt.NDArray[np.int8] = active.astype(np.int8) - inactive.astype(np.int8)
    return labels


def enough_classes(labels: npt.NDArray[np.int8], folds: npt.NDArray[np.int8], count: int) -> bool:
    """Whether each of `count` folds holds at least 10 actives and 10 inactives; an absent fold holds none."""
    fewest = min(int(np.bincount(folds[labels == side], minlength=count).min()) for side in (1, -1))
    return fewest >= _CLASS_QUORUM


def enough_values(
    values: npt.NDArray[np.float64],
    censor: npt.NDArray[np.int8],
    folds: npt.NDArray[np.int8],
    count: int,
    *,
    spread: bool,
) -> bool:
    """Whether each of `count` folds holds at least 25 uncensored values.

    With `spread` (all types but ADME) their standard deviation in each fold must also reach 0.5.
    """
    exact, where = values[censor == 0], folds[censor == 0]
    if int(np.bincount(where, minlength=count).min()) < _VALUE_QUORUM:
        return False
    return not spread or min(float(np.std(exact[where == fold], ddof=1)) for fold in range(count)) >= _SPREAD
