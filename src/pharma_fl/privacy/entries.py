"""The entries of a ledger: what is written down of each charge, and of what else bears on the budget."""

from __future__ import annotations

from datetime import date
from functools import lru_cache
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from pharma_fl.config.base import Settings
from pharma_fl.config.federation import Unit
from pharma_fl.privacy.charge import Adversary, Charge

Purpose = Literal["train", "metrics", "statistics", "declared"]


class Cohort(Settings):
    """The compounds whose date is from `since` up to, but not including, `until`; None is open."""

    since: date | None
    until: date | None

    def overlaps(self, other: Cohort) -> bool:
        """Whether a compound can be of both."""
        return _before(self.since, other.until) and _before(other.since, self.until)


class _Entry(Settings):
    """What every entry has: its number from 1, the time (UTC), and the version of pharma-fl that wrote it."""

    seq: int
    time: str
    version: str


class Opened(_Entry):
    """The first entry: whose ledger it is, and the key (Ed25519, raw, hexadecimal) that signs it."""

    kind: Literal["opened"] = "opened"
    ledger: str
    partner: str
    public_key: str
    inode: int


class Reserved(_Entry):
    """A charge, written before the first private step. It counts as spent for ever, whatever becomes of it.

    Attributes
    ----------
    federation, run : str
        Whose round it is.
    round : int
        From 1; counted by itself for each `purpose`.
    purpose : str
        A round of training, noised metrics, noised statistics, or a charge that the partner declared itself.
    mechanism : str
        ``poisson-gaussian``; ``none`` is not protected.
    sample_rate, noise_multiplier, steps, unit
        The charge against the other partners, the strongest adversary; rate 1 is the Gaussian mechanism.
    noise_multiplier_coordinator : float
        The noise that the coordinator and outsiders face.
    clipping, clipping_norm
        How a unit's contribution was bounded.
    plan : str
        Digest of the whole plan.
    generator : str
        Where noise and sample came from.
    cohorts : tuple of Cohort
        The compounds that took part; empty, all there are and will be.
    covers : tuple of str
        Hashes of lost entries that a declared charge stands for.
    by, why : str
        Of a declared charge.
    """

    kind: Literal["reserved"] = "reserved"
    federation: str
    run: str
    round: Annotated[int, Field(ge=1)]
    purpose: Purpose
    mechanism: Literal["poisson-gaussian", "none"]
    sample_rate: float
    noise_multiplier: float
    noise_multiplier_coordinator: float
    steps: Annotated[int, Field(ge=1)]
    unit: Unit
    relation: Literal["add-or-remove-one"] = "add-or-remove-one"
    clipping: str
    clipping_norm: float
    plan: str
    generator: str
    cohorts: tuple[Cohort, ...] = ()
    covers: tuple[str, ...] = ()
    by: str = ""
    why: str = ""

    def charge(self, adversary: Adversary = "partners") -> Charge:
        """Return what the entry costs against an adversary."""
        noise = self.noise_multiplier if adversary == "partners" else self.noise_multiplier_coordinator
        return Charge(self.sample_rate, noise, self.steps, self.unit)


class Released(_Entry):
    """The reply of a charge is stored; `reply` is its digest. Costs nothing."""

    kind: Literal["released"] = "released"
    run: str
    round: int
    purpose: Purpose
    reply: str


class Limited(_Entry):
    """The limits that hold from here on, who set them and why."""

    kind: Literal["limited"] = "limited"
    limits: dict[str, Any]
    by: str
    why: str


class Restored(_Entry):
    """The file came from a backup or was moved.

    `replayed` entries were brought back from the partner's audit log. It also tells of the entries `lost`, by hash,
    which do not follow from what is there: nothing is spent until charges are declared for them.
    """

    kind: Literal["restored"] = "restored"
    replayed: int
    lost: tuple[str, ...]
    inode: int
    by: str
    why: str


Entry = Opened | Reserved | Released | Limited | Restored

_ADAPTER: TypeAdapter[Entry] = TypeAdapter(Annotated[Entry, Field(discriminator="kind")])


@lru_cache(maxsize=1 << 16)
def parsed(body: str) -> Entry:
    """Read an entry's JSON text.

    Raises
    ------
    ValueError
        It is no entry of this version.
    """
    return _ADAPTER.validate_json(body)


def _before(day: date | None, end: date | None) -> bool:
    return day is None or end is None or day < end
