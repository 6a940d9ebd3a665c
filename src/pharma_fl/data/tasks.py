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

    Attributes
    ----------
    task : str
        Name, unique and stable: ``assay-7/binary``, ``assay-7/high/6.5``, ``assay-7/value``.
    kind : str
        ``classification`` or ``regression``.
    column : int
        Column in the matrix of its kind.
    input_assay_id : int
        The partner's assay.
    assay_type : str
        The assay's type in T0.
    direction : str
        ``high`` or ``low`` for a threshold: which side of it is active; empty otherwise.
    threshold : float or None
        The cut-off; 0 for a binary assay, None for regression.
    auxiliary : bool
        Helps training and is not evaluated.
    data_derived : bool
        The threshold, and so the task's existence, was computed from measurements. Where compounds have a
        privacy guarantee such a task is itself a release.
    training_weight : float
        From T0 alone unless `data_derived`: one over the assay's classification tasks, 1 for regression.
    evaluate : bool
        Enough labels in every fold to report a metric. Computed from data: it must not reach training.
    actives, inactives, values : int or None
        Counts, for the partner's eyes; None where they do not apply.
    """

    task: str
    kind: Kind
    column: int
    input_assay_id: int
    assay_type: str
    direction: str
    threshold: float | None
    auxiliary: bool
    data_derived: bool
    training_weight: float
    evaluate: bool
    actives: int | None = None
    inactives: int | None = None
    values: int | None = None


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
        input_assay_id=int(row["input_assay_id"]),
        assay_type=row["assay_type"],
        direction=row["direction"],
        threshold=float(row["threshold"]) if row["threshold"] else None,
        auxiliary=_flag(row["auxiliary"]),
        data_derived=_flag(row["data_derived"]),
        training_weight=float(row["training_weight"]),
        evaluate=_flag(row["evaluate"]),
        actives=_count(row["actives"]),
        inactives=_count(row["inactives"]),
        values=_count(row["values"]),
    )


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else repr(value) if isinstance(value, float) else str(value)


def _flag(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError(f"expected true or false, got {text!r}")
    return text == "true"


def _count(text: str) -> int | None:
    return int(text) if text else None
