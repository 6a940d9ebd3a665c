"""From the measurements on disk to one value for each assay and compound, assay by assay, in bounded memory."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from pharma_fl.data.activities import QUALIFIERS, aggregate
from pharma_fl.data.rules import Rules
from pharma_fl.data.spool import PIECE, Columns, Spool, grouped
from pharma_fl.data.tables import QUALIFIER_TEXTS, Tables

_CENSOR = np.array([QUALIFIERS[text] for text in QUALIFIER_TEXTS], dtype=np.int8)
_VALUES = {"record": np.int32, "value": np.float64, "unrounded": np.float64, "censor": np.int8}


@dataclass(frozen=True, eq=False)
class Values:
    """Aggregated values.

    Attributes
    ----------
    columns : Columns
        ``record`` int32 (the compound), ``value`` and ``unrounded`` float64, ``censor`` int8; sorted by assay and
        record.
    begin : int64 array (assays + 1,)
        Where each assay's values begin.
    kept : int
        Measurements that went into them.
    dropped : dict
        How many did not, by reason.
    """

    columns: Columns
    begin: npt.NDArray[np.int64]
    kept: int
    dropped: dict[str, int]

    def __len__(self) -> int:
        return len(self.columns)


def aggregated(
    tables: Tables, record_of_row: npt.NDArray[np.int32], rules: Rules, spool: Path, failed_file: Path
) -> Values:
    """Aggregate all measurements, and list those that cannot be used.

    Parameters
    ----------
    tables : Tables
    record_of_row : int32 array
        The compound of each row of ``tables.structures``, -1 for none.
    rules : Rules
    spool : Path
        A folder for what does not fit into memory.
    failed_file : Path
        Written: the measurements that were dropped, by assay, with their reason.
    """
    read = tables.activities
    ordered = grouped(
        spool / "by-assay",
        read["assay"],
        len(tables.assays),
        {name: read[name] for name in ("structure", "qualifier", "value")},
    )
    out = Spool(spool / "values", _VALUES)
    counts = np.zeros(len(tables.assays) + 1, dtype=np.int64)
    dropped: Counter[str] = Counter()
    names = tables.assays["assay"].to_numpy(dtype=object)
    with failed_file.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["compound", "assay", "qualifier", "value", "reason"])
        for first, last in _batches(ordered["begin"]):
            rows = slice(int(ordered["begin"][first]), int(ordered["begin"][last]))
            assay = np.repeat(np.arange(first, last), np.diff(ordered["begin"][first : last + 1]))
            structure, qualifier, value = (ordered[name][rows] for name in ("structure", "qualifier", "value"))
            batch = pd.DataFrame(
                {
                    "assay": assay.astype(np.int32),
                    "record": record_of_row[structure],
                    "value": np.asarray(value),
                    "censor": _CENSOR[qualifier],
                }
            )
            result = aggregate(tables.assays, batch, rules)
            table = result.table
            out.append(**{name: table[name].to_numpy() for name in _VALUES})
            counts[1:] += np.bincount(table["assay"].to_numpy(), minlength=len(tables.assays))
            lost_rows = np.flatnonzero(result.reason != "")
            dropped.update(result.reason[lost_rows].tolist())
            labels = tables.structures.texts["compound"]
            writer.writerows(
                [
                    labels[int(structure[row])],
                    names[assay[row]],
                    QUALIFIER_TEXTS[qualifier[row]],
                    repr(float(value[row])),
                    result.reason[row],
                ]
                for row in lost_rows
            )
    lost = dict(sorted(dropped.items()))
    return Values(out.finish(), np.cumsum(counts), len(read) - sum(lost.values()), lost)


def _batches(begin: npt.NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Cut assays into runs that hold about `PIECE` measurements, whole assays each."""
    first = 0
    while first < len(begin) - 1:
        last = max(first + 1, int(np.searchsorted(begin, begin[first] + PIECE, side="right")) - 1)
        yield first, last
        first = last
