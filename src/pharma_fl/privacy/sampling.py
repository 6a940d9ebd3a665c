"""Poisson sampling of units: which compounds, or which whole series, take part in a step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pharma_fl.errors import PrivacyError

if TYPE_CHECKING:
    from pharma_fl.privacy.noise import NoiseSource


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """What takes part in one step. All of it follows from the data: only noised sums over it may leave.

    Attributes
    ----------
    rows : ndarray
        int64 (b,): row numbers, each at most once; b is random and may be 0.
    units : int
        How many units were sampled.
    series : ndarray or None
        int64 (b,): the series of each row, those of one series side by side; None where a unit is a compound.
    """

    rows: NDArray[np.int64]
    units: int
    series: NDArray[np.int64] | None = None

    def blocks(self, size: int) -> Iterator[slice]:
        """Cut the rows into blocks of at most `size`, none within a unit; at least one, which may be empty.

        >>> sample = Sample(rows=np.arange(5), units=3, series=np.array([4, 4, 7, 9, 9]))
        >>> [(block.start, block.stop) for block in sample.blocks(3)]
        [(0, 3), (3, 5)]
        """
        count = len(self.rows)
        inner = np.arange(1, count) if self.series is None else np.flatnonzero(np.diff(self.series)) + 1
        edges = np.concatenate([[0], inner, [count]])
        first = 0
        while True:
            last = int(edges[np.searchsorted(edges, first + size, side="right") - 1])
            if last == first < count:
                raise ValueError(f"expected blocks of at least the largest unit's rows, got {size}")
            yield slice(first, last)
            first = last
            if first == count:
                return


def compound_sample(noise: NoiseSource, *, records: int, sample_rate: float) -> Sample:
    """Include each of `records` rows independently with probability `sample_rate`; rows ascend."""
    rows = np.flatnonzero(noise.uniform(records) < sample_rate).astype(np.int64)
    return Sample(rows=rows, units=len(rows))


def series_sample(noise: NoiseSource, *, series: NDArray[np.int32], sample_rate: float, most: int) -> Sample:
    """Include each series independently with probability `sample_rate`, and at most `most` of its members.

    Which members of a larger series take part is drawn uniformly, without replacement. However they are chosen, as
    long as it follows from the series alone and from randomness that nobody else's choice uses, what a series adds to
    the step's sum is a (random) vector that no other series changes, clipped to the clipping norm. So adding or
    removing a whole series moves the sum by that norm at most, for every choice and so for their mixture.

    Parameters
    ----------
    noise : NoiseSource
        Randomness of both draws.
    series : ndarray
        int32 (n,): the series of each row, numbered from 0; numbers may be missing.
    sample_rate : float
        Of a series.
    most : int
        Members of one series that take part.

    Returns
    -------
    Sample
        Rows by series, and ascending within each.
    """
    sizes = np.bincount(series)
    drawn = (noise.uniform(len(sizes)) < sample_rate) & (sizes > 0)
    rows = np.flatnonzero(drawn[series])
    rows = rows[np.argsort(series[rows], kind="stable")]
    numbers = series[rows].astype(np.int64)
    by_chance = np.lexsort((noise.uniform(len(rows)), numbers))
    members = sizes[drawn]
    rank = np.arange(len(rows)) - np.repeat(np.cumsum(members) - members, members)
    chosen = np.sort(by_chance[rank < most])
    return Sample(rows=rows[chosen].astype(np.int64), units=len(members), series=numbers[chosen])


def known_series(series: NDArray[np.int32] | None) -> NDArray[np.int32]:
    """Return each compound's series.

    Raises
    ------
    PrivacyError
        ``PFL-P08`` the prepared data do not have them.
    """
    if series is None:
        raise PrivacyError(
            "PFL-P08",
            'Series are protected (unit = "series"), and the prepared data do not say which series a compound is of. '
            "Prepare from tables with folds.method scaffold or temporal.",
        )
    return series
