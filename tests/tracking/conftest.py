"""A comparison's folder as the demo leaves it, with made-up numbers."""

import json
import math
import random

PARTNERS = ("north", "south", "east", "west", "central", "islands")
EPSILONS = (8.0, 3.0, 1.0)
# Mean over partners of the made-up levels: setting, epsilon, personalised.
LEVELS = {
    ("sp", None, False): 0.850,
    ("fed", None, False): 0.880,
    ("fed", None, True): 0.893,
    ("fed-dp", 8.0, False): 0.846,
    ("fed-dp", 8.0, True): 0.874,
    ("fed-dp", 3.0, False): 0.821,
    ("fed-dp", 3.0, True): 0.865,
    ("fed-dp", 1.0, False): 0.742,
    ("fed-dp", 1.0, True): 0.851,
    ("placebo", 8.0, True): 0.848,
    ("placebo", 3.0, True): 0.846,
    ("placebo", 1.0, True): 0.845,
}


def make_summary(*, seeds=(0,), partners=PARTNERS, levels=LEVELS):
    rng = random.Random(7)
    offsets = {partner: rng.uniform(-0.05, 0.05) for partner in partners}
    results, budgets, plans = [], [], []
    for (setting, epsilon, personalised), level in levels.items():
        for seed in seeds:
            for partner in partners:
                value = round(level + offsets[partner] + rng.gauss(0, 0.006), 6)
                key = {"setting": setting, "epsilon": epsilon, "personalised": personalised, "seed": seed}
                results.append(key | {"partner": partner, "metric": "auc_roc", "value": value})
                results.append(key | {"partner": partner, "metric": "auc_pr", "value": round(value - 0.06, 6)})
                results.append(
                    key | {"partner": partner, "metric": "rmse/assay-2/value", "value": round(1.4 - value, 6)}
                )
    for epsilon in EPSILONS:
        plan = {
            "mechanism": "dp-sgd",
            "sample_rate": 0.3,
            "noise_multiplier": round(9 / epsilon, 3),
            "clipping_norm": 1.0,
            "expected_batch": 256.0,
            "delta": 1e-5,
            "rounds": 10,
            "steps_per_round": 10,
            "unit": "compound",
            "relation": "add-or-remove-one",
        }
        plans.append({"setting": "fed-dp", "epsilon": epsilon, "plan": plan})
        budgets += [
            {
                "partner": partner,
                "epsilon_spent": round(0.993 * epsilon, 4),
                "epsilon_budget": epsilon if partner != "south" else 10.0,
                "delta": 1e-5,
                "setting": "fed-dp",
                "epsilon": epsilon,
                "seed": seed,
            }
            for seed in seeds
            for partner in partners
        ]
    return {
        "dataset": "B3DB (7 807 compounds), split by scaffold over six simulated partners",
        "partners": list(partners),
        "results": results,
        "budgets": budgets,
        "headline": {"task": "bbb/high/0.5", "description": "does the compound pass the blood-brain barrier"},
        "seconds": 431.2,
        "phases": {"prepare": 41.3, "alone": 88.1, "federate": 210.7, "personalise": 91.1},
        "versions": {"python": "3.12.3", "torch": "2.9.0", "rdkit": "2026.3.1"},
        "plans": plans,
        "notes": ["Partners are simulated from public data."],
    }


def write_folder(folder, summary, *, runs=True):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summary.json").write_text(json.dumps(summary))
    if not runs:
        return folder
    seeds = sorted({result["seed"] for result in summary["results"]})
    for epsilon in (None, *EPSILONS):
        for seed in seeds:
            name = ("fed" if epsilon is None else f"fed-dp-eps{epsilon:g}") + f"-seed{seed}"
            write_run(folder / "runs" / name, summary["partners"], epsilon=epsilon, seed=seed)
    return folder


def write_run(place, partners, *, epsilon, seed, rounds=10):
    coordinator = place / "coordinator"
    coordinator.mkdir(parents=True)
    rng = random.Random(seed)
    with (coordinator / "rounds.jsonl").open("w") as stream:
        for number in range(1, rounds + 1):
            absent = number == 4 and seed == 0 and epsilon == 3.0
            record = {
                "round": number,
                "participants": list(partners[1:] if absent else partners),
                "refused": {partners[0]: "PFL-P10"} if absent else {},
                "epsilon_spent": {}
                if epsilon is None
                else dict.fromkeys(partners, epsilon * math.sqrt(number / rounds)),
                "epsilon_left": {},
                "change_norm": (1.0 if epsilon is None else 0.7 + 2 / epsilon) / math.sqrt(number) + rng.random() / 20,
                "partner_change_norms": {},
                "bytes_sent": 3 * 2**20,
                "bytes_received": 2**20,
                "seconds": 1.5,
            }
            stream.write(json.dumps(record) + "\n")
    (coordinator / "end.json").write_text(
        json.dumps({"status": "completed", "rounds": rounds, "reason": "", "refused": {}})
    )
    privacy = 'mechanism = "none"' if epsilon is None else f"epsilon = {epsilon}\ndelta = 1e-5"
    (place / "federation.toml").write_text(
        f'name = "demo"\nseed = {seed}\n[partners]\nnorth = 1.0\n[training]\nrounds = {rounds}\nlocal_steps = 10\n'
        f'[privacy]\n{privacy}\n[tracking]\nuri = "https://mlflow.example"\n'
    )
