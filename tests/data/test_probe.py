"""The probe: that each molecule exercises what it says, and that results give nothing of the key away."""

import hashlib
import hmac
import json
import time
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from rdkit import Chem, rdBase
from rdkit.Chem import rdFingerprintGenerator, rdMolDescriptors
from rdkit.Chem.MolStandardize import rdMolStandardize

from pharma_fl.config import StructureSettings
from pharma_fl.data.fingerprints import bit_permutation
from pharma_fl.data.folds import ACYCLIC, fold_of, fold_scaffold, murcko_scaffold
from pharma_fl.data.keys import Keys
from pharma_fl.data.probe import EXERCISES, probe_digest, probe_molecules, probe_results
from pharma_fl.data.structures import StructureFailure, standardise

BITS, FOLDS = 32_000, 5
GENERATOR = rdFingerprintGenerator.GetMorganGenerator(radius=3, fpSize=BITS)
KEYS = Keys.derive(b"a secret", "hkdf")


def prepared(smiles, generator=GENERATOR, **settings):
    try:
        text = standardise(smiles, StructureSettings(**settings))
        with rdBase.BlockLogs():
            counts = sorted(generator.GetCountFingerprint(Chem.MolFromSmiles(text)).GetNonzeroElements().items())
        return SimpleNamespace(
            smiles=text,
            bits=np.array([bit for bit, _ in counts], dtype=np.int32),
            counts=np.array([count for _, count in counts], dtype=np.uint16),
            family=fold_scaffold(text),
            reason=None,
        )
    except StructureFailure as failure:
        return SimpleNamespace(smiles="", bits=None, counts=None, family="", reason=failure.reason)


@pytest.fixture(scope="module")
def timed():
    start = time.process_time()
    outcomes = [prepared(probe.smiles) for probe in probe_molecules()]
    return outcomes, time.process_time() - start


@pytest.fixture(scope="module")
def outcomes(timed):
    return timed[0]


@pytest.fixture(scope="module")
def results(outcomes):
    return probe_results(outcomes, KEYS, bits=BITS, folds=FOLDS)


# --- Each effect, as raw RDKit sees it. before: the molecule as read; after: as standardised. --------------------


def mol(smiles, *, sanitize=True):
    with rdBase.BlockLogs():
        parameters = Chem.SmilesParserParams()
        parameters.removeHs = False
        parameters.sanitize = sanitize
        return Chem.MolFromSmiles(smiles, parameters)


def fragments(smiles):
    return len(Chem.GetMolFrags(mol(smiles, sanitize=False)))


def flat(smiles):
    read = Chem.MolFromSmiles(smiles)
    Chem.RemoveStereochemistry(read)
    return Chem.MolToSmiles(read)


def moved_hydrogen(probe, after):
    """The same formula and another connection table."""
    before = Chem.MolFromSmiles(probe.smiles)
    formulas = [rdMolDescriptors.CalcMolFormula(each) for each in (before, Chem.MolFromSmiles(after.smiles))]
    return formulas[0] == formulas[1] and flat(probe.smiles) != after.smiles


def has(pattern):
    query = Chem.MolFromSmarts(pattern)
    return lambda probe, after: mol(after.smiles).HasSubstructMatch(query)


def ring_sizes(probe, after):
    read = mol(after.smiles)  # its ring info does not outlive it
    return [len(ring) for ring in read.GetRingInfo().AtomRings()]


def shares_a_bond(probe, after):
    read = mol(after.smiles)
    return any(read.GetRingInfo().NumBondRings(bond.GetIdx()) > 1 for bond in read.GetBonds())


def aromatic(smiles):
    return any(atom.GetIsAromatic() for atom in mol(smiles).GetAtoms())


def charged(smiles):
    return any(atom.GetFormalCharge() for atom in mol(smiles, sanitize=False).GetAtoms())


def too_many_tautomers(probe, after):
    enumerator = rdMolStandardize.TautomerEnumerator()
    enumerator.SetMaxTautomers(StructureSettings().max_tautomers)
    status = enumerator.Enumerate(Chem.MolFromSmiles(after.smiles)).status
    return status != rdMolStandardize.TautomerEnumeratorStatus.Completed


def rings_of_the_scaffold(after):
    return rdMolDescriptors.CalcNumRings(mol(murcko_scaffold(after.smiles)))


def rewritten(text):
    """The group is written otherwise than in the probe."""
    return lambda probe, after: text in probe.smiles and text not in after.smiles


