"""What must be known of prepared data before anything is charged; all of it follows from settings."""

from __future__ import annotations

from collections.abc import Sequence

from pharma_fl.clients.cohorts import dated
from pharma_fl.config import Partner
from pharma_fl.data.matrices import PreparedData
from pharma_fl.errors import BudgetExceeded, PrivacyError
from pharma_fl.privacy.sampling import known_series


def check_countable(partner: Partner, data: PreparedData) -> None:
    """Refuse data of which one unit more or less could change more than its own row of counts.

    All of it follows from settings, so a refusal tells nothing about measurements.

    Raises
    ------
    BudgetExceeded
        ``PFL-P10`` nothing is set aside for noised counts, even where their noise is so large that they cost nothing.
    PrivacyError
        ``PFL-P04`` as `check_public_tasks`; ``PFL-P08`` the budget's unit is the series, and series are not known.
    DataError
        ``PFL-D17`` cohorts are declared, and compounds have no dates.
    """
    if partner.budget.epsilon_for_metrics is None:
        raise BudgetExceeded(
            "PFL-P10",
            "Noised counts may spend nothing (partner.toml: budget.epsilon_for_metrics is left out). Nothing was "
            "computed and nothing left. Decide what they may take: pharma-fl budget loosen.",
        )
    check_public_tasks(data.data_derived_assays)
    if partner.budget.cohorts:
        dated(data)
    if partner.budget.unit == "series":
        known_series(data.series)


def check_public_tasks(data_derived_assays: Sequence[str]) -> None:
    """Refuse tasks that one compound more or less could change, and so what other compounds contribute.

    Raises
    ------
    PrivacyError
        ``PFL-P04`` thresholds or the list of assays follow from measurements.
    """
    if data_derived_assays:
        raise PrivacyError(
            "PFL-P04",
            f"The tasks of {len(data_derived_assays)} assays (assay {data_derived_assays[0]}, ...) follow from the "
            "data, which the accounting does not cover. Give these assays expert thresholds, list them in tables.assays"
            " if the table is a long one, and prepare again; where matrices were imported, docs/data.md says when "
            "--public-tasks is right.",
        )
