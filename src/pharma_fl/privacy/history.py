"""What a ledger amounts to, kept so that a look at it takes as long after ten thousand rounds as after one."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable
from datetime import date, datetime, timedelta
from typing import NamedTuple

from pharma_fl.privacy.chain import GENESIS, Link
from pharma_fl.privacy.charge import Adversary, Charge
from pharma_fl.privacy.entries import Cohort, Entry, Limited, Opened, Purpose, Released, Reserved

YEAR = timedelta(days=365)
DAY = timedelta(days=1)


class _Spent(NamedTuple):
    """What charges have in common that are added up."""

    charge: Charge
    coordinator_noise: float
    run: str
    purpose: Purpose
    day: date
    cohorts: tuple[Cohort, ...]


class History:
    """All entries of one ledger, added up.

    Attributes
    ----------
    length : int
        How many entries there are.
    head : str
        Hash of the last one.
    opened : Opened or None
    inode : int
        The file that the last of `Opened` and `Restored` was written to.
    limits : Limited or None
        The limits that hold.
    last_time : datetime or None
        When the last entry was written.
    """

    def __init__(self, links: Iterable[Link] = ()) -> None:
        self.length = 0
        self.head = GENESIS
        self.opened: Opened | None = None
        self.inode = 0
        self.limits: Limited | None = None
        self.last_time: datetime | None = None
        self._steps: Counter[_Spent] = Counter()
        self._reserved: dict[tuple[Purpose, str, int], Reserved] = {}
        self._released: set[tuple[Purpose, str, int]] = set()
        self._plans: dict[tuple[Purpose, str], str] = {}
        self._answered: set[str] = set()
        self._highest: Counter[tuple[Purpose, str]] = Counter()
        self._known: set[str] = set()
        self._lost: set[str] = set()
        self._round_times: list[datetime] = []
        for link in links:
            self.add(link.entry, link.hash)

    def add(self, entry: Entry, found: str) -> None:
        """Take in one more entry and its hash."""
        self.length, self.head = entry.seq, found
        self.last_time = datetime.fromisoformat(entry.time)
        self._known.add(found)
        if isinstance(entry, Reserved):
            self._reserved[entry.purpose, entry.run, entry.round] = entry
            self._known.update(entry.covers)
            self._plans.setdefault((entry.purpose, entry.run), entry.plan)
            self._highest[entry.purpose, entry.run] = max(self._highest[entry.purpose, entry.run], entry.round)
            self._round_times.append(self.last_time)
            one = entry.charge()._replace(steps=1)
            spent = _Spent(
                one, entry.noise_multiplier_coordinator, entry.run, entry.purpose, self.last_time.date(), entry.cohorts
            )
            self._steps[spent] += entry.steps
        elif isinstance(entry, Released):
            self._released.add((entry.purpose, entry.run, entry.round))
            if entry.purpose == "train":
                self._answered.add(entry.run)
        elif isinstance(entry, Limited):
            self.limits = entry
        else:
            self.inode = entry.inode
            if isinstance(entry, Opened):
                self.opened = entry
            else:
                self._lost.update(entry.lost)

    def charges(
        self,
        *,
        adversary: Adversary = "partners",
        run: str | None = None,
        purposes: tuple[Purpose, ...] | None = None,
        since: date | None = None,
        cohort: Cohort | None = None,
    ) -> tuple[Charge, ...]:
        """Return what was charged, equal mechanisms added up.

        Parameters
        ----------
        adversary : {"partners", "coordinator"}
        run, purposes : optional
            Only charges of that run, for those purposes.
        since : date, optional
            Only charges of that day and later ones.
        cohort : Cohort, optional
            Only charges that some compound of the cohort may have taken part in.
        """
        steps: Counter[Charge] = Counter()
        for spent, count in self._steps.items():
            if (
                (run is None or spent.run == run)
                and (purposes is None or spent.purpose in purposes)
                and (since is None or spent.day >= since)
                and (cohort is None or not spent.cohorts or any(cohort.overlaps(one) for one in spent.cohorts))
            ):
                noise = spent.charge.noise_multiplier if adversary == "partners" else spent.coordinator_noise
                steps[spent.charge._replace(noise_multiplier=noise)] += count
        return tuple(one._replace(steps=count) for one, count in sorted(steps.items()))

    def reserved(self, purpose: Purpose, run: str, number: int) -> Reserved | None:
        """Return the charge of a round, if there is one."""
        return self._reserved.get((purpose, run, number))

    def released(self, purpose: Purpose, run: str, number: int) -> bool:
        """Whether the reply of a round is stored."""
        return (purpose, run, number) in self._released

    def plan_of(self, purpose: Purpose, run: str) -> str | None:
        """Return the digest of the plan that a run began with."""
        return self._plans.get((purpose, run))

    def replies_of(self, run: str) -> bool:
        """Whether any round of training of a run left a stored reply."""
        return run in self._answered

    def last_round(self, purpose: Purpose, run: str) -> int:
        """Return the highest round of a run that was charged, 0 before the first."""
        return self._highest[purpose, run]

    def rounds_since(self, moment: datetime) -> int:
        """Return how many charges were written at `moment` or later."""
        return len(self._round_times) - bisect_left(self._round_times, moment)

    @property
    def lost(self) -> tuple[str, ...]:
        """Hashes of entries that a restored ledger lacks and no declared charge stands for yet."""
        return tuple(sorted(self._lost - self._known))

    def knows(self, found: str) -> bool:
        """Whether an entry of that hash is in the chain, or a declared charge stands for it."""
        return found == GENESIS or found in self._known
