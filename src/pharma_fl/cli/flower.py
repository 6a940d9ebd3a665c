"""Flower's own command `flwr`, the way in which runs are submitted, listed, stopped and their logs read.

With ``--format json`` it exits with code 0 whatever happened, and says in the object whether it succeeded.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pharma_fl.config import Federation
from pharma_fl.deployment.lines import CONNECTION, coordinator_lines, local_address, superlink_of
from pharma_fl.errors import ConfigError, FederationError

_PATIENCE_S = 60.0
_NOT_KNOWN, _FINISHED_BEFORE = "[code: 16]", "[code: 18]"
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_OUT_OF_REACH = "Connection to the SuperLink is unavailable"


def program() -> Path:
    """Return the `flwr` that is installed beside this Python."""
    return Path(sys.executable).parent / "flwr"


def without_colour(line: str) -> str:
    r"""Return a line of Flower's log without the colours that it has wherever it goes.

    Examples
    --------
    >>> without_colour("\x1b[92mINFO \x1b[0m: Rounds: 12")
    'INFO : Rounds: 12'
    """
    return _COLOUR.sub("", line)


@dataclass(frozen=True, kw_only=True)
class FlowerRun:
    """A run as Flower sees it."""

    number: int
    status: str
    """``pending``, ``starting``, ``running``, or ``finished:`` with ``completed``, ``stopped`` or ``failed``."""
    details: str

    @property
    def finished(self) -> bool:
        """Whether it is over for Flower. A ServerApp that was killed counts as running for a minute more."""
        return self.status.startswith("finished")


class Flower:
    """Commands to the SuperLink of a federation.

    Parameters
    ----------
    federation_file : Path
        federation.toml of a kit: beside it lie ``app/`` and Flower's own files.
    federation : Federation
        Its content.

    Raises
    ------
    ConfigError
        ``PFL-C08`` it has no [superlink], or there is no bundle to submit beside it.
    """

    def __init__(self, federation_file: Path, federation: Federation) -> None:
        self._file = federation_file.resolve()
        self._folder = self._file.parent
        if federation.superlink is None:
            raise ConfigError(
                "PFL-C08",
                f"{federation_file} has no [superlink], so there is nobody to submit a run to. Simulate it: pharma-fl "
                "simulate. For a deployment begin with pharma-fl init coordinator.",
            )
        self._link = superlink_of(federation)
        if not (self._folder / "app" / "pyproject.toml").is_file():
            raise ConfigError(
                "PFL-C08",
                f"There is no bundle to submit in {self._folder / 'app'}. Write it: pharma-fl provision "
                f"{federation_file}",
            )
        own = coordinator_lines(self._folder, federation).environment
        self._environment = os.environ | own | {"NO_COLOR": "1", "TERM": "dumb"}
        self._environment.pop("FORCE_COLOR", None)

    def start(self, *, resume: bool) -> int:
        """Submit a run and return Flower's id of it."""
        settings = f'federation="{self._file}" resume={str(resume).lower()}'
        answer = self._ask("run", str(self._folder / "app"), CONNECTION, "--run-config", settings)
        return int(answer["run-id"])

    def run(self, number: int) -> FlowerRun | None:
        """Return what Flower knows of a run, or None where it knows nothing."""
        try:
            (found,) = self._ask("list", CONNECTION, "--run-id", str(number))["runs"]
        except FederationError as error:
            if _NOT_KNOWN in str(error):
                return None
            raise
        details = "" if found["status-details"] == "N/A" else found["status-details"]
        return FlowerRun(number=number, status=found["status"], details=details)

    def stop(self, number: int) -> bool:
        """Stop a run; False where it was over already."""
        try:
            self._ask("stop", str(number), CONNECTION)
        except FederationError as error:
            if _FINISHED_BEFORE in str(error):
                return False
            raise
        return True

    def log(self, number: int) -> list[str]:
        """Return the lines that the ServerApp of a run has logged."""
        done = self._call("log", str(number), CONNECTION, "--show")
        # The first line names the connection.
        return [without_colour(line) for line in done.stdout.splitlines()[1:] if line.strip()]

    def stream(self, number: int) -> subprocess.Popen[str]:
        """Start to read the log of a run as it goes on; it ends with the run, or when it is killed."""
        command = [str(program()), "log", str(number), CONNECTION, "--stream"]
        return subprocess.Popen(  # noqa: S603 - our own interpreter's, with numbers and our own names
            command,
            env=self._environment | {"PYTHONUNBUFFERED": "1"},
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            errors="replace",
            # Ctrl-C is for the command that follows, not for this one.
            start_new_session=True,
        )

    def _ask(self, *words: str) -> dict[str, Any]:
        done = self._call(*words, "--format", "json")
        try:
            answer = json.loads(done.stdout)
            succeeded = answer["success"]
        except (ValueError, TypeError, KeyError) as error:
            said = " ".join((done.stderr or done.stdout).split())[-400:]
            raise FederationError(
                "PFL-F25",
                f"flwr {words[0]} did not say what was expected (exit code {done.returncode}): {said or 'nothing'}. Is "
                f"{program()} Flower 1.41?",
            ) from error
        if succeeded:
            return dict(answer)
        # What it would have shown meanwhile comes first.
        message = str(answer.get("error-message", ""))
        said = (message.partition("\n\n")[2] or message).strip()
        if _OUT_OF_REACH in said:
            raise FederationError(
                "PFL-F24",
                f"No SuperLink answers at {local_address(self._link)} (federation.toml: superlink). Start it with "
                f"{self._folder / 'start'}, or look what is wrong with pharma-fl doctor {self._file}.",
            )
        raise FederationError("PFL-F24", f"flwr {words[0]}: the SuperLink refuses: {said}")

    def _call(self, *words: str) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(  # noqa: S603 - as in `stream`
                [str(program()), *words],
                env=self._environment,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_PATIENCE_S,
                check=False,
                start_new_session=True,
            )
        except FileNotFoundError as error:
            raise FederationError(
                "PFL-F25", f"There is no {program()}. Install pharma-fl again: it brings Flower."
            ) from error
        except subprocess.TimeoutExpired as error:
            raise FederationError(
                "PFL-F24",
                f"flwr {words[0]} got no answer from {local_address(self._link)} within {_PATIENCE_S:g} s. Look at the "
                "SuperLink's log.",
            ) from error
