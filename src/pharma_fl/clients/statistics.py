"""Noised counts of a partner's prepared data, to be shown beside its agreement."""

from __future__ import annotations

import hashlib
import json
import math
import os
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Final, Literal, get_args

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from pydantic import Field

from pharma_fl.atomic import write_atomic
from pharma_fl.clients.cohorts import dated, within
from pharma_fl.clients.preconditions import check_countable
from pharma_fl.clients.witnesses import ledger_of
from pharma_fl.config import Partner
from pharma_fl.config.base import Settings
from pharma_fl.config.federation import Unit
from pharma_fl.config.tables import AssayType
from pharma_fl.data.matrices import PreparedData
from pharma_fl.data.tasks import Task
from pharma_fl.errors import ConfigError, DataError, PolicyViolation, PrivacyError
from pharma_fl.privacy.accountant import epsilon
from pharma_fl.privacy.charge import Charge
from pharma_fl.privacy.counts import clipped_rows, noised_sum, series_rows
from pharma_fl.privacy.entries import Cohort
from pharma_fl.privacy.noise import NoiseSource, SystemNoise
from pharma_fl.privacy.spend import Spend

FORMAT: Final = "pharma-fl-statistics"
FORMAT_VERSION: Final = 1
RUN = "statistics"
"""The ledger's name for all of a partner's statistics; the round is their number."""

ASSAY_TYPES: tuple[AssayType, ...] = get_args(AssayType)
_CHUNK = 1 << 16
_LARGEST = 1 << 16

Norm = Annotated[float, Field(gt=1, le=1e6)]
Positive = Annotated[float, Field(gt=0, le=1e12)]
Count = Annotated[float, Field(ge=-1e18, le=1e18)]


class Statistics(Settings):
    """The file's content. Every number is a setting or carries noise; nothing else of the data is in it.

    Attributes
    ----------
    released : date
        Day of the release, in UTC.
    noise_multiplier, clipping_norm, noise_std : float
        Standard deviation of the noise on each count, `noise_std`, is the product of the two others. What one unit adds
        to all counts together has at most the clipping norm.
    unit, relation : str
        What is protected as one, and that neighbouring data differ by adding or removing one.
    epsilon, delta : float
        Cost of this release alone.
    compounds : float
        Noised count. Exact but for the noise where the unit is a compound.
    labels, values : dict
        Noised counts of classification labels and regression values, by assay type. Too low where units have so many
        that they were clipped.
    """

    format: Literal["pharma-fl-statistics"] = FORMAT
    format_version: Literal[1] = FORMAT_VERSION
    released: date
    noise_multiplier: Positive
    clipping_norm: Norm
    noise_std: Positive
    unit: Unit
    relation: Literal["add-or-remove-one"] = "add-or-remove-one"
    epsilon: Annotated[float, Field(ge=0)]
    delta: Positive
    compounds: Count
    labels: dict[AssayType, Count]
    values: dict[AssayType, Count]


def release_statistics(
    partner: Partner, out: Path, *, noise_multiplier: float, clipping_norm: float, noise: NoiseSource | None = None
) -> Statistics:
    """Charge for noised counts of the prepared data, make them, and write them to a file that may be shown.

    Every call is a charge of its own. It is on disk before any array is read, and stays whatever happens afterwards.

    Parameters
    ----------
    partner : Partner
        Whose data. All its folds are counted, and of declared cohorts those that can pay.
    out : Path
        The file; it must not exist.
    noise_multiplier, clipping_norm : float
        As in `Statistics`. One part of the clip is the compound itself, which so counts as 1 whatever it was measured
        in; labels and values share the rest, ``sqrt(clipping_norm^2 - 1)``. Of a series, compounds and measurements
        share it evenly.
    noise : NoiseSource, optional
        For tests; otherwise the operating system's randomness.

    Raises
    ------
    PolicyViolation
        ``PFL-P20`` less noise than ``policy.min_metrics_noise_multiplier``; ``PFL-P21`` as the ledger.
    BudgetExceeded
        ``PFL-P10`` above the budget, or above ``budget.epsilon_for_metrics``, which is nothing where it is left out.
    PrivacyError
        ``PFL-P22`` the file exists or cannot be there. ``PFL-P04``, ``PFL-P08`` tasks or series are not known.
        ``PFL-P17`` it failed after the charge.
    DataError
        ``PFL-D04`` the data are not prepared. ``PFL-D17`` cohorts are declared, and compounds have no dates.
    """
    least = partner.policy.min_metrics_noise_multiplier
    if not noise_multiplier >= least:
        raise PolicyViolation(
            "PFL-P20",
            f"--noise-multiplier {noise_multiplier:g} < policy.min_metrics_noise_multiplier {least:g} (partner.toml). "
            "Nothing was computed.",
        )
    _check_free(partner, out)
    data = PreparedData.open(partner.path(partner.data))
    check_countable(partner, data)
    ledger = ledger_of(partner)
    with ledger.held():
        number = 1 + ledger.history().last_round("statistics", RUN)
        spend = _spend(number, noise_multiplier, clipping_norm, partner.budget.unit)
        cohorts = ledger.reserve(spend, budget=partner.budget, policy=partner.policy)
        try:
            made = _noised(partner, data, spend, cohorts, noise or SystemNoise())
            content = (made.model_dump_json(indent=2) + "\n").encode()
            write_atomic(out, content)
        except Exception as error:
            # From here on the data are read, so a code for each cause would tell about them.
            raise PrivacyError(
                "PFL-P17",
                f"Statistics {number} failed after they were charged ({type(error).__name__}: {error}). They stay "
                "charged; mend the cause, and ask again, which is another charge.",
            ) from error
        ledger.release("statistics", RUN, number, hashlib.sha256(content).hexdigest())
    return made


