"""The boundary for replies: what is not exactly what was asked for is dropped, and never aborts the others."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np
from flwr.app import ConfigRecord, Message
from numpy.typing import NDArray
from torch import Tensor

from pharma_fl.messages.rounds import MASKED
from pharma_fl.messages.wire import ARRAYS, CONFIG, HISTOGRAM, METRICS, from_arrays
from pharma_fl.model.weights import check_shapes

Vector = NDArray[np.int32] | NDArray[np.int64]

_CODE = re.compile(r"PFL-[A-Z]\d\d")
_METRICS = {"epsilon_spent", "epsilon_left"}
# Finite changes could still add up to an infinite trunk. No training moves a weight so far.
_LARGEST_CHANGE = 1e6
# As many compounds as there are anywhere, at the largest clip and noise that can be asked for.
_LARGEST_COUNT = 1e18


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One partner's reply after the boundary.

    Attributes
    ----------
    released : dict or None
        The trunk's change; None where the reply was a refusal or was dropped. Empty where a masked vector was taken.
    code : str
        Empty for a good reply, else why there is none.
    metrics : dict
        Epsilon spent and left, where the partner reports them.
    """

    released: dict[str, Tensor] | None
    code: str
    metrics: dict[str, float]


def read_answer(message: Message, trunk: dict[str, Tensor]) -> Answer:
    """Check a reply against the trunk that was sent: records, names, shapes, dtype, finiteness, size."""
    code = _no_answer(message, {ARRAYS, METRICS, CONFIG})
    if code:
        return _dropped(code)
    metrics = _metrics(message)
    if metrics is None:
        return _dropped("PFL-F11")
    try:
        change = from_arrays(message.content.array_records[ARRAYS])
        check_shapes(trunk, change, place="A partner's reply")
    except Exception:  # noqa: BLE001 - the bytes are the partner's, and so is the exception that reading them meets
        return _dropped("PFL-F12")
    if any(value.abs().max() > _LARGEST_CHANGE for value in change.values() if value.numel()):
        return _dropped("PFL-F12")
    return Answer(released=change, code="", metrics=metrics)


def read_masked(message: Message, *, values: int, dtype: np.dtype[np.signedinteger]) -> tuple[Answer, Vector | None]:
    """Check a reply under shared noise: records, name, dtype and size. What it holds nobody can judge by itself.

    Returns
    -------
    tuple
        The answer, and the masked vector, int32 or int64 (values,), or None.
    """
    code, metrics = _no_answer(message, {ARRAYS, METRICS, CONFIG}), _metrics(message)
    if code or metrics is None:
        return _dropped(code or "PFL-F11"), None
    try:
        arrays = {name: array.numpy() for name, array in message.content.array_records[ARRAYS].items()}
    except Exception:  # noqa: BLE001 - as in read_answer
        return _dropped("PFL-F12"), None
    vector = arrays.get(MASKED)
    if vector is None or len(arrays) > 1 or vector.dtype != dtype or vector.shape != (values,):
        return _dropped("PFL-F12"), None
    return Answer(released={}, code="", metrics=metrics), vector


def read_histogram(message: Message, shape: tuple[int, ...]) -> tuple[NDArray[np.float64] | None, str]:
    """Check a reply with noised metrics against the shape that was asked for: records, name, dtype, finiteness, size.

    Returns
    -------
    tuple
        The counts, float64 of that shape, or None; and a code, empty for a good reply.
    """
    code = _no_answer(message, {ARRAYS, CONFIG})
    if code:
        return None, code
    try:
        arrays = from_arrays(message.content.array_records[ARRAYS])
        counts = arrays[HISTOGRAM].numpy()
    except Exception:  # noqa: BLE001 - as in read_answer
        return None, "PFL-F12"
    fits = arrays.keys() == {HISTOGRAM} and counts.dtype == np.float64 and counts.shape == shape
    # What is not a number is not within either.
    if not (fits and bool(np.all(np.abs(counts) <= _LARGEST_COUNT))):
        return None, "PFL-F12"
    return counts, ""


def code_of(config: ConfigRecord) -> str:
    """Return the code of a refusal; what is not one of ours becomes ``PFL-X00``."""
    code = config.get("code")
    return code if isinstance(code, str) and _CODE.fullmatch(code) else "PFL-X00"


def _no_answer(message: Message, records: set[str]) -> str:
    """Say why a reply is none: Flower's error, a refusal, or other records than were agreed; empty for one that is."""
    if message.has_error():
        return "PFL-F10"
    content = message.content
    config = content.config_records.get(CONFIG)
    if config is not None and config.get("status") == "refused":
        return code_of(config)
    agreed = config is not None and dict(config) == {"status": "done"} and ARRAYS in content.array_records
    return "" if agreed and not set(content) - records else "PFL-F11"


def _metrics(message: Message) -> dict[str, float] | None:
    """Return the reply's public numbers, or None where it has others than were agreed."""
    if message.has_error():
        return {}
    found = dict(message.content.metric_records.get(METRICS, {}))
    good = {name: value for name, value in found.items() if isinstance(value, float) and math.isfinite(value)}
    return good if good.keys() == found.keys() and not set(found) - _METRICS else None


def _dropped(code: str) -> Answer:
    return Answer(released=None, code=code, metrics={})
