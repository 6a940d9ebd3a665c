"""The steps of the demo: partners' folders, federated runs, and scores, each on disk when it is done."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import tomli_w

from pharma_fl.cli.identity import make_keys, write_keys
from pharma_fl.config import Federation, Partner
from pharma_fl.config.presets import preset
from pharma_fl.evaluation.results import Result, Setting

SECRET = b"pharma-fl-demo"
HEADLINE_TASK = "assay-1/binary"
PLACEBO_EPSILON = 3.0
_PRESETS: dict[Setting, str] = {
    "fed": "fedavg-unprotected",
    "fed-dp": "dp-fedavg",
    "fed-dp-shared": "dp-fedsgd",
    "placebo": "dp-fedsgd",
}

Job = tuple[Any, ...]
"""A function of this module and its arguments."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One federated run of the comparison."""

    setting: Setting
    epsilon: float | None
    seed: int

    @property
    def name(self) -> str:
        """Folder and MLflow run name."""
        price = f"-eps{self.epsilon:g}" if self.epsilon is not None else ""
        return f"{self.setting}{price}-seed{self.seed}"


def planned_runs(epsilons: Sequence[float], seeds: int) -> list[Run]:
    """Return every federated run of the comparison."""
    kinds: list[tuple[Setting, float | None]] = [("fed", None)]
    kinds += [(kind, epsilon) for kind in ("fed-dp-shared", "fed-dp") for epsilon in epsilons]
    kinds += [("placebo", PLACEBO_EPSILON)]
    return [Run(setting=setting, epsilon=epsilon, seed=seed) for seed in range(seeds) for setting, epsilon in kinds]


def write_partner(folder: Path, name: str, changes: dict[str, Any]) -> Partner:
    """Write NAME/partner.toml from the standard preset with some keys replaced."""
    content = _merged(preset("clients", "standard"), {"name": name} | changes)
    path = folder / name / "partner.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(tomli_w.dumps(content), encoding="utf-8")
    return Partner.load(path)


def write_run(out: Path, run: Run, partners: Sequence[str], *, tracking_uri: str, training: dict[str, Any]) -> Path:
    """Write a run's federation.toml and its partners' settings; their prepared data is shared by all runs.

    Each run has its own ledgers, as if it were the only one on these data.

    Returns
    -------
    Path
        The run's folder.
    """
    folder = out / "runs" / run.name
    protected = run.setting != "fed"
    content = _merged(
        preset("strategies", _PRESETS[run.setting]),
        {
            "name": "b3db",
            "seed": run.seed,
            "partners": dict.fromkeys(partners, 1.0),
            "training": training,
            "tracking": {"uri": tracking_uri, "experiment": "b3db-demo", "run_name": run.name},
        },
    )
    if protected:
        content["privacy"]["epsilon"] = run.epsilon
    folder.mkdir(parents=True)
    (folder / "federation.toml").write_text(tomli_w.dumps(content), encoding="utf-8")
    Federation.load(folder / "federation.toml")
    written = [
        write_partner(
            folder / "partners",
            name,
            {
                "data": str(Path("../../../../partners") / name / "data"),
                "budget": {"epsilon": run.epsilon or 1.0},
                "policy": {"allow_unprotected": not protected, "placebo": run.setting == "placebo"},
            },
        )
        for name in partners
    ]
    write_keys(written, make_keys(written))
    return folder


def alone_scores(partner_file: Path, seed: int) -> list[Result]:
    """Train the partner alone, without privacy, and score it on the test fold."""
    from pharma_fl.clients.records import records_at, training_folds
    from pharma_fl.evaluation.single_partner import single_partner

    partner = Partner.load(partner_file)
    validation = records_at(partner, (partner.folds.validation,))
    _, model = single_partner(records_at(partner, training_folds(partner)), validation, seed=seed)
    return _scored(partner, model, Run(setting="sp", epsilon=None, seed=seed), personalised=False)


