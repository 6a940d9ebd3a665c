"""What epsilon means: how well the best possible attacker tells whether a unit was in the data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from pharma_fl.config.federation import Unit
from pharma_fl.privacy.accountant import Charge, composed
from pharma_fl.privacy.privacy_loss import PrivacyLoss


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
    The true positive rate at a false positive rate a is at most the infimum over epsilon of
    ``exp(epsilon) a + delta(epsilon)``.

    References
    ----------
    Dong, Roth, Su 2022, arXiv 1905.02383; Kulynych et al. 2024, arXiv 2407.02191.
    """
    losses = composed(charges, unit=unit, members=members)
    return Attacker(
        advantage=max(loss.delta(0.0) for loss in losses),
        tpr={fpr: max(_most_true_positives(loss, fpr) for loss in losses) for fpr in fprs},
    )


def _most_true_positives(loss: PrivacyLoss, fpr: float) -> float:
    # Between two points of the grid delta is linear in exp(epsilon), so that the infimum is at one of them.
    bounds = np.exp(np.minimum(loss.losses, 700.0)) * fpr + loss.deltas
    return float(np.clip(bounds.min(), fpr, 1.0))
