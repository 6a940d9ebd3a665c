"""From the rows of a structure table to compounds: standardised once, numbered by id, with fold, family and date."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from pharma_fl.data.cells import NO_DATE
from pharma_fl.data.folds import fold_of, temporal_fold
from pharma_fl.data.molecules import Molecule, Recipe, compound_id, features, molecules
from pharma_fl.data.spool import Texts, pieces
from pharma_fl.data.structure_cache import StructureCache, text_key
from pharma_fl.data.structures import Reason
from pharma_fl.data.workers import Task, in_batches, work

Progress = Callable[[int, int], None]

REASONS: tuple[str, ...] = ("", "not_measured", "no_date", *get_args(Reason), "no_usable_activity")
"""Why a row of the structure table has no compound in the prepared data; `Compounds.reason` holds positions."""

_CODE = {reason: code for code, reason in enumerate(REASONS)}
_ID = "S16"
_PIECE = 20_000


@dataclass(frozen=True, eq=False)
class Compounds:
    """Compounds of a structure table.

    Attributes
    ----------
    ids : S16 array (c,)
        Compound ids, ascending and distinct.
    folds : int8 array (c,)
        Fold of each.
    families : int32 array (c,)
        Number of each one's family (see `folds`); equal families have equal numbers.
    days : int32 array (c,)
        Earliest day of each one's rows since 1970-01-01, or `NO_DATE` where any of them has none.
    of_row : int32 array (n,)
        The compound of each row of the table, -1 where it has none.
    reason : int8 array (n,)
        Why not, a position in `REASONS`; 0 where it has one.
    """

    ids: npt.NDArray[np.bytes_]
    folds: npt.NDArray[np.int8]
    families: npt.NDArray[np.int32]
    days: npt.NDArray[np.int32]
    of_row: npt.NDArray[np.int32]
    reason: npt.NDArray[np.int8]


@dataclass(frozen=True)
class ScaffoldFolds:
    """Folds by keyed hash of each compound's family (scaffold or LSH bits)."""

    key: bytes
    count: int


@dataclass(frozen=True)
class TemporalFolds:
    """Folds by each compound's earliest date."""

    cutoffs: tuple[date, ...]


def compounds(
    smiles: Texts,
    measured: npt.NDArray[np.bool_],
    cache: StructureCache,
    recipe: Recipe,
    folding: ScaffoldFolds | TemporalFolds,
    days: npt.NDArray[np.int32],
    *,
    workers: int,
    progress: Progress | None = None,
) -> Compounds:
    """Work out the structures of a table that are measured, as far as the cache does not know them.

    Parameters
    ----------
    smiles : Texts (n,)
    measured : bool array (n,)
        Rows that any measurement names; the others are not looked at.
    cache : StructureCache
        Asked first, and given what is new.
    recipe : Recipe
    folding : ScaffoldFolds or TemporalFolds
    days : int32 array (n,)
        Day of each row since 1970-01-01, or `NO_DATE`.
    workers : int
    progress : callable, optional
        Called with how many new structures are done and how many there are.

    Raises
    ------
    DataError
        ``PFL-D07`` processes die over and over.
    """
    keys = np.concatenate(
        [np.empty(0, _ID), *(_ids(map(text_key, smiles.between(p.start, p.stop))) for p in pieces(len(smiles), _PIECE))]
    )
    distinct, first, inverse = np.unique(keys[measured], return_index=True, return_inverse=True)
    rows = np.flatnonzero(measured)[first]
    unknown = [rows[p][~_known(cache, distinct[p])] for p in pieces(len(distinct), _PIECE)]
    todo = np.sort(np.concatenate([np.empty(0, np.int64), *unknown]))
    crashed = work_out((smiles[int(row)] for row in todo), len(todo), cache, recipe, workers, progress)

    compound, reason = _answers(cache, distinct, crashed)
    ids = np.unique(compound[reason == 0])
    lacking = complete_features(cache, ids, recipe, workers)
    of_row = np.full(len(smiles), -1, dtype=np.int32)
    why = np.full(len(smiles), _CODE["not_measured"], dtype=np.int8)
    found = np.where(reason == 0, np.searchsorted(ids, compound), -1).astype(np.int32)
    of_row[measured], why[measured] = found[inverse], reason[inverse]
    earliest = _earliest(days, of_row, len(ids))
    folds, families, failed = _folds(cache, ids, folding, earliest, lacking)
    bad = np.flatnonzero(of_row >= 0)[failed[of_row[of_row >= 0]] != 0]
    why[bad] = failed[of_row[bad]]
    of_row[bad] = -1
    return Compounds(ids, folds, families, _since(days, of_row, earliest), of_row, why)


def work_out(
    texts: Iterable[str],
    total: int,
    cache: StructureCache,
    recipe: Recipe,
    workers: int,
    progress: Progress | None = None,
) -> set[bytes]:
    """Standardise texts that the cache does not know and give it the results; return the keys of what crashed."""
    crashed = set()
    for text, molecule in _worked(molecules, texts, total, recipe, workers, progress):
        cache.add(text, molecule)
        if molecule.reason == "crashed":
            crashed.add(text_key(text))
    cache.commit()
    return crashed


