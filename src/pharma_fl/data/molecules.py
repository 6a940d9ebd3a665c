"""What one SMILES amounts to: its standardised structure, its bits and its family, before any key is applied."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import rdkit
from rdkit import Chem, rdBase

from pharma_fl.config import FingerprintSettings, StructureSettings
from pharma_fl.data.fingerprints import Counts, Positions, count_bits
from pharma_fl.data.folds import family
from pharma_fl.data.structures import Reason, StructureFailure, standardise

STEPS = {"structure": 1, "fingerprint": 1, "family": 1}
"""A step's number is raised when it computes something else from the same input and settings."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Molecule:
    """What the structure of one SMILES amounts to.

    Attributes
    ----------
    smiles : str
        The standardised SMILES; empty where it could not be made.
    bits : int32 array (k,)
        Ascending fingerprint positions, not permuted.
    counts : uint16 array (k,)
        How often each bit occurs.
    family : str
        A scaffold, or LSH bits; see `folds`.
    reason : str or None
        Why the structure cannot be used.
    """

    smiles: str = ""
    bits: Positions = field(default_factory=lambda: np.empty(0, dtype=np.int32))
    counts: Counts = field(default_factory=lambda: np.empty(0, dtype=np.uint16))
    family: str = ""
    reason: Reason | None = None


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The settings that decide what a SMILES amounts to."""

    structures: StructureSettings = field(default_factory=StructureSettings)
    fingerprint: FingerprintSettings = field(default_factory=FingerprintSettings)
    fold_method: Literal["scaffold", "lsh", "temporal"] = "scaffold"

    def digests(self) -> dict[str, str]:
        """Return a digest for each of `STEPS`, of its settings, its number and the RDKit release."""
        settings: dict[str, dict[str, Any]] = {
            "structure": self.structures.model_dump(exclude={"time_limit_s"}),
            "fingerprint": self.fingerprint.model_dump(exclude={"counts"}),
            # Temporal folds have the families of scaffold folds.
            "family": {"method": "lsh" if self.fold_method == "lsh" else "scaffold"},
        }
        return {
            step: hashlib.sha256(
                json.dumps([step, number, rdkit.__version__, settings[step]], sort_keys=True).encode()
            ).hexdigest()
            for step, number in STEPS.items()
        }


def compound_id(smiles: str) -> bytes:
    """Return the id of a standardised structure: the first 16 bytes of its SHA-256.

    >>> compound_id("CCO").hex()
    'ab1de819ede91df490e6441934decfa9'
    """
    return hashlib.sha256(smiles.encode()).digest()[:16]


def molecule(smiles: str, recipe: Recipe) -> Molecule:
    """Standardise one SMILES and compute the rest from the result; a failure is a reason, not an exception."""
    try:
        standardised = standardise(smiles, recipe.structures)
    except StructureFailure as failure:
        return Molecule(reason=failure.reason)
    return features(standardised, recipe)


def features(smiles: str, recipe: Recipe) -> Molecule:
    """Compute bits and family of a standardised SMILES, and of nothing else, so that equal ones are equal."""
    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(smiles)
        if mol is None:
            return Molecule(smiles=smiles, reason="standardisation_failed")
        bits, counts = count_bits(mol, recipe.fingerprint)
    try:
        return Molecule(smiles=smiles, bits=bits, counts=counts, family=family(smiles, recipe.fold_method))
    except StructureFailure as failure:
        return Molecule(smiles=smiles, bits=bits, counts=counts, reason=failure.reason)


def molecules(smiles: Sequence[str], recipe: Recipe) -> list[Molecule]:
    """Apply `molecule` to each SMILES, in order."""
    return [molecule(text, recipe) for text in smiles]
