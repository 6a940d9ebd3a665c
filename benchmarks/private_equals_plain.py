"""With next to no noise and a wide clip the private step must learn what a plain one learns.

    python benchmarks/private_equals_plain.py [--seeds 5] [--data b3db,chembl]

Three trainings of one network from the same starts: AdamW on minibatches (`model.fit`), which is how a partner trains
alone; Poisson-sampled SGD without clip and noise (mechanism "none"); and the private step at epsilon 1e6. Rates and
numbers of steps were chosen for AdamW and the private step apart, each on this validation fold. Printed is the AUC-ROC
there, over all classification tasks with both classes, weighted by their cells; mean and standard deviation over seeds.
ChEMBL 22 is read from PHARMA_FL_DATA; every fifth compound is one partner.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import pandas as pd
import torch

from pharma_fl.cli.demo_steps import SECRET, write_partner
from pharma_fl.clients.records import records_at, training_folds
from pharma_fl.config import ModelSettings, Partner
from pharma_fl.data.b3db import write_partner_tables
from pharma_fl.data.prepare import prepare
from pharma_fl.model.fit import FitSettings, fit, new_network
from pharma_fl.model.losses import network_losses
from pharma_fl.model.predict import predict
from pharma_fl.model.selection import validation_score
from pharma_fl.privacy.calibration import calibrate_noise
from pharma_fl.privacy.dp_sgd import DpSgd
from pharma_fl.privacy.noise import SystemNoise
from pharma_fl.privacy.plan import PrivacyPlan

EPSILON, DELTA = 1e6, 1e-5
SAMPLE_RATE = 0.2
CLIPPING_NORM = 5.0
MODELS = {
    "b3db": ModelSettings(input_bits=4096, input_scale=0.4, hidden=(64,), activation="tanh", head_start=1.0),
    "chembl": ModelSettings(input_bits=8192, input_scale=0.4, hidden=(256,), activation="relu", head_start=1.0),
}
RATES = {"b3db": 0.5, "chembl": 13.0}
STEPS = {"b3db": 400, "chembl": 700}
FITS = {"b3db": (3e-4, 15), "chembl": (1e-3, 10)}


def b3db(folder: Path) -> Partner:
    write_partner_tables(folder, ("all",), SECRET)
    return _prepared(folder, "all", {})


def chembl(folder: Path) -> Partner:
    source = Path(os.environ.get("PHARMA_FL_DATA", "../shared/data")) / "chembl22"
    place = folder / "fifth"
    place.mkdir(parents=True)
    structures = pd.concat([pd.read_csv(path) for path in sorted(source.glob("T2*"))])
    structures = structures[structures["input_compound_id"] % 5 == 0]
    activities = pd.concat([pd.read_csv(path) for path in sorted(source.glob("T1*"))])
    activities = activities[activities["input_compound_id"].isin(structures["input_compound_id"])]
    assays = pd.concat([pd.read_csv(path) for path in sorted(source.glob("T0*"))])
    for name, table in (("T0", assays), ("T1", activities), ("T2", structures)):
        table.to_csv(place / f"{name}.csv", index=False)
    return _prepared(folder, "fifth", {})


def _prepared(folder: Path, name: str, changes: dict[str, object]) -> Partner:
    key = folder / name / "consortium.key"
    key.touch(mode=0o600)
    key.write_bytes(SECRET + b"\n")
    partner = write_partner(folder, name, changes)
    prepare(partner, workers=os.cpu_count() or 1)
    return partner


def score(partner: Partner, model: ModelSettings, network: torch.nn.Module) -> float:
    held_out = records_at(partner, (partner.folds.validation,))(model)
    logits, values = predict(network, held_out)
    return validation_score(logits, values, held_out)


def train(partner: Partner, name: str, how: str, seed: int) -> float:
    model = MODELS[name]
    records = records_at(partner, training_folds(partner))(model)
    network = new_network(model, records, seed)
    if how == "AdamW":
        rate, epochs = FITS[name]
        fit(network, records, FitSettings(model=model, learning_rate=rate, epochs=epochs), seed=seed)
        return score(partner, model, network)
    steps = STEPS[name]
    expected = float(round(SAMPLE_RATE * len(records)))  # a benchmark on public data may look at their number
    noise = calibrate_noise(target_epsilon=EPSILON, delta=DELTA, sample_rate=SAMPLE_RATE, steps=steps)
    plan = PrivacyPlan(
        mechanism="dp-sgd" if how == "private" else "none",
        noise_multiplier=noise if how == "private" else 0.0,
        sample_rate=SAMPLE_RATE,
        clipping_norm=CLIPPING_NORM,
        expected_batch=expected,
        delta=DELTA,
        rounds=1,
        steps_per_round=steps,
    )
    mechanism = DpSgd(
        plan,
        network,
        torch.optim.SGD(network.parameters(), lr=RATES[name]),
        record_losses=partial(network_losses, weights=records.weights),
        noise=SystemNoise(),
    )
    network.train()
    for _ in range(steps):
        mechanism.step(records)
    return score(partner, model, network)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--seeds", type=int, default=5)
    arguments.add_argument("--data", default="b3db,chembl")
    arguments.add_argument("--folder", type=Path, help="where prepared data is kept for another run")
    options = arguments.parse_args()
    figures: dict[str, object] = {"epsilon": EPSILON, "clipping_norm": CLIPPING_NORM, "steps": STEPS}
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        for name in options.data.split(","):
            partner_file = next((folder / name).glob("*/partner.toml"), None)
            make = {"b3db": b3db, "chembl": chembl}[name]
            partner = make(folder / name) if partner_file is None else Partner.load(partner_file)
            print(f"{name}: {len(records_at(partner, training_folds(partner))(MODELS[name])):,} training compounds")
            found = {}
            for how in ("AdamW", "SGD", "private"):
                begun = time.perf_counter()
                scores = [train(partner, name, how, seed) for seed in range(options.seeds)]
                mean, spread = statistics.mean(scores), statistics.stdev(scores) if len(scores) > 1 else 0.0
                found[how] = {"mean": mean, "spread": spread, "scores": scores}
                print(f"  {how:8} AUC-ROC {mean:.4f} ±{spread:.4f}   ({time.perf_counter() - begun:.0f} s)", flush=True)
            difference = found["private"]["mean"] - found["AdamW"]["mean"]  # type: ignore[operator]
            print(f"  private - AdamW {difference:+.4f}")
            figures[name] = found
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
