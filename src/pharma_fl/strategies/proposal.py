"""The plan that a federation.toml proposes."""

from __future__ import annotations

from pydantic import ValidationError

from pharma_fl.config import Federation
from pharma_fl.errors import ConfigError
from pharma_fl.model.pretrained import initial_trunk
from pharma_fl.privacy.plan import PrivacyPlan, propose


def proposed_plan(federation: Federation) -> PrivacyPlan:
    """Return what every partner is asked to run, if all of them take part.

    Raises
    ------
    ConfigError
        ``PFL-C03`` settings that are each possible do not go together.
    PrivacyError
        As `propose`.
    """
    values = 0
    if federation.privacy.noise_mode == "shared":
        values = sum(value.numel() for value in initial_trunk(federation.model, federation.seed).values())
    try:
        return propose(federation.privacy, federation.training, partners=len(federation.partners), summed_values=values)
    except ValidationError as error:
        said = "; ".join(item["msg"].removeprefix("Value error, ") for item in error.errors())
        raise ConfigError("PFL-C03", f"federation.toml, {federation.name}: {said}.") from error