def federated_scores(partner_file: Path, run_folder: Path, run: Run) -> list[Result]:
    """Score a finished run at one partner: as it stands, and personalised, which is saved to ``model/``."""
    from pharma_fl.clients.personalise import federated_network, personalise
    from pharma_fl.clients.records import records_at, training_folds
    from pharma_fl.model.ensemble import Ensemble
    from pharma_fl.model.weights import load_weights

    partner = Partner.load(partner_file)
    federation = Federation.load(run_folder / "federation.toml")
    checkpoints = run_folder / federation.output / "checkpoints"
    trunk, metadata = load_weights(
        checkpoints / (checkpoints / "latest").read_text("utf-8").strip() / "trunk.safetensors"
    )
    network = federated_network(partner, federation.model, trunk, seed=federation.seed, run=metadata["run"])
    direct = Ensemble.of([(network, 1.0)], records_at(partner, training_folds(partner)))
    chosen, personal = personalise(partner, network, seed=run.seed)
    personal.save(partner.path(partner.model), {"partner": partner.name, "run": run.name, "chosen": chosen})
    return [
        *_scored(partner, direct, run, personalised=False),
        *_scored(partner, personal, run, personalised=True),
    ]


def in_parallel(jobs: Sequence[Job], workers: int, progress: Callable[[int, int], None]) -> list[Result]:
    """Call each job, a function and its arguments, over processes of one thread each; results keep the jobs' order."""
    results = []
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_one_thread) as pool:
        futures = [pool.submit(*job) for job in jobs]
        for done, future in enumerate(futures, start=1):
            results += future.result()
            progress(done, len(jobs))
    return results


def budgets(out: Path, runs: Sequence[Run], partners: Sequence[str]) -> list[dict[str, Any]]:
    """Read what every partner's ledger says after each private run."""
    from pharma_fl.privacy.ledger import Ledger

    listed = []
    for run in runs:
        for name in partners if run.setting != "fed" else ():
            partner = Partner.load(out / "runs" / run.name / "partners" / name / "partner.toml")
            listed.append(
                {
                    "partner": name,
                    "epsilon_spent": Ledger.of(partner).epsilon(partner.budget),
                    "epsilon_budget": partner.budget.epsilon,
                    "delta": partner.budget.delta,
                    "setting": run.setting,
                    "epsilon": run.epsilon,
                    "seed": run.seed,
                }
            )
    return listed


def plans(out: Path, runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Read the plan of each kind of run."""
    found: dict[tuple[Setting, float | None], dict[str, Any]] = {}
    for run in runs:
        state = out / "runs" / run.name / "coordinator" / "checkpoints" / "round-0000" / "state.json"
        plan = json.loads(state.read_text("utf-8"))["plan"]
        found.setdefault((run.setting, run.epsilon), {"setting": run.setting, "epsilon": run.epsilon, "plan": plan})
    return list(found.values())


def _scored(partner: Partner, model: Any, run: Run, *, personalised: bool) -> list[Result]:
    from pharma_fl.clients.records import records_at
    from pharma_fl.data.matrices import PreparedData
    from pharma_fl.evaluation.held_out import held_out_scores

    tasks = PreparedData.open(partner.path(partner.data)).tasks
    scores = held_out_scores(model, records_at(partner, (partner.folds.test,)), tasks, headline=HEADLINE_TASK)
    return [
        Result(
            setting=run.setting,
            epsilon=run.epsilon,
            personalised=personalised,
            seed=run.seed,
            partner=partner.name,
            metric=metric,
            value=value,
        )
        for metric, value in scores.items()
    ]


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Replace keys; tables merge, except the roster of partners, which is replaced whole."""
    merged = dict(base)
    for key, value in changes.items():
        nested = isinstance(value, dict) and isinstance(base.get(key), dict) and key != "partners"
        merged[key] = _merged(base[key], value) if nested else value
    return merged
