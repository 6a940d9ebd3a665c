"""The ledger's file in its place: one process at a time, checked before it is used, echoed in the audit log."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, Self, TypedDict
from uuid import uuid4

from pharma_fl import __version__
from pharma_fl.atomic import flush
from pharma_fl.config import Partner
from pharma_fl.errors import PrivacyError
from pharma_fl.locks import locked
from pharma_fl.privacy import chain
from pharma_fl.privacy.chain import Link
from pharma_fl.privacy.entries import Entry, Opened
from pharma_fl.privacy.history import History
from pharma_fl.privacy.journal import Echo, Journal
from pharma_fl.signing_key import SigningKey

WAIT_S = 600.0
_Stamp = tuple[tuple[int, int, int], ...]


class _Seen(NamedTuple):
    stamp: _Stamp
    history: History


# What this process verified and nobody wrote to since. Read and written under the ledger's lock alone.
_SEEN: dict[Path, _Seen] = {}


class Facts(TypedDict):
    """What the ledger itself says of an entry."""

    seq: int
    time: str
    version: str


Maker = Callable[[Facts], Entry]


class LedgerFile:
    """A hash-chained, signed, append-only file, and whether it is the one that belongs here.

    Parameters
    ----------
    path : Path
        The SQLite file; created when missing.
    key : Path, optional
        The key that signs; left out, the ledger's name with ``.key``. Made with the first entry.
    partner : str
        Whose ledger it is.
    journal : Path, optional
        The partner's audit log.
    witnesses : sequence of str
        Hashes that the partner remembers elsewhere; each must be in the chain.

    Raises
    ------
    PrivacyError
        ``PFL-P13`` the file is not a ledger or cannot be opened; ``PFL-P19`` another process holds it. Methods that
        read add ``PFL-P12`` (an entry was changed, removed, inserted, or signed by another key), those that append
        also ``PFL-P15`` (the ledger was lost, cut off or rolled back) and ``PFL-P18`` (it is a copy, or another
        partner's).
    """

    def __init__(
        self,
        path: Path,
        *,
        key: Path | None = None,
        partner: str = "",
        journal: Path | None = None,
        witnesses: Sequence[str] = (),
    ) -> None:
        self.path = path.resolve()
        self.witnesses = tuple(witnesses)
        self.key = key or self.path.with_suffix(".key")
        self.partner = partner
        self.journal = None if journal is None else Journal(journal)
        self._connection: sqlite3.Connection | None = None
        self._history = History()
        self._current = False

    @classmethod
    def of(cls, partner: Partner, *, witnesses: Sequence[str] = ()) -> Self:
        """Return a partner's ledger."""
        return cls(
            partner.path(partner.ledger),
            key=partner.path(partner.signing_key),
            partner=partner.name,
            journal=partner.path(partner.audit_log),
            witnesses=witnesses,
        )

    @property
    def lock(self) -> Path:
        """The lock file that one process at a time holds."""
        return self.path.with_name(f".{self.path.name}.lock")

    @contextmanager
    def held(self, wait_s: float = WAIT_S) -> Iterator[Self]:
        """Keep everybody else out for the length of the block; whoever asks again for the same round then waits."""
        if self._connection is not None:
            yield self
            return
        with ExitStack() as stack:
            try:
                stack.enter_context(locked(self.lock, wait_s=wait_s))
            except TimeoutError as error:
                raise PrivacyError(
                    "PFL-P19",
                    f"Another process holds the ledger {self.path} since more than {wait_s:.0f} s. Nothing was spent. "
                    "Wait until it is done, or end it.",
                ) from error
            stamp = self._stamp()
            stack.callback(self._remember)
            self._connection = stack.enter_context(chain.opened(self.path))
            stack.callback(setattr, self, "_connection", None)
            if self.path.stat().st_mode & 0o077:
                self.path.chmod(0o600)
                flush(self.path.parent)
            seen = _SEEN.pop(self.path, None)
            known = seen is not None and seen.stamp == stamp
            self._history = seen.history if seen and known else History(chain.links(self._connection))
            self._current = True
            yield self

    def check_witnesses(self, *witnesses: str) -> None:
        """Check that what others remember of this ledger is in it, and that it is the one that belongs here."""
        with self.held():
            self.check(witnesses)

    def history(self) -> History:
        """Return what the entries amount to, checking the chain. Reading waits for nobody."""
        return self._history if self._connection is not None else History(self.links())

    def links(self) -> tuple[Link, ...]:
        """Return all entries as they are kept, checking the chain."""
        if self._connection is not None:
            return chain.links(self._connection)
        if not self.path.exists():
            return ()
        with chain.opened(self.path) as connection:
            return chain.links(connection)

    def entries(self) -> tuple[Entry, ...]:
        """Return all entries, checking the chain."""
        return tuple(link.entry for link in self.links())

    @property
    def head(self) -> str:
        """Hash of the last entry."""
        return self.history().head

    def back_up(self, to: Path) -> int:
        """Write a copy of the ledger to a file of its own, which must not exist, and return how many entries it has."""
        if to.exists():
            raise PrivacyError("PFL-P22", f"{to} exists, and a backup overwrites nothing. Name another file (--to).")
        with self.held():
            self.check()
            assert self._connection is not None
            part = to.with_name(f".{to.name}.{uuid4().hex}.part")
            part.parent.mkdir(parents=True, exist_ok=True)
            part.touch(mode=0o600)
            with closing(sqlite3.connect(part)) as copy:
                self._connection.backup(copy)
                copy.execute("PRAGMA journal_mode = DELETE")
            flush(part)
            part.rename(to)
            flush(to.parent)
            return self._history.length

    def _check_owner(self, history: History) -> None:
        opened = history.opened
        if opened and opened.partner != self.partner:
            raise PrivacyError(
                "PFL-P18",
                f"The ledger {self.path} is that of {opened.partner!r}, not of {self.partner!r}. Nothing was spent. "
                "Give each partner a ledger of its own (partner.toml: ledger).",
            )

    def check(self, witnesses: Sequence[str] = (), *, covered: Sequence[str] = ()) -> History:
        """Check that the file is the one that was written to, and that it knows all that others remember of it.

        Parameters
        ----------
        witnesses : sequence of str
            Hashes that others remember, beside the audit log's.
        covered : sequence of str
            Hashes of lost entries that are about to be declared.
        """
        return self._checked(self._history, witnesses, covered)

    def look(self) -> History:
        """Return what the entries amount to, with every check that a round makes and without writing anything."""
        if self._connection is None and not self.path.exists():
            return self._checked(History(), ())
        return self._checked(self.history(), ())

    def _checked(self, history: History, witnesses: Sequence[str], covered: Sequence[str] = ()) -> History:
        self._check_owner(history)
        if history.inode and history.inode != self.path.stat().st_ino:
            raise PrivacyError(
                "PFL-P18",
                f"The ledger {self.path} is a copy: the entries were written to another file. Two copies would each "
                "spend the whole budget. If this one is to go on, say so: pharma-fl budget restore.",
            )
        told = self.journal.last() if self.journal else None
        if told and not history.knows(told.link.hash) and told.link.hash not in covered:
            raise went_back(f"entry {told.seq}, which the audit log tells of (hash {told.link.hash})")
        for witness in (*self.witnesses, *witnesses):
            if not history.knows(witness) and witness not in covered:
                raise went_back(f"an entry that the partner's state or the coordinator remembers (hash {witness})")
        lost = [one for one in history.lost if one not in covered]
        if lost:
            raise went_back(
                f"{len(lost)} entries that the audit log told of when it was restored (hash {lost[0]}, ...)"
            )
        return history

    def signing_key(self) -> SigningKey:
        """Return the key that signs this ledger, making one for a ledger without entries: ``PFL-P13``."""
        opened = self._history.opened
        key = SigningKey(self.key) if opened else SigningKey.make(self.key)
        if opened and opened.public_key != key.public:
            raise PrivacyError(
                "PFL-P13",
                f"{self.key} is not the key that signs the ledger {self.path}. Nothing was spent. Restore the key from "
                "a backup (partner.toml: signing_key).",
            )
        return key

    def append(self, *makers: Maker) -> None:
        """Write entries, all or none, on disk and then into the audit log; the block must be `held`."""
        connection, history = self._connection, self._history
        assert connection is not None
        key = self.signing_key()
        if not history.opened:
            makers = (self._opened(key), *makers)
        time = self.now().isoformat(timespec="seconds")
        links: list[Link] = []
        # Until all is taken in, what is in memory may be behind the file.
        self._current = False
        with chain.transaction(connection):
            for seq, make in enumerate(makers, start=history.length + 1):
                entry = make(Facts(seq=seq, time=time, version=__version__))
                links.append(chain.append(connection, entry, links[-1].hash if links else history.head, key))
        for link in links:
            history.add(link.entry, link.hash)
        self._current = True
        self._echo(connection)

    def _opened(self, key: SigningKey) -> Maker:
        inode = self.path.stat().st_ino
        return lambda facts: Opened(
            ledger=uuid4().hex, partner=self.partner, public_key=key.public, inode=inode, **facts
        )

    def _echo(self, connection: sqlite3.Connection) -> None:
        if self.journal is None:
            return
        told = self.journal.last()
        # After entries were lost for good the log's last one is not of this chain: it is told anew from the start.
        after = told.seq if told and chain.hash_of(connection, told.seq) == told.link.hash else 0
        links = chain.tail(connection, after)
        self.journal.write([Echo(seq, link) for seq, link in enumerate(links, start=after + 1)])

    def now(self) -> datetime:
        """Return the time of the next entry, UTC, in whole seconds."""
        now = datetime.now(UTC).replace(microsecond=0)
        # A clock that went back must not open a year's or a day's limit again.
        return max(now, self._history.last_time or now)

    def _stamp(self) -> _Stamp:
        files = (self.path, self.path.with_name(f"{self.path.name}-wal"))
        stats = [file.stat() for file in files if file.exists()]
        return tuple((one.st_ino, one.st_size, one.st_mtime_ns) for one in stats)

    def _remember(self) -> None:
        if self._current:
            _SEEN[self.path] = _Seen(self._stamp(), self._history)
        self._current = False


def went_back(what: str) -> PrivacyError:
    """Return the error for a ledger that lacks what somebody remembers of it."""
    return PrivacyError(
        "PFL-P15",
        f"The ledger does not know {what}: it was lost, cut off, replaced or rolled back. Nothing more is spent. "
        "Restore the newest backup: pharma-fl budget restore. What no backup knows can be declared: pharma-fl budget "
        "declare --covers HASH.",
    )
