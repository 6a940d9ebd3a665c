"""`pharma-fl run` and `pharma-fl stop`: a federation of real partners, through the coordinator's SuperLink."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pharma_fl.cli.flower import Flower
from pharma_fl.cli.follow import Outcome, display, follow, log_lines
from pharma_fl.cli.output import console, print_json, say
from pharma_fl.cli.prepare import JsonOption
from pharma_fl.config import Federation
from pharma_fl.deployment.run_folder import RunFolder, look, note_submitted
from pharma_fl.errors import FederationError

FederationArgument = Annotated[Path, typer.Argument(metavar="FEDERATION.TOML", help="The coordinator's settings.")]

_DETACHED = 130
_CODES = {"completed": 0, "stopped": 3, "broke-off": 4}


def run(
    federation_file: FederationArgument,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the output folder.")] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Submit the run, and do not wait for it.")] = False,
    log: Annotated[bool, typer.Option("--log", help="Show the ServerApp's own log as well.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Submit a run to the SuperLink, and follow it. Where a run is in progress, follow that one.

    The run goes on without this command: Ctrl-C (exit code 130) leaves it alone, `pharma-fl run` comes back to it, and
    `pharma-fl stop` ends it. Exit code 3 means that it stopped before its last round, 4 that it broke off; from either
    it goes on with --resume.

    Example: `pharma-fl run federation.toml`
    """
    federation = Federation.load(federation_file)
    flower = Flower(federation_file, federation)
    folder = federation_file.resolve().parent / federation.output
    now = look(folder)
    number = in_progress(flower, now)
    if number is not None:
        say(f"A run is in progress (Flower's {number}): following it.")
    elif resume and now.ended == "completed":
        _tell(Outcome(status="completed", reason="", rounds=_rounds(now), folder=now), None, as_json=as_json)
        return
    else:
        check_begin(now, federation_file, resume=resume)
        number = flower.start(resume=resume)
        note_submitted(folder, number)
        say(f"Submitted {federation.name}: {federation.training.rounds} rounds (Flower's run {number})")
    if detach:
        if as_json:
            print_json({"status": "submitted", "flower_run": number, "folder": str(folder)})
        _how_on(federation_file)
        return
    try:
        with log_lines(flower, number, wanted=log), display() as shown:
            outcome = follow(flower, folder, number, shown.show)
    except KeyboardInterrupt:
        say("Detached; the run goes on.")
        _how_on(federation_file)
        raise SystemExit(_DETACHED) from None
    _tell(outcome, number, as_json=as_json)
    if outcome.status != "completed":
        _how_to_resume(outcome.folder, federation_file)
        raise typer.Exit(_CODES[outcome.status])


def stop(federation_file: FederationArgument, as_json: JsonOption = False) -> None:
    """Stop the run in progress, through Flower. What it charged stays charged; --resume goes on with it.

    Example: `pharma-fl stop federation.toml`
    """
    federation = Federation.load(federation_file)
    flower = Flower(federation_file, federation)
    folder = federation_file.resolve().parent / federation.output
    number = in_progress(flower, look(folder))
    if number is None:
        raise FederationError(
            "PFL-F26",
            f"No run is in progress in {folder} (federation.toml: output), so there is none to stop. Where one stands "
            f"says pharma-fl status {federation_file}",
        )
    if flower.stop(number):
        note_submitted(folder, number, stopped=True)
    with display() as shown:
        # The ServerApp notices at its next question to the SuperLink.
        outcome = follow(flower, folder, number, shown.show)
    _tell(outcome, number, as_json=as_json)
    if outcome.status != "completed":
        _how_to_resume(outcome.folder, federation_file)


def in_progress(flower: Flower, now: RunFolder) -> int | None:
    """Return Flower's id of the run that goes on in the folder, if one does.

    Raises
    ------
    FederationError
        ``PFL-F23`` a process works there that has not yet said for which run; ``PFL-F24`` there is one that was
        submitted, and the SuperLink does not answer.
    """
    if now.waiting is not None:
        found = flower.run(now.waiting)
        if found is not None and not found.finished:
            return now.waiting
    if not now.alive:
        # Flower counts a killed ServerApp as running for a minute more; the lock is free at once.
        return None
    if now.flower_run is None:
        raise FederationError(
            "PFL-F23",
            f"A process works in {now.folder} (federation.toml: output), and has not said yet for which run. Try again "
            "in a moment.",
        )
    return now.flower_run


def check_begin(now: RunFolder, federation_file: Path, *, resume: bool) -> None:
    """Refuse to begin in a folder that holds a run, and to go on where there is none.

    Raises
    ------
    FederationError
        ``PFL-F20``, ``PFL-F22``.
    """
    if resume and now.model is None:
        raise FederationError(
            "PFL-F22",
            f"{now.folder} holds no run to go on with (federation.toml: output). Start one: pharma-fl run "
            f"{federation_file}",
        )
    if resume or now.model is None:
        return
    if now.ended == "completed":
        what = "a finished run. Name another folder in federation.toml (output)."
    else:
        what = (
            f"a run that {'stopped' if now.state == 'stopped' else 'broke off'}. Go on with it: pharma-fl run "
            f"{federation_file} --resume. For a new one name another folder in federation.toml (output)."
        )
    raise FederationError("PFL-F20", f"{now.folder} holds {what}")


def _tell(outcome: Outcome, number: int | None, *, as_json: bool) -> None:
    now = outcome.folder
    if as_json:
        print_json(
            {
                "status": outcome.status,
                "reason": outcome.reason,
                "rounds": outcome.rounds,
                "refused": (now.end or {}).get("refused", {}),
                "run": now.progress.get("run"),
                "flower_run": number or now.flower_run,
                "folder": str(now.folder),
                "model": None if now.model is None else str(now.model),
                "log": outcome.log,
            }
        )
        return
    words = {"completed": "Completed", "stopped": "Stopped", "broke-off": "Broke off"}[outcome.status]
    for line in outcome.log:
        say(f"  {line}")
    console.print(f"{words} after {outcome.rounds} rounds. {outcome.reason}", soft_wrap=True, markup=False)
    if now.model is not None:
        console.print(f"Last good model: {now.model}", soft_wrap=True, markup=False)


def _rounds(now: RunFolder) -> int:
    return int((now.end or {}).get("rounds", 0))


def _how_on(federation_file: Path) -> None:
    say(f"  pharma-fl run {federation_file}     follows it again")
    say(f"  pharma-fl status {federation_file}  says where it stands")
    say(f"  pharma-fl stop {federation_file}    stops it")


def _how_to_resume(now: RunFolder, federation_file: Path) -> None:
    option = " --resume" if now.model is not None else ""
    say(f"To go on: pharma-fl run {federation_file}{option}")
