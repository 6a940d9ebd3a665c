"""The ledger: what this partner's data has paid, for ever, on the partner's own disk."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pharma_fl import __version__
from pharma_fl.atomic import flush
from pharma_fl.config.partner import BudgetSettings
from pharma_fl.errors import BudgetExceeded, PrivacyError
from pharma_fl.privacy.accountant import Charge, affordable_steps, epsilon
from pharma_fl.privacy.plan import PrivacyPlan

_GENESIS = "0" * 64

_SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
    seq INTEGER PRIMARY KEY CHECK (seq > 0),
    time TEXT NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('reserved', 'released')),
    run TEXT NOT NULL,
    round INTEGER NOT NULL CHECK (round > 0),
    mechanism TEXT NOT NULL,
    sample_rate REAL NOT NULL,
    noise_multiplier REAL NOT NULL,
    clipping_norm REAL NOT NULL,
    steps INTEGER NOT NULL CHECK (steps > 0),
    unit TEXT NOT NULL,
    relation TEXT NOT NULL,
    reply TEXT NOT NULL,
    version TEXT NOT NULL,
    previous TEXT NOT NULL,
    hash TEXT NOT NULL,
    UNIQUE (run, round, kind)
) STRICT;
CREATE TRIGGER IF NOT EXISTS no_update BEFORE UPDATE ON entries BEGIN SELECT RAISE(ABORT, 'append-only'); END;
CREATE TRIGGER IF NOT EXISTS no_delete BEFORE DELETE ON entries BEGIN SELECT RAISE(ABORT, 'append-only'); END;
"""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of the ledger.

    A round is **reserved** before its first private step and **released** once its reply is stored.
    What was reserved counts as spent for ever, released or not.
    """

    seq: int
    time: str
    kind: Literal["reserved", "released"]
    run: str
    round: int
    mechanism: str
    sample_rate: float
    noise_multiplier: float
    clipping_norm: float
    steps: int
    unit: str
    relation: str
    reply: str
    version: str
    previous: str

    @property
    def charge(self) -> Charge:
        """What the entry costs."""
        return Charge(self.sample_rate, self.noise_multiplier, self.steps)

    @property
    def hash(self) -> str:
        """SHA-256 over all fields, the previous entry's hash included."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


class Ledger:
    """An append-only, hash-chained record of charges.

    Epsilon is always derived from the entries, never stored. Every append is one SQLite transaction
    that checks and writes under the database's write lock, so two processes cannot overspend together,
    and is on disk (``synchronous = FULL``) before the method returns.

    Parameters
    ----------
    path : Path
        The SQLite file; created when missing.

    Raises
    ------
    PrivacyError
        ``PFL-P13`` the file is not a ledger or cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        created = not path.exists()
        with self._connect() as connection:
            connection.executescript(_SCHEMA)
        if created:
            path.chmod(0o600)
            flush(path.parent)

    def reserve(self, *, run: str, round_number: int, plan: PrivacyPlan, budget: BudgetSettings) -> None:
        """Charge one round before its first private step.

        Raises
        ------
        BudgetExceeded
            ``PFL-P10`` the round would bring the whole history above the budget.
        PrivacyError
            ``PFL-P11`` the round was charged before; it is never run twice on one charge. ``PFL-P14`` the
            run began with another plan: composition is proved for parameters fixed in advance.
        """
        # Pricing may take seconds the first time. Done here it is remembered, and the lock below is held briefly.
        epsilon((*self.charges(), plan.round_charge), budget.delta)
        with self._transaction() as connection:
            entries = _read(connection)
            _check_plan(entries, run, plan)
            if _find(entries, run, round_number, "reserved"):
                raise PrivacyError(
                    "PFL-P11",
                    f"Round {round_number} of run {run} was charged before and left no reply, as after a crash. "
                    "It stays charged and is not repeated; the next round can go on.",
                )
            spent = _charges(entries)
            after = epsilon((*spent, plan.round_charge), budget.delta)
            if plan.protected and not after <= budget.epsilon:  # so that NaN is refused too
                raise BudgetExceeded(
                    "PFL-P10",
                    f"Round {round_number} of run {run} would bring epsilon from {epsilon(spent, budget.delta):.4g} to "
                    f"{after:.4g} at delta {budget.delta:g}, above the budget of {budget.epsilon:g} "
                    "(partner.toml: budget.epsilon). Nothing was trained and nothing left. "
                    "Ask for a cheaper plan, or decide to raise the budget.",
                )
            _append(connection, entries, kind="reserved", run=run, round_number=round_number, plan=plan, reply="")

    def release(self, *, run: str, round_number: int, plan: PrivacyPlan, reply: str) -> None:
        """Record that the round's reply is stored; `reply` is its digest. Costs nothing, twice is once."""
        with self._transaction() as connection:
            entries = _read(connection)
            if not _find(entries, run, round_number, "reserved"):
                raise _unknown(run, round_number)
            if _find(entries, run, round_number, "released"):
                return
            _append(connection, entries, kind="released", run=run, round_number=round_number, plan=plan, reply=reply)

    def check_knows(self, *, run: str, round_number: int) -> None:
        """Check that the ledger has a round which the partner's state proves to have happened.

        Raises
        ------
        PrivacyError
            ``PFL-P15`` it has not: the ledger was lost, replaced, or rolled back.
        """
        if not _find(self.entries(), run, round_number, "reserved"):
            raise _unknown(run, round_number)

    def check_new(self, *, run: str) -> None:
        """Check that a run without private state has not had any: a stored reply implies stored heads.

        Raises
        ------
        PrivacyError
            ``PFL-P16`` the ledger has a released round of the run.
        """
        if any(entry.run == run and entry.kind == "released" for entry in self.entries()):
            raise PrivacyError(
                "PFL-P16",
                f"The ledger proves rounds of run {run}, but the partner's state is missing or of another run. "
                "Restore the state folder from a backup, and give each federation one of its own "
                "(partner.toml: state).",
            )

    def affordable_rounds(self, plan: PrivacyPlan, budget: BudgetSettings) -> int:
        """Return how many rounds of `plan`, at most its own number, the budget still covers."""
        if not plan.protected:
            return plan.rounds
        steps = affordable_steps(
            self.charges(),
            sample_rate=plan.sample_rate,
            noise_multiplier=plan.noise_multiplier,
            budget=budget.epsilon,
            delta=budget.delta,
            limit=plan.rounds * plan.steps_per_round,
        )
        return steps // plan.steps_per_round

    def charges(self) -> tuple[Charge, ...]:
        """Return every charge, in order."""
        return _charges(self.entries())

    def epsilon(self, delta: float) -> float:
        """Return epsilon spent so far: 0 for an empty ledger, infinity after an unprotected round."""
        return epsilon(self.charges(), delta)

    def entries(self) -> tuple[Entry, ...]:
        """Return all entries, checking the chain.

        Raises
        ------
        PrivacyError
            ``PFL-P12`` an entry was changed, removed or inserted.
        """
        with self._connect() as connection:
            return _read(connection)

    @contextmanager
    def _connect(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(self.path, timeout=30, isolation_level=None)) as connection:
                connection.row_factory = sqlite3.Row
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = FULL")
                yield connection
        except sqlite3.DatabaseError as error:
            raise PrivacyError(
                "PFL-P13", f"Cannot use the ledger {self.path}: {error}. Nothing was spent. Restore it from a backup."
            ) from error

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._connect() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")