TAUTOMERS = (
    "keto_enol amide_imidic lactam_lactim pyridone guanidine amidine azole_nh nitroso_oxime thione phenol_quinone "
    "hydrazone shift_1_5 porphyrin"
)
EFFECTS = {
    "unparsable": lambda probe, after: after.reason == "unparsable",
    "failing": lambda probe, after: after.reason == "standardisation_failed",
    "hypervalent": has("[SX6,PX5,PX6,IX3,IX5]"),
    "kekule": lambda probe, after: not any(sign in probe.smiles for sign in "cnos") and aromatic(after.smiles),
    "aromatic": lambda probe, after: any(sign in probe.smiles for sign in "cnos") and aromatic(after.smiles),
    "atom_limit": lambda probe, after: after.reason == "too_many_atoms",
    "explicit_h": lambda probe, after: "[H]" in probe.smiles and "[H]" not in after.smiles,
    "isotope": lambda probe, after: (
        any(atom.GetIsotope() for atom in mol(probe.smiles).GetAtoms())
        and not any(atom.GetIsotope() for atom in mol(after.smiles).GetAtoms())
    ),
    "salt": lambda probe, after: fragments(after.smiles) < fragments(probe.smiles),
    "hydrate": lambda probe, after: "O" in probe.smiles.split(".") and fragments(after.smiles) == 1,
    "mixture": lambda probe, after: not charged(probe.smiles) and fragments(after.smiles) < fragments(probe.smiles),
    "charge": lambda probe, after: charged(probe.smiles) and not charged(after.smiles),
    "zwitterion": lambda probe, after: "+" in probe.smiles and "-]" in probe.smiles and not charged(after.smiles),
    "quaternary": lambda probe, after: "+" in after.smiles,
    "tetrahedral": lambda probe, after: "@" in probe.smiles and "@" not in after.smiles,
    "double_bond": lambda probe, after: "/" in probe.smiles and "/" not in after.smiles,
    **dict.fromkeys(TAUTOMERS.split(), moved_hydrogen),
    "tautomer_limit": too_many_tautomers,
    "tautomer_rules": lambda probe, after: (
        len({repr(prepared(probe.smiles, tautomer_rules=rules).smiles) for rules in ("v1", "v2")}) == 2
    ),
    "phosphorus": has("[#15]"),
    "metal": lambda probe, after: (
        any(symbol in probe.smiles for symbol in ("Mg", "Zn", "Cu", "Pt", "Na", "Fe"))
        and not any(symbol in after.smiles for symbol in ("Mg", "Zn", "Cu", "Pt", "Na", "Fe"))
    ),
    "nitro": rewritten("=N(=O)"),
    "sulfoxide": rewritten("S(C)=O"),
    "azide": rewritten("N=N#N"),
    "diazo": rewritten("=N#N"),
    "n_oxide": rewritten("O=n"),
    "normaliser": rewritten("[O-]"),
    "reioniser": lambda probe, after: charged(after.smiles) and flat(probe.smiles) != after.smiles,
    "element": has("[!#1;!#6;!#7;!#8;!#16;!#15;!F;!Cl;!Br;!I]"),
    "hetero": lambda probe, after: rdMolDescriptors.CalcNumHeterocycles(mol(after.smiles)) > 0,
    "ring_size": lambda probe, after: any(size < 5 or size > 6 for size in ring_sizes(probe, after)),
    "macrocycle": lambda probe, after: any(size > 9 for size in ring_sizes(probe, after)),
    "spiro": lambda probe, after: rdMolDescriptors.CalcNumSpiroAtoms(mol(after.smiles)) > 0,
    "bridged": lambda probe, after: rdMolDescriptors.CalcNumBridgeheadAtoms(mol(after.smiles)) > 0,
    "fused": shares_a_bond,
    "scaffold_network": lambda probe, after: (
        rings_of_the_scaffold(after) > 3 and after.family != murcko_scaffold(after.smiles)
    ),
    "tie_break": lambda probe, after: (
        rings_of_the_scaffold(after) > 3 and rdMolDescriptors.CalcNumRings(mol(after.family)) == 3
    ),
    "acyclic": lambda probe, after: after.family == ACYCLIC,
    "chain": lambda probe, after: after.counts.max() > 10,
}


def test_the_list_is_of_its_size_and_says_what_it_exercises():
    probes = probe_molecules()
    assert 250 <= len(probes) <= 350
    assert len({probe.name for probe in probes}) == len({probe.smiles for probe in probes}) == len(probes)
    counts = Counter(tag for probe in probes for tag in probe.exercises)
    assert counts.keys() == EXERCISES.keys()
    assert min(counts.values()) >= 3
    assert all(len(set(probe.exercises)) == len(probe.exercises) > 0 for probe in probes)
    assert all(probe.name.isprintable() and "  " not in probe.name for probe in probes)


def test_every_effect_is_tested():
    assert EFFECTS.keys() | {"spelling"} == EXERCISES.keys()


