"""The demo's defaults against their alternatives, on the validation fold.

    python benchmarks/demo_choices.py [--data demo-out] [--epsilon 3] [--seeds 3]

Needs the prepared partners that `make demo` leaves. Every alternative changes one choice of
strategies/dp-fedavg.toml. The score is the mean over partners and seeds of the AUC-ROC on the validation
fold, of the federated model as it stands; the test fold is not opened. Partners run in this process, through
the same rounds as in a federation, each on a ledger of its own in a temporary folder.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch

from pharma_fl.clients.personalise import federated_network
from pharma_fl.clients.records import open_records
from pharma_fl.clients.train import train_round
from pharma_fl.config import Federation, Partner
from pharma_fl.config.presets import preset
from pharma_fl.messages.rounds import RoundRequest
from pharma_fl.model.predict import predict
from pharma_fl.model.pretrained import initial_trunk
from pharma_fl.model.selection import validation_score
from pharma_fl.privacy.plan import propose
from pharma_fl.strategies.server_optimizer import ServerOptimizer, weighted_mean

CHOICES: dict[str, dict[str, dict[str, Any]]] = {
    "defaults": {},
    "heads start at zero": {"model": {"head_start": 0.0}},
    "20 rounds of 5 steps": {"training": {"rounds": 20, "local_steps": 5}},
    "100 rounds of 1 step": {"training": {"rounds": 100, "local_steps": 1}},
    "5 rounds of 10 steps": {"training": {"rounds": 5, "trunk_learning_rate": 0.9, "head_learning_rate": 0.3}},
    "clip 0.5, double rates": {
        "privacy": {"clipping_norm": 0.5},
        "training": {"trunk_learning_rate": 0.9, "head_learning_rate": 0.3},
    },
    "clip 2, half rates": {
        "privacy": {"clipping_norm": 2.0},
        "training": {"trunk_learning_rate": 0.225, "head_learning_rate": 0.075},
    },
    "1,024 bits": {"model": {"input_bits": 1024}},
    "64 hidden units": {"model": {"hidden": [64]}},
    "ReLU": {"model": {"activation": "relu"}},
    "bits count 1": {"model": {"input_scale": 1.0}, "training": {"trunk_learning_rate": 0.2}},
}


def federation_with(changes: dict[str, dict[str, Any]], epsilon: float, seed: int) -> Federation:
    content = preset("strategies", "dp-fedavg") | {"seed": seed}
    for section, keys in changes.items():
        content[section] = content[section] | keys
    content["privacy"] = content["privacy"] | {"epsilon": epsilon}
    return Federation.model_validate(content)


def run(federation: Federation, files: list[Path]) -> float:
    """Train in this process and return the mean validation score."""
    partners = [Partner.load(path) for path in files]
    plan = propose(federation.privacy, federation.training)
    trunk = initial_trunk(federation.model, federation.seed)
    server = ServerOptimizer(trunk, federation.training)
    for number in range(1, plan.rounds + 1):
        request = RoundRequest(
            run="benchmark",
            round=number,
            plan=plan,
            model=federation.model,
            training=federation.training,
            seed=federation.seed,
            trunk=server.trunk,
        )
        changes = {partner.name: train_round(partner, request).released for partner in partners}
        server.step(weighted_mean(changes, federation.partners))
    scores = []
    for partner in partners:
        network = federated_network(partner, federation.model, server.trunk, seed=federation.seed, run="benchmark")
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
                values.append(run(federation_with(changes, arguments.epsilon, seed), files))
                shutil.rmtree(folder, ignore_errors=True)
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        measured[name] = {"auc_roc": statistics.fmean(values), "spread": spread}
        against = measured[name]["auc_roc"] / measured["defaults"]["auc_roc"]
        print(f"{name:28s} {measured[name]['auc_roc']:.4f} ±{spread:.4f}   {against:.3f} of the defaults", flush=True)
    print(json.dumps({"epsilon": arguments.epsilon, "seeds": arguments.seeds, "choices": measured}))


if __name__ == "__main__":
    main()
