"""What partner and coordinator say to each other, as Flower records.

Each message holds at most three records: ``arrays`` (the trunk or its change), ``metrics`` (public
numbers) and ``config`` (names, codes and settings). Anything else in a message is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeVar

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from torch import Tensor

from pharma_fl.config import ModelSettings, TrainingSettings
from pharma_fl.errors import ConfigError, FederationError, PharmaFlError
from pharma_fl.messages.rounds import RoundReply, RoundRequest
from pharma_fl.privacy.plan import PrivacyPlan

ARRAYS, METRICS, CONFIG = "arrays", "metrics", "config"
_RUN = re.compile(r"[A-Za-z0-9._-]{1,128}")

T = TypeVar("T", PrivacyPlan, ModelSettings, TrainingSettings)


def to_arrays(tensors: Mapping[str, Tensor]) -> ArrayRecord:
    """Pack tensors by name."""
    return ArrayRecord({name: Array(value.detach().cpu().numpy()) for name, value in tensors.items()})


def from_arrays(record: ArrayRecord) -> dict[str, Tensor]:
    """Unpack tensors by name. Flower reads arrays without pickle."""
    return {name: torch.from_numpy(array.numpy().copy()) for name, array in record.items()}


def join_request(plan: PrivacyPlan) -> RecordDict:
    """Ask a node who it is and whether its policy allows the plan."""
    return RecordDict({CONFIG: ConfigRecord({"plan": plan.model_dump_json()})})


def plan_of(content: RecordDict) -> PrivacyPlan:
    """Read the plan of a join request."""
    _config(content, {"plan"})
    return _settings(content, "plan", PrivacyPlan)


def round_request(request: RoundRequest) -> RecordDict:
    """Pack a round for one partner."""
    return RecordDict(
        {
            ARRAYS: to_arrays(request.trunk),
            CONFIG: ConfigRecord(
                {
                    "run": request.run,
                    "round": request.round,
                    "seed": request.seed,
                    "plan": request.plan.model_dump_json(),
                    "model": request.model.model_dump_json(),
                    "training": request.training.model_dump_json(),
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
    config = _config(content, {"run", "round", "seed", "plan", "model", "training"})
    if ARRAYS not in content.array_records:
        raise FederationError("PFL-F01", "The round's message has no arrays. Both sides need the same version.")
    run, number, seed = config["run"], config["round"], config["seed"]
    # True is an int to isinstance, and would be another number in the ledger's hash than in its table.
    if not isinstance(run, str) or type(number) is not int or type(seed) is not int or not _RUN.fullmatch(run):
        raise FederationError("PFL-F01", "The round's message names run, round or seed wrongly.")
    return RoundRequest(
        run=run,
        round=number,
        seed=seed,
        plan=_settings(content, "plan", PrivacyPlan),
        model=_settings(content, "model", ModelSettings),
        training=_settings(content, "training", TrainingSettings),
        trunk=from_arrays(content.array_records[ARRAYS]),
    )


def round_reply(reply: RoundReply) -> RecordDict:
    """Pack all that leaves the partner after a round."""
    content = RecordDict({ARRAYS: to_arrays(reply.change), CONFIG: ConfigRecord({"status": "done"})})
    if reply.epsilon_spent is not None and reply.epsilon_left is not None:
        content[METRICS] = MetricRecord({"epsilon_spent": reply.epsilon_spent, "epsilon_left": reply.epsilon_left})
    return content


def refusal(error: BaseException) -> RecordDict:
    """Pack a refusal: a code and a fixed sentence, never the error's own text."""
    code, reason = "PFL-X00", "The partner met an unexpected error; its own audit log says more."
    if isinstance(error, PharmaFlError):
        code, reason = error.code, error.public
    return RecordDict({CONFIG: ConfigRecord({"status": "refused", "code": code, "reason": reason})})


def _config(content: RecordDict, keys: set[str]) -> ConfigRecord:
    config = content.config_records.get(CONFIG)
    if config is None or set(config) != keys:
        found = sorted(config or ())
        raise FederationError(
            "PFL-F01", f"Expected the message's keys {sorted(keys)}, got {found}. Both sides need the same version."
        )
    return config


def _settings(content: RecordDict, key: str, kind: type[T]) -> T:
    config = content.config_records.get(CONFIG) or ConfigRecord()
    try:
        return kind.parse_json(str(config.get(key, "")), source=f"message: {key}")
    except ConfigError as error:
        raise FederationError("PFL-F01", str(error)) from error
