"""What epsilon means: how well the best possible attacker tells whether a unit was in the data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from pharma_fl.config.federation import Unit
from pharma_fl.privacy.accountant import composed
from pharma_fl.privacy.charge import Charge

_FARTHEST = 700.0
_POINTS = 8001


@dataclass(frozen=True, kw_only=True)
class Attacker:
    """Bounds on anybody who sees all that was released, knows all other data and chose the unit in question.

    Parameters
    ----------
    advantage : float
        Largest true positive rate less false positive rate: 0 is a coin, 1 is certainty.
    tpr : dict of float to float
        Largest true positive rate at each false positive rate.
    """

    advantage: float
    tpr: dict[float, float]


def worst_case_attacker(
    charges: Iterable[Charge], *, unit: Unit = "compound", members: int = 1, fprs: Sequence[float] = (0.001, 0.01)
) -> Attacker:
    """Return the worst attacker that all charges together allow.

    Parameters
    ----------
    charges, unit, members
        As for `accountant.epsilon`; neighbouring data sets differ by adding or removing that.
    fprs : sequence of float
        False positive rates in (0, 1): of claiming that the unit was there when it was not, or the reverse, whichever
        is worse.

    Returns
    -------
    Attacker
        Upper bounds. An empty history leaves guessing (`tpr` equals the false positive rate); a charge without noise
        allows everything.

    Notes
    -----
    The true positive rate at a false positive rate a is at most ``exp(epsilon) a + delta(epsilon)`` for every epsilon,
    and so at most the least of that over any set of them.

    References
    ----------
    Dong, Roth, Su 2022, arXiv 1905.02383; Kulynych et al. 2024, arXiv 2407.02191.
    """
    whole = composed(charges, unit=unit, members=members)
    if whole is None:
        return Attacker(advantage=1.0, tpr=dict.fromkeys(fprs, 1.0))
    reach = min(_FARTHEST, float(whole.get_epsilon_for_delta(min(fprs) / 1e4)))
    epsilons = np.linspace(-max(1.0, reach), max(1.0, reach), _POINTS)
    deltas = np.asarray(whole.get_delta_for_epsilon(epsilons))
    bounds = {fpr: float((np.exp(epsilons) * fpr + deltas).min()) for fpr in fprs}
    return Attacker(
        advantage=min(1.0, float(whole.get_delta_for_epsilon(0.0))),
        tpr={fpr: min(1.0, max(fpr, bound)) for fpr, bound in bounds.items()},
    )
