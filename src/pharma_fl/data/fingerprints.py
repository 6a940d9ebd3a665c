"""Hashed Morgan fingerprints and the keyed permutation of their bits."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from rdkit import Chem
from rdkit.Chem import rdFingerprintGenerator

from pharma_fl.config import FingerprintSettings
from pharma_fl.data.keys import permutation_hash

Positions = npt.NDArray[np.int32]
Counts = npt.NDArray[np.uint16]

_MOST = np.iinfo(np.uint16).max


@lru_cache(maxsize=4)
def bit_permutation(key: bytes, bits: int) -> Positions:
    """Return where each bit goes: the rank of its keyed hash among all bits.

    Parameters
    ----------
    key : bytes
        The key of the permutation (`Keys.permutation`).
    bits : int
        Width of the fingerprint.

    Returns
    -------
    int32 array (bits,)
        A permutation; entry ``j`` is the new position of bit ``j``. It hides the meaning of a bit from
        those without the key, and nothing else.
    """
    hashed = np.array([permutation_hash(key, str(bit)) for bit in range(bits)], dtype=np.int64)
    permutation = np.empty(bits, dtype=np.int32)
    permutation[np.argsort(hashed, kind="stable")] = np.arange(bits, dtype=np.int32)
    permutation.flags.writeable = False
    return permutation


def count_bits(molecule: Any, settings: FingerprintSettings) -> tuple[Positions, Counts]:
    """Return a molecule's bits, not permuted, and how often each occurs.

    Parameters
    ----------
    molecule : str or rdkit.Chem.Mol
        A standardised molecule. Another one is taken as it is.
    settings : FingerprintSettings
        Kind, radius and number of bits.

    Returns
    -------
    int32 array (k,), uint16 array (k,)
        Ascending positions, each once, and their counts.

    Raises
    ------
    ValueError
        `molecule` is a text that RDKit cannot read.
    """
    mol = Chem.MolFromSmiles(molecule) if isinstance(molecule, str) else molecule
    if mol is None:
        raise ValueError("expected a SMILES that RDKit reads")
    generator = _generator(settings.kind, settings.radius, settings.bits)
    counts = sorted(generator.GetCountFingerprint(mol).GetNonzeroElements().items())
    return (
        np.array([position for position, _ in counts], dtype=np.int32),
        np.array([min(count, _MOST) for _, count in counts], dtype=np.uint16),
    )


def bit_positions(molecule: Any, settings: FingerprintSettings, permutation: Positions | None = None) -> Positions:
    """Return the positions of a molecule's bits: int32 (k,), ascending, each once.

    Parameters and errors as `count_bits`, but with the keyed `permutation` (int32 (bits,), from
    `bit_permutation`) the positions are those after it.
    """
    raw, _ = count_bits(molecule, settings)
    return raw if permutation is None else np.sort(permutation[raw])


@lru_cache(maxsize=4)
def _generator(kind: str, radius: int, bits: int) -> Any:
    features = {"atomInvariantsGenerator": rdFingerprintGenerator.GetMorganFeatureAtomInvGen()}
    return rdFingerprintGenerator.GetMorganGenerator(radius=radius, fpSize=bits, **(features if kind == "fcfp" else {}))
