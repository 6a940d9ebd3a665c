"""Keyed scaffold folds: compounds of one scaffold share a fold, at every partner, without communication.

The rule of MELLODDY-TUNER (scaffold network, years 2 and 3): the Murcko scaffold where it has at most three
rings, else the node of its scaffold network that the priorities below put first. The idea and its comparison
with other splits are in Simm et al., J. Cheminform. 13, 96 (2021).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from rdkit import Chem, rdBase
from rdkit.Chem import rdMolDescriptors
from rdkit.Chem.Scaffolds import MurckoScaffold, rdScaffoldNetwork

from pharma_fl.data.keys import fold_hash
from pharma_fl.data.structures import StructureFailure

ACYCLIC = "None"
"""What is hashed for a molecule without rings: all of them share one fold."""

_TARGET_RINGS = 3
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


def fold_of(scaffold: str, secret: bytes, folds: int) -> int:
    """Return the fold of a scaffold from `fold_scaffold`, in ``range(folds)``."""
    return fold_hash(secret, scaffold, folds)


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