@pytest.mark.parametrize("tag", EFFECTS)
def test_the_effect_is_there(tag, outcomes):
    refused = {"unparsable", "failing", "atom_limit"}
    members = [pair for pair in zip(probe_molecules(), outcomes, strict=True) if tag in pair[0].exercises]
    assert any(EFFECTS[tag](*pair) for pair in members if tag in refused or pair[1].reason is None)


def test_every_spelling_has_a_partner(outcomes):
    shared = Counter(outcome.smiles for outcome in outcomes if outcome.reason is None)
    for probe, outcome in zip(probe_molecules(), outcomes, strict=True):
        if "spelling" in probe.exercises:
            assert shared[outcome.smiles] > 1, probe.name


def test_atoms_around_the_limit(outcomes):
    reasons = {probe.name: outcome.reason for probe, outcome in zip(probe_molecules(), outcomes, strict=True)}
    assert reasons["99 carbons"] is None
    assert reasons["99 atoms with the counter-ion"] is None
    assert reasons["100 carbons"] == reasons["101 carbons"] == "too_many_atoms"
    assert reasons["100 atoms with the counter-ion"] == "too_many_atoms"
    # Atoms of hydrogen vanish before they are counted; those of deuterium do not.
    assert reasons["98 carbons and two explicit hydrogens"] is None
    assert reasons["98 carbons and two deuterium atoms"] == "too_many_atoms"


def test_every_criterion_of_the_scaffold_network_decides_somewhere(outcomes):
    from rdkit.Chem.Scaffolds import rdScaffoldNetwork

    from pharma_fl.data import folds

    decisive = set()
    for outcome in outcomes:
        murcko = "" if outcome.reason else murcko_scaffold(outcome.smiles)
        if not murcko or rdMolDescriptors.CalcNumRings(mol(murcko)) <= 3:
            continue
        nodes = {str(node) for node in rdScaffoldNetwork.CreateScaffoldNetwork([mol(murcko)], folds._network()).nodes}
        if len(nodes) > 1:
            best, next_best = sorted(map(folds._priority, nodes))[:2]
            decisive.add(
                next(place for place, pair in enumerate(zip(best, next_best, strict=True)) if len({*pair}) > 1)
            )
    assert decisive == set(range(9))


@pytest.mark.parametrize(
    "setting",
    [
        {"max_atoms": 99},
        {"max_atoms": 101},
        {"max_tautomers": 64},
        {"max_tautomers": 512},
        {"tautomer_rules": "v2"},
        {"stereo": True},
    ],
)
def test_every_setting_of_structures_shows(setting):
    # Only what the setting is about needs to be made again.
    tags = {"max_atoms": "atom_limit", "max_tautomers": "tautomer_limit", "stereo": "tetrahedral"}
    tag = tags.get(next(iter(setting)), "tautomer_rules")
    base = {"tautomer_rules": "v1"}
    members = [probe.smiles for probe in probe_molecules() if tag in probe.exercises]
    assert any(prepared(text, **base).smiles != prepared(text, **(base | setting)).smiles for text in members)


@pytest.mark.parametrize(
    "generator",
    [
        rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=BITS),
        rdFingerprintGenerator.GetMorganGenerator(radius=4, fpSize=BITS),
        rdFingerprintGenerator.GetMorganGenerator(radius=3, fpSize=BITS - 1),
        rdFingerprintGenerator.GetMorganGenerator(
            radius=3, fpSize=BITS, atomInvariantsGenerator=rdFingerprintGenerator.GetMorganFeatureAtomInvGen()
        ),
    ],
)
def test_every_setting_of_the_fingerprint_shows(generator, outcomes):
    assert any(
        list(generator.GetFingerprint(Chem.MolFromSmiles(outcome.smiles)).GetOnBits()) != outcome.bits.tolist()
        for outcome in outcomes[-50:]
        if outcome.reason is None
    )


def test_the_probe_is_quick(timed):
    # About 1.4 s on a slow core. The limit only catches a molecule that takes seconds.
    assert timed[1] < 10


# --- Results ------------------------------------------------------------------------------------------------------


def test_results_say_structure_or_reason_in_clear(results, outcomes):
    assert list(results) == [probe.name for probe in probe_molecules()]
    for result, outcome in zip(results.values(), outcomes, strict=True):
        if outcome.reason:
            assert result == {"reason": outcome.reason}
        else:
            assert result["structure"] == outcome.smiles
            assert result.keys() == {"structure", "bits", "permuted", "family", "fold"}


