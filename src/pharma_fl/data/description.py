"""What a partner's prepared data holds, in exact numbers for the partner's own eyes.

Nothing here is private. What may be shown to others is agreement.json; see `agreement`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from pharma_fl.data.distributions import by_column, by_fold, column_values, of_counts, of_numbers, of_shares
from pharma_fl.data.matrices import PreparedData
from pharma_fl.data.tasks import Task

NOTICE = (
    "These are exact numbers of this partner's own data. No privacy guarantee covers them. "
    "They must not be sent to anybody."
)

MEANINGS: dict[str, dict[str, str]] = {
    "structures": {
        "not_measured": "no measurement names the compound",
        "no_date": "folds follow dates, and no row of the compound has one",
        "unparsable": "RDKit does not read the SMILES, or it has no atoms",
        "too_long": "the SMILES has more than 200 characters for each atom that structures.max_atoms allows",
        "too_many_atoms": "heavy atoms, counter-ions included, reach structures.max_atoms",
        "standardisation_failed": "a step of the standardisation failed, or its result cannot be read back",
        "scaffold_failed": "no scaffold can be written, so there is neither fold nor series",
        "timed_out": "standardising took longer than structures.time_limit_s",
        "crashed": "the process that standardised it died; it is tried again when data are prepared again",
        "no_usable_activity": "the structure is good, but each of its measurements was dropped",
    },
    "activities": {
        "structure_failed": "the compound's structure was dropped",
        "not_plus_minus_one": "a binary assay holds another value than 1 or -1",
        "out_of_range": "outside the range of the type: OTHER and panels 3 to 10, a negative logarithm such as pIC50",
        "qualifier_tie": "replicates have < and > equally often, and more often than =",
    },
    "labels": {
        "ambiguous": "a qualifier leaves open on which side of the threshold the value is",
    },
}
"""Why something was dropped, in a line each, by what was dropped."""

_LISTED = 10


def description(data: PreparedData) -> dict[str, Any]:
    """Describe prepared data. Arrays are read piece by piece.

    Returns
    -------
    dict
        Ready for JSON. ``notice`` comes first and belongs wherever the numbers are shown. Shares are between 0
        and 1, and None where there is nothing to divide by; distributions are those of `distributions`, and None
        where there is nothing. Of data that were imported, counts of what was dropped are not known.
    """
    labels, actives, values, censored = _by_task(data)
    manifest, counts = data.manifest, data.manifest.get("counts", {})
    return {
        "notice": NOTICE,
        "folder": str(data.folder.resolve()),
        "compounds": _compounds(data),
        "tasks": {
            "classification": len(data.classification_tasks),
            "regression": len(data.regression_tasks),
            "auxiliary": sum(task.auxiliary for task in data.tasks),
            "data_derived": sum(task.data_derived for task in data.tasks),
            "training_quorum": sum(task.training_quorum for task in data.tasks),
            "evaluate": sum(task.evaluate for task in data.tasks),
            "by_type": _by_type(data, labels, actives, values, censored),
            "data_derived_assays": list(data.data_derived_assays),
        },
        "labels": {
            **_density(data, "y_class", labels),
            "actives": int(actives.sum()),
            "actives_share": _share(int(actives.sum()), int(labels.sum())),
        },
        "balance": _balance(data.classification_tasks, labels, actives),
        "values": {
            **_density(data, "y_regr", values),
            "censored": int(censored.sum()),
            "censored_share": _share(int(censored.sum()), int(values.sum())),
            "below": _total(data, -1),
            "above": _total(data, 1),
            "by_task": _values(data, values, censored),
        },
        "folds": _folds(data),
        "dropped": {name: _dropped(counts.get(name), MEANINGS[name]) for name in MEANINGS},
        "merged": {"compounds": data.n_compounds, "values": counts.get("activities", {}).get("aggregated")},
        "assays": counts.get("assays"),
        "settings": manifest.get("settings", {}),
        "imported": manifest.get("imported"),
        "key": {"id": manifest.get("key_id"), "scheme": manifest.get("key_scheme")},
        "versions": manifest.get("versions", {}),
        "format_version": manifest["format_version"],
    }


def _compounds(data: PreparedData) -> dict[str, Any]:
    bits = _lengths(data, "x")
    used = by_column(data.arrays["x_indices"], data.bits)
    targets = _lengths(data, "y_class") + _lengths(data, "y_regr")
    sizes = None if data.series is None else np.unique(data.series, return_counts=True)[1]
    return {
        "count": data.n_compounds,
        "without_label_or_value": int((targets == 0).sum()),
        "bits": data.bits,
        "bits_in_use": int((used > 0).sum()),
        "counts_stored": len(data.arrays["x_counts"]) > 0,
        "bits_per_compound": of_counts(bits),
        "series": None if sizes is None else len(sizes),
        "compounds_per_series": None if sizes is None else of_counts(sizes),
    }


def _by_task(data: PreparedData) -> tuple[npt.NDArray[np.int64], ...]:
    """Count labels, actives, values and censored values of each task."""
    labels, values = data.arrays["y_class_indices"], data.arrays["y_regr_indices"]
    n_class, n_regr = len(data.classification_tasks), len(data.regression_tasks)
    all_values = by_column(values, n_regr)
    return (
        by_column(labels, n_class),
        by_column(labels, n_class, data.arrays["y_class_values"], 1),
        all_values,
        all_values - by_column(values, n_regr, data.arrays["y_regr_censor"], 0),
    )


def _by_type(
    data: PreparedData,
    labels: npt.NDArray[np.int64],
    actives: npt.NDArray[np.int64],
    values: npt.NDArray[np.int64],
    censored: npt.NDArray[np.int64],
) -> list[dict[str, Any]]:
    """Return one line for each kind and assay type."""
    lines = []
    for kind, assay_type in sorted({(task.kind, task.assay_type) for task in data.tasks}):
        tasks = [task for task in data.tasks if (task.kind, task.assay_type) == (kind, assay_type)]
        columns = [task.column for task in tasks]
        classes = kind == "classification"
        count = int((labels if classes else values)[columns].sum())
        line: dict[str, Any] = {
            "kind": kind,
            "assay_type": assay_type,
            "assays": len({task.assay for task in tasks}),
            "tasks": len(tasks),
            "auxiliary": sum(task.auxiliary for task in tasks),
            "data_derived": sum(task.data_derived for task in tasks),
            "training_quorum": sum(task.training_quorum for task in tasks),
            "evaluate": sum(task.evaluate for task in tasks),
            "entries": count,
            "filled_share": _share(count, len(tasks) * data.n_compounds),
            "actives_share": _share(int(actives[columns].sum()), count) if classes else None,
            "censored_share": None if classes else _share(int(censored[columns].sum()), count),
        }
        lines.append(line)
    return lines


def _density(data: PreparedData, name: str, by_task: npt.NDArray[np.int64]) -> dict[str, Any]:
    """Say how much of a label matrix is filled."""
    by_row, count = _lengths(data, name), int(by_task.sum())
    return {
        "count": count,
        "filled_share": _share(count, data.n_compounds * len(by_task)),
        "compounds": int((by_row > 0).sum()),
        "per_compound": of_counts(by_row) if len(by_task) else None,
        "per_task": of_counts(by_task),
    }


def _balance(tasks: tuple[Task, ...], labels: npt.NDArray[np.int64], actives: npt.NDArray[np.int64]) -> dict[str, Any]:
    """Return how actives are shared out over tasks, and the extremes among those that are not auxiliary."""
    there = np.flatnonzero(labels)
    share = np.zeros(len(labels))
    share[there] = actives[there] / labels[there]
    listed = [one for one in there.tolist() if not tasks[one].auxiliary] or there.tolist()
    # Of equally balanced tasks the one with most labels tells most.
    ranked = sorted(listed, key=lambda one: (abs(share[one] - 0.5), -labels[one], one))
    # No task stands in both lists; a few tasks share themselves out between them.
    most = min(_LISTED, (len(ranked) + 1) // 2)
    skewed = sorted(ranked[most:], key=lambda one: (-abs(share[one] - 0.5), -labels[one], one))

    def shown(columns: list[int]) -> list[dict[str, Any]]:
        return [
            {
                "task": tasks[one].task,
                "assay_type": tasks[one].assay_type,
                "labels": int(labels[one]),
                "actives": int(actives[one]),
                "actives_share": float(share[one]),
            }
            for one in columns[:_LISTED]
        ]

    return {
        "tasks": len(there),
        "without_labels": len(labels) - len(there),
        "one_class": int(((actives[there] == 0) | (actives[there] == labels[there])).sum()),
        "actives_share": of_shares(share[there]),
        "auxiliary_left_out": len(there) - len(listed),
        "most_balanced": shown(ranked[:most]),
        "least_balanced": shown(skewed),
    }


def _values(data: PreparedData, counts: npt.NDArray[np.int64], censored: npt.NDArray[np.int64]) -> list[dict[str, Any]]:
    """Return one line for each regression task, most values first."""
    columns = column_values(data.arrays["y_regr_indices"], data.arrays["y_regr_values"], len(counts))
    lines = [
        {
            "task": task.task,
            "assay": task.assay,
            "assay_type": task.assay_type,
            "values": int(counts[task.column]),
            "censored": int(censored[task.column]),
            "censored_share": _share(int(censored[task.column]), int(counts[task.column])),
            "distribution": of_numbers(values),
        }
        for task, values in zip(data.regression_tasks, columns, strict=True)
    ]
    return sorted(lines, key=lambda line: (-line["values"], line["task"]))


def _folds(data: PreparedData) -> list[dict[str, Any]]:
    known = data.manifest.get("settings", {}).get("folds", {})
    count = max(int(known.get("count", 0)), int(data.folds.max(initial=0)) + 1)
    held_out = {known.get("test"): "test", known.get("validation"): "validation"}
    training = "training" if {"test", "validation"} <= known.keys() else None
    indptr, labels = data.arrays["y_class_indptr"], data.arrays["y_class_values"]
    compounds = np.bincount(data.folds, minlength=count)
    of_labels = by_fold(indptr, data.folds, count)
    of_actives = by_fold(indptr, data.folds, count, labels, 1)
    of_values = by_fold(data.arrays["y_regr_indptr"], data.folds, count)
    return [
        {
            "fold": fold,
            "role": held_out.get(fold, training),
            "compounds": int(compounds[fold]),
            "share": _share(int(compounds[fold]), data.n_compounds),
            "labels": int(of_labels[fold]),
            "actives": int(of_actives[fold]),
            "actives_share": _share(int(of_actives[fold]), int(of_labels[fold])),
            "values": int(of_values[fold]),
        }
        for fold in range(count)
    ]


def _dropped(counts: Mapping[str, Any] | None, meanings: Mapping[str, str]) -> dict[str, Any] | None:
    if counts is None:
        return None
    reasons = {reason: int(count) for reason, count in counts["dropped"].items() if count}
    return {
        "read": int(counts["read"]),
        "kept": int(counts["kept"]),
        "dropped": sum(reasons.values()),
        "adds_up": counts["read"] == counts["kept"] + sum(reasons.values()),
        "reasons": [
            {"reason": reason, "count": count, "meaning": meanings.get(reason, "see docs/errors.md")}
            for reason, count in sorted(reasons.items(), key=lambda one: (-one[1], one[0]))
        ],
    }


def _lengths(data: PreparedData, name: str) -> npt.NDArray[np.int64]:
    return np.diff(data.arrays[f"{name}_indptr"])


def _total(data: PreparedData, censor: int) -> int:
    codes = data.arrays["y_regr_censor"]
    return int(by_fold(np.array([0, len(codes)]), np.zeros(1, dtype=np.int8), 1, codes, censor)[0])


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
