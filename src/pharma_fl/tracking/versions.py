"""Versions that a reader of a result needs to repeat it."""

from __future__ import annotations

import platform
from importlib.metadata import version

_PACKAGES = ("pharma-fl", "torch", "opacus", "flwr", "rdkit", "dp-accounting", "numpy", "mlflow")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide a result."""
    return {"python": platform.python_version()} | {name: version(name) for name in _PACKAGES}
