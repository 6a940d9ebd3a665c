"""The ready-made files of the top-level folders strategies/ and clients/."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Literal

from pharma_fl.errors import ConfigError

_INSTALLED = Path(__file__).parent.parent / "presets"
_CHECKOUT = Path(__file__).parents[3]


def preset(kind: Literal["strategies", "clients"], name: str) -> dict[str, Any]:
    """Return a preset's content.

    Parameters
    ----------
    kind : {"strategies", "clients"}
        Coordinator's or partner's side.
    name : str
        File name without ending.

    Raises
    ------
    ConfigError
        ``PFL-C06`` there is no such preset.
    """
    for root in (_INSTALLED, _CHECKOUT):
        path = root / kind / f"{name}.toml"
        if path.is_file():
            return tomllib.loads(path.read_text("utf-8"))
    raise ConfigError("PFL-C06", f"There is no preset {kind}/{name}.toml. Reinstall pharma-fl.")
