"""Public molecules that every partner prepares, so that partners see in which one they differ, and why.

probe.csv lists them: name, SMILES, and what each exercises. A manifest may be seen by the coordinator, who must not
learn the key. It knows these molecules, so for each of them:

- what follows from the molecule and public settings alone is plain: the standardised SMILES or the reason of its
  failure, and short SHA-256 digests of the bits before the permutation and of the family that decides the fold.
  Anybody can compute them.
- what follows from the key appears only inside an HMAC-SHA256 under `Keys.probe`: one over all permuted bits of the
  molecule, one over its fold. Permuted bits in clear would give the permutation away; a plain hash of one of them,
  or of a fold, would fall to trying all values. The name of the molecule and its family are part of the message, or
  else equal digests would show which public scaffolds share a fold.
"""

from __future__ import annotations

import csv
import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Protocol

import numpy as np

from pharma_fl.data.fingerprints import Counts, Positions, bit_permutation
from pharma_fl.data.folds import fold_of
from pharma_fl.data.keys import Keys

EXERCISES: Mapping[str, str] = MappingProxyType(
    {
        "unparsable": "refused as no molecule",
        "failing": "refused during standardisation",
        "hypervalent": "atoms with more bonds than usual, or written so",
        "kekule": "aromatic rings written with double bonds",
        "aromatic": "aromatic rings written as such",
        "spelling": "another text for a molecule that the list holds too",
        "atom_limit": "heavy atoms around the limit, counter-ions included",
        "explicit_h": "hydrogens written as atoms",
        "isotope": "isotope labels",
        "salt": "counter-ions",
        "hydrate": "water beside the molecule",
        "mixture": "several molecules in one text",
        "charge": "charges to be neutralised, or that stay",
        "zwitterion": "charges that balance within the molecule",
        "quaternary": "charges that no proton can take away",
        "tetrahedral": "stereochemistry at atoms",
        "double_bond": "stereochemistry at double bonds",
        "keto_enol": "tautomers: ketone and enol",
        "amide_imidic": "tautomers: amide and imidic acid",
        "lactam_lactim": "tautomers: cyclic amide and imidic acid",
        "pyridone": "tautomers: pyridone and hydroxypyridine",
        "guanidine": "tautomers: guanidine",
        "amidine": "tautomers: amidine",
        "azole_nh": "tautomers: hydrogen on one or another nitrogen of an azole",
        "nitroso_oxime": "tautomers: nitroso and oxime",
        "thione": "tautomers: thione and thiol",
        "phenol_quinone": "tautomers: phenol and quinone",
        "hydrazone": "tautomers: hydrazone and azo",
        "shift_1_5": "tautomers: hydrogen moves by four bonds or more",
        "porphyrin": "tautomers: porphyrin and its pieces",
        "tautomer_limit": "more tautomers than are tried",
        "tautomer_rules": "tautomers that depend on structures.tautomer_rules",
        "phosphorus": "acids and esters of phosphorus",
        "metal": "bonds to metals",
        "nitro": "nitro groups",
        "sulfoxide": "sulfoxides and their like",
        "azide": "azides",
        "diazo": "diazo groups",
        "n_oxide": "N-oxides",
        "normaliser": "other groups that the normaliser rewrites",
        "reioniser": "a proton on the stronger of two acids",
        "element": "elements rare in drugs",
        "hetero": "rings with other atoms than carbon",
        "ring_size": "rings of other sizes than five and six",
        "macrocycle": "rings of more than nine atoms",
        "spiro": "rings that share an atom",
        "bridged": "rings that share three atoms or more",
        "fused": "rings that share a bond",
        "scaffold_network": "four rings or more, so that the scaffold is chosen from a network",
        "tie_break": "several scaffolds of three rings, between which later criteria decide",
        "acyclic": "no ring",
        "chain": "bits that occur many times",
    }
)
"""What a molecule can exercise, by the tag that probe.csv uses."""


