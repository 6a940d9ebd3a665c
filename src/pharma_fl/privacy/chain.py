"""The ledger's file: entries that can be added and read, chained by hashes and signed, and nothing else."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from pharma_fl.errors import PrivacyError
from pharma_fl.privacy.entries import Entry, Opened, parsed
from pharma_fl.signing_key import SigningKey

GENESIS = "0" * 64

_SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
    seq INTEGER PRIMARY KEY CHECK (seq > 0),
    body TEXT NOT NULL,
    hash TEXT NOT NULL UNIQUE,
    signature TEXT NOT NULL
) STRICT;
CREATE TRIGGER IF NOT EXISTS no_update BEFORE UPDATE ON entries BEGIN SELECT RAISE(ABORT, 'append-only'); END;
CREATE TRIGGER IF NOT EXISTS no_delete BEFORE DELETE ON entries BEGIN SELECT RAISE(ABORT, 'append-only'); END;
"""


@dataclass(frozen=True)
class Link:
    """One entry as it is kept: its JSON text, the hash that chains it to all before, and the hash's signature."""

    body: str
    hash: str
    signature: str

    @property
    def entry(self) -> Entry:
        """The entry that the text says."""
        return parsed(self.body)


def link_hash(previous: str, body: str) -> str:
    """Return SHA-256 over the previous hash, a line end and the entry's text, in hexadecimal."""
    return hashlib.sha256(f"{previous}\n{body}".encode()).hexdigest()


@contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """Open the file, with every commit on disk before it returns.

    Raises
    ------
    PrivacyError
        ``PFL-P13`` it is no database, or cannot be opened.
    """
    try:
        with closing(sqlite3.connect(path, timeout=30, isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.executescript(_SCHEMA)
            yield connection
    except sqlite3.DatabaseError as error:
        raise PrivacyError(
            "PFL-P13",
            f"Cannot use the ledger {path}: {error}. Nothing was spent. Restore it: pharma-fl budget restore.",
        ) from error


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Write all that the block appends, or nothing."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def append(connection: sqlite3.Connection, entry: Entry, previous: str, key: SigningKey) -> Link:
    """Chain, sign and write one entry."""
    body = entry.model_dump_json()
    found = link_hash(previous, body)
    link = Link(body, found, key.sign(bytes.fromhex(found)).hex())
    connection.execute("INSERT INTO entries VALUES (?, ?, ?, ?)", (entry.seq, *_row(link)))
    return link


def insert(connection: sqlite3.Connection, seq: int, link: Link) -> None:
    """Write one entry that was signed before."""
    connection.execute("INSERT INTO entries VALUES (?, ?, ?, ?)", (seq, *_row(link)))


def links(connection: sqlite3.Connection) -> tuple[Link, ...]:
    """Return all entries, checking the chain from the first to the last, and the signature of the last.

    A signature covers the hash, and the hash all before, so the last one vouches for the whole.

    Raises
    ------
    PrivacyError
        ``PFL-P12`` an entry was changed, removed, inserted, or signed by another key.
    """
    rows = connection.execute("SELECT seq, body, hash, signature FROM entries ORDER BY seq").fetchall()
    previous = GENESIS
    for number, (seq, body, found, _) in enumerate(rows, start=1):
        if seq != number or found != link_hash(previous, body):
            raise broken(number)
        previous = found
    whole = tuple(Link(body, found, signature) for _, body, found, signature in rows)
    try:
        numbers = [link.entry.seq for link in whole]
    except ValueError as error:
        raise PrivacyError(
            "PFL-P12", f"A ledger entry is not of this version ({error}). Use the version that wrote it."
        ) from error
    if numbers != list(range(1, len(whole) + 1)):
        raise broken(next(place for place, number in enumerate(numbers, start=1) if place != number))
    if whole:
        check_signatures(whole, last_alone=True)
    return whole


def tail(connection: sqlite3.Connection, seq: int) -> tuple[Link, ...]:
    """Return the entries after number `seq`, unchecked."""
    query = "SELECT body, hash, signature FROM entries WHERE seq > ? ORDER BY seq"
    return tuple(Link(*row) for row in connection.execute(query, (seq,)))


def hash_of(connection: sqlite3.Connection, seq: int) -> str | None:
    """Return the hash of entry number `seq`, unchecked, or None where there is none."""
    row = connection.execute("SELECT hash FROM entries WHERE seq = ?", (seq,)).fetchone()
    return None if row is None else str(row[0])


def check_signatures(whole: tuple[Link, ...], *, last_alone: bool = False) -> None:
    """Check signatures against the key that the first entry names.

    Raises
    ------
    PrivacyError
        ``PFL-P12`` the first entry names no key, or a signature is not its key's.
    """
    first = whole[0].entry
    if not isinstance(first, Opened):
        raise broken(1)
    key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(first.public_key))
    for number, link in enumerate(whole, start=1):
        if last_alone and number < len(whole):
            continue
        try:
            key.verify(bytes.fromhex(link.signature), bytes.fromhex(link.hash))
        except (InvalidSignature, ValueError) as error:
            raise broken(number) from error


def broken(number: int) -> PrivacyError:
    """Return the error for an entry that does not fit."""
    return PrivacyError(
        "PFL-P12",
        f"Ledger entry {number} does not fit the chain: it was changed, removed, inserted or signed by another key. "
        "Nothing more is spent. Find out who wrote to it, and restore it: pharma-fl budget restore.",
    )


def _row(link: Link) -> tuple[str, str, str]:
    return link.body, link.hash, link.signature