def read_statistics(path: Path) -> Statistics | None:
    """Read a file of statistics, which may be another partner's; None where it says that it is something else.

    Raises
    ------
    DataError
        ``PFL-D14`` it is of another version, or damaged.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(_LARGEST)
        if json.loads(content).get("format") != FORMAT:
            return None
    except (OSError, ValueError, RecursionError, AttributeError):
        return None
    try:
        return Statistics.parse_json(content.decode(), source=str(path))
    except ConfigError as error:
        raise DataError(
            "PFL-D14",
            f"{path} is no file of statistics of this version: a key is missing, unknown or no number. Ask its partner "
            "for what `pharma-fl statistics` of your release wrote.",
        ) from error


def _check_free(partner: Partner, out: Path) -> None:
    folder, data = out.resolve().parent, partner.path(partner.data).resolve()
    if out.exists():
        why = "exists"
    elif folder.is_relative_to(data):
        why = f"would be lost in {data}, which pharma-fl prepare replaces whole"
    elif not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        why = f"cannot be written: {folder} is no folder with rights to write"
    else:
        return
    raise PrivacyError("PFL-P22", f"{out} {why}. Nothing was charged. Name another file (--out).")


def _spend(number: int, noise_multiplier: float, clipping_norm: float, unit: Unit) -> Spend:
    return Spend(
        federation="",
        run=RUN,
        round=number,
        purpose="statistics",
        charge=Charge(1.0, noise_multiplier, 1, unit),
        coordinator_noise=noise_multiplier,
        clipping="flat",
        clipping_norm=clipping_norm,
        # Noise and clip may differ from one call to the next; what is counted may not.
        plan=hashlib.sha256(json.dumps([FORMAT, FORMAT_VERSION, ASSAY_TYPES]).encode()).hexdigest(),
    )


def _noised(
    partner: Partner, data: PreparedData, spend: Spend, cohorts: tuple[Cohort, ...], noise: NoiseSource
) -> Statistics:
    budget, norm, multiplier = partner.budget, spend.clipping_norm, spend.charge.noise_multiplier
    rows = _contributions(data, norm, spend.unit, within(dated(data), cohorts) if cohorts else None)
    counts = noised_sum(
        rows[:0] if partner.policy.placebo else rows, clipping_norm=norm, noise_multiplier=multiplier, noise=noise
    ).tolist()
    types = len(ASSAY_TYPES)
    return Statistics(
        released=datetime.now(UTC).date(),
        noise_multiplier=multiplier,
        clipping_norm=norm,
        noise_std=multiplier * norm,
        unit=spend.unit,
        epsilon=epsilon((spend.charge,), budget.delta, unit=budget.unit, members=budget.members),
        delta=budget.delta,
        compounds=counts[0],
        labels=dict(zip(ASSAY_TYPES, counts[1 : 1 + types], strict=True)),
        values=dict(zip(ASSAY_TYPES, counts[1 + types :], strict=True)),
    )


def _contributions(
    data: PreparedData, clipping_norm: float, unit: Unit, inside: NDArray[np.bool_] | None
) -> sp.csr_array:
    """Return what each unit adds, csr (units, columns): compounds, then labels, then values, by assay type."""
    # Labels of tasks of an imported folder may have no type.
    number = {name: column for column, name in enumerate(ASSAY_TYPES)}
    parts = [
        np.ones((data.n_compounds, 1)),
        _by_type(data, "y_class", _types(data.classification_tasks, number)),
        _by_type(data, "y_regr", _types(data.regression_tasks, number)),
    ]
    rows = sp.csr_array(np.hstack(parts))
    share = 1.0
    if inside is not None:
        rows = rows[np.flatnonzero(inside)]
    if unit == "series":
        assert data.series is not None
        rows = series_rows(rows, data.series if inside is None else data.series[inside])
        share = clipping_norm / math.sqrt(2)
    measured = clipped_rows(rows[:, 1:], math.sqrt(clipping_norm**2 - share**2))
    return sp.csr_array(sp.hstack([clipped_rows(rows[:, :1], share), measured]))


def _types(tasks: tuple[Task, ...], number: dict[AssayType, int]) -> NDArray[np.int64]:
    return np.array([number.get(task.assay_type, number["OTHER"]) for task in tasks], dtype=np.int64)  # type: ignore[call-overload]


def _by_type(data: PreparedData, name: str, types: NDArray[np.int64]) -> NDArray[np.float64]:
    """Count each compound's entries of a matrix by its columns' types, float64 (n, types), piece by piece."""
    indptr, indices = data.arrays[f"{name}_indptr"], data.arrays[f"{name}_indices"]
    counts = np.zeros((data.n_compounds, len(ASSAY_TYPES)))
    for first in range(0, data.n_compounds, _CHUNK):
        ends = indptr[first : first + _CHUNK + 1]
        rows = np.repeat(np.arange(len(ends) - 1), np.diff(ends))
        places = rows * len(ASSAY_TYPES) + types[indices[ends[0] : ends[-1]]]
        counts[first : first + _CHUNK] = np.bincount(places, minlength=counts[first : first + _CHUNK].size).reshape(
            -1, len(ASSAY_TYPES)
        )
    return counts
