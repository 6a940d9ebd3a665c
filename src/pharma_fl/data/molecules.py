"""From many SMILES to standardised structures, bits and scaffolds, on several processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial

import numpy as np

from pharma_fl.config import StructureSettings
from pharma_fl.data.fingerprints import Positions, bit_positions
from pharma_fl.data.folds import fold_scaffold
from pharma_fl.data.structures import Reason, StructureFailure, standardise
from pharma_fl.errors import DataError

Progress = Callable[[int, int], None]

_CHUNK = 64


@dataclass(frozen=True, kw_only=True, eq=False)
class Molecule:
    """What the structure of one SMILES amounts to, before any key is applied.

    Attributes
    ----------
    smiles : str
        The standardised SMILES; empty where `reason` is set.
    raw_bits : int32 array (k,)
        Sorted fingerprint positions, not yet permuted.
    scaffold : str
        What decides the fold; see `fold_scaffold`.
    reason : str or None
        Why the structure cannot be used.
    """

    smiles: str
    raw_bits: Positions
    scaffold: str
    reason: Reason | None = None


def molecule(smiles: str, settings: StructureSettings) -> Molecule:
    """Standardise one SMILES and compute its bits and scaffold; a failure is a reason, not an exception."""
    try:
        standardised = standardise(smiles, settings)
        return Molecule(
            smiles=standardised,
            raw_bits=bit_positions(standardised, settings),
            scaffold=fold_scaffold(standardised),
        )
    except StructureFailure as failure:
        return Molecule(smiles="", raw_bits=np.empty(0, dtype=np.int32), scaffold="", reason=failure.reason)


def molecules(
    smiles: Sequence[str], settings: StructureSettings, *, workers: int = 1, progress: Progress | None = None
) -> list[Molecule]:
    """Apply `molecule` to each SMILES, in order.

    Parameters
    ----------
    smiles : sequence of str
        Given once each; equal ones would be computed again.
    settings : StructureSettings
        How a SMILES becomes bits.
    workers : int
        Processes; with 1 all happens in this one. They are spawned, so a script that asks for more needs
        the usual ``if __name__ == "__main__"``. No key reaches them.
    progress : callable, optional
        Called with how many are done and how many there are.

    Raises
    ------
    DataError
        ``PFL-D07`` a worker process died.
    """
    if workers < 1:
        raise ValueError(f"expected workers >= 1, got {workers}")
    if workers == 1 or len(smiles) <= _CHUNK:
        return _collect((molecule(text, settings) for text in smiles), len(smiles), progress)
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    try:
        return _collect(pool.map(partial(molecule, settings=settings), smiles, chunksize=_CHUNK), len(smiles), progress)
    except BrokenProcessPool as error:
        raise DataError(
            "PFL-D07",
            "A process that standardised structures died, most often for lack of memory. Prepare with fewer workers.",
        ) from error
    finally:
        # An interrupt must not wait for what is still queued.
        pool.shutdown(wait=True, cancel_futures=True)


def _collect(results: Iterator[Molecule], total: int, progress: Progress | None) -> list[Molecule]:
    done: list[Molecule] = []
    for result in results:
        done.append(result)
        if progress is not None and (len(done) % _CHUNK == 0 or len(done) == total):
            progress(len(done), total)
    return done
