"""What manifest.json says besides sizes and hashes: versions, settings, and counts that add up.

The counts are exact and the partner's own. What may be shown to others is agreement.json; see `agreement`.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import rdkit

from pharma_fl.config import Partner
from pharma_fl.data.compounds import REASONS
from pharma_fl.data.keys import Keys
from pharma_fl.data.labelling import Targets
from pharma_fl.data.measurements import Values
from pharma_fl.data.rules import Rules
from pharma_fl.data.tables import Tables
from pharma_fl.data.thresholds import from_data

_SHOWN = 5


def describe(
    partner: Partner,
    *,
    keys: Keys,
    tables: Tables,
    reason: npt.NDArray[np.int8],
    values: Values,
    target: Targets,
    rules: Rules,
) -> dict[str, Any]:
    """Return versions, key id, settings and counts.

    Parameters
    ----------
    partner : Partner
        Source of the settings.
    keys : Keys
        Only the public id and the scheme are used.
    tables : Tables
        What was read.
    reason : int8 array
        Why each row of the structure table is not in the data, a position in `REASONS`; 0 where it is.
    values : Values
        What was kept and dropped.
    target : Targets
        Tasks and labels.
    rules : Rules
        Decide which assays' thresholds come from the data.
    """
    counts = np.bincount(reason, minlength=len(REASONS))
    dropped = {name: int(counts[code]) for code, name in sorted(enumerate(REASONS), key=lambda one: one[1])}
    labels = len(target.labels)
    derived = [
        str(assay["assay"])
        for assay in tables.assays.to_dict("records")
        if not tables.listed or from_data(assay, rules)
    ]
    return {
        "versions": {
            "pharma_fl": importlib.metadata.version("pharma-fl"),
            "rdkit": rdkit.__version__,
            "numpy": np.__version__,
        },
        "key_id": keys.key_id,
        "key_scheme": keys.scheme,
        "settings": {
            "structures": partner.structures.model_dump(mode="json"),
            "fingerprint": partner.fingerprint.model_dump(mode="json"),
            "folds": partner.folds.model_dump(mode="json"),
        },
        "data_derived_assays": derived,
        "remarks": _remarks(tables, values, derived),
        "counts": {
            "assays": {"read": len(tables.assays), "with_task": len({task.assay for task in target.tasks})},
            "structures": {
                "read": len(reason),
                "kept": int(counts[0]),
                "dropped": {name: count for name, count in dropped.items() if name and count},
            },
            "activities": {
                "read": len(tables.activities),
                "kept": values.kept,
                "dropped": values.dropped,
                "aggregated": len(values),
            },
            "labels": {
                "read": labels + target.ambiguous,
                "kept": labels,
                "dropped": {"ambiguous": target.ambiguous},
            },
            "tasks": {
                "classification": sum(task.kind == "classification" for task in target.tasks),
                "regression": sum(task.kind == "regression" for task in target.tasks),
                "auxiliary": sum(task.auxiliary for task in target.tasks),
                "data_derived": sum(task.data_derived for task in target.tasks),
                "training_quorum": sum(task.training_quorum for task in target.tasks),
                "evaluate": sum(task.evaluate for task in target.tasks),
            },
        },
    }


def _remarks(tables: Tables, values: Values, derived: Sequence[str]) -> list[str]:
    """Return what the partner had better know before training."""
    remarks = []
    classes = [
        str(name)
        for number, (name, binary) in enumerate(zip(tables.assays["assay"], tables.assays["is_binary"], strict=True))
        if not binary and _only_classes(values.columns["unrounded"][values.begin[number] : values.begin[number + 1]])
    ]
    if classes:
        remarks.append(
            f"{_listed(classes)} hold only 1, 0 and -1, but are not declared as classes (is_binary). "
            "Declare them, or their values are measured against thresholds."
        )
    if derived:
        why = "thresholds come from the data" if tables.listed else "assays are not listed (tables.assays)"
        remarks.append(f"Private training will refuse {_listed(derived)} (PFL-P04): their {why}.")
    return remarks


def _only_classes(values: npt.NDArray[np.float64]) -> bool:
    return bool(len(values) > 1 and np.isin(values, (-1.0, 0.0, 1.0)).all())


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
    return f"{len(names)} assay{'s' if len(names) > 1 else ''} ({shown})"