def looked_up(texts: Sequence[str], cache: StructureCache, recipe: Recipe, workers: int) -> list[Molecule]:
    """Return what some SMILES amount to, in their order; worked out where the cache does not know it."""
    known = cache.standardised([text_key(text) for text in texts])
    todo = [text for text in dict.fromkeys(texts) if text_key(text) not in known]
    work_out(todo, len(todo), cache, recipe, workers)
    answers = cache.standardised([text_key(text) for text in texts]).values()
    complete_features(cache, np.unique(_ids(one.compound for one in answers if one.compound)), recipe, workers)
    return cache.molecules(texts)


def complete_features(
    cache: StructureCache, ids: npt.NDArray[np.bytes_], recipe: Recipe, workers: int
) -> dict[bytes, Reason]:
    """Compute bits and families of compounds that were standardised before; return those that have none, and why."""
    lacking = [one for piece in pieces(len(ids), _PIECE) for one in cache.without_features(as_bytes(ids[piece]))]
    texts = (text for piece in pieces(len(lacking), _PIECE) for text in cache.smiles(lacking[piece]))
    failed: dict[bytes, Reason] = {}
    for text, molecule in _worked(_all_features, texts, len(lacking), recipe, workers, None):
        if molecule.smiles:
            cache.add_features(molecule)
        else:
            failed[compound_id(text)] = molecule.reason or "crashed"
    cache.commit()
    return failed


def as_bytes(ids: npt.NDArray[np.bytes_]) -> list[bytes]:
    """Return 16 bytes each; NumPy's own bytes would lose zeros at the end."""
    content = ids.tobytes()
    return [content[begin : begin + 16] for begin in range(0, len(content), 16)]


def _worked(
    task: Task, texts: Iterable[str], total: int, recipe: Recipe, workers: int, progress: Progress | None
) -> Iterator[tuple[str, Molecule]]:
    done = 0
    if total == 0:
        return
    for batch, results in work(task, in_batches(texts), recipe, workers=workers):
        yield from zip(batch, results, strict=True)
        done += len(batch)
        if progress is not None:
            progress(done, total)


def _all_features(smiles: Sequence[str], recipe: Recipe) -> list[Molecule]:
    return [features(text, recipe) for text in smiles]


def _ids(keys: Iterable[bytes]) -> npt.NDArray[np.bytes_]:
    return np.frombuffer(b"".join(keys), dtype=_ID)


def _known(cache: StructureCache, keys: npt.NDArray[np.bytes_]) -> npt.NDArray[np.bool_]:
    found = cache.standardised(as_bytes(keys))
    return np.array([key in found for key in as_bytes(keys)], dtype=bool)


def _answers(
    cache: StructureCache, keys: npt.NDArray[np.bytes_], crashed: set[bytes]
) -> tuple[npt.NDArray[np.bytes_], npt.NDArray[np.int8]]:
    compound, reason = np.zeros(len(keys), dtype=_ID), np.zeros(len(keys), dtype=np.int8)
    for piece in pieces(len(keys), _PIECE):
        found: dict[bytes, Any] = cache.standardised(as_bytes(keys[piece]))
        for number, key in enumerate(as_bytes(keys[piece]), piece.start):
            if key in crashed:
                reason[number] = _CODE["crashed"]
            elif found[key].compound is None:
                reason[number] = _CODE[found[key].reason]
            else:
                compound[number] = found[key].compound
    return compound, reason


def _earliest(days: npt.NDArray[np.int32], of_row: npt.NDArray[np.int32], count: int) -> npt.NDArray[np.int32]:
    latest = np.iinfo(np.int32).max
    earliest = np.full(count, latest, dtype=np.int32)
    dated = (of_row >= 0) & (days != NO_DATE)
    np.minimum.at(earliest, of_row[dated], days[dated])
    return np.where(earliest == latest, NO_DATE, earliest).astype(np.int32)


def _since(
    days: npt.NDArray[np.int32], of_row: npt.NDArray[np.int32], earliest: npt.NDArray[np.int32]
) -> npt.NDArray[np.int32]:
    """Return the day since which each compound is there, which nobody knows of one with an undated row."""
    since = earliest.copy()
    since[of_row[(of_row >= 0) & (days == NO_DATE)]] = NO_DATE
    return since


def _folds(
    cache: StructureCache,
    ids: npt.NDArray[np.bytes_],
    folding: ScaffoldFolds | TemporalFolds,
    days: npt.NDArray[np.int32],
    lacking: Mapping[bytes, Reason],
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.int32], npt.NDArray[np.int8]]:
    """Return each compound's fold, the number of its family, and the reason why it has none."""
    folds, failed = np.zeros(len(ids), dtype=np.int8), np.zeros(len(ids), dtype=np.int8)
    digests = np.zeros(len(ids), dtype=_ID)
    if lacking:
        failed[:] = [_CODE[lacking[one]] if one in lacking else 0 for one in as_bytes(ids)]
    if isinstance(folding, TemporalFolds):
        failed[(days == NO_DATE) & (failed == 0)] = _CODE["no_date"]
        folds = temporal_fold(days, folding.cutoffs)
    there = np.flatnonzero(failed == 0)
    for piece in pieces(len(there), _PIECE):
        found = cache.families(as_bytes(ids[there[piece]]))
        for number, (family, reason) in zip(there[piece], found, strict=True):
            if reason is not None:
                failed[number] = _CODE[reason]
                continue
            # Sixteen bytes each, however long a scaffold's SMILES is.
            digests[number] = text_key(family)
            if isinstance(folding, ScaffoldFolds):
                folds[number] = fold_of(family, folding.key, folding.count)
    return folds, np.unique(digests, return_inverse=True)[1].astype(np.int32), failed
