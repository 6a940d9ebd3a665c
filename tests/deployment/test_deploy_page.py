"""docs/deploy.md: every command of it, as it stands, from nothing to a federation that has run."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from tests.conftest import PROJECT
from tests.deployment.deploy_page import blocks
from tests.loopback import listens

PAGE = PROJECT / "docs" / "deploy.md"
PORTS = (9443, 9101, 9102, 9103)
BLOCK_S = 600


def test_every_block_is_one_that_is_run():
    assert {block.language for block in blocks(PAGE.read_text())} == {"sh"}
    assert sum(block.background for block in blocks(PAGE.read_text())) == 4


def test_the_page_names_its_own_ports_alone():
    assert all(f":{port}" in PAGE.read_text() or f"--port {port}" in PAGE.read_text() for port in PORTS)


class Terminal:
    """A reader's machine: one folder, and shells in it."""

    def __init__(self, folder):
        self.folder = folder
        self.background = []
        self.environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "OMP_NUM_THREADS": "1",
        }

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in reversed(self.background):
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(30)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def run(self, block):
        """Run a block, or start it in the background; a block that fails, fails the test with what it said."""
        shell = ["bash", "-euo", "pipefail", "-c", block.text]
        log = self.folder / f"line-{block.line}.log"
        with log.open("w") as out:
            process = subprocess.Popen(
                shell, cwd=self.folder, env=self.environment, stdout=out, stderr=out, start_new_session=True
            )
        if block.background:
            self.background.append(process)
            return
        try:
            code = process.wait(BLOCK_S)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        assert code == 0, f"line {block.line} of {PAGE.name}:\n{block.text}\nsaid:\n{log.read_text()}\n{self.logs()}"

    def logs(self):
        """Return the end of what each background block said."""
        return "\n".join(
            f"--- {path.name}\n" + "\n".join(path.read_text(errors="replace").splitlines()[-40:])
            for path in sorted(self.folder.glob("line-*.log"))
        )


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_page_holds(tmp_path):
    taken = [port for port in PORTS if listens(port)]
    assert not taken, f"the page's ports {taken} are in use on this machine"
    with Terminal(tmp_path) as terminal:
        for block in blocks(PAGE.read_text()):
            terminal.run(block)
        # South's key was changed on the page's last steps: it is let in again with the new one.
        (south,) = [block for block in blocks(PAGE.read_text()) if block.text == "south/start\n"]
        log = tmp_path / f"line-{south.line}.log"
        deadline = time.monotonic() + 180
        while log.read_text().count("SuperNode ID") < 2:
            assert time.monotonic() < deadline, terminal.logs()
            time.sleep(0.5)
    end = json.loads((tmp_path / "fl" / "coordinator" / "end.json").read_text())
    assert (end["status"], end["rounds"], end["refused"]) == ("completed", 2, {})