def _read(connection: sqlite3.Connection) -> tuple[Entry, ...]:
    entries = []
    previous = _GENESIS
    for number, row in enumerate(connection.execute("SELECT * FROM entries ORDER BY seq"), start=1):
        entry = _entry(row)
        if entry.seq != number or entry.previous != previous or entry.hash != row["hash"]:
            raise PrivacyError(
                "PFL-P12",
                f"Ledger entry {number} does not fit the chain: it was changed, removed or inserted. "
                "Nothing more is spent. Restore the ledger from a backup and find out who wrote to it.",
            )
        entries.append(entry)
        previous = entry.hash
    return tuple(entries)


def _entry(row: sqlite3.Row) -> Entry:
    return Entry(**{name: row[name] for name in row.keys() if name != "hash"})  # noqa: SIM118 - a Row's own iterator gives values


def _append(
    connection: sqlite3.Connection,
    entries: tuple[Entry, ...],
    *,
    kind: Literal["reserved", "released"],
    run: str,
    round_number: int,
    plan: PrivacyPlan,
    reply: str,
) -> None:
    entry = Entry(
        seq=len(entries) + 1,
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        kind=kind,
        run=run,
        round=round_number,
        mechanism="poisson-gaussian" if plan.protected else "none",
        sample_rate=plan.sample_rate,
        noise_multiplier=plan.noise_multiplier,
        clipping_norm=plan.clipping_norm,
        steps=plan.steps_per_round,
        unit=plan.unit,
        relation=plan.relation,
        reply=reply,
        version=__version__,
        previous=entries[-1].hash if entries else _GENESIS,
    )
    row = asdict(entry) | {"hash": entry.hash}
    names = ", ".join(row)
    places = ", ".join(f":{name}" for name in row)
    connection.execute(f"INSERT INTO entries ({names}) VALUES ({places})", row)  # noqa: S608 - names are our fields
    kept = connection.execute("SELECT * FROM entries WHERE seq = ?", (entry.seq,)).fetchone()
    if _entry(kept).hash != entry.hash:
        # A value that SQLite stores as another one would break the chain for every later reader.
        raise PrivacyError(
            "PFL-P12", "The ledger cannot hold this entry as it is. Nothing was written; ask for another plan."
        )


def _check_plan(entries: tuple[Entry, ...], run: str, plan: PrivacyPlan) -> None:
    for entry in entries:
        if entry.run == run and (entry.charge, entry.clipping_norm) != (plan.round_charge, plan.clipping_norm):
            raise PrivacyError(
                "PFL-P14",
                f"Run {run} began with other sampling, clipping, noise or steps than it asks for now. "
                "A run keeps its plan; start another run.",
            )


def _unknown(run: str, round_number: int) -> PrivacyError:
    return PrivacyError(
        "PFL-P15",
        f"The partner's state proves round {round_number} of run {run}, but the ledger does not know it: it was lost, "
        "replaced or rolled back. Nothing more is spent. Restore the ledger from a backup.",
    )


def _charges(entries: tuple[Entry, ...]) -> tuple[Charge, ...]:
    return tuple(entry.charge for entry in entries if entry.kind == "reserved")


def _find(entries: tuple[Entry, ...], run: str, round_number: int, kind: str) -> bool:
    return any((entry.run, entry.round, entry.kind) == (run, round_number, kind) for entry in entries)
