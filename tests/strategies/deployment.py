"""Flower's own processes on loopback: a SuperLink, a SuperNode for each partner, and runs submitted to them."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from tests.conftest import PROJECT
from tests.loopback import free_port, listens, processes_with, until_none

BIN = Path(sys.executable).parent
START_S, END_S = 60.0, 20.0


class Deployment:
    """One SuperLink and any number of SuperNodes, each with its log; leaving the context ends every process.

    Each process leads a group of its own, so that a kill takes what it started along, as the loss of a machine does.
    """

    def __init__(self, folder):
        self.folder = folder
        self.processes, self.commands = {}, {}
        self.port = free_port()
        home = folder / "flwr"
        home.mkdir(parents=True)
        (home / "config.toml").write_text(
            f'[superlink]\ndefault = "own"\n[superlink.own]\naddress = "127.0.0.1:{self.port}"\ninsecure = true\n'
        )
        self.environment = os.environ | {
            "FLWR_HOME": str(home),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            # Seconds between two looks for a message to answer. More often costs more than it saves.
            "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.5",
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
        }

    def __enter__(self):
        try:
            self.start_link()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_):
        self.close()

    def start_link(self):
        """Start the SuperLink and wait until it answers."""
        own = ["--disable-runtime-dependency-installation", "--host", "127.0.0.1", "--port", str(self.port)]
        self._start("superlink", ["flower-superlink", "--insecure", *own])
        self.wait(lambda: listens(self.port), START_S, "the SuperLink to listen")

    def start_node(self, name, partner):
        """Start a SuperNode for a partner.toml; it connects when it is ready."""
        link = ["--insecure", "--superlink", f"127.0.0.1:{self.port}"]
        own = ["--host", "127.0.0.1", "--port", str(free_port()), "--node-config", f'partner="{partner}"']
        self._start(name, ["flower-supernode", *link, *own])

    def submit(self, federation):
        """Submit a run of this project, and stay with it as ``flwr run --stream`` does."""
        self._start(
            "run", ["flwr", "run", str(PROJECT), "own", "--stream", "--run-config", f'federation="{federation}"']
        )

    def kill(self, name):
        """Kill a process and all that it started, without warning; waits until nothing of it is left."""
        self._end(name, signal.SIGKILL)

    def stop(self, name):
        """Ask a process to end in order."""
        self._end(name, signal.SIGTERM)

    def restart(self, name):
        """Start a process that ended with the very command it was started with."""
        self._start(name, self.commands[name])

    def lives(self, name):
        """Return whether a process runs."""
        return self.processes[name].poll() is None

    def log(self, name):
        """Return what a process and its children said so far."""
        path = self.folder / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def wait(self, condition, seconds, what):
        """Wait for a condition; after the deadline, or when a process ends by itself, fail with all logs."""
        deadline = time.monotonic() + seconds
        while not condition():
            ended = [name for name, process in self.processes.items() if name != "run" and process.poll() is not None]
            assert not ended, f"{ended} ended while waiting for {what}.\n{self.logs()}"
            assert time.monotonic() < deadline, f"{seconds} s were not enough for {what}.\n{self.logs()}"
            time.sleep(0.1)

    def logs(self, last=60):
        """Return the last lines of every log."""
        return "\n".join(
            f"--- {name}\n" + "\n".join(self.log(name).splitlines()[-last:]) for name in sorted(self.commands)
        )

    def close(self):
        """End every process, also those that left their group."""
        for name in sorted(self.processes, key=lambda one: one == "superlink"):
            self._end(name, signal.SIGTERM)
        # Flower detaches what the SuperLink starts; all of it inherits the FLWR_HOME that this folder alone has.
        for process in until_none(self._left):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def _start(self, name, command):
        self.commands[name] = command
        with (self.folder / f"{name}.log").open("a") as log:
            self.processes[name] = subprocess.Popen(
                command, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )

    def _end(self, name, how):
        process = self.processes.pop(name)
        if how == signal.SIGTERM:
            process.send_signal(how)
            with suppress(subprocess.TimeoutExpired):
                process.wait(END_S)
        # What it started outlives it for a moment, or for ever.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        until_none(lambda: [one for one in self._left() if _group(one) == process.pid])

    def _left(self):
        return processes_with(f"FLWR_HOME={self.environment['FLWR_HOME']}")


def _group(process):
    try:
        return os.getpgid(process)
    except ProcessLookupError:
        return None
