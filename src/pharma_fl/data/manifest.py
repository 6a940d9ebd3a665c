"""What manifest.json says besides sizes and hashes: versions, settings, counts that add up, digests.

Two partners compare digests to see which step differs, not only that something does. The secret is never in it.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections import Counter
from typing import Any

import numpy as np
import pandas as pd
import rdkit

from pharma_fl.config import Partner
from pharma_fl.data.activities import Activities
from pharma_fl.data.keys import key_id
from pharma_fl.data.tables import Tables
from pharma_fl.data.targets import Targets
from pharma_fl.data.thresholds import from_data

# A step's number is raised when it computes something else from the same input and settings.
_STEPS = {"structures": 1, "fingerprints": 1, "folds": 1, "activities": 1}


def describe(
    partner: Partner,
    *,
    secret: bytes,
    tables: Tables,
    structures: pd.DataFrame,
    activities: Activities,
    target: Targets,
) -> dict[str, Any]:
    """Return versions, key id, settings, digests and counts.

    Parameters
    ----------
    partner : Partner
        Source of the settings.
    secret : bytes
        Only its public id is used.
    tables : Tables
        What was read.
    structures : DataFrame
        T2 with ``reason``, empty where the structure is kept.
    activities : Activities
        What was kept and dropped.
    target : Targets
        Tasks and labels.
    """
    identity = key_id(secret)
    dropped_structures = reasons(structures["reason"])
    dropped_activities = reasons(activities.dropped["reason"])
    labels, ambiguous = int(target.y_class.nnz), len(target.ambiguous)
    with_task = {task.input_assay_id for task in target.tasks}
    return {
        "versions": {
            "pharma_fl": importlib.metadata.version("pharma-fl"),
            "rdkit": rdkit.__version__,
            "numpy": np.__version__,
        },
        "key_id": identity,
        "settings": {
            "structures": partner.structures.model_dump(mode="json"),
            "folds": partner.folds.model_dump(mode="json"),
        },
        "digests": _digests(partner, identity),
        "data_derived_assays": [
            int(assay["input_assay_id"]) for assay in tables.assays.to_dict("records") if from_data(assay)
        ],
        "counts": {
            "assays": {"read": len(tables.assays), "with_task": len(with_task)},
            "structures": {
                "read": len(structures),
                "kept": len(structures) - sum(dropped_structures.values()),
                "dropped": dropped_structures,
            },
            "activities": {
                "read": len(tables.activities),
                "kept": activities.kept,
                "dropped": dropped_activities,
                "aggregated": len(activities.table),
            },
            "labels": {"read": labels + ambiguous, "kept": labels, "dropped": {"ambiguous": ambiguous}},
            "tasks": {
                "classification": target.y_class.shape[1],
                "regression": target.y_regr.shape[1],
                "auxiliary": sum(task.auxiliary for task in target.tasks),
                "data_derived": sum(task.data_derived for task in target.tasks),
                "evaluate": sum(task.evaluate for task in target.tasks),
            },
        },
    }


def reasons(column: pd.Series[str]) -> dict[str, int]:
    """Count reasons, in alphabetical order; an empty one is none."""
    return dict(sorted(Counter(str(reason) for reason in column if reason).items()))


def _digests(partner: Partner, identity: str) -> dict[str, str]:
    structures = partner.structures
    chemistry = {"rdkit": rdkit.__version__, "max_atoms": structures.max_atoms}
    chemistry |= {"max_tautomers": structures.max_tautomers}
    settings: dict[str, dict[str, object]] = {
        "structures": {**chemistry},
        "fingerprints": {
            "rdkit": rdkit.__version__,
            "radius": structures.radius,
            "bits": structures.bits,
            "key": identity,
        },
        "folds": {"rdkit": rdkit.__version__, "count": partner.folds.count, "key": identity},
        "activities": {},
    }
    return {name: _digest({"step": name, "version": _STEPS[name], **settings[name]}) for name in _STEPS}


def _digest(content: dict[str, object]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
