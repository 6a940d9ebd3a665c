"""Where a run stands at this moment, in a file that other processes look at while it goes on."""

from __future__ import annotations

import json
from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pharma_fl.atomic import write_atomic
from pharma_fl.strategies.roster import Roster
from pharma_fl.strategies.run_record import RoundRecord

Phase = Literal["joining", "setting-up", "training", "evaluating", "ended"]


class Progress:
    """progress.json of the coordinator's folder. Codes, names and counts alone are in it.

    Parameters
    ----------
    folder : Path
        The coordinator's folder.
    run : str
        Identity of the run.
    flower_run : int
        Flower's id of the run; another one after each resume.
    rounds : int
        How many there are to be.
    """

    def __init__(self, folder: Path, *, run: str, flower_run: int, rounds: int) -> None:
        self._path, self._facts = folder / "progress.json", {"run": run, "flower_run": flower_run, "rounds": rounds}

    def write(
        self,
        phase: Phase,
        round_number: int,
        roster: Roster,
        *,
        asked_for: Collection[str] = (),
        last: RoundRecord | None = None,
    ) -> None:
        """Replace the file.

        Parameters
        ----------
        phase : str
            What the run does.
        round_number : int
            Which round it is at.
        roster : Roster
            Who takes part.
        asked_for : collection of str
            Partners whose answer is waited for.
        last : RoundRecord, optional
            The last round, for what partners reported.
        """
        left = {} if last is None else last.epsilon_left
        codes = {} if last is None else last.refused
        states = dict.fromkeys(roster.members, "joined") | dict.fromkeys(roster.away, "silent")
        states |= {
            name: "quarantined" if code == "PFL-F14" else "refused"
            for name, code in roster.refused.items()
            if name not in roster.members
        }
        partners = {
            name: {
                "state": state,
                "node": roster.nodes.get(name),
                "code": roster.refused.get(name, "") or codes.get(name, ""),
                "last_answer": roster.heard.get(name),
                "epsilon_left": left.get(name),
                "asked": name in asked_for,
            }
            for name, state in sorted(states.items())
        }
        now = datetime.now(UTC).isoformat(timespec="seconds")
        content = self._facts | {"phase": phase, "round": round_number, "partners": partners, "updated": now}
        write_atomic(self._path, (json.dumps(content, indent=2) + "\n").encode())
