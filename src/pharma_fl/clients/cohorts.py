"""The records of the cohorts that a charge was made for."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

import numpy as np
from numpy.typing import NDArray

from pharma_fl.data.cells import NO_DATE
from pharma_fl.data.matrices import PreparedData
from pharma_fl.errors import DataError
from pharma_fl.model.records import Records
from pharma_fl.privacy.entries import Cohort

_EPOCH = date(1970, 1, 1).toordinal()


def of_cohorts(records: Records, cohorts: Sequence[Cohort]) -> Records:
    """Return the records of some cohorts; without cohorts, all.

    A compound without a date counts as of the oldest.
    """
    if not cohorts:
        return records
    return records.select(np.flatnonzero(within(dated(records), cohorts)))


def within(days: NDArray[np.int32], cohorts: Sequence[Cohort]) -> NDArray[np.bool_]:
    """Return which compounds, by their days, are of one of some cohorts, bool (n,)."""
    inside = np.zeros(len(days), dtype=bool)
    for cohort in cohorts:
        since = NO_DATE if cohort.since is None else cohort.since.toordinal() - _EPOCH
        until = np.iinfo(np.int32).max if cohort.until is None else cohort.until.toordinal() - _EPOCH
        inside |= (since <= days) & (days < until)
    return inside


def dated(records: Records | PreparedData) -> NDArray[np.int32]:
    """Return each compound's day, int32 (n,).

    Raises
    ------
    DataError
        ``PFL-D17`` the prepared data have no dates.
    """
    if records.days is None:
        raise DataError(
            "PFL-D17",
            "partner.toml declares cohorts (budget.cohorts), and the prepared data say nothing of when compounds came. "
            "Run pharma-fl prepare again.",
        )
    return records.days
