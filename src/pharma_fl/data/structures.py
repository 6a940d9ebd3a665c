"""One molecule, one SMILES: the standardised structure that decides which measurements belong together.

The steps and their order are those of MELLODDY-TUNER 3.0.3. The result depends on the RDKit release, which is why
a federation pins RDKit and the manifest names it. RDKit's tautomer rules changed since TUNER's time:
`StructureSettings.tautomer_rules` chooses between the old ones (``v1``; a molecule that they cannot be applied to
any more, such as a phosphate, gets the new ones) and the new ones (``v2``).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal

from rdkit import Chem, rdBase
from rdkit.Chem.MolStandardize import rdMolStandardize

from pharma_fl.config import StructureSettings

Reason = Literal[
    "unparsable",
    "too_long",
    "too_many_atoms",
    "standardisation_failed",
    "scaffold_failed",
    "timed_out",
    "crashed",
]

_CHARACTERS_PER_ATOM = 200


class StructureFailure(ValueError):
    """A molecule that cannot be used.

    Attributes
    ----------
    reason : str
        One of `Reason`; ``timed_out`` and ``crashed`` come from `workers`, which watches from outside.
    """

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason: Reason = reason


def standardise(smiles: str, settings: StructureSettings) -> str:
    """Return the canonical SMILES of a molecule's neutral parent, without isotopes and stereochemistry.

    Parse; refuse `settings.max_atoms` heavy atoms or more, counter-ions included; charge parent; isotopes to
    0; stereochemistry off, unless `settings.stereo`; canonical tautomer among at most `settings.max_tautomers`;
    sanitise, remove hydrogens, disconnect metals, normalise, reionise, assign stereochemistry; write, parse and
    write again. A text of more than 200 characters for each atom that would be allowed is not parsed at all.

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
    if len(smiles) > _CHARACTERS_PER_ATOM * settings.max_atoms:
        raise StructureFailure("too_long")
    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(smiles)
        # RDKit reads an empty string as a molecule without atoms.
        if mol is None or mol.GetNumAtoms() == 0:
            raise StructureFailure("unparsable")
        if mol.GetNumAtoms() >= settings.max_atoms:
            raise StructureFailure("too_many_atoms")
        try:
            parent = _flat_parent(mol, settings)
        except (RuntimeError, ValueError) as error:
            # RDKit's exceptions derive from these two.
            raise StructureFailure("standardisation_failed") from error
        # One of the old rules turns P(=O)O into [PH](=O)=O, which RDKit took in 2021 and refuses today.
        for rules in ("v1", "v2") if settings.tautomer_rules == "v1" else ("v2",):
            written = _written(parent, rules, settings.max_tautomers)
            if written:
                return written
        raise StructureFailure("standardisation_failed")


def _written(parent: Any, rules: str, max_tautomers: int) -> str | None:
    """Return the cleaned canonical tautomer, written and read and written again; None where that fails."""
    try:
        first = Chem.MolToSmiles(_clean(_tautomers(rules, max_tautomers).Canonicalize(parent)))
        again = Chem.MolFromSmiles(first)
    except (RuntimeError, ValueError):
        return None
    return str(Chem.MolToSmiles(again)) if again is not None and again.GetNumAtoms() else None


def _flat_parent(mol: Any, settings: StructureSettings) -> Any:
    parent = rdMolStandardize.ChargeParent(mol)
    for atom in parent.GetAtoms():
        atom.SetIsotope(0)
    if not settings.stereo:
        Chem.RemoveStereochemistry(parent)
    return parent


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
def _tautomers(rules: str, limit: int) -> Any:
    enumerator = rdMolStandardize.GetV1TautomerEnumerator() if rules == "v1" else rdMolStandardize.TautomerEnumerator()
    enumerator.SetMaxTautomers(limit)
    enumerator.SetRemoveSp3Stereo(False)  # noqa: FBT003 - RDKit's C++ binding takes no keyword
    return enumerator


@lru_cache(maxsize=1)
def _cleaners() -> tuple[Any, Any, Any]:
    return rdMolStandardize.MetalDisconnector(), rdMolStandardize.Normalizer(), rdMolStandardize.Reionizer()
