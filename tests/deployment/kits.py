"""Kits of a whole federation on loopback, and their start scripts as running processes.

federation = write_federation(tmp_path / "coordinator", names, FEDERATION)
for seed, name in enumerate(names):
    a_partner(tmp_path, name, seed=seed, supernode=supernode(federation))
with Kits(tmp_path, names) as kits:
    kits.start_all()
    kits.submit()
    kits.wait(lambda: not kits.lives("run"), 300, "the end of the run")
"""

import json
import os
import signal
import subprocess
import time
from contextlib import suppress

from tests.loopback import free_port, listens, processes_with, until_none

from pharma_fl.cli.commands import lines_of
from pharma_fl.config import Federation
from pharma_fl.deployment.provision import provision_coordinator, provision_partner

START_S, END_S = 90.0, 30.0


def write_federation(folder, names, sections):
    """Write a coordinator's federation.toml that listens on loopback; `sections` is what comes after [superlink]."""
    folder.mkdir(parents=True)
    partners = "\n".join(f"{name} = 1.0" for name in names)
    head = f'name = "kits"\nroster = "roster.toml"\n[partners]\n{partners}\n'
    link = f'[superlink]\naddress = "localhost:{free_port()}"\nlisten = "127.0.0.1"\n'
    (folder / "federation.toml").write_text(f"{head}{link}{sections}")
    return Federation.load(folder / "federation.toml")


def supernode(federation):
    """Return [supernode] for a partner of this federation."""
    return {"superlink": federation.superlink.address, "port": free_port()}


def provision_all(coordinator, partners):
    """Make all keys, and bring certificate and cards to where people would bring them.

    Parameters
    ----------
    coordinator, partners : Path, list of Path
        Folders with federation.toml, and with partner.toml.
    """
    provision_coordinator(coordinator / "federation.toml")
    for folder in partners:
        (folder / "tls").mkdir(exist_ok=True)
        (folder / "tls" / "ca.pem").write_bytes((coordinator / "tls" / "ca.pem").read_bytes())
        provision_partner(folder / "partner.toml")
    cards = [folder / "card.toml" for folder in partners]
    provision_coordinator(coordinator / "federation.toml", cards=cards)
    for folder in partners:
        provision_partner(folder / "partner.toml", cards=cards)


class Kits:
    """The coordinator's and the partners' start scripts as processes, each with its log; leaving ends all of them."""

    def __init__(self, folder, names):
        self.folder, self.names = folder, names
        self.coordinator = folder / "coordinator"
        provision_all(self.coordinator, [folder / name for name in names])
        self.lines = lines_of(self.coordinator)
        self.port = int(self.lines.start[self.lines.start.index("--port") + 1])
        self.processes = {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for name in reversed(list(self.processes)):
            self._end(name, signal.SIGTERM)
        # Flower detaches what the SuperLink starts.
        for process in until_none(self._left):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def start_all(self):
        """Start the SuperLink, register the partners, and start their SuperNodes."""
        self.start_link()
        self.register()
        for name in self.names:
            self.start_node(name)

    def start_link(self):
        """Run the coordinator's start script until the SuperLink listens."""
        self.start("superlink", [self.coordinator / "start"])
        self.wait(lambda: listens(self.port), START_S, "the SuperLink to listen")

    def start_node(self, name):
        """Run a partner's start script."""
        self.start(name, [self.folder / name / "start"])

    def register(self):
        """Run the coordinator's register script, and return what it said."""
        done = subprocess.run([self.coordinator / "register"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr + self.logs()
        return done.stdout

    def flwr(self, *arguments):
        """Call flwr as the coordinator does."""
        return subprocess.run(
            ["flwr", *arguments], env=os.environ | self.lines.environment, capture_output=True, text=True, check=False
        )

    def nodes(self):
        """Return the status of each SuperNode that the SuperLink knows, by name."""
        said = self.flwr("supernode", "list", "pharma-fl", "--format", "json")
        listed = {node["node-id"]: node["status"] for node in json.loads(said.stdout)["nodes"]}
        files = sorted((self.coordinator / "cards").glob("*.node"))
        return {path.stem: listed[path.read_text().strip()] for path in files}

    def submit(self, *, resume=False):
        """Submit a run with Flower's own command, and stay with it."""
        command = self.lines.then["the same with Flower's own command"]
        if resume:
            command = (*command[:-1], f"{command[-1]} resume=true")
        self.start("run", command)

    def start(self, name, command):
        """Start a process in a group of its own, in the coordinator's environment unless a script sets another."""
        with (self.folder / f"{name}.log").open("a") as log:
            self.processes[name] = subprocess.Popen(
                [str(part) for part in command],
                env=os.environ | self.lines.environment | {"OMP_NUM_THREADS": "1"},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill(self, name):
        """Kill what a script runs, and the script, without warning."""
        self._end(name, signal.SIGKILL)

    def stop(self, name):
        """Ask a script to end in order."""
        self._end(name, signal.SIGTERM)

    def lives(self, name):
        """Return whether a process runs."""
        return self.processes[name].poll() is None

    def log(self, name):
        """Return what a process and its children said so far."""
        path = self.folder / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def logs(self, last=60):
        """Return the last lines of every log."""
        return "\n".join(
            f"--- {path.stem}\n" + "\n".join(path.read_text(errors="replace").splitlines()[-last:])
            for path in sorted(self.folder.glob("*.log"))
        )

    def wait(self, condition, seconds, what):
        """Wait for a condition; after the deadline, or when a script ends by itself, fail with all logs."""
        deadline = time.monotonic() + seconds
        while not condition():
            ended = [name for name, process in self.processes.items() if name != "run" and process.poll() is not None]
            assert not ended, f"{ended} ended while waiting for {what}.\n{self.logs()}"
            assert time.monotonic() < deadline, f"{seconds} s were not enough for {what}.\n{self.logs()}"
            time.sleep(0.2)

    def _end(self, name, how):
        process = self.processes.pop(name)
        if how == signal.SIGTERM:
            process.send_signal(how)
            with suppress(subprocess.TimeoutExpired):
                process.wait(END_S)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def _left(self):
        return processes_with(f"FLWR_HOME={self.folder}")
