"""Whether partners prepared alike, and if not, in what they differ: agreements compared, in words.

`check` is the one function that decides it. The command ``pharma-fl agree`` calls it, and whatever admits partners to
a run is to call it as well, so that nobody is admitted on another rule than the one that a person can look at.

Agreements come from other companies. Any JSON is taken, and what is shown of it is safe for a terminal. An agreement
is a claim: this finds honest mistakes, and not a partner that shows another's file as its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

from pharma_fl.data.agreement import STEPS, Agreement, ProbeResults, Result, Step, plain, shown, understood
from pharma_fl.data.probe import EXERCISES, probe_molecules

_SHOWN = 8

_RULES = "Use one rules file (partner.toml: rules) and prepare again."
_REMEDIES = {
    "structures": "Agree on [structures] of partner.toml and prepare again.",
    "fingerprint": "Agree on [fingerprint] of partner.toml and prepare again.",
    "folds": "Agree on [folds] of partner.toml and prepare again.",
    "catalogue": "Use one file of the catalogue (partner.toml: tables.catalogue) and prepare again.",
}
_FEATURES = "The shared trunk would read other features for the same compound, and be worse for all."
_LEAKAGE = "One partner would train on what the other holds out, and results would look better than they are."
_PROBE = {
    "structure": f"get another standardised structure. {_FEATURES}",
    "bits": f"get other fingerprint bits from the same structure. {_FEATURES}",
    "permuted": f"have their bits moved to other places under the same key. {_FEATURES}",
    "family": f"belong to another family, which decides the fold. {_LEAKAGE}",
    "fold": f"get another fold from the same family and key. {_LEAKAGE}",
}
_BY_CHANCE = {"timed_out", "crashed"}

Names = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One thing in which two agreements differ.

    Attributes
    ----------
    where : str
        The place, such as ``structures.max_atoms``.
    what : str
        Both values, what follows and what to do, in words.
    serious : bool
        Whether these partners should not train together.
    """

    where: str
    what: str
    serious: bool = True


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Who agrees with whom.

    Attributes
    ----------
    groups : tuple of tuple of str
        Partners that agree among themselves, the largest group first. One group: all agree.
    reference : str
        The first partner of the first group, with which all others are compared.
    differences : dict
        By each other partner, how it differs from `reference`; remarks that are not serious included.
    """

    groups: tuple[tuple[str, ...], ...]
    reference: str
    differences: dict[str, tuple[Difference, ...]]

    @property
    def agree(self) -> bool:
        """Whether nothing serious stands between any two."""
        return len(self.groups) == 1


def check(agreements: Mapping[str, Any]) -> Verdict:
    """Say who agrees with whom, for two partners or more.

    Parameters
    ----------
    agreements : mapping
        By partner, its agreement or any other JSON; what is no agreement agrees with nothing.

    Returns
    -------
    Verdict
        Each partner is in the first group with all of whose members it agrees, in the order given.

    Raises
    ------
    ValueError
        There is nothing to compare.
    """
    if not agreements:
        raise ValueError("expected at least one agreement")
    groups: list[list[str]] = []
    for name, content in agreements.items():
        for group in groups:
            between = chain.from_iterable(differences(agreements[member], content) for member in group)
            if not any(one.serious for one in between):
                group.append(name)
                break
        else:
            groups.append([name])
    groups.sort(key=len, reverse=True)  # a stable sort: of equal groups, the earlier leads
    reference = groups[0][0]
    return Verdict(
        groups=tuple(tuple(group) for group in groups),
        reference=reference,
        differences={
            name: differences(agreements[reference], content, names=(reference, name))
            for name, content in agreements.items()
            if name != reference
        },
    )


def differences(first: Any, second: Any, *, names: Names = ("the first", "the second")) -> tuple[Difference, ...]:
    """Return how two agreements differ, in words; nothing means that they agree.

    What only follows from a difference that is named already is left out: with different keys, what the key decides
    is not compared; of a molecule with another structure, bits and fold are not listed.

    Parameters
    ----------
    first, second : mapping
        Agreements from `agreement`, or any other JSON.
    names : tuple of str
        What to call them.
    """
    names = (_called(names[0]), _called(names[1]))
    one, other = understood(first), understood(second)
    if isinstance(one, Agreement) and isinstance(other, Agreement):
        return tuple(_compared(one, other, names))
    return tuple(
        Difference(where="agreement", what=f"{name}: {read} Install one release of pharma-fl and prepare again.")
        for name, read in zip(names, (one, other), strict=True)
        if isinstance(read, str)
    )


def _compared(one: Agreement, other: Agreement, names: Names) -> Iterator[Difference]:
    yield from _versions(one, other, names)
    yield from _key(one, other, names)
    for step in STEPS:
        yield from _step(step, one, other, names)
    if one.probe.digest != other.probe.digest:
        yield Difference(
            where="probe",
            what="They prepared different lists of probe molecules, which cannot be compared. "
            "Install one release of pharma-fl and prepare again.",
        )
        return
    same_folds = _same(_compared_settings(one.steps.folds), _compared_settings(other.steps.folds))
    yield from _probes(one.probe, other.probe, names, same_key=one.key == other.key, same_folds=same_folds)


def _versions(one: Agreement, other: Agreement, names: Names) -> Iterator[Difference]:
    here, there = one.versions, other.versions
    if here.rdkit != there.rdkit:
        yield Difference(
            where="versions.rdkit",
            what=f"{_both(here.rdkit, there.rdkit, names)}. Releases of RDKit standardise some molecules differently, "
            "and not only those of the probe. Install one release of RDKit and prepare again.",
        )
    for package, a, b in (("numpy", here.numpy, there.numpy), ("pharma_fl", here.pharma_fl, there.pharma_fl)):
        if a != b:
            what = f"{_both(a, b, names)}. By itself this changes nothing that was prepared."
            yield Difference(where=f"versions.{package}", what=what, serious=False)


def _key(one: Agreement, other: Agreement, names: Names) -> Iterator[Difference]:
    if one.key.id != other.key.id:
        yield Difference(
            where="key.id",
            what=f"{_both(one.key.id, other.key.id, names)}. They hold different secrets: every bit and every fold "
            "differs, and what the key decides is not compared below. Give all partners the same key file "
            "(partner.toml: key_file) and prepare again.",
        )
    if one.key.scheme != other.key.scheme:
        yield Difference(
            where="key.scheme",
            what=f"{_both(one.key.scheme, other.key.scheme, names)}. Every bit and every fold differs. "
            "Agree on key_scheme of partner.toml and prepare again.",
        )


def _step(step: str, one: Agreement, other: Agreement, names: Names) -> Iterator[Difference]:
    here: Step = getattr(one.steps, step)
    there: Step = getattr(other.steps, step)
    if here.version != there.version:
        yield Difference(
            where=f"{step}.version",
            what=f"{_both(here.version, there.version, names)}. Their releases of pharma-fl compute this step "
            "differently. Install one release and prepare again.",
        )
    settings, others = _compared_settings(here), _compared_settings(there)
    differing = [name for name in sorted({*settings, *others}) if not _same(settings.get(name), others.get(name))]
    for name in differing[: 2 * _SHOWN]:
        yield from _setting(step, name, settings.get(name), others.get(name), names, same_key=one.key == other.key)
    if len(differing) > 2 * _SHOWN:
        yield Difference(where=step, what=f"{len(differing) - 2 * _SHOWN} more of its settings differ.")
    explained = differing or here.version != there.version or one.versions.rdkit != other.versions.rdkit
    if here.digest != there.digest and not explained and one.key == other.key:
        yield Difference(
            where=f"{step}.digest",
            what="The digests differ although version and settings agree, so one of the files was changed. "
            "Prepare again.",
        )


def _setting(step: str, name: str, here: Any, there: Any, names: Names, *, same_key: bool) -> Iterator[Difference]:
    if (step, name) != ("catalogue", "content"):
        what = f"{_both(here, there, names)}. {_REMEDIES.get(step, _RULES)}"
        yield Difference(where=f"{step}.{plain(name)}", what=what)
    elif here is None or there is None:
        without = names[0] if here is None else names[1]
        what = f"{without} uses no catalogue, as is right for a partner without its assays."
        yield Difference(where=step, what=what, serious=False)
    elif same_key:
        yield Difference(where=step, what=f"They use different catalogues. {_REMEDIES[step]}")


def _probes(
    one: ProbeResults, other: ProbeResults, names: Names, *, same_key: bool, same_folds: bool
) -> Iterator[Difference]:
    alone = sorted(one.results.keys() ^ other.results.keys())
    if alone:
        listed = ", ".join(plain(name) for name in alone[:_SHOWN])
        yield Difference(where="probe", what=f"Only one of them shows {listed}{_more(alone)}. Prepare again.")
    shared = sorted(one.results.keys() & other.results.keys())
    found: dict[str, list[str]] = {kind: [] for kind in _PROBE}
    for name in shared:
        for kind in _kinds(one.results[name], other.results[name], same_key=same_key, same_folds=same_folds):
            found[kind].append(name)
    for kind, molecules in found.items():
        if not molecules:
            continue
        pairs = [(one.results[name], other.results[name]) for name in molecules]
        listed = "; ".join(
            _molecule(name, pair, names if kind == "structure" else None)
            for name, pair in list(zip(molecules, pairs, strict=True))[:_SHOWN]
        )
        what = f"{len(molecules)} of {len(shared)} probe molecules {_PROBE[kind]} They are: {listed}{_more(molecules)}."
        if any(result.reason in _BY_CHANCE for pair in pairs for result in pair):
            what += " What timed out or crashed may have done so by chance: raise structures.time_limit_s."
        yield Difference(where=f"probe.{kind}", what=what)


def _kinds(one: Result, other: Result, *, same_key: bool, same_folds: bool) -> Iterator[str]:
    """Say in what a molecule differs, without what only follows from that."""
    if (one.structure, one.reason) != (other.structure, other.reason):
        yield "structure"
        return
    if one.bits != other.bits:
        yield "bits"
    elif same_key and one.permuted != other.permuted:
        yield "permuted"
    if not same_folds:
        return
    if one.family != other.family:
        yield "family"
    elif same_key and one.fold != other.fold:
        yield "fold"


def _molecule(name: str, results: tuple[Result, Result], names: Names | None) -> str:
    tags = next((probe.exercises for probe in probe_molecules() if probe.name == name), ())
    text = f"{plain(name)} ({', '.join(EXERCISES[tag] for tag in tags)})" if tags else plain(name)
    if names is None:
        return text
    here, there = (result.structure or f"refused as {result.reason}" for result in results)
    return f"{text}: {_both(here, there, names)}"


def _compared_settings(step: Step) -> dict[str, Any]:
    """Return a step's settings without the key's scheme, which is compared once."""
    return {name: value for name, value in step.settings.items() if name != "key_scheme"}


def _same(one: Any, other: Any) -> bool:
    """Compare JSON values: 1 is 1.0, as other programs may have written it, but it is not true."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(_same(a, b) for a, b in zip(one, other, strict=True))
    return bool(one == other)


def _both(one: Any, other: Any, names: Names) -> str:
    return f"{shown(one)} at {names[0]}, {shown(other)} at {names[1]}"


def _called(name: str) -> str:
    """Shorten a name from its front: of two paths, the ends differ."""
    return plain(name if len(name) <= 80 else f"...{name[-77:]}")


def _more(names: list[str]) -> str:
    return f"; and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
