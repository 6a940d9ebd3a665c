"""What a history of charges means: epsilon, a worst-case attacker, and what it is for more than one compound."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from pharma_fl.config.federation import Unit
from pharma_fl.privacy.accountant import epsilon
from pharma_fl.privacy.attacker import Attacker, worst_case_attacker
from pharma_fl.privacy.charge import Adversary, Charge

SERIES = (2, 5, 10)
OWNERS = (2, 3)


@dataclass(frozen=True, kw_only=True)
class Guarantee:
    """What holds against one adversary, for adding or removing one unit.

    Attributes
    ----------
    adversary : {"coordinator", "partners", "everybody"}
    unit : {"compound", "series"}
    members : int or None
        Most compounds of a series that the numbers hold for, where charges sampled single compounds.
    epsilons : dict
        Epsilon by delta; infinite where any round was not protected, which is no epsilon.
    attacker : Attacker
        The best that an attacker can do who knows everything but whether the unit is there.
    by_series : dict
        Epsilon, at the first delta, for so many compounds of this partner together.
    by_owners : dict
        Epsilon, at the first delta, for a compound that so many partners own, each with a history like this one.
    """

    adversary: Adversary | Literal["everybody"]
    unit: Unit
    members: int | None
    epsilons: dict[float, float]
    attacker: Attacker
    by_series: dict[int, float]
    by_owners: dict[int, float]

    @property
    def protected(self) -> bool:
        """Whether there is any guarantee."""
        return all(map(math.isfinite, self.epsilons.values()))


def guarantee(
    charges: Iterable[Charge],
    *,
    adversary: Adversary | Literal["everybody"],
    delta: float,
    unit: Unit = "compound",
    members: int = 1,
    shared_noise: bool = False,
    series: Sequence[int] = SERIES,
    owners: Sequence[int] = OWNERS,
) -> Guarantee:
    """Return what charges mean, at `delta` and a tenth of it.

    Parameters
    ----------
    charges : iterable of Charge
        As the adversary faces them.
    adversary : {"coordinator", "partners", "everybody"}
        Everybody, where all face the same noise.
    delta : float
    unit, members
        As in `accountant.epsilon`.
    shared_noise : bool
        Whether partners' sums were opened together: one compound of several owners then moves one noised sum several
        times, which costs more than as many sums each with noise of its own.
    series, owners : sequence of int
        Numbers of compounds, and of partners.
    """
    history = tuple(charges)

    def owned_by(partners: int) -> float:
        if shared_noise:
            return epsilon(history, delta, unit=unit, members=members * partners)
        times = [one._replace(steps=one.steps * partners) for one in history]
        return epsilon(times, delta, unit=unit, members=members)

    return Guarantee(
        adversary=adversary,
        unit=unit,
        members=members if unit == "series" and any(one.unit == "compound" for one in history) else None,
        epsilons={at: epsilon(history, at, unit=unit, members=members) for at in (delta, delta / 10)},
        attacker=worst_case_attacker(history, unit=unit, members=members),
        by_series={count: epsilon(history, delta, members=count) for count in series},
        by_owners={count: owned_by(count) for count in owners},
    )


_WHO = {
    "everybody": "whoever coordinates, takes part, or later gets the model",
    "coordinator": "the coordinator, or whoever later gets the model",
    "partners": "the other partners, together with the coordinator",
}


def sentence(found: Guarantee) -> str:
    """Say in words what holds.

    The relation: data with and without one unit, everything else known to the attacker.
    """
    who = _WHO[found.adversary]
    if not found.protected:
        return f"A round was not protected, so there is no epsilon: {who} can learn anything."
    (delta, value), *_ = found.epsilons.items()
    thing = "one compound with its measurements" if found.unit == "compound" else "one series with all its compounds"
    if found.members is not None:
        thing += f" (if they are {found.members} at most)"
    if value == 0:
        return f"This ledger records no spending: {who} learned nothing of {thing} by what was charged to it."
    hits = ", ".join(f"{100 * rate:.3g} % at {100 * fpr:g} % false alarms" for fpr, rate in found.attacker.tpr.items())
    bets = 100 * hits_of(found.attacker.advantage)
    return (
        f"The charges of this ledger cost epsilon {value:.3g} at delta {delta:g}. {who[0].upper()}{who[1:]}, knowing "
        f"all else, can tell whether {thing} was in this partner's data in at most {bets:.3g} % of even bets, and can "
        f"find at most {hits}. (These shares follow from the charges themselves, and say more than epsilon does.)"
    )


def hits_of(advantage: float) -> float:
    """Return the share of even bets that an attacker of this advantage wins: one half and half the advantage."""
    return 0.5 + advantage / 2
