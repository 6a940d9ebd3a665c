"""Keyed folds: compounds of one family share a fold, at every partner, without communication.

A family is a text that follows from the compound alone; its keyed hash is the fold. Two rules of MELLODDY-TUNER:

- ``scaffold`` (scaffold network, years 2 and 3): the Murcko scaffold where it has at most three rings, else the
  node of its scaffold network that the priorities below put first.
- ``lsh`` (year 1): sixteen fixed bits of the ECFP6 fingerprint of 32,000 bits, whatever fingerprint the
  partners train on.

Simm et al., J. Cheminform. 13, 96 (2021) compare such splits. Temporal folds follow dates alone, see `temporal_fold`;
their families are scaffolds, which say what a series is.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from rdkit import Chem, rdBase
from rdkit.Chem import rdMolDescriptors
from rdkit.Chem.Scaffolds import MurckoScaffold, rdScaffoldNetwork

from pharma_fl.config import FingerprintSettings
from pharma_fl.data.fingerprints import bit_positions
from pharma_fl.data.keys import fold_hash
from pharma_fl.data.structures import StructureFailure

ACYCLIC = "None"
"""What is hashed for a molecule without rings: all of them are one family and share one fold."""

_TARGET_RINGS = 3
_LSH_BITS = (26490, 8094, 25216, 21099, 2487, 2991, 9639, 17984, 24189, 8272, 1787, 31834, 11815, 8648, 27066, 17552)
_LSH_FINGERPRINT = FingerprintSettings()
_scaffold_of: Any = MurckoScaffold.GetScaffoldForMol


def murcko_scaffold(smiles: str, *, stereo: bool = True) -> str:
    """Return the Murcko scaffold's SMILES; empty for a molecule without rings.

    Parameters
    ----------
    smiles : str
        Taken as it is, not standardised.
    stereo : bool
        Keep stereochemistry, where the molecule has any.

    Raises
    ------
    StructureFailure
        ``unparsable``, or ``scaffold_failed`` where RDKit finds no scaffold it can write.
    """
    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(smiles)
        if mol is None:
            raise StructureFailure("unparsable")
        if not stereo:
            Chem.RemoveStereochemistry(mol)
        try:
            return str(Chem.MolToSmiles(_scaffold_of(mol)))
        except (RuntimeError, ValueError) as error:
            raise StructureFailure("scaffold_failed") from error


def fold_scaffold(smiles: str) -> str:
    """Return the scaffold that decides a molecule's fold.

    Parameters
    ----------
    smiles : str
        A standardised SMILES.

    Returns
    -------
    str
        The Murcko scaffold where it has at most three rings, else the preferred node of its scaffold
        network; `ACYCLIC` for a molecule without rings.

    Raises
    ------
    StructureFailure
        ``unparsable`` or ``scaffold_failed``.

    Examples
    --------
    >>> fold_scaffold("CCc1ccccc1"), fold_scaffold("CCO")
    ('c1ccccc1', 'None')
    """
    murcko = murcko_scaffold(smiles)
    if not murcko:
        return ACYCLIC
    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(murcko)
        if mol is None:
            raise StructureFailure("scaffold_failed")
        if rdMolDescriptors.CalcNumRings(mol) <= _TARGET_RINGS:
            return murcko
        try:
            nodes = [str(node) for node in rdScaffoldNetwork.CreateScaffoldNetwork([mol], _network()).nodes]
            return min(nodes, key=_priority)
        except (RuntimeError, ValueError) as error:
            raise StructureFailure("scaffold_failed") from error


def lsh_bits(molecule: Any) -> str:
    """Return sixteen bits of a standardised molecule (a SMILES or an RDKit molecule) as a text of 0 and 1.

    The bits were chosen on ChEMBL 25 for being on in about half of all compounds (MELLODDY-TUNER, year 1).
    """
    positions = set(bit_positions(molecule, _LSH_FINGERPRINT).tolist())
    return "".join("1" if bit in positions else "0" for bit in _LSH_BITS)


def family(smiles: str, method: str) -> str:
    """Return the family of a standardised SMILES: sixteen bits for folds by `lsh`, else its scaffold.

    Raises
    ------
    StructureFailure
        As `fold_scaffold`.
    """
    return lsh_bits(smiles) if method == "lsh" else fold_scaffold(smiles)


@lru_cache(maxsize=65_536)
def fold_of(family: str, key: bytes, folds: int) -> int:
    """Return the fold of a `family`, in ``range(folds)``; `key` is `Keys.folds`."""
    return fold_hash(key, family, folds)


def temporal_fold(days: npt.NDArray[np.int32], cutoffs: Sequence[date]) -> npt.NDArray[np.int8]:
    """Return the number of `cutoffs` that are not after each day (int32 days since 1970-01-01).

    >>> temporal_fold(np.array([0, 31], dtype=np.int32), [date(1970, 2, 1)]).tolist()
    [0, 1]
    """
    limits = np.array(cutoffs, dtype="datetime64[D]").astype(np.int64)
    return np.searchsorted(limits, days.astype(np.int64), side="right").astype(np.int8)


def _priority(smiles: str) -> tuple[int | bool | str, ...]:
    mol = Chem.MolFromSmiles(smiles)
    if mol is None:
        raise ValueError("a node of the scaffold network cannot be read back")
    ring_sizes = [len(ring) for ring in mol.GetRingInfo().AtomRings()]
    return (
        abs(rdMolDescriptors.CalcNumRings(mol) - _TARGET_RINGS),
        not any(size > 9 for size in ring_sizes),
        rdMolDescriptors.CalcNumRotatableBonds(mol, strict=False),
        -rdMolDescriptors.CalcNumBridgeheadAtoms(mol),
        -rdMolDescriptors.CalcNumSpiroAtoms(mol),
        not any(size < 5 or size > 6 for size in ring_sizes),
        -rdMolDescriptors.CalcNumHeterocycles(mol),
        rdMolDescriptors.CalcNumAromaticRings(mol),
        smiles,
    )


@lru_cache(maxsize=1)
def _network() -> Any:
    settings: Any = rdScaffoldNetwork.ScaffoldNetworkParams()
    settings.flattenIsotopes = True
    settings.includeGenericBondScaffolds = False
    settings.includeGenericScaffolds = False
    settings.includeScaffoldsWithAttachments = False
    settings.includeScaffoldsWithoutAttachments = True
    settings.pruneBeforeFragmenting = True
    return settings
