"""What the network learns: one task a threshold of an assay, or an assay's value itself."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

Kind = Literal["classification", "regression"]


@dataclass(frozen=True, kw_only=True)
class Task:
    """One column of a label matrix; one row of tasks.csv.

    The first fields follow from T0, T_cat and rules.toml, and from measurements where `data_derived` says so. The
    fields from `quorum_type` on are computed from measurements always: they are for the partner's eyes and for
    the export, and must never reach private training.

    Attributes
    ----------
    task : str
        Name, unique and stable: ``assay-7/binary``, ``assay-7/high/6.5``, ``assay-7/absolute/3.0``,
        ``assay-7/value``.
    kind : str
        ``classification`` or ``regression``.
    column : int
        Column in the matrix of its kind.
    assay : str
        The partner's assay.
    assay_type : str
        The assay's type in T0.
    direction : str
        Which side of the threshold is active: ``high``, ``low``, or ``absolute`` for both; empty for binary
        assays and for regression.
    threshold : float or None
        The cut-off; 0 for a binary assay, None for regression.
    threshold_method : str
        Where the cut-off comes from, see `Threshold`; empty for regression.
    auxiliary : bool
        Helps training and is not evaluated.
    data_derived : bool
        The threshold, and so the task's existence, was computed from measurements. Where compounds have a
        privacy guarantee such a task is itself a release.
    catalog_task_id : int or None
        The consortium's number of this task in T_cat, the same at every partner.
    training_weight : float
        From T0 alone unless `data_derived`. Classification: the type's initial weight divided by the number of
        the assay's tasks. Regression: 1, or the type's initial weight if auxiliary.
    quorum_type : str
        The assay type whose quorums were applied.
    training_quorum : bool
        MELLODDY-TUNER would train on it: its assay varies in every fold and there are labels enough.
    evaluate : bool
        Not auxiliary, and enough labels in every fold to report a metric.
    quorum_weight : float
        MELLODDY-TUNER's training weight, shared by the tasks that pass the training quorum; 0 for the others.
    censored_weight : float or None
        MELLODDY-TUNER's factor for censored values of a regression task.
    actives, inactives, values, censored : int or None
        Counts; None where they do not apply.
    """

    task: str
    kind: Kind
    column: int
    assay: str
    assay_type: str
    direction: str
    threshold: float | None
    threshold_method: str
    auxiliary: bool
    data_derived: bool
    catalog_task_id: int | None
    training_weight: float
    quorum_type: str
    training_quorum: bool
    evaluate: bool
    quorum_weight: float
    censored_weight: float | None = None
    actives: int | None = None
    inactives: int | None = None
    values: int | None = None
    censored: int | None = None


def write_tasks(path: Path, tasks: Sequence[Task]) -> None:
    """Write tasks.csv: true/false for flags, nothing for None, numbers so that they read back exactly."""
    names = [field.name for field in fields(Task)]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        writer.writerows([_text(getattr(task, name)) for name in names] for task in tasks)


def read_tasks(path: Path) -> tuple[Task, ...]:
    """Read tasks.csv.

    Raises
    ------
    OSError
        The file cannot be read.
    KeyError, ValueError
        It is not what `write_tasks` wrote.
    """
    with path.open(encoding="utf-8", newline="") as file:
        return tuple(_task(row) for row in csv.DictReader(file))


def _task(row: dict[str, str]) -> Task:
    kind = row["kind"]
    if kind not in ("classification", "regression"):
        raise ValueError(f"expected a kind of task, got {kind!r}")
    return Task(
        task=row["task"],
        kind="classification" if kind == "classification" else "regression",
        column=int(row["column"]),
        assay=row["assay"],
        assay_type=row["assay_type"],
        direction=row["direction"],
        threshold=float(row["threshold"]) if row["threshold"] else None,
        threshold_method=row["threshold_method"],
        auxiliary=_flag(row["auxiliary"]),
        data_derived=_flag(row["data_derived"]),
        catalog_task_id=_whole(row["catalog_task_id"]),
        training_weight=float(row["training_weight"]),
        quorum_type=row["quorum_type"],
        training_quorum=_flag(row["training_quorum"]),
        evaluate=_flag(row["evaluate"]),
        quorum_weight=float(row["quorum_weight"]),
        censored_weight=float(row["censored_weight"]) if row["censored_weight"] else None,
        actives=_whole(row["actives"]),
        inactives=_whole(row["inactives"]),
        values=_whole(row["values"]),
        censored=_whole(row["censored"]),
    )


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else repr(value) if isinstance(value, float) else str(value)


def _flag(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError(f"expected true or false, got {text!r}")
    return text == "true"


def _whole(text: str) -> int | None:
    return int(text) if text else None
