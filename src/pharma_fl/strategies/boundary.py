"""The boundary for replies: what is not exactly what was asked for is dropped, and never aborts the others."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from flwr.app import ConfigRecord, Message
from torch import Tensor

from pharma_fl.messages.wire import ARRAYS, CONFIG, METRICS, from_arrays
from pharma_fl.model.weights import check_shapes

_CODE = re.compile(r"PFL-[A-Z]\d\d")
_METRICS = {"epsilon_spent", "epsilon_left"}
# Finite changes could still add up to an infinite trunk. No training moves a weight so far.
_LARGEST_CHANGE = 1e6


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One partner's reply after the boundary.

    Attributes
    ----------
    change : dict or None
        The trunk's change; None where the reply was a refusal or was dropped.
    code : str
        Empty for a good reply, else why there is none.
    metrics : dict
        Epsilon spent and left, where the partner reports them.
    """

    change: dict[str, Tensor] | None
    code: str
    metrics: dict[str, float]


def read_answer(message: Message, trunk: dict[str, Tensor]) -> Answer:  # noqa: PLR0911 - one return a reason
    """Check a reply against the trunk that was sent: records, names, shapes, dtype, finiteness, size."""
    if message.has_error():
        return _dropped("PFL-F10")
    content = message.content
    config = content.config_records.get(CONFIG)
    if config is None:
        return _dropped("PFL-F11")
    if config.get("status") == "refused":
        return _dropped(code_of(config))
    unknown = set(content) - {ARRAYS, METRICS, CONFIG}
    if dict(config) != {"status": "done"} or ARRAYS not in content.array_records or unknown:
        return _dropped("PFL-F11")
    metrics = dict(content.metric_records.get(METRICS, {}))
    if set(metrics) - _METRICS or not all(isinstance(v, float) and math.isfinite(v) for v in metrics.values()):
        return _dropped("PFL-F11")
    try:
        change = from_arrays(content.array_records[ARRAYS])
        check_shapes(trunk, change, place="A partner's reply")
    except Exception:  # noqa: BLE001 - the bytes are the partner's, and so is the exception that reading them meets
        return _dropped("PFL-F12")
    if any(value.abs().max() > _LARGEST_CHANGE for value in change.values() if value.numel()):
        return _dropped("PFL-F12")
    return Answer(change=change, code="", metrics={name: float(str(value)) for name, value in metrics.items()})


def code_of(config: ConfigRecord) -> str:
    """Return the code of a refusal; what is not one of ours becomes ``PFL-X00``."""
    code = config.get("code")
    return code if isinstance(code, str) and _CODE.fullmatch(code) else "PFL-X00"


def _dropped(code: str) -> Answer:
    return Answer(change=None, code=code, metrics={})
