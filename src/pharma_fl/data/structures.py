"""One molecule, one SMILES: the standardised structure that decides which measurements belong together.

The steps and their order are those of MELLODDY-TUNER 3.0.3. The result depends on the RDKit release (its
tautomer rules change), which is why a federation pins RDKit and the manifest names it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal

from rdkit import Chem, rdBase
from rdkit.Chem.MolStandardize import rdMolStandardize

from pharma_fl.config import StructureSettings

Reason = Literal["unparsable", "too_many_atoms", "standardisation_failed", "scaffold_failed"]


class StructureFailure(ValueError):
    """A molecule that cannot be used.

    Attributes
    ----------
    reason : str
        ``unparsable``, ``too_many_atoms``, ``standardisation_failed`` or ``scaffold_failed``.
    """

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason: Reason = reason


def standardise(smiles: str, settings: StructureSettings) -> str:
    """Return the canonical SMILES of a molecule's neutral parent, without isotopes and stereochemistry.

    Parse; refuse `settings.max_atoms` heavy atoms or more, counter-ions included; charge parent; isotopes to
    0; stereochemistry off; canonical tautomer among at most `settings.max_tautomers`; sanitise, remove
    hydrogens, disconnect metals, normalise, reionise, assign stereochemistry; write, parse and write again.

    Parameters
    ----------
    smiles : str
        Any SMILES that RDKit reads.
    settings : StructureSettings
        Limits; every partner of a federation uses the same.

    Returns
    -------
    str
        The standardised SMILES.

    Raises
    ------
    StructureFailure
        With the reason; nothing is logged.

    Examples
    --------
    >>> standardise("[Na+].CC(=O)[O-]", StructureSettings())
    'CC(=O)O'
    """
    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(smiles)
        # RDKit reads an empty string as a molecule without atoms.
        if mol is None or mol.GetNumAtoms() == 0:
            raise StructureFailure("unparsable")
        if mol.GetNumAtoms() >= settings.max_atoms:
            raise StructureFailure("too_many_atoms")
        try:
            first = Chem.MolToSmiles(_clean(_flat_parent(mol, settings.max_tautomers)))
            again = Chem.MolFromSmiles(first)
        except (RuntimeError, ValueError) as error:
            # RDKit's exceptions derive from these two.
            raise StructureFailure("standardisation_failed") from error
        if again is None or again.GetNumAtoms() == 0:
            raise StructureFailure("standardisation_failed")
        return str(Chem.MolToSmiles(again))


def _flat_parent(mol: Any, max_tautomers: int) -> Any:
    parent = rdMolStandardize.ChargeParent(mol)
    for atom in parent.GetAtoms():
        atom.SetIsotope(0)
    Chem.RemoveStereochemistry(parent)
    return _tautomers(max_tautomers).Canonicalize(parent)


def _clean(mol: Any) -> Any:
    disconnector, normaliser, reioniser = _cleaners()
    Chem.SanitizeMol(mol)
    mol = Chem.RemoveHs(mol)
    mol = disconnector.Disconnect(mol)
    mol = normaliser.normalize(mol)
    mol = reioniser.reionize(mol)
    Chem.AssignStereochemistry(mol, force=True, cleanIt=True)
    return mol


@lru_cache(maxsize=4)
def _tautomers(limit: int) -> Any:
    enumerator = rdMolStandardize.TautomerEnumerator()
    enumerator.SetMaxTautomers(limit)
    enumerator.SetRemoveSp3Stereo(False)  # noqa: FBT003 - RDKit's C++ binding takes no keyword
    return enumerator


@lru_cache(maxsize=1)
def _cleaners() -> tuple[Any, Any, Any]:
    return rdMolStandardize.MetalDisconnector(), rdMolStandardize.Normalizer(), rdMolStandardize.Reionizer()
