"""Hashed Morgan fingerprints and the keyed permutation of their bits."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from rdkit import Chem
from rdkit.Chem import rdFingerprintGenerator

from pharma_fl.config import StructureSettings
from pharma_fl.data.keys import permutation_hash

Positions = npt.NDArray[np.int32]


def bit_permutation(secret: bytes, bits: int) -> Positions:
    """Return where each bit goes: the rank of its keyed hash among all bits.

    Parameters
    ----------
    secret : bytes
        The consortium secret.
    bits : int
        Width of the fingerprint.

    Returns
    -------
    int32 array (bits,)
        A permutation; entry ``j`` is the new position of bit ``j``. It hides the meaning of a bit from
        those without the secret, and nothing else.
    """
    hashed = np.array([permutation_hash(secret, str(bit)) for bit in range(bits)], dtype=np.int64)
    permutation = np.empty(bits, dtype=np.int32)
    permutation[np.argsort(hashed, kind="stable")] = np.arange(bits, dtype=np.int32)
    return permutation


def bit_positions(molecule: Any, settings: StructureSettings, permutation: Positions | None = None) -> Positions:
    """Return the positions of a molecule's bits.

    Parameters
    ----------
    molecule : str or rdkit.Chem.Mol
        A standardised molecule. Another one is taken as it is.
    settings : StructureSettings
        Radius and number of bits.
    permutation : int32 array (bits,), optional
        From `bit_permutation`; left out, RDKit's own positions are returned.

    Returns
    -------
    int32 array (k,)
        Sorted, each once: binary features, not counts.

    Raises
    ------
    ValueError
        `molecule` is a text that RDKit cannot read.
    """
    mol = Chem.MolFromSmiles(molecule) if isinstance(molecule, str) else molecule
    if mol is None:
        raise ValueError("expected a SMILES that RDKit reads")
    fingerprint = _generator(settings.radius, settings.bits).GetFingerprint(mol)
    raw = np.fromiter(fingerprint.GetOnBits(), dtype=np.int32)
    return raw if permutation is None else np.sort(permutation[raw])


@lru_cache(maxsize=4)
def _generator(radius: int, bits: int) -> Any:
    return rdFingerprintGenerator.GetMorganGenerator(radius=radius, fpSize=bits)
