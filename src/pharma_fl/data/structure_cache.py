"""What was worked out about structures before, so that no structure is worked out twice.

One SQLite file. Every row is found by its content, a hash of a SMILES, and by the digest of the settings that made
it, so that it is right whatever table it came from: prepared again after more compounds came, after an interrupt
or with another key, a folder is the same to the byte. No key and no measurement is in it, but structures are:
it is as confidential as the tables.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import numpy as np

from pharma_fl.data.fingerprints import Counts, Positions
from pharma_fl.data.molecules import Molecule, Recipe, compound_id
from pharma_fl.data.structures import Reason
from pharma_fl.errors import DataError

FILE = "structures.sqlite"

_VERSION = 1
_TABLES = """
CREATE TABLE recipes (number INTEGER PRIMARY KEY, digest TEXT NOT NULL UNIQUE);
CREATE TABLE standardised (
    recipe INTEGER, text BLOB, compound BLOB, reason TEXT, seconds REAL, PRIMARY KEY (recipe, text)) WITHOUT ROWID;
CREATE TABLE compounds (compound BLOB PRIMARY KEY, smiles TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE fingerprints (
    recipe INTEGER, compound BLOB, bits BLOB, counts BLOB, PRIMARY KEY (recipe, compound)) WITHOUT ROWID;
CREATE TABLE families (
    recipe INTEGER, compound BLOB, family TEXT, reason TEXT, PRIMARY KEY (recipe, compound)) WITHOUT ROWID;
"""
_ASKED_AT_ONCE = 500
_Row = TypeVar("_Row")
_COMMIT_EVERY_S = 1.0


@dataclass(frozen=True)
class Standardised:
    """What is known of one SMILES: its compound, or why it has none."""

    compound: bytes | None
    reason: Reason | None


def text_key(smiles: str) -> bytes:
    """Return 16 bytes that stand for a SMILES as it is written."""
    return blake2b(smiles.encode("utf-8", "surrogatepass"), digest_size=16).digest()


class StructureCache:
    """The cache of one folder; a context manager.

    Parameters
    ----------
    folder : Path
        Made where it is missing, for its owner alone.
    recipe : Recipe
        The settings whose results are asked for and added.

    Raises
    ------
    DataError
        ``PFL-D12`` the file is damaged or of another version.
    """

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path = folder / FILE
        self._recipe = recipe
        self._connection = sqlite3.connect(self._path, isolation_level=None)
        try:
            self._path.chmod(0o600)
            self._open()
        except BaseException as error:
            self._connection.close()
            damaged = isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError)
            if damaged:
                raise self._unusable(str(error)) from error
            raise
        self._committed = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.commit()
        finally:
            self._connection.close()
        if isinstance(value, sqlite3.DatabaseError) and not isinstance(value, sqlite3.OperationalError):
            raise self._unusable(str(value)) from value

    def standardised(self, keys: Sequence[bytes]) -> dict[bytes, Standardised]:
        """Return what is known of some `text_key`; a time-out only where the limit was no lower than today's."""
        rows = self._select(
            "SELECT text, compound, reason, seconds FROM standardised WHERE recipe = ? AND text IN ({})",
            "structure",
            keys,
        )
        limit = self._recipe.structures.time_limit_s
        return {
            text: Standardised(compound, reason)
            for text, compound, reason, seconds in rows
            if reason != "timed_out" or seconds >= limit
        }

    def add(self, smiles: str, molecule: Molecule) -> None:
        """Keep what was worked out for a SMILES. What crashed is not kept: another try may succeed."""
        if molecule.reason == "crashed":
            return
        compound = compound_id(molecule.smiles) if molecule.smiles else None
        reason = None if compound else molecule.reason
        seconds = self._recipe.structures.time_limit_s
        row = (self._numbers["structure"], text_key(smiles), compound, reason, seconds)
        self._connection.execute("INSERT OR REPLACE INTO standardised VALUES (?, ?, ?, ?, ?)", row)
        if compound:
            self._connection.execute("INSERT OR IGNORE INTO compounds VALUES (?, ?)", (compound, molecule.smiles))
            self.add_features(molecule)
        if time.monotonic() - self._committed > _COMMIT_EVERY_S:
            self.commit()

    def add_features(self, molecule: Molecule) -> None:
        """Keep bits and family of a standardised structure that is already known."""
        compound = compound_id(molecule.smiles)
        bits = (molecule.bits.astype("<i4").tobytes(), molecule.counts.astype("<u2").tobytes())
        row = (self._numbers["fingerprint"], compound, *bits)
        self._connection.execute("INSERT OR REPLACE INTO fingerprints VALUES (?, ?, ?, ?)", row)
        family = (self._numbers["family"], compound, molecule.family, molecule.reason)
        self._connection.execute("INSERT OR REPLACE INTO families VALUES (?, ?, ?, ?)", family)

    def commit(self) -> None:
        """Make what was added durable against a killed process."""
        self._connection.execute("COMMIT")
        self._connection.execute("BEGIN IMMEDIATE")
        self._committed = time.monotonic()

    def without_features(self, compounds: Sequence[bytes]) -> list[bytes]:
        """Return those of some compounds that lack bits or family under this recipe, in their order."""
        complete = "SELECT compound FROM {} WHERE recipe = ? AND compound IN ({{}})"
        there = {one for (one,) in self._select(complete.format("fingerprints"), "fingerprint", compounds)}
        there &= {one for (one,) in self._select(complete.format("families"), "family", compounds)}
        return [compound for compound in compounds if compound not in there]

    def smiles(self, compounds: Sequence[bytes]) -> list[str]:
        """Return the standardised SMILES of known compounds, in their order."""
        query = "SELECT compound, smiles FROM compounds WHERE compound IN ({})"
        return self._in_order(compounds, dict(self._select(query, None, compounds)))

    def families(self, compounds: Sequence[bytes]) -> list[tuple[str, Reason | None]]:
        """Return family, and the reason why there is none, of known compounds, in their order."""
        query = "SELECT compound, family, reason FROM families WHERE recipe = ? AND compound IN ({})"
        found = {compound: (family, reason) for compound, family, reason in self._select(query, "family", compounds)}
        return self._in_order(compounds, found)

    def fingerprints(self, compounds: Sequence[bytes]) -> list[tuple[Positions, Counts]]:
        """Return the bits, not permuted, and their counts of known compounds, in their order."""
        query = "SELECT compound, bits, counts FROM fingerprints WHERE recipe = ? AND compound IN ({})"
        found = {compound: (bits, counts) for compound, bits, counts in self._select(query, "fingerprint", compounds)}
        return [
            (np.frombuffer(bits, dtype="<i4"), np.frombuffer(counts, dtype="<u2"))
            for bits, counts in self._in_order(compounds, found)
        ]

    def molecules(self, texts: Sequence[str]) -> list[Molecule]:
        """Return all that is known of SMILES that were worked out before, in their order; what is not known crashed."""
        unknown = Standardised(None, "crashed")
        found = self.standardised([text_key(text) for text in texts])
        answers = [found.get(text_key(text), unknown) for text in texts]
        lacking = set(self.without_features([one.compound for one in answers if one.compound is not None]))
        answers = [unknown if one.compound in lacking else one for one in answers]
        compounds = [one.compound for one in answers if one.compound is not None]
        smiles, fingerprints = iter(self.smiles(compounds)), iter(self.fingerprints(compounds))
        families = iter(self.families(compounds))
        whole = []
        for one in answers:
            if one.compound is None:
                whole.append(Molecule(reason=one.reason))
                continue
            (bits, counts), (family, reason) = next(fingerprints), next(families)
            whole.append(Molecule(smiles=next(smiles), bits=bits, counts=counts, family=family, reason=reason))
        return whole

    def _open(self) -> None:
        run = self._connection.execute
        # A killed process loses at most what is not committed; a power cut at most the last commits, never the file.
        for pragma in ("journal_mode = WAL", "synchronous = NORMAL", "cache_size = -65536", "temp_store = MEMORY"):
            run(f"PRAGMA {pragma}")
        (version,) = run("PRAGMA user_version").fetchone()
        run("BEGIN IMMEDIATE")
        if version == 0:
            for statement in _TABLES.split(";")[:-1]:
                run(statement)
            run(f"PRAGMA user_version = {_VERSION}")
        elif version != _VERSION:
            raise self._unusable(f"it is of version {version}, this program reads {_VERSION}")
        self._numbers: dict[str, int] = {}
        for step, digest in self._recipe.digests().items():
            run("INSERT OR IGNORE INTO recipes (digest) VALUES (?)", (digest,))
            (self._numbers[step],) = run("SELECT number FROM recipes WHERE digest = ?", (digest,)).fetchone()

    def _select(self, query: str, step: str | None, keys: Iterable[bytes]) -> Iterator[tuple]:  # type: ignore[type-arg]
        ordered = sorted(keys)
        first = () if step is None else (self._numbers[step],)
        for begin in range(0, len(ordered), _ASKED_AT_ONCE):
            some = ordered[begin : begin + _ASKED_AT_ONCE]
            yield from self._connection.execute(query.format(",".join("?" * len(some))), (*first, *some))

    def _in_order(self, compounds: Sequence[bytes], found: Mapping[bytes, _Row]) -> list[_Row]:
        try:
            return [found[compound] for compound in compounds]
        except KeyError as error:
            raise self._unusable("rows are missing") from error

    def _unusable(self, why: str) -> DataError:
        return DataError(
            "PFL-D12",
            f"Cannot use {self._path}: {why}. Delete that file; it only saves time, and is made again.",
        )
