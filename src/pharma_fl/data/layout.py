"""The prepared folder ``data/``: what training reads, mapped from disk and not loaded.

    manifest.json                         format, versions, settings, key id, counts, sizes, a hash of each file
    agreement.json                        what may be shown to other partners, to compare; see `agreement`
    x_{indptr,indices}.npy                fingerprint bits: int64, int32; every stored entry is 1
    x_counts.npy                          uint16 for each entry where counts were asked for, else empty
    y_class_{indptr,indices,values}.npy   labels: int64, int32, int8 (+1 active, -1 inactive)
    y_regr_{indptr,indices,values}.npy    values in the table's units: int64, int32, float32
    y_regr_censor.npy                     int8 for each entry: the true value is -1 below, 0 at, +1 above
    folds.npy                             int8 for each row
    series.npy                            int32 for each row: number of its scaffold family, from 0, which means nothing
                                          in another folder; empty where families are not scaffolds
    days.npy                              int32 for each row: earliest date, in days since 1970-01-01, `cells.NO_DATE`
                                          where it has none; empty where no column of dates is named
    compounds.csv, tasks.csv              what rows and columns are

failed_*.csv and ambiguous_labels.csv hold what was dropped, and why.

Rows are compressed (CSR) and sorted. A stored 0.0 is a measurement and a censor code 0 is "exact": nothing here,
and nothing downstream, may eliminate zeros.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pharma_fl.data.tasks import Task

FORMAT = "pharma-fl-prepared"
FORMAT_VERSION = 4

AGREEMENT = "agreement.json"
FAILED_STRUCTURES = "failed_structures.csv"
FAILED_ACTIVITIES = "failed_activities.csv"
AMBIGUOUS_LABELS = "ambiguous_labels.csv"

DTYPES: dict[str, type[np.generic]] = {
    "x_indptr": np.int64,
    "x_indices": np.int32,
    "x_counts": np.uint16,
    "y_class_indptr": np.int64,
    "y_class_indices": np.int32,
    "y_class_values": np.int8,
    "y_regr_indptr": np.int64,
    "y_regr_indices": np.int32,
    "y_regr_values": np.float32,
    "y_regr_censor": np.int8,
    "folds": np.int8,
    "series": np.int32,
    "days": np.int32,
}
"""Each array and what it holds."""

FILES = frozenset(
    {
        *(f"{name}.npy" for name in DTYPES),
        *("manifest.json", AGREEMENT, "compounds.csv", "tasks.csv"),
        *(FAILED_STRUCTURES, FAILED_ACTIVITIES, AMBIGUOUS_LABELS),
    }
)
"""All that may lie in the folder."""


def lengths(sizes: Mapping[str, int]) -> dict[str, int]:
    """Return the length of each array, from the manifest's sizes."""
    rows = sizes["compounds"]
    return {
        "x_indptr": rows + 1,
        "x_indices": sizes["x_entries"],
        "x_counts": sizes["x_counts"],
        "y_class_indptr": rows + 1,
        "y_class_indices": sizes["class_labels"],
        "y_class_values": sizes["class_labels"],
        "y_regr_indptr": rows + 1,
        "y_regr_indices": sizes["regression_values"],
        "y_regr_values": sizes["regression_values"],
        "y_regr_censor": sizes["regression_values"],
        "folds": rows,
        "series": sizes["series"],
        "days": sizes["days"],
    }


def in_column_order(tasks: Sequence[Task], classification: int, regression: int) -> bool:
    """Whether `tasks` are the classification tasks by column, then the regression tasks by column."""
    expected = [("classification", column) for column in range(classification)]
    expected += [("regression", column) for column in range(regression)]
    return [(task.kind, task.column) for task in tasks] == expected
