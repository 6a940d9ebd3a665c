"""The partner's prepared records, opened once a process."""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from pathlib import Path

from pharma_fl.config import ModelSettings, Partner
from pharma_fl.data.matrices import PreparedData
from pharma_fl.errors import DataError
from pharma_fl.model.ensemble import RecordsAt
from pharma_fl.model.records import Records


def training_folds(partner: Partner) -> tuple[int, ...]:
    """Return the folds that are trained on: neither test nor validation."""
    held_out = {partner.folds.test, partner.folds.validation}
    return tuple(fold for fold in range(partner.folds.count) if fold not in held_out)


def open_records(partner: Partner, model: ModelSettings, folds: Collection[int]) -> Records:
    """Return the records of some folds, at the network's input width."""
    folder = partner.path(partner.data)
    manifest = folder / "manifest.json"
    changed = manifest.stat().st_mtime_ns if manifest.exists() else 0
    # What a network's hidden layers look like changes nothing here, and records are large.
    read = ("input_bits", "input_transform", "regression_weight", "censored_weight", "catalogue")
    needed = ModelSettings(**{name: getattr(model, name) for name in read})
    constants = (partner.regression.center, partner.regression.scale)
    return _records(folder, changed, tuple(sorted(folds)), needed, *constants)


def check_folds(data: PreparedData, folds: Collection[int]) -> None:
    """Check that data were prepared with the folds that partner.toml names: ``PFL-D09``."""
    count = data.manifest.get("settings", {}).get("folds", {}).get("count", max(folds) + 1)
    if len(data.folds) and max(folds) >= count:
        raise DataError(
            "PFL-D09",
            f"{data.folder} was prepared with fewer folds than partner.toml names. Run pharma-fl prepare again.",
        )


def records_at(partner: Partner, folds: Collection[int]) -> RecordsAt:
    """Return a function that opens the records of some folds at the width that a network wants."""
    return lambda model: open_records(partner, model, folds)


@lru_cache(maxsize=32)
def _records(
    folder: Path,
    _changed: int,
    folds: tuple[int, ...],
    model: ModelSettings,
    center: float,
    scale: float,
) -> Records:
    data = PreparedData.open(folder)
    check_folds(data, folds)
    return Records.from_prepared(
        data,
        data.rows_of(folds),
        model,
        center=center,
        scale=scale,
    )
