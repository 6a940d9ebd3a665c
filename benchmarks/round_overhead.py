"""Seconds and CPU that a round takes beyond training, in a simulation and in a deployment on this machine.

    .venv/bin/python benchmarks/round_overhead.py
    .venv/bin/python benchmarks/round_overhead.py --partners 4 --rounds 10

The same rounds of the same small model are carried out five times: called in this process, which is what training
takes; by ``pharma-fl simulate``; and by a SuperLink and SuperNodes on loopback with a partner kit's guard, with
Flower's own ``flwr-clientapp`` in its place, and with an app in the way of Flower's PyTorch quickstart that trains
nothing: it imports PyTorch and sends back what it got. The first round of each run is left out. CPU is what a SuperNode
and its processes used in a round, training included. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.partners import a_partner
from tests.strategies.deployment import BIN, Deployment

from pharma_fl import __version__
from pharma_fl.clients.app import app
from pharma_fl.clients.train import train_round
from pharma_fl.config import Federation, Partner
from pharma_fl.messages.rounds import RoundRequest
from pharma_fl.model.pretrained import initial_trunk
from pharma_fl.strategies.proposal import proposed_plan
from pharma_fl.strategies.simulation import simulate

FEDERATION = """
name = "overhead"
output = "{output}"
[model]
input_bits = {bits}
hidden = [{hidden}]
[training]
rounds = {rounds}
local_steps = 2
[privacy]
epsilon = 4.0
[tracking]
enabled = false
[partners]
"""
PYPROJECT = """
[project]
name = "quickstart"
version = "1.0.0"
license = "Apache-2.0"
[tool.flwr.app]
publisher = "flwrlabs"
[tool.flwr.app.components]
serverapp = "quickstart.server_app:app"
clientapp = "quickstart.client_app:app"
[tool.flwr.app.config]
out = ""
rounds = 0
values = 0
nodes = 0
"""
SERVER = """
import json
import time
from pathlib import Path

import torch
from flwr.app import ArrayRecord
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()


class Timed(FedAvg):
    def configure_train(self, server_round, *others):
        self.begun = time.perf_counter()
        return super().configure_train(server_round, *others)

    def aggregate_train(self, server_round, replies):
        found = super().aggregate_train(server_round, list(replies))
        with Path(self.out).open("a") as log:
            log.write(json.dumps({"seconds": time.perf_counter() - self.begun}) + "\\n")
        return found


@app.main()
def main(grid, context):
    settings = context.run_config
    strategy = Timed(fraction_evaluate=0.0, min_train_nodes=settings["nodes"], min_available_nodes=settings["nodes"])
    strategy.out = settings["out"]
    start = ArrayRecord({"weight": torch.zeros(settings["values"])})
    strategy.start(grid=grid, initial_arrays=start, num_rounds=settings["rounds"])
"""
CLIENT = """
import torch
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(message, context):
    weights = message.content["arrays"].to_torch_state_dict()
    metrics = MetricRecord({"num-examples": 1})
    return Message(RecordDict({"arrays": ArrayRecord(weights), "metrics": metrics}), reply_to=message)
