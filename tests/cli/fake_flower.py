"""A `flwr` that says what the real one was heard to say, and a ServerApp's files that come with its answers."""

import json
import sys

import pytest

from pharma_fl.cli import flower, follow

FEDERATION = """
name = "trial"
[partners]
north = 1.0
south = 1.0
[training]
rounds = 5
[privacy]
noise_multiplier = 4.0
[superlink]
address = "localhost:18990"
listen = "127.0.0.1"
"""
"""What the coordinator of these tests has written."""

NUMBER = 13324700725957546631
_SCRIPT = """\
#!{python}
import json, shutil, sys
from pathlib import Path
place = Path(__file__).parent
command = sys.argv[1]
with (place / "calls").open("a") as calls:
    calls.write(json.dumps(sys.argv[1:]) + "\\n")
answer = place / f"{{command}}.out"
if answer.exists():
    print(answer.read_text())
if (place / f"after-{{command}}").exists():
    shutil.copytree(place / f"after-{{command}}", {output!r}, dirs_exist_ok=True)
"""
_STARTED = {
    "success": True,
    "run-id": str(NUMBER),
    "federation-id": "@none/default",
    "fab-id": "pharma-fl/pharma-fl",
    "fab-name": "pharma-fl",
    "fab-version": "0.1.0",
    "fab-hash": "69c216cb",
    "fab-filename": "pharma-fl.pharma-fl.0-1-0.69c216cb.fab",
}
_LISTED = {
    "run-id": str(NUMBER),
    "federation-id": "@none/default",
    "fab-id": "pharma-fl/pharma-fl",
    "status": "running",
    "status-details": "N/A",
    "elapsed": 2.97,
    "pending-at": "2026-11-29 05:43:16Z",
    "running-at": "2026-11-29 05:43:19Z",
    "finished-at": "N/A",
}
USING = "Using SuperLink: pharma-fl (127.0.0.1:18990)\n"
NOT_KNOWN = f"{USING} Displaying information for run ID 123...\n\n[code: 16] Run ID not found."
OVER = f"{USING} Stopping run ID {NUMBER}...\n\n[code: 18] Run is already finished."
SILENT = (
    f"{USING} Listing all runs...\n\nConnection to the SuperLink is unavailable. Please check your network connection "
    "and 'address' in the SuperLink connection configuration."
)
LOG = (
    f"{USING}\x1b[92mINFO \x1b[0m:      Start `flwr-serverapp` process\n"
    "\x1b[91mERROR \x1b[0m:     ServerApp raised [PFL-F35] a sum\n"
)


class FakeFlower:
    """What stands in for `flwr`; by default the SuperLink starts runs, and says that they run."""

    def __init__(self, folder, output):
        self.place = folder / "flower"
        self.place.mkdir()
        program = self.place / "flwr"
        program.write_text(_SCRIPT.format(python=sys.executable, output=str(output)))
        program.chmod(0o700)
        self.program = program
        self.answers("run", _STARTED)
        self.answers("stop", {"success": True, "run-id": str(NUMBER)})
        self.lists("running")
        self.says("log", LOG)

    def says(self, command, text):
        """Let a command print this."""
        (self.place / f"{command}.out").write_text(text)

    def answers(self, command, content):
        """Let a command print this object."""
        self.says(command, json.dumps(content, indent=2))

    def refuses(self, command, message):
        """Let a command fail as the real one does: with exit code 0."""
        self.answers(command, {"success": False, "error-message": message})

    def lists(self, status, details="N/A"):
        """Let Flower see the run so."""
        self.answers("list", {"success": True, "runs": [_LISTED | {"status": status, "status-details": details}]})

    def after(self, command):
        """Return the folder whose content comes into the coordinator's folder with a command's answer."""
        folder = self.place / f"after-{command}"
        folder.mkdir(exist_ok=True)
        return folder

    def calls(self, command=None):
        """Return what was called so far."""
        path = self.place / "calls"
        every = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [call for call in every if command in (None, call[0])]


@pytest.fixture
def no_waiting(monkeypatch):
    """Look often."""
    monkeypatch.setattr(follow, "LOOK_S", 0.01)
    monkeypatch.setattr(follow, "ASK_S", 0.02)


def a_fake_flower(monkeypatch, folder, output):
    """Put a fake in the place of `flwr`."""
    made = FakeFlower(folder, output)
    monkeypatch.setattr(flower, "program", lambda: made.program)
    return made


def a_round(number, **changes):
    """Return a line of rounds.jsonl."""
    facts = {
        "round": number,
        "participants": ["north", "south"],
        "refused": {},
        "epsilon_spent": {"north": 0.5 * number, "south": 0.25 * number},
        "epsilon_left": {"north": 3 - 0.5 * number, "south": 3 - 0.25 * number},
        "seconds": 19.32,
        "void": False,
    }
    return facts | changes


def server_app_s(folder, *, number=NUMBER, phase="training", rounds=2, partners=None, end=None):
    """Write what a ServerApp leaves in its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "checkpoints").mkdir(exist_ok=True)
    (folder / "checkpoints" / "latest").write_text(f"round-{rounds:04d}\n")
    (folder / "rounds.jsonl").write_text("".join(json.dumps(a_round(n + 1)) + "\n" for n in range(rounds)))
    known = {
        name: {"state": "joined", "node": 100 + n, "code": "", "last_answer": None, "epsilon_left": None}
        for n, name in enumerate(("north", "south"))
    }
    progress = {
        "run": "trial-1",
        "flower_run": number,
        "rounds": 5,
        "phase": phase,
        "round": rounds,
        "partners": known if partners is None else partners,
        "updated": "2026-11-29T05:45:31+00:00",
    }
    (folder / "progress.json").write_text(json.dumps(progress))
    if end is not None:
        content = {"status": end, "rounds": rounds, "reason": "", "refused": {}}
        if end == "stopped":
            content |= {"reason": "1 partners took part where 2 are needed.", "refused": {"south": "PFL-F13"}}
        (folder / "end.json").write_text(json.dumps(content))
