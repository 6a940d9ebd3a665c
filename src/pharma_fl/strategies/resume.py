"""Going on with a run: under the settings that it began with, and no others."""

from __future__ import annotations

import hashlib
import json

from pharma_fl.config import Federation
from pharma_fl.errors import FederationError
from pharma_fl.strategies.checkpoints import RunState

_AGREED = {"name", "seed", "partners", "model", "training", "privacy"}


def agreed(federation: Federation) -> str:
    """Return a digest of what stays as it is during a run. How long to wait for whom may be changed."""
    content = federation.model_dump(mode="json", include=_AGREED)
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def check_same(state: RunState, federation: Federation) -> None:
    """Refuse to go on with a run under other settings.

    Raises
    ------
    FederationError
        ``PFL-F22`` they differ.
    """
    if state.agreed != agreed(federation):
        raise FederationError(
            "PFL-F22",
            f"Run {state.run} began with other settings than federation.toml has now: name, seed, [partners], [model], "
            "[training] and [privacy] stay as they are during a run. Put them back, or start a new run in another "
            "folder (federation.toml: output).",
        )