"""
LIMIT_S = 240.0
WAYS = {
    "in_process": "training, called in one process",
    "simulation": "simulation",
    "guard": "deployment, guard",
    "stock": "deployment, Flower's flwr-clientapp",
    "quickstart": "deployment, quickstart that trains nothing",
}


def federation_of(folder: Path, names: list[str], output: str, settings: argparse.Namespace) -> Path:
    path = folder / f"{output}.toml"
    text = FEDERATION.format(output=output, rounds=settings.rounds, bits=settings.bits, hidden=settings.hidden)
    path.write_text(text + "".join(f"{name} = 1.0\n" for name in names))
    return path


def partners_of(folder: Path, count: int, settings: argparse.Namespace) -> list[str]:
    names = [f"partner-{number}" for number in range(count)]
    for seed, name in enumerate(names):
        budget = {"epsilon": 1_000.0, "delta": 1e-5}
        a_partner(folder, name, n=settings.records, bits=settings.bits, seed=seed, budget=budget)
    return names


def in_process(folder: Path, settings: argparse.Namespace) -> list[float]:
    """Seconds of each round where all partners train in this process, one after the other."""
    names = partners_of(folder, settings.partners, settings)
    federation = Federation.load(federation_of(folder, names, "here", settings))
    plan, trunk = proposed_plan(federation), initial_trunk(federation.model, federation.seed)
    found = []
    for number in range(1, settings.rounds + 1):
        begun = time.perf_counter()
        for name in names:
            request = RoundRequest(
                federation="overhead",
                run="here",
                round=number,
                plan=plan,
                model=federation.model,
                training=federation.training,
                seed=federation.seed,
                trunk=trunk,
            )
            train_round(Partner.load(folder / name / "partner.toml"), request)
        found.append(time.perf_counter() - begun)
    return found


def simulated(folder: Path, settings: argparse.Namespace) -> list[float]:
    names = partners_of(folder / "partners", settings.partners, settings)
    path = federation_of(folder, names, "simulated", settings)
    simulate(path, folder / "partners", app, workers=min(settings.partners, os.cpu_count() or 1))
    return seconds_in(folder / "simulated" / "rounds.jsonl")


class Nodes:
    """SuperNodes that run whatever is called flwr-clientapp in a folder of ours, and what CPU they used."""

    def __init__(self, folder: Path, settings: argparse.Namespace) -> None:
        self.folder, self.settings = folder, settings
        self.names = partners_of(folder / "partners", settings.partners, settings)
        self.deployment = Deployment(folder / "processes")
        environment = self.deployment.environment
        # As often as Flower looks by itself.
        del environment["FLWR_SUPEREXEC_TASK_POLL_INTERVAL"]
        environment["PATH"] = f"{folder / 'bin'}{os.pathsep}{environment['PATH']}"
        (folder / "bin").mkdir()

    def start(self) -> None:
        for name in self.names:
            self.deployment.start_node(name, self.folder / "partners" / name / "partner.toml")

    def runs(self, command: list[str]) -> None:
        """Let the SuperNodes run this for each message from now on."""
        program = self.folder / "bin" / "flwr-clientapp"
        new = program.with_suffix(".new")
        new.write_text(f'#!/bin/sh\nexec {" ".join(command)} "$@"\n')
        new.chmod(0o700)
        new.rename(program)

    def rounds(self, log: Path) -> tuple[list[float], float]:
        """Wait for a run; return seconds of each round, and CPU seconds a round after the first at one partner."""
        deployment, wanted = self.deployment, self.settings.rounds

        def done(count: int) -> bool:
            return len(seconds_in(log)) >= count or not deployment.lives("run")

        deployment.wait(lambda: done(1), LIMIT_S, "the first round")
        before = self._cpu()
        deployment.wait(lambda: done(wanted), LIMIT_S, "the last round")
        used = self._cpu() - before
        deployment.wait(lambda: not deployment.lives("run"), LIMIT_S, "the end of the run")
        found = seconds_in(log)
        assert len(found) == wanted, deployment.logs()
        return found, used / (wanted - 1) / len(self.names)

    def _cpu(self) -> float:
        # Flower waits for no process that it starts, so each stays in /proc with what it used.
        sessions = {self.deployment.processes[name].pid for name in self.names}
        ticks = 0
        for place in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = place.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) in sessions:
                ticks += sum(map(int, fields[11:15]))
        return ticks / os.sysconf("SC_CLK_TCK")


def seconds_in(log: Path) -> list[float]:
    return [json.loads(line)["seconds"] for line in log.read_text().splitlines()] if log.exists() else []


def deployed(folder: Path, settings: argparse.Namespace) -> dict[str, tuple[list[float], float]]:
    found = {}
    nodes = Nodes(folder, settings)
    with nodes.deployment as deployment:
        nodes.start()
        for way, command in (
            ("guard", [sys.executable, "-I", "-m", "pharma_fl.clients.guard"]),
            ("stock", [str(BIN / "flwr-clientapp")]),
        ):
            nodes.runs(command)
            deployment.submit(federation_of(folder, nodes.names, way, settings))
            found[way] = nodes.rounds(folder / way / "rounds.jsonl")
        package = folder / "app" / "quickstart"
        package.mkdir(parents=True)
        for name, text in (("__init__", ""), ("server_app", SERVER), ("client_app", CLIENT)):
            (package / f"{name}.py").write_text(text)
        (folder / "app" / "pyproject.toml").write_text(PYPROJECT)
        log, values = folder / "quickstart.jsonl", (settings.bits + 1) * settings.hidden
        given = f'out="{log}" rounds={settings.rounds} values={values} nodes={settings.partners}'
        deployment._start("run", ["flwr", "run", str(folder / "app"), "own", "--stream", "--run-config", given])  # noqa: SLF001
        found["quickstart"] = nodes.rounds(log)
    return found


def main() -> None:
    """Print the table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--partners", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--records", type=int, default=500, help="compounds of a partner")
    parser.add_argument("--bits", type=int, default=2_048, help="bits of a fingerprint")
    parser.add_argument("--hidden", type=int, default=64, help="units of the hidden layer")
    settings = parser.parse_args()
    os.environ.update(OMP_NUM_THREADS="1", FLWR_TELEMETRY_ENABLED="0", FLWR_DISABLE_UPDATE_CHECK="1")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        seconds: dict[str, list[float]] = {"in_process": in_process(folder / "here", settings)}
        seconds["simulation"] = simulated(folder / "there", settings)
        runs = deployed(folder, settings)
    seconds |= {way: times for way, (times, _) in runs.items()}
    # Partners train side by side everywhere but here.
    training = statistics.median(seconds["in_process"][1:]) / settings.partners
    table: dict[str, dict[str, Any]] = {}
    for way, times in seconds.items():
        round_s = training if way == "in_process" else statistics.median(times[1:])
        beyond = round_s - training * (way != "quickstart")
        table[way] = {"round_s": round_s, "beyond_training_s": beyond, "cpu_s": runs[way][1] if way in runs else None}
    print(f"pharma-fl {__version__}, {datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores")
    print(f"{settings.partners} partners, {settings.rounds} rounds, {settings.bits} bits by {settings.hidden} units")
    print(f"{'':<44}{'round, s':>10}{'beyond training, s':>20}{'CPU of a partner, s':>21}")
    for way, text in WAYS.items():
        cells = table[way]
        cpu = "-" if cells["cpu_s"] is None else f"{cells['cpu_s']:.2f}"
        print(f"{text:<44}{cells['round_s']:>10.2f}{cells['beyond_training_s']:>20.2f}{cpu:>21}")
    ratios = {
        "guard_over_stock_cpu": table["guard"]["cpu_s"] / table["stock"]["cpu_s"],
        "guard_over_quickstart_cpu": table["guard"]["cpu_s"] / table["quickstart"]["cpu_s"],
        "guard_over_stock_round": table["guard"]["round_s"] / table["stock"]["round_s"],
        "guard_over_quickstart_round": table["guard"]["round_s"] / table["quickstart"]["round_s"],
    }
    for name, value in ratios.items():
        print(f"{name:<44}{value:>10.2f}")
    given = {name: getattr(settings, name) for name in ("partners", "rounds", "records", "bits", "hidden")}
    print(json.dumps({"benchmark": "round_overhead"} | given | table | ratios))


if __name__ == "__main__":
    main()
