"""Labels of a threshold: active, inactive, or left open by a qualifier."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

Side = Literal["high", "low", "absolute"]


def label(
    values: npt.NDArray[np.float64],
    censor: npt.NDArray[np.int8],
    threshold: float,
    side: Side,
) -> npt.NDArray[np.int8]:
    """Return +1 for active, -1 for inactive, 0 where a censored value leaves it open.

    Parameters
    ----------
    values : float64 array (n,)
    censor : int8 array (n,)
        The true value is -1 below, 0 at, +1 above the written one. All zero where qualifiers are to be ignored.
    threshold : float
    side : str
        ``high`` counts ``value >= threshold`` as active, ``low`` counts ``value <= threshold``, ``absolute``
        counts ``abs(value) >= threshold`` and always ignores `censor`, which has no meaning there.

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
    if side == "absolute":
        return np.where(np.abs(values) >= threshold, 1, -1).astype(np.int8)
    sign = 1 if side == "high" else -1
    # Seen from the active side both directions are the same.
    distance, bound = sign * (values - threshold), sign * censor
    active = (distance >= 0) & (bound != -1)
    inactive = ((distance < 0) & (bound != 1)) | ((distance == 0) & (bound == -1))
    labels: npt.NDArray[np.int8] = active.astype(np.int8) - inactive.astype(np.int8)
    return labels
