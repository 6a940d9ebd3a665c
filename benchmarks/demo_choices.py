"""The demo's defaults against their alternatives, on the validation fold.

    python benchmarks/demo_choices.py [--data demo-out] [--epsilon 3] [--seeds 3]

Needs the prepared partners that `make demo` leaves. Every alternative changes one choice of
strategies/dp-fedsgd.toml. The score is the mean over partners and seeds of the AUC-ROC on the validation
fold, of the federated model as it stands; the test fold is not opened. Partners run in this process, through
the same messages as in a federation, each on a ledger of its own in a temporary folder.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import statistics
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from flwr.app import Context, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from pharma_fl.cli.identity import make_keys, write_keys
from pharma_fl.clients.app import app as client_app
from pharma_fl.clients.personalise import federated_network
from pharma_fl.clients.records import open_records
from pharma_fl.config import Federation, Partner
from pharma_fl.config.presets import preset
from pharma_fl.messages.wire import from_arrays, to_arrays
from pharma_fl.model.predict import predict
from pharma_fl.model.pretrained import initial_trunk
from pharma_fl.model.selection import validation_score
from pharma_fl.strategies.checkpoints import Checkpoints
from pharma_fl.strategies.dp_fedavg import DpFedAvg
from pharma_fl.strategies.dp_fedsgd import DpFedSgd
from pharma_fl.strategies.proposal import proposed_plan

CHOICES: dict[str, dict[str, dict[str, Any]]] = {
    "defaults": {},
    "one colluder, one loss": {"privacy": {"tolerated_losses": 1}},
    "each adds the whole noise": {"privacy": {"noise_mode": "local"}},
    "10 rounds of 10 steps, whole noise": {
        "training": {"rounds": 10, "local_steps": 10, "trunk_learning_rate": 1.4, "head_learning_rate": 0.9},
        "privacy": {"noise_mode": "local"},
    },
    "heads start at zero": {"model": {"head_start": 0.0}},
    "heads start at 4": {"model": {"head_start": 4.0}},
    "60 rounds, half rates": {
        "training": {"rounds": 60, "trunk_learning_rate": 3.3, "head_learning_rate": 1.5},
    },
    "15 rounds, double rates": {
        "training": {"rounds": 15, "trunk_learning_rate": 13.0, "head_learning_rate": 6.0},
    },
    "clip 1, half rates": {
        "privacy": {"clipping_norm": 1.0},
        "training": {"trunk_learning_rate": 3.3, "head_learning_rate": 1.5},
    },
    "1,024 bits": {"model": {"input_bits": 1024}},
    "32 hidden units": {"model": {"hidden": [32]}},
    "ReLU": {"model": {"activation": "relu"}},
    "bits count 0.4": {"model": {"input_scale": 0.4}},
    "server momentum 0.9, a tenth of the rate": {"training": {"server_momentum": 0.9, "trunk_learning_rate": 0.65}},
}


def federation_with(changes: dict[str, dict[str, Any]], epsilon: float, seed: int) -> Federation:
    content = preset("strategies", "dp-fedsgd") | {"seed": seed}
    for section, keys in changes.items():
        content[section] = content[section] | keys
    content["privacy"] = content["privacy"] | {"epsilon": epsilon}
    return Federation.model_validate(content)


class Partners(Grid):
    """Flower's grid, with the partners' ClientApps called in this process."""

    def __init__(self, files: list[Path]) -> None:
        self.files = files
        self._replies: dict[str, Message] = {}

    def set_run(self, run: Any) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Any:
        raise NotImplementedError

    def create_message(self, *_: Any, **__: Any) -> Message:
        raise NotImplementedError

    def get_node_ids(self) -> list[int]:
        return list(range(1, len(self.files) + 1))

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        numbers = []
        for message in messages:
            node = message.metadata.dst_node_id
            message.metadata.__dict__["_message_id"] = f"{len(self._replies) + 1}"
            own = {"partner": str(self.files[node - 1])}
            context = Context(run_id=1, node_id=node, node_config=own, state=RecordDict(), run_config={})
            reply = client_app(message, context)
            reply.metadata.__dict__["_src_node_id"] = node
            numbers.append(message.metadata.message_id)
            self._replies[numbers[-1]] = reply
        return numbers

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        return [self._replies[number] for number in message_ids]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        del timeout
        return self.pull_messages(self.push_messages(messages))


def run(federation: Federation, files: list[Path]) -> float:
    """Train in this process and return the mean validation score."""
    partners = [Partner.load(path) for path in files]
    kind = DpFedSgd if federation.privacy.noise_mode == "shared" else DpFedAvg
    strategy = kind(federation, proposed_plan(federation), Checkpoints(files[0].parents[1] / "coordinator"))
    result = strategy.start(Partners(files), to_arrays(initial_trunk(federation.model, federation.seed)))
    trunk = from_arrays(result.arrays)
    scores = []
    for partner in partners:
        network = federated_network(partner, federation.model, trunk, seed=federation.seed, run=strategy.run)
        held_out = open_records(partner, federation.model, (partner.folds.validation,))
        scores.append(validation_score(*predict(network, held_out), held_out))
    return statistics.fmean(scores)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("demo-out"))
    parser.add_argument("--epsilon", type=float, default=3.0)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("flwr").setLevel(logging.ERROR)
    # Flower's Message wants to know whose process this is.
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
    names = sorted(path.parent.name for path in (arguments.data / "partners").glob("*/partner.toml"))
    if not names:
        print(f"{arguments.data} holds no partners: run make demo first. Nothing was measured.")
        return
    print(f"epsilon {arguments.epsilon:g}, validation fold, {arguments.seeds} seeds")
    measured: dict[str, dict[str, float]] = {}
    for name, changes in CHOICES.items():
        values = []
        for seed in range(arguments.seeds):
            with tempfile.TemporaryDirectory() as folder:
                files = []
                for partner in names:
                    place = Path(folder) / partner
                    place.mkdir()
                    text = (arguments.data / "partners" / partner / "partner.toml").read_text()
                    data = (arguments.data / "partners" / partner / "data").resolve()
                    budget = f"epsilon = {arguments.epsilon * 1.001}"
                    text = text.replace('data = "data"', "").replace("epsilon = 3.0", budget)
                    (place / "partner.toml").write_text(f'data = "{data}"\n{text}')
                    files.append(place / "partner.toml")
                made = [Partner.load(path) for path in files]
                write_keys(made, make_keys(made))
                values.append(run(federation_with(changes, arguments.epsilon, seed), files))
                shutil.rmtree(folder, ignore_errors=True)
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        measured[name] = {"auc_roc": statistics.fmean(values), "spread": spread}
        against = measured[name]["auc_roc"] / measured["defaults"]["auc_roc"]
        print(f"{name:42s} {measured[name]['auc_roc']:.4f} ±{spread:.4f}   {against:.3f} of the defaults", flush=True)
    print(json.dumps({"epsilon": arguments.epsilon, "seeds": arguments.seeds, "choices": measured}))


if __name__ == "__main__":
    main()
