"""Noised counts: the Gaussian mechanism on a sum of one vector a unit."""

from __future__ import annotations

import math

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray

from pharma_fl.privacy.noise import NoiseSource

_GRID_BITS = 30


def noised_sum(
    contributions: sp.csr_array | NDArray[np.float64],
    *,
    clipping_norm: float,
    noise_multiplier: float,
    noise: NoiseSource,
) -> NDArray[np.float64]:
    """Return the sum of all rows, each clipped, plus Gaussian noise on every coordinate.

    A row must follow from its own unit alone. Then one unit more or less moves the clipped sum by at most
    `clipping_norm`, and with a unit being what `Charge.unit` says this is one Gaussian mechanism: it costs
    ``Charge(1.0, noise_multiplier, 1, unit)``, for data sets that differ by adding or removing one unit.

    Parameters
    ----------
    contributions : csr_array or ndarray
        float64 (n, k): one row a unit; n may be 0.
    clipping_norm : float
        Largest Euclidean norm of a row.
    noise_multiplier : float
        Standard deviation of the noise over `clipping_norm`.
    noise : NoiseSource
        Randomness; it rounds the noised sum to a public grid.

    Returns
    -------
    ndarray
        float64 (k,)

    Raises
    ------
    ValueError
        `clipping_norm` or `noise_multiplier` is not above 0.

    Notes
    -----
    `clipped_rows` says what a row adds. Its entries are multiples of 2^-30 of the clip's power of two, so their sum is
    exact in whatever order, up to four million units of the whole norm in one coordinate, and no unit decides how the
    others are rounded.
    """
    if not (clipping_norm > 0 and noise_multiplier > 0):
        raise ValueError(f"expected clipping_norm and noise_multiplier > 0, got {clipping_norm}, {noise_multiplier}")
    rows = clipped_rows(contributions, clipping_norm)
    total = np.bincount(rows.indices, weights=rows.data, minlength=rows.shape[1]).astype(np.float64)
    noise.add_normal(torch.from_numpy(total), noise_multiplier * clipping_norm)
    return total


def clipped_rows(contributions: sp.csr_array | NDArray[np.float64], clipping_norm: float) -> sp.csr_array:
    """Return rows scaled to a Euclidean norm of at most `clipping_norm`, float64 (n, k).

    ============================  ===========================================================
    row                           becomes
    ============================  ===========================================================
    zero                          zero
    norm at most the clip         itself
    norm above the clip           scaled to the clip
    an entry infinite or NaN      zero
    norm beyond float64           zero
    ============================  ===========================================================

    Entries are then rounded towards zero, to multiples of 2^-30 of the clip's power of two. Norm and scale are float64,
    so a clipped row's norm may exceed the clip by 1e-12 of it.
    """
    rows: sp.csr_array = sp.csr_array(contributions).astype(np.float64)
    # Positions that come twice are one coordinate.
    rows.sum_duplicates()
    number = np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr))
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        norms = np.sqrt(np.bincount(number, weights=np.square(rows.data), minlength=rows.shape[0]))
        scales = np.where(np.isfinite(norms), np.minimum(1.0, clipping_norm / norms), 0.0)[number]
        grid = math.ldexp(1.0, math.frexp(clipping_norm)[1] - 1 - _GRID_BITS)
        rows.data = np.where(scales > 0, np.trunc(rows.data * scales / grid) * grid, 0.0)
    return rows


def series_rows(contributions: sp.csr_array, series: NDArray[np.int32]) -> sp.csr_array:
    """Return one row a series, the sum of its compounds' rows, so that a series is clipped as one.

    Parameters
    ----------
    contributions : csr_array
        float64 (n, k): one row a compound.
    series : ndarray
        int32 (n,): the series of each compound, numbered from 0; numbers may be missing.
    """
    members = sp.csr_array(
        (np.ones(len(series)), (series, np.arange(len(series)))), shape=(int(series.max(initial=-1)) + 1, len(series))
    )
    return sp.csr_array(members @ contributions)