def test_results_follow_their_definition(results, outcomes):
    permutation = bit_permutation(KEYS.permutation, BITS)
    names = [probe.name for probe in probe_molecules()]
    for name in ("imatinib", "squalene", "99 carbons"):
        outcome, result = outcomes[names.index(name)], results[name]
        length = len(outcome.bits).to_bytes(4, "little")
        plain = length + b"".join(int(bit).to_bytes(4, "little") for bit in outcome.bits)
        plain += b"".join(int(count).to_bytes(2, "little") for count in outcome.counts)
        assert result["bits"] == hashlib.sha256(plain).hexdigest()[:16]
        assert result["family"] == hashlib.sha256(outcome.family.encode()).hexdigest()[:16]
        pairs = sorted(
            (int(permutation[bit]), int(count)) for bit, count in zip(outcome.bits, outcome.counts, strict=True)
        )
        moved = length + b"".join(bit.to_bytes(4, "little") for bit, _ in pairs)
        moved += b"".join(count.to_bytes(2, "little") for _, count in pairs)
        message = json.dumps(["permuted", name]).encode() + b"\0" + moved
        assert result["permuted"] == hmac.new(KEYS.probe, message, "sha256").hexdigest()[:16]
        fold = f"{fold_of(outcome.family, KEYS.folds, FOLDS)} of {FOLDS}".encode()
        message = json.dumps(["fold", name]).encode() + b"\0" + hashlib.sha256(outcome.family.encode()).digest() + fold
        assert result["fold"] == hmac.new(KEYS.probe, message, "sha256").hexdigest()[:16]


def test_equal_folds_do_not_show(results):
    folds = [result["fold"] for result in results.values() if "fold" in result]
    assert len(set(folds)) == len(folds) > 100


def test_without_the_key_guesses_are_not_confirmed(results, outcomes):
    """A plain hash of any fold, or of any single bit's place, is nowhere in the results."""
    shown = {value for result in results.values() for kind, value in result.items() if kind in {"permuted", "fold"}}
    texts = [str(number) for number in range(BITS)] + [f"{fold} of {FOLDS}" for fold in range(FOLDS)]
    guesses = {hashlib.sha256(text.encode()).hexdigest()[:16] for text in texts}
    guesses |= {hashlib.sha256(number.to_bytes(4, "little")).hexdigest()[:16] for number in range(BITS)}
    assert not shown & guesses
    everything = json.dumps(results)
    for use in ("permutation", "folds", "families", "probe"):
        assert getattr(KEYS, use).hex() not in everything


def test_what_the_key_decides_changes_with_it_and_nothing_else_does(results, outcomes):
    other = probe_results(outcomes, Keys.derive(b"another secret", "hkdf"), bits=BITS, folds=FOLDS)
    scheme = probe_results(outcomes, Keys.derive(b"a secret", "tuner"), bits=BITS, folds=FOLDS)
    for name, result in results.items():
        for kind, value in result.items():
            assert (other[name][kind] == value) == (kind not in {"permuted", "fold"})
        assert ("permuted" in result) == (scheme[name].get("permuted") != result.get("permuted"))


def test_each_result_changes_with_what_it_is_about(results, outcomes):
    names = [probe.name for probe in probe_molecules()]
    place = names.index("imatinib")

    def changed(**changes):
        made = list(outcomes)
        made[place] = SimpleNamespace(**(vars(outcomes[place]) | changes))
        again = probe_results(made, KEYS, bits=BITS, folds=FOLDS)
        assert all(again[name] == results[name] for name in names if name != "imatinib")
        return {kind for kind, value in results["imatinib"].items() if again["imatinib"].get(kind) != value}

    one = outcomes[place]
    assert changed() == set()
    assert changed(smiles="C") == {"structure"}
    assert changed(bits=one.bits + 1) == {"bits", "permuted"}
    assert changed(counts=one.counts + 1) == {"bits", "permuted"}
    assert changed(family="c1ccccc1") == {"family", "fold"}
    assert changed(family="") == {"family", "fold"}
    assert changed(reason="timed_out") == set(results["imatinib"])
    more_folds = probe_results(outcomes, KEYS, bits=BITS, folds=FOLDS + 1)["imatinib"]
    assert {kind for kind, value in more_folds.items() if results["imatinib"][kind] != value} == {"fold"}


def test_counts_may_be_left_out(outcomes):
    without = [SimpleNamespace(**(vars(outcome) | {"counts": None})) for outcome in outcomes]
    shown = probe_results(without, KEYS, bits=BITS, folds=FOLDS)["imatinib"]
    assert shown.keys() == {"structure", "bits", "permuted", "family", "fold"}


def test_another_number_of_outcomes_is_refused(outcomes):
    with pytest.raises(ValueError):
        probe_results(outcomes[1:], KEYS, bits=BITS, folds=FOLDS)


def test_the_digest_tells_lists_apart(monkeypatch):
    before = probe_digest()
    assert len(before) == 16
    monkeypatch.setattr("pharma_fl.data.probe.probe_molecules", lambda: probe_molecules()[:-1])
    assert probe_digest() != before
