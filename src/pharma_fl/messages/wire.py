"""A round and its metrics, as Flower records."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypedDict

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from torch import Tensor

from pharma_fl.config import ModelSettings, TrainingSettings
from pharma_fl.config.federation import EvaluationSettings
from pharma_fl.errors import FederationError
from pharma_fl.messages.envelope import ARRAYS, CONFIG, METRICS, NAME, config_of, done, settings_of
from pharma_fl.messages.metrics import MetricsReply, MetricsRequest
from pharma_fl.messages.rounds import RoundReply, RoundRequest
from pharma_fl.privacy.plan import PrivacyPlan

HISTOGRAM = "histogram"
"""Name of the one array of a reply with noised metrics."""
_HASH = re.compile(r"[0-9a-f]{64}")


def to_arrays(tensors: Mapping[str, Tensor]) -> ArrayRecord:
    """Pack tensors by name."""
    return ArrayRecord({name: Array(value.detach().cpu().numpy()) for name, value in tensors.items()})


def from_arrays(record: ArrayRecord) -> dict[str, Tensor]:
    """Unpack tensors by name. Flower reads arrays without pickle."""
    return {name: torch.from_numpy(array.numpy().copy()) for name, array in record.items()}


def round_request(request: RoundRequest) -> RecordDict:
    """Pack a round for one partner."""
    return RecordDict(
        {
            ARRAYS: to_arrays(request.trunk),
            CONFIG: ConfigRecord(
                {
                    "federation": request.federation,
                    "run": request.run,
                    "round": request.round,
                    "seed": request.seed,
                    "plan": request.plan.model_dump_json(),
                    "model": request.model.model_dump_json(),
                    "training": request.training.model_dump_json(),
                    "witnesses": list(request.witnesses),
                }
            ),
        }
    )


def read_round_request(content: RecordDict) -> RoundRequest:
    """Unpack and validate a round.

    Raises
    ------
    FederationError
        ``PFL-F01`` a record or key is missing, unknown or of the wrong type.
    """
    facts = _facts(content, {"plan", "training"})
    return RoundRequest(
        plan=settings_of(content, "plan", PrivacyPlan),
        training=settings_of(content, "training", TrainingSettings),
        **facts,
    )


def round_reply(reply: RoundReply, request: RoundRequest) -> RecordDict:
    """Pack all that leaves the partner after a round, with the run and round that it is of."""
    content = RecordDict({ARRAYS: to_arrays(reply.released), CONFIG: done(request.run, request.round)})
    if reply.epsilon_spent is not None and reply.epsilon_left is not None:
        content[METRICS] = MetricRecord({"epsilon_spent": reply.epsilon_spent, "epsilon_left": reply.epsilon_left})
    return content


def metrics_request(request: MetricsRequest) -> RecordDict:
    """Pack a request for noised metrics for one partner."""
    return RecordDict(
        {
            ARRAYS: to_arrays(request.trunk),
            CONFIG: ConfigRecord(
                {
                    "federation": request.federation,
                    "run": request.run,
                    "round": request.round,
                    "seed": request.seed,
                    "model": request.model.model_dump_json(),
                    "evaluation": request.evaluation.model_dump_json(),
                    "witnesses": list(request.witnesses),
                }
            ),
        }
    )


def read_metrics_request(content: RecordDict) -> MetricsRequest:
    """Unpack and validate a request for noised metrics; errors as `read_round_request`."""
    facts = _facts(content, {"evaluation"})
    return MetricsRequest(evaluation=settings_of(content, "evaluation", EvaluationSettings), **facts)


def metrics_reply(reply: MetricsReply, request: MetricsRequest) -> RecordDict:
    """Pack all that leaves the partner when it is asked for metrics, with the run and round that they are of."""
    return RecordDict({ARRAYS: to_arrays({HISTOGRAM: reply.histogram}), CONFIG: done(request.run, request.round)})


class _Facts(TypedDict):
    """What every request to do something says."""

    federation: str
    run: str
    round: int
    seed: int
    model: ModelSettings
    trunk: dict[str, Tensor]
    witnesses: tuple[str, ...]


def _facts(content: RecordDict, more: set[str]) -> _Facts:
    config = config_of(content, {"federation", "run", "round", "seed", "model", "witnesses"} | more)
    if ARRAYS not in content.array_records:
        raise FederationError("PFL-F01", "The round's message has no arrays. Both sides need the same version.")
    federation, run, number, seed = (config[key] for key in ("federation", "run", "round", "seed"))
    witnesses = config["witnesses"]
    # True is an int to isinstance.
    if type(number) is not int or type(seed) is not int:
        raise FederationError("PFL-F01", "The round's message names round or seed wrongly.")
    if not all(isinstance(name, str) and NAME.fullmatch(name) for name in (federation, run)):
        raise FederationError("PFL-F01", "The round's message names federation or run wrongly.")
    if not isinstance(witnesses, list) or not all(isinstance(one, str) and _HASH.fullmatch(one) for one in witnesses):
        raise FederationError("PFL-F01", "The round's message names the ledger's hashes wrongly.")
    return _Facts(
        federation=str(federation),
        run=str(run),
        round=number,
        seed=seed,
        model=settings_of(content, "model", ModelSettings),
        trunk=from_arrays(content.array_records[ARRAYS]),
        witnesses=tuple(str(one) for one in witnesses),
    )
