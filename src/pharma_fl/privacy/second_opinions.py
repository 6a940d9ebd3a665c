"""Epsilon by other accountants: second opinions, never the number of record."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable

from pharma_fl.config.federation import Unit
from pharma_fl.privacy.accountant import UNPROTECTED, merge, priced, renyi
from pharma_fl.privacy.charge import Charge

# Above this epsilon Opacus's accountant takes gigabytes.
_OPACUS_REACHES = 100.0
# Whole ones: at others dp-accounting's series does not always converge, and it then writes warnings.
_ORDERS = (*range(2, 65), 80, 96, 128, 192, 256, 384, 512, 768, 1024)


def epsilon_by_opacus(charges: Iterable[Charge], delta: float, *, unit: Unit = "compound") -> float | None:
    """Return epsilon by Opacus's PRV accountant, for one compound or one series.

    Parameters
    ----------
    charges, delta, unit
        As for `accountant.epsilon`.

    Returns
    -------
    float or None
        Its upper bound, about 0.01 above the truth. None where it has no answer: it does not know charges that
        sampled anything but the `unit`, and takes gigabytes for an epsilon above 100.

    References
    ----------
    Gopi, Lee, Wutschitz 2021, arXiv 2106.02848; Opacus 1.6, ``PRVAccountant``.
    """
    history = merge(charges)
    if not history:
        return 0.0
    coarse = epsilon_by_rdp(history, delta, unit=unit)
    if math.isinf(coarse):
        return coarse
    if coarse > _OPACUS_REACHES or any(charge.unit != unit for charge in history):
        return None
    from opacus.accountants import PRVAccountant  # noqa: PLC0415 - Opacus takes seconds to import

    accountant = PRVAccountant()
    accountant.history = [(c.noise_multiplier, c.sample_rate, c.steps) for c in history]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(accountant.get_epsilon(delta=delta))


def epsilon_by_rdp(charges: Iterable[Charge], delta: float, *, unit: Unit = "compound", members: int = 1) -> float:
    """Return epsilon by dp-accounting's Renyi accountant at many orders: an upper bound, 4 to 40 % loose.

    Parameters
    ----------
    charges, delta, unit, members
        As for `accountant.epsilon`.

    References
    ----------
    Mironov, Talwar, Zhang 2019, arXiv 1908.10530; dp-accounting 0.6, ``RdpAccountant``.
    """
    steps = priced(charges, unit, members)
    if not steps or steps == UNPROTECTED:
        return math.inf if steps else 0.0
    return float(renyi(steps, _ORDERS).get_epsilon(delta))
