"""The ready-made files of the top-level folders strategies/ and clients/."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Literal

from pharma_fl.errors import ConfigError

_INSTALLED = Path(__file__).parent.parent / "presets"
_CHECKOUT = Path(__file__).parents[3]


def preset(kind: Literal["strategies", "clients"], name: str) -> dict[str, Any]:
    """Return a preset's content; arguments and errors as `preset_text`."""
    return tomllib.loads(preset_text(kind, name))


def preset_text(kind: Literal["strategies", "clients"], name: str) -> str:
    """Return a preset's text, with its comments.

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
            return path.read_text("utf-8")
    known = sorted({path.stem for root in (_INSTALLED, _CHECKOUT) for path in (root / kind).glob("*.toml")})
    raise ConfigError(
        "PFL-C06",
        f"There is no preset {kind}/{name}.toml among {known}. If none is there, reinstall pharma-fl.",
    )