@dataclass(frozen=True)
class Probe:
    """A public molecule.

    Attributes
    ----------
    name : str
        Unique in the list.
    smiles : str
        As a partner's table might hold it; not always a molecule.
    exercises : tuple of str
        Keys of `EXERCISES`.
    """

    name: str
    smiles: str
    exercises: tuple[str, ...]


class Outcome(Protocol):
    """What preparation made of one molecule."""

    @property
    def smiles(self) -> str:
        """Standardised SMILES."""

    @property
    def bits(self) -> Positions:
        """Positions before the permutation, ascending: int32 (k,)."""

    @property
    def counts(self) -> Counts | None:
        """How often each bit occurs, uint16 (k,), or nothing."""

    @property
    def family(self) -> str:
        """What decides the fold; empty if nothing in the structure does."""

    @property
    def reason(self) -> str | None:
        """Why the molecule cannot be used, if it cannot."""


@cache
def probe_molecules() -> tuple[Probe, ...]:
    """Return the list, in the order of the file."""
    text = files("pharma_fl.data").joinpath("probe.csv").read_text("utf-8")
    rows = csv.DictReader(text.splitlines())
    return tuple(Probe(row["name"], row["smiles"], tuple(row["exercises"].split())) for row in rows)


def probe_digest() -> str:
    """Return a short digest of the list; results of different lists cannot be compared."""
    content = json.dumps([[probe.name, probe.smiles] for probe in probe_molecules()])
    return _short(hashlib.sha256(content.encode()).digest())


def probe_results(outcomes: Sequence[Outcome], keys: Keys, *, bits: int, folds: int) -> dict[str, dict[str, str]]:
    """Return what a partner may show of each molecule.

    Parameters
    ----------
    outcomes : sequence of Outcome
        Of `probe_molecules`, in that order.
    keys : Keys
        Of the consortium.
    bits : int
        Width of the fingerprint.
    folds : int
        Number of folds.

    Returns
    -------
    dict
        By name. ``reason`` alone where the molecule cannot be used. Else, in clear, ``structure``; as SHA-256
        ``bits`` and ``family``; as HMAC-SHA256 under `Keys.probe` ``permuted`` and ``fold``. Each digest has 16
        hexadecimal digits. Without a family there is neither ``family`` nor ``fold``. The head of this module
        says what may be plain and why.

    Raises
    ------
    ValueError
        `outcomes` has another length than the list.
    """
    permutation = bit_permutation(keys.permutation, bits)
    return {
        probe.name: _result(probe.name, outcome, keys, permutation, folds)
        for probe, outcome in zip(probe_molecules(), outcomes, strict=True)
    }


def _result(name: str, outcome: Outcome, keys: Keys, permutation: Positions, folds: int) -> dict[str, str]:
    if outcome.reason is not None:
        return {"reason": outcome.reason}
    moved = permutation[outcome.bits]
    order = np.argsort(moved)
    counts = None if outcome.counts is None else outcome.counts[order]
    shown = {
        "structure": outcome.smiles,
        "bits": _short(hashlib.sha256(_bytes(outcome.bits, outcome.counts)).digest()),
        "permuted": _keyed(keys, "permuted", name, _bytes(moved[order], counts)),
    }
    if outcome.family:
        family = hashlib.sha256(outcome.family.encode()).digest()
        place = f"{fold_of(outcome.family, keys.folds, folds)} of {folds}".encode()
        shown |= {"family": _short(family), "fold": _keyed(keys, "fold", name, family + place)}
    return shown


def _bytes(bits: Positions, counts: Counts | None) -> bytes:
    """Write positions and counts the same on every machine, whatever its byte order."""
    numbers = b"" if counts is None else counts.astype("<u2").tobytes()
    return len(bits).to_bytes(4, "little") + bits.astype("<i4").tobytes() + numbers


def _keyed(keys: Keys, use: str, name: str, content: bytes) -> str:
    head = json.dumps([use, name]).encode()
    return _short(hmac.new(keys.probe, head + b"\0" + content, hashlib.sha256).digest())


def _short(digest: bytes) -> str:
    return digest[:8].hex()
