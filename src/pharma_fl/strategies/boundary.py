"""The boundary for replies: what is not exactly what was asked for is dropped, and never aborts the others."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np
from flwr.app import ConfigRecord, Message
from numpy.typing import NDArray
from torch import Tensor

from pharma_fl.config import TrainingSettings
from pharma_fl.messages.envelope import ARRAYS, CONFIG, METRICS
from pharma_fl.messages.rounds import MASKED
from pharma_fl.messages.wire import HISTOGRAM, from_arrays
from pharma_fl.model.weights import check_shapes
from pharma_fl.privacy.plan import PrivacyPlan
from pharma_fl.strategies.asking import ALIVE
from pharma_fl.strategies.server_optimizer import norm

Vector = NDArray[np.int32] | NDArray[np.int64]

_CODE = re.compile(r"PFL-[A-Z]\d\d")
_METRICS = {"epsilon_spent", "epsilon_left"}
# Finite changes could still add up to an infinite trunk. No training moves a weight so far.
_LARGEST_CHANGE = 1e6
BAD = {"PFL-F11", "PFL-F12", "PFL-F17", "PFL-F18"}
"""Codes of replies that no partner in order sends. Who sends several is left out."""
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


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a reply has to be of.

    Attributes
    ----------
    run : str
        The run.
    round : int
        The round.
    largest_norm : float
        What a partner that keeps to the plan does not exceed; see `largest_norm`.
    """

    run: str
    round: int
    largest_norm: float = math.inf


def largest_norm(plan: PrivacyPlan, training: TrainingSettings, values: int, *, largest_sample: float) -> float:
    """Return the largest norm of a round's change of the trunk that the plan allows.

    Each step moves the trunk by the learning rate over the expected batch, times clipped gradients and noise. How many
    compounds a partner samples is not the coordinator's to know, so `largest_sample` allows for several expected
    batches. The noise's norm exceeds the square root of `values`, in standard
    deviations, by 8 less than once in 10^14 times. Without protection there is no bound. Under an adaptive clip the
    norm may have grown in each step so far as it can.

    Parameters
    ----------
    plan : PrivacyPlan
        With ``noise_mode = "local"``.
    training : TrainingSettings
        For the learning rate.
    values : int
        Parameters of the trunk.
    largest_sample : float
        From ``[quorum]``.
    """
    if not plan.protected:
        return math.inf
    clip = plan.clipping_norm
    if plan.clipping == "adaptive":
        clip *= min(math.exp(min(2 * plan.clip_learning_rate * plan.rounds * plan.steps_per_round, 60.0)), 1e3)
    noise = plan.multipliers[0] * (math.sqrt(values) + 8.0)
    step = training.trunk_learning_rate / plan.expected_batch * clip * (largest_sample * plan.expected_batch + noise)
    return 1.01 * plan.steps_per_round * step


def largest_sum(plan: PrivacyPlan, *, largest_sample: float) -> float:
    """Return the largest norm of a secure sum, of all partners' clipped gradients and noise, that the plan allows.

    As `largest_norm`, of as many samples as there are contributors, with the noise of all shares together.
    """
    shared = plan.shared
    noise = shared.share_std * shared.grid * math.sqrt(plan.contributors) * (math.sqrt(plan.summed_values) + 8.0)
    return 1.01 * (plan.contributors * largest_sample * plan.expected_batch * plan.clipping_norm + noise)


def read_answer(message: Message, trunk: dict[str, Tensor], wanted: Wanted) -> Answer:
    """Check a reply against the trunk that was sent: records, run, round, names, shapes, dtype, finiteness, norm."""
    code = _no_answer(message, {ARRAYS, METRICS, CONFIG}, wanted)
    if code:
        return dropped(code)
    metrics = _metrics(message)
    if metrics is None:
        return dropped("PFL-F11")
    try:
        change = from_arrays(message.content.array_records[ARRAYS])
        check_shapes(trunk, change, place="A partner's reply")
    except Exception:  # noqa: BLE001 - the bytes are the partner's, and so is the exception that reading them meets
        return dropped("PFL-F12")
    if any(value.abs().max() > _LARGEST_CHANGE for value in change.values() if value.numel()):
        return dropped("PFL-F12")
    if norm(change) > wanted.largest_norm:
        return dropped("PFL-F17")
    return Answer(released=change, code="", metrics=metrics)


def read_masked(
    message: Message, wanted: Wanted, *, values: int, dtype: np.dtype[np.signedinteger]
) -> tuple[Answer, Vector | None]:
    """Check a reply under shared noise: records, run, round, name, dtype, size. What it holds nobody can judge alone.

    Returns
    -------
    tuple
        The answer, and the masked vector, int32 or int64 (values,), or None.
    """
    code, metrics = _no_answer(message, {ARRAYS, METRICS, CONFIG}, wanted), _metrics(message)
    if code or metrics is None:
        return dropped(code or "PFL-F11"), None
    try:
        arrays = {name: array.numpy() for name, array in message.content.array_records[ARRAYS].items()}
    except Exception:  # noqa: BLE001 - as in read_answer
        return dropped("PFL-F12"), None
    vector = arrays.get(MASKED)
    if vector is None or len(arrays) > 1 or vector.dtype != dtype or vector.shape != (values,):
        return dropped("PFL-F12"), None
    return Answer(released={}, code="", metrics=metrics), vector


def read_histogram(message: Message, shape: tuple[int, ...], wanted: Wanted) -> tuple[NDArray[np.float64] | None, str]:
    """Check a reply with noised metrics against the shape that was asked for: records, name, dtype, finiteness, size.

    Returns
    -------
    tuple
        The counts, float64 of that shape, or None; and a code, empty for a good reply.
    """
    code = _no_answer(message, {ARRAYS, CONFIG}, wanted)
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
    return str(code) if is_code(code) else "PFL-X00"


def is_code(value: object) -> bool:
    """Whether a partner's word can be one of our codes."""
    return isinstance(value, str) and _CODE.fullmatch(value) is not None


def refusal_of(message: Message) -> str:
    """Return why a partner answers nothing: Flower's error, or its own refusal; empty where it does answer."""
    if message.has_error():
        return "PFL-F10" if message.error.code in ALIVE else "PFL-F13"
    config = message.content.config_records.get(CONFIG)
    return code_of(config) if config is not None and config.get("status") == "refused" else ""


def _no_answer(message: Message, records: set[str], wanted: Wanted) -> str:
    """Say why a reply is none: a refusal, other records than were agreed, another round's; empty for one that is."""
    code = refusal_of(message)
    if code:
        return code
    content = message.content
    config = content.config_records.get(CONFIG)
    if config is None or config.get("status") != "done" or set(config) != {"status", "run", "round"}:
        return "PFL-F11"
    if ARRAYS not in content.array_records or set(content) - records:
        return "PFL-F11"
    return "" if (config["run"], config["round"]) == (wanted.run, wanted.round) else "PFL-F18"


def _metrics(message: Message) -> dict[str, float] | None:
    """Return the reply's public numbers, or None where it has others than were agreed."""
    if message.has_error():
        return {}
    found = dict(message.content.metric_records.get(METRICS, {}))
    good = {name: value for name, value in found.items() if isinstance(value, float) and math.isfinite(value)}
    return good if good.keys() == found.keys() and not set(found) - _METRICS else None


def dropped(code: str) -> Answer:
    """Return the answer of a reply that cannot be used."""
    return Answer(released=None, code=code, metrics={})
