"""partner.toml, `[tables]`: where the measurements are and how they are laid out."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from pharma_fl.config.base import Settings


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) < len(names):
        raise ValueError("expected each name once")
    return names


Names = Annotated[tuple[str, ...], AfterValidator(_distinct)]
Files = Annotated[tuple[str, ...], Field(min_length=1)]
AssayType = Literal["ADME", "OTHER", "NON-CATALOG-PANEL", "CATALOG-PANEL", "AUX_HTS", "AUX_PL"]


class TunerTables(Settings):
    """T0, T1, T2 and T_cat in MELLODDY-TUNER's columns; several files of a kind are read as one."""

    form: Literal["tuner"] = "tuner"
    assays: Files = ("T0.csv",)
    activities: Files = ("T1.csv",)
    structures: Files = ("T2.csv",)
    catalogue: tuple[str, ...] = ()
    """T_cat: the consortium's list of catalogue assays and tasks. Needed where T0 has a ``CATALOG-PANEL``."""
    date: str | None = None
    """Column of T2 with each compound's date, for temporal folds."""


class AssaySettings(Settings):
    """What T0 would say of an assay, for tables that hold none."""

    assay_type: Literal["ADME", "OTHER", "NON-CATALOG-PANEL", "AUX_HTS", "AUX_PL"] = "ADME"
    is_binary: bool = False
    """Values are classes: 1 is active, 0 and -1 are inactive."""
    use_in_regression: bool = False
    expert_thresholds: Annotated[tuple[float, ...], Field(max_length=5)] = ()
    direction: Literal["high", "low", ""] = ""

    @model_validator(mode="after")
    def _classes(self) -> Self:
        if self.is_binary and (self.use_in_regression or self.expert_thresholds):
            raise ValueError("a binary assay has neither expert_thresholds nor use_in_regression")
        if self.assay_type == "AUX_PL" and not self.is_binary:
            raise ValueError("an AUX_PL assay is binary")
        return self


class _CompoundTable(Settings):
    """What the wide and the long form share."""

    files: Files
    smiles: str = "smiles"
    """Column of the structures."""
    compound: str | None = None
    """Column of the partner's compound ids, any text. Without it the SMILES stands for the compound."""
    date: str | None = None
    """Column of each compound's date, for temporal folds."""
    assay_defaults: AssaySettings = AssaySettings()
    """What holds for every assay that `assay_settings` does not name."""
    assay_settings: dict[str, AssaySettings] = Field(default_factory=dict)
    """What holds for single assays, by name."""


class WideTables(_CompoundTable):
    """One row a compound and one column an assay; an empty cell is not measured."""

    form: Literal["wide"]
    assays: Names = ()
    """The columns that are assays; none listed, all but the other columns named here."""


class LongTables(_CompoundTable):
    """One row a measurement."""

    form: Literal["long"]
    assays: Names = ()
    """The assays there are, whatever is measured. None listed, the measurements tell, so that the list of tasks
    follows from data and private training refuses it."""
    assay: str = "assay"
    """Column of the assay names."""
    value: str = "value"
    """Column of the values."""
    qualifier: str | None = None
    """Column of the qualifiers; without it a value is exact unless a qualifier stands before it. Empty where a
    column of that name is to be ignored."""


def _form(content: Any) -> str:
    return str(content.get("form", "tuner") if isinstance(content, dict) else content.form)


TableSettings = Annotated[
    Annotated[TunerTables, Tag("tuner")] | Annotated[WideTables, Tag("wide")] | Annotated[LongTables, Tag("long")],
    Discriminator(
        _form, custom_error_type="table_form", custom_error_message="expected form to be tuner, wide or long"
    ),
]
