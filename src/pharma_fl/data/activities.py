"""From measurements to one value for each assay and compound.

Credible ranges, qualifiers and the rules for replicates are those of MELLODDY-TUNER 3. Two of its filters are
left out on purpose: those on an assay's variance and on its number of labels. They make a task appear or vanish
with single compounds, which would tell about them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from pharma_fl.data.tables import QUALIFIERS

DropReason = Literal["structure_failed", "not_plus_minus_one", "out_of_range", "qualifier_tie"]

CREDIBLE = {"ADME": (-1e12, 1e12), "OTHER": (3.0, 10.0), "NON-CATALOG-PANEL": (3.0, 10.0)}
"""Smallest and largest value taken, both included, by assay type. Binary assays hold +1 and -1 instead."""

_KEY = ["input_assay_id", "record"]


@dataclass(frozen=True, eq=False)
class Activities:
    """Aggregated values, and what was dropped on the way.

    Attributes
    ----------
    table : DataFrame
        ``input_assay_id`` int64, ``record`` int64, ``value`` float64, ``censor`` int8 (the true value is -1
        below, 0 at, +1 above), one row each assay and record, sorted by both.
    kept : int
        Measurements that went into `table`.
    dropped : DataFrame
        The other rows of T1 in their order, with ``reason``.
    """

    table: pd.DataFrame
    kept: int
    dropped: pd.DataFrame


def aggregate(assays: pd.DataFrame, activities: pd.DataFrame, records: npt.NDArray[np.int64]) -> Activities:
    """Drop measurements that cannot be used and aggregate replicates.

    Parameters
    ----------
    assays, activities : DataFrame
        As in `Tables`.
    records : int64 array (len(activities),)
        The record, that is the standardised structure, of each activity; -1 where the structure failed.

    Returns
    -------
    Activities
        Replicates become one value: binary, the majority, a tie is +1; ADME, the median with the most
        frequent qualifier, where a tie with ``=`` gives ``=`` and one of ``<`` and ``>`` drops the rows;
        OTHER and NON-CATALOG-PANEL, the largest value that has no ``<`` (of equal ones that with ``=``), or
        the largest where all have ``<``, rounded to two decimals. Nothing depends on the order of rows.
    """
    traits = assays.set_index("input_assay_id").loc[activities["input_assay_id"], ["assay_type", "is_binary"]]
    binary = traits["is_binary"].to_numpy(dtype=bool)
    kind = traits["assay_type"].to_numpy(dtype=object)
    value = activities["standard_value"].to_numpy()
    low = np.array([CREDIBLE[name][0] for name in kind], dtype=np.float64)
    high = np.array([CREDIBLE[name][1] for name in kind], dtype=np.float64)

    reason = np.full(len(activities), "", dtype=object)
    reason[~binary & ((value < low) | (value > high))] = "out_of_range"
    reason[binary & (np.abs(value) != 1)] = "not_plus_minus_one"
    reason[records < 0] = "structure_failed"

    rows = pd.DataFrame(
        {
            "input_assay_id": activities["input_assay_id"].to_numpy(),
            "record": records,
            "value": value,
            "censor": activities["standard_qualifier"].map(QUALIFIERS).to_numpy(dtype=np.int8),
        }
    )
    usable = reason == ""
    adme = kind == "ADME"
    medians, ties = _median(rows[usable & ~binary & adme])
    tied = pd.MultiIndex.from_frame(rows[_KEY]).isin(ties) & usable & ~binary & adme
    reason[tied] = "qualifier_tie"
    parts = [_majority(rows[usable & binary]), medians, _largest(rows[usable & ~binary & ~adme])]
    values = pd.concat(parts, ignore_index=True).sort_values(_KEY, ignore_index=True)
    lost = reason != ""
    dropped = activities[lost].assign(reason=reason[lost])
    return Activities(
        table=values.astype({"input_assay_id": np.int64, "record": np.int64, "value": np.float64, "censor": np.int8}),
        kept=int(np.count_nonzero(~lost)),
        dropped=dropped.reset_index(drop=True),
    )


def _majority(rows: pd.DataFrame) -> pd.DataFrame:
    votes = rows.groupby(_KEY)["value"].sum().reset_index()
    votes["value"] = np.where(votes["value"] >= 0, 1.0, -1.0)
    return votes.assign(censor=np.int8(0))


def _largest(rows: pd.DataFrame) -> pd.DataFrame:
    order = rows.assign(below=rows["censor"] == -1, above=rows["censor"] == 1).sort_values(
        [*_KEY, "below", "value", "above"], ascending=[True, True, True, False, True]
    )
    first = order.drop_duplicates(_KEY)[[*_KEY, "value", "censor"]]
    return first.assign(value=first["value"].round(2))


def _median(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.MultiIndex]:
    groups = rows.assign(below=rows["censor"] == -1, exact=rows["censor"] == 0, above=rows["censor"] == 1).groupby(_KEY)
    counts = groups[["below", "exact", "above"]].sum()
    below, exact, above = (counts[name].to_numpy() for name in ("below", "exact", "above"))
    most = np.maximum(below, above)
    censor = np.where(exact >= most, 0, np.where(below > above, -1, 1)).astype(np.int8)
    tie = (below == above) & (exact < most)
    table = groups["value"].median().to_frame().assign(censor=censor)
    index = table.index
    assert isinstance(index, pd.MultiIndex)
    return table[~tie].reset_index(), index[tie]
