"""What is worth a line between two looks at a run, in words."""

from __future__ import annotations

from typing import Any

from pharma_fl.deployment.run_folder import RunFolder

_PHASES = {
    "joining": "Asking the partners who they are",
    "setting-up": "Setting up the secure sum",
    "training": "Training",
}
_STATES = {
    "joined": "takes part",
    "silent": "is away; it takes part again when it is back",
    "refused": "does not take part",
    "quarantined": "is left out from now on",
}


def rounds_of(folder: RunFolder) -> tuple[int, int]:
    """Return the last round that is done, and how many there are to be; 0 where neither is known."""
    done = int(folder.rounds[-1]["round"]) if folder.rounds else 0
    return done, int(folder.progress.get("rounds", 0))


def news(before: RunFolder | None, now: RunFolder) -> list[str]:
    """Return lines on phase and partners; with nothing before, where everything stands."""
    lines = []
    phase, old = now.progress.get("phase"), None if before is None else before.progress.get("phase")
    # Training and evaluating take turns.
    if phase != old and phase in _PHASES and not (phase == "training" and old == "evaluating"):
        lines.append(_PHASES[phase])
    known = {} if before is None else before.progress.get("partners", {})
    for name, partner in now.progress.get("partners", {}).items():
        state = partner.get("state")
        if state != known.get(name, {}).get("state") and state in _STATES:
            code = f" ({partner['code']})" if partner.get("code") and state != "joined" else ""
            lines.append(f"{name} {_STATES[state]}{code}")
    return lines


def new_rounds(before: RunFolder | None, now: RunFolder) -> list[dict[str, Any]]:
    """Return the records that came since; with nothing before, only the last one."""
    if before is None:
        return now.rounds[-1:]
    last = rounds_of(before)[0]
    return [record for record in now.rounds if record["round"] > last]


def round_line(record: dict[str, Any], rounds: int) -> str:
    """Return one round in words.

    Examples
    --------
    >>> round_line({"round": 2, "participants": ["north"], "refused": {"south": "PFL-F13"}, "seconds": 19.32,
    ...     "epsilon_spent": {"north": 1.4113}, "epsilon_left": {"north": 1.5887}, "void": False}, 12)
    'Round 2 of 12: north; without south (PFL-F13); 19.3 s; epsilon spent up to 1.41, left at least 1.59'
    """
    parts = [", ".join(record["participants"]) or "nobody"]
    if record.get("void"):
        parts[0] = "void, the model stays as it was"
    if record["refused"]:
        parts.append("without " + ", ".join(f"{name} ({code})" for name, code in sorted(record["refused"].items())))
    parts.append(f"{record['seconds']:.1f} s")
    if record["epsilon_spent"] and record["epsilon_left"]:
        most, least = max(record["epsilon_spent"].values()), min(record["epsilon_left"].values())
        parts.append(f"epsilon spent up to {most:.3g}, left at least {least:.3g}")
    pooled = record.get("noised_auc_roc", {}).get("pooled")
    if pooled:
        parts.append(f"AUC-ROC {pooled['value']:.3f} (noise {pooled['standard_error']:.3f})")
    return f"Round {record['round']} of {rounds}: {'; '.join(parts)}"
