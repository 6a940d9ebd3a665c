"""From measurements to one value for each assay and compound.

Credible ranges, qualifiers and the rules for replicates are those of MELLODDY-TUNER 3, with their numbers in
rules.toml. Where TUNER lets the order of rows decide between equal candidates, a rule decides here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from pharma_fl.data.rules import Rules

DropReason = Literal["structure_failed", "not_plus_minus_one", "out_of_range", "qualifier_tie"]

QUALIFIERS = {"": 0, "=": 0, "~": 0, "<": -1, "<=": -1, "<<": -1, ">": 1, ">=": 1, ">>": 1}
"""Censor code of each qualifier: the true value is -1 below, 0 at, +1 above what is written."""

_MAJORITY, _MEDIAN, _LARGEST, _SMALLEST, _MAGNITUDE = range(5)
_UNROUNDED = -1
_Number = TypeVar("_Number", np.int64, np.float64)


@dataclass(frozen=True, eq=False)
class Activities:
    """Aggregated values, and what was dropped on the way.

    Attributes
    ----------
    table : DataFrame
        ``assay`` int32, ``record`` int32, ``value`` float64, ``unrounded`` float64, ``censor`` int8 (the true
        value is -1 below, 0 at, +1 above), one row each assay and record, sorted by both. ``value`` is what
        everything is made of; ``unrounded`` is the same before rounding and serves the variance rule alone.
    reason : object array (len(rows),)
        A `DropReason` for each measurement that did not go into `table`, "" for the others.
    """

    table: pd.DataFrame
    reason: npt.NDArray[np.object_]


@dataclass(frozen=True, kw_only=True)
class _Traits:
    """What the rules say of each row of `assays`, as arrays."""

    binary: npt.NDArray[np.bool_]
    lowest: npt.NDArray[np.float64]
    highest: npt.NDArray[np.float64]
    method: npt.NDArray[np.int8]
    decimals: npt.NDArray[np.int8]


def aggregate(assays: pd.DataFrame, rows: pd.DataFrame, rules: Rules) -> Activities:
    """Drop measurements that cannot be used and aggregate replicates.

    Parameters
    ----------
    assays : DataFrame
        ``assay_type``, ``is_binary`` and ``direction`` of each assay; a row's position is the assay's number.
    rows : DataFrame
        Measurements: ``assay`` int32 (number of the assay), ``record`` int32 (the structure; -1 where it
        failed), ``value`` float64, ``censor`` int8 (a code of `QUALIFIERS`).
    rules : Rules
        Ranges, rules for replicates, decimals.

    Returns
    -------
    Activities
        Nothing in ``table`` depends on the order of `rows`.

    Notes
    -----
    Replicates of a binary assay become the majority, and +1 in a tie, as an exact value. For other assays
    ``replicates`` of the type says what they become:

    ``median``
        The median with the most frequent qualifier. If exact values are among the most frequent the result is
        exact; if ``<`` and ``>`` alone are, all rows of the compound are dropped.
    ``largest``
        The largest value without ``<``, or the largest if all have it.
    ``by_direction``
        For direction high as ``largest``; for low the smallest value; for none the one of largest magnitude.

    Among equal values, or equal magnitudes, the exact one is taken, then the larger, then ``<`` before ``>``.
    """
    traits = _traits(assays, rules)
    assay, record = rows["assay"].to_numpy(np.int32), rows["record"].to_numpy(np.int32)
    # Adding zero makes -0.0 an ordinary zero, so that equal values are the same value.
    value, censor = rows["value"].to_numpy(np.float64) + 0.0, rows["censor"].to_numpy(np.int8)

    binary = traits.binary[assay]
    reason = np.full(len(rows), "", dtype=object)
    believed = np.where(binary, np.abs(value) == 1, (value >= traits.lowest[assay]) & (value <= traits.highest[assay]))
    failed = record < 0
    reason[~believed] = "out_of_range"
    reason[~believed & binary] = "not_plus_minus_one"
    reason[failed] = "structure_failed"

    usable = np.flatnonzero(believed & ~failed)
    order = usable[_order(assay[usable], record[usable], value[usable], censor[usable], traits.method)]
    table, tied = _groups(assay[order], record[order], value[order], censor[order], traits)
    reason[order[tied]] = "qualifier_tie"
    return Activities(table=table, reason=reason)


def _traits(assays: pd.DataFrame, rules: Rules) -> _Traits:
    kinds = assays["assay_type"].to_numpy(dtype=object)
    direction = assays["direction"].to_numpy(dtype=object)
    binary = assays["is_binary"].to_numpy(dtype=np.bool_)
    lowest, highest = np.full(len(assays), -np.inf), np.full(len(assays), np.inf)
    method = np.full(len(assays), _MAJORITY, dtype=np.int8)
    decimals = np.full(len(assays), _UNROUNDED, dtype=np.int8)
    for kind in set(kinds):
        here = ~binary & (kinds == kind)
        wanted = rules.of(kind).measurements
        if wanted is None:
            assert not here.any(), f"assays of type {kind} are binary"
            continue
        lowest[here], highest[here] = wanted.lowest, wanted.highest
        if wanted.decimals is not None:
            decimals[here] = wanted.decimals
        if wanted.replicates == "by_direction":
            method[here] = _MAGNITUDE
            method[here & (direction == "low")] = _SMALLEST
            method[here & (direction == "high")] = _LARGEST
        else:
            method[here] = _MEDIAN if wanted.replicates == "median" else _LARGEST
    return _Traits(binary=binary, lowest=lowest, highest=highest, method=method, decimals=decimals)


def _order(
    assay: npt.NDArray[np.int32],
    record: npt.NDArray[np.int32],
    value: npt.NDArray[np.float64],
    censor: npt.NDArray[np.int8],
    method_of: npt.NDArray[np.int8],
) -> npt.NDArray[np.intp]:
    """Sort by assay and record; within them the row that is taken comes first, and for medians by value."""
    method = method_of[assay]
    last_resort = (method == _LARGEST) & (censor == -1)
    rank = np.select([method == _LARGEST, method == _MAGNITUDE], [-value, -np.abs(value)], value)
    return np.lexsort((censor, -value, censor != 0, rank, last_resort, record, assay))


def _groups(
    assay: npt.NDArray[np.int32],
    record: npt.NDArray[np.int32],
    value: npt.NDArray[np.float64],
    censor: npt.NDArray[np.int8],
    traits: _Traits,
) -> tuple[pd.DataFrame, npt.NDArray[np.bool_]]:
    """Return the table, and which of the sorted rows belong to a compound with a tie of qualifiers."""
    new = np.ones(len(assay), dtype=np.bool_)
    new[1:] = (assay[1:] != assay[:-1]) | (record[1:] != record[:-1])
    start = np.flatnonzero(new)
    size = np.diff(np.append(start, len(assay)))
    method = traits.method[assay[start]]
    majority, median = method == _MAJORITY, method == _MEDIAN
    votes = _sums(value, start)
    middle = (value[start + (size - 1) // 2] + value[start + size // 2]) / 2
    unrounded = np.select([majority, median], [np.where(votes >= 0, 1.0, -1.0), middle], value[start])

    below, above = (_sums((censor == side).astype(np.int64), start) for side in (-1, 1))
    exact, most = size - below - above, np.maximum(below, above)
    frequent = np.where(exact >= most, 0, np.where(below > above, -1, 1))
    code = np.select([majority, median], [np.zeros_like(frequent), frequent], censor[start]).astype(np.int8)
    tie = median & (below == above) & (exact < most)

    rounded = unrounded.copy()
    decimals = traits.decimals[assay[start]]
    for places in set(decimals.tolist()) - {_UNROUNDED}:
        here = decimals == places
        rounded[here] = np.round(unrounded[here], places)
    table = pd.DataFrame(
        {"assay": assay[start], "record": record[start], "value": rounded, "unrounded": unrounded, "censor": code}
    )
    return table[~tie].reset_index(drop=True), np.repeat(tie, size)


def _sums(values: npt.NDArray[_Number], start: npt.NDArray[np.intp]) -> npt.NDArray[_Number]:
    # reduceat cannot take an empty array.
    sums: npt.NDArray[_Number] = np.add.reduceat(values, start) if len(start) else values
    return sums
