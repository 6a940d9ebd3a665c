"""What a check of a deployment says, and the checks of files; each is one question, and none changes anything."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from pharma_fl.deployment.kit import KitFile
from pharma_fl.errors import PharmaFlError

_MIB = 1 << 20
_FLOWER = "1.41."
_PACKAGES = ("pharma-fl", "flwr", "torch")


@dataclass(frozen=True, kw_only=True)
class Check:
    """One question and its answer.

    Attributes
    ----------
    name : str
        What was looked at.
    status : {"ok", "warn", "fail"}
        ``warn``: a run goes on, but somebody should know. ``fail``: it does not, or protects less than it says.
    found : str
        The answer.
    remedy : str
        What to do; empty where all is well.
    """

    name: str
    status: Literal["ok", "warn", "fail"]
    found: str
    remedy: str = ""


def good(name: str, found: str) -> Check:
    """Return an answer that is as it should be."""
    return Check(name=name, status="ok", found=found)


def doubtful(name: str, found: str, remedy: str) -> Check:
    """Return an answer that somebody should know of."""
    return Check(name=name, status="warn", found=found, remedy=remedy)


def bad(name: str, found: str, remedy: str) -> Check:
    """Return an answer with which no run can go well."""
    return Check(name=name, status="fail", found=found, remedy=remedy)


def guarded(name: str, check: Callable[[], Check], remedy: str) -> Check:
    """Ask one question; an error is an answer too, and ends no other question."""
    try:
        return check()
    except (PharmaFlError, OSError, ValueError) as error:
        return bad(name, str(error), remedy)


def secret_check(name: str, path: Path, remedy: str, *, closed_to: int = 0o077) -> Check:
    """Whether a file with a secret is there, and closed to everybody but its owner, or as `closed_to` says."""
    try:
        mode = path.stat().st_mode & 0o777
    except OSError as error:
        return bad(name, f"cannot read {path}: {error.strerror}", remedy)
    if mode & closed_to:
        return bad(name, f"others may open {path} (mode {mode:04o})", f"chmod 600 {shlex.quote(str(path))}")
    return good(name, f"{path} is closed to others")


def disk_check(folder: Path, needed: int) -> Check:
    """Whether a folder's disk has room for `needed` bytes, and for as much again."""
    place = next(one for one in (folder, *folder.parents) if one.exists())
    free = shutil.disk_usage(place).free
    found = f"{free / _MIB:,.0f} MiB free at {place}, about {needed / _MIB:,.0f} needed"
    remedy = f"Free some space: du -sh {shlex.quote(str(place))}/*"
    if free < needed:
        return bad("disk", found, remedy)
    return doubtful("disk", found, remedy) if free < 2 * needed else good("disk", found)


def kit_check(folder: Path, files: Mapping[str, KitFile], remedy: str) -> Check:
    """Whether scripts, units and Flower's own settings are those that follow from the TOML file."""
    missing = [name for name in files if not (folder / name).is_file()]
    other = [
        name for name, file in files.items() if name not in missing and (folder / name).read_bytes() != _bytes(file)
    ]
    if missing:
        return bad("kit", f"missing: {', '.join(missing)}", remedy)
    if other:
        return doubtful("kit", f"another than the settings say: {', '.join(other)}", remedy)
    return good("kit", f"{len(files)} files are as the settings say")


def start_check(folder: Path, settings: Mapping[str, str], remedy: str) -> Check:
    """Whether what starts Flower here sets these variables, telemetry off among them."""
    texts = {name: (folder / name).read_text("utf-8") for name in ("start", "environment") if (folder / name).exists()}
    said = "\n".join(texts.values())
    lacking = [name for name, value in settings.items() if f"{name}={value}" not in said.replace("'", "")]
    if lacking:
        return bad("start script", f"{folder / 'start'} does not set {', '.join(lacking)}", remedy)
    return good("start script", f"{folder / 'start'} sets {', '.join(settings)}")


def program_check(name: str, program: Path, module: str, path: str, remedy: str) -> Check:
    """Whether the replacement of one of Flower's programs is what is found first through a PATH."""
    found = shutil.which(program.name, path=path)
    if found is None or Path(found) != program:
        return bad(name, f"PATH finds {found or 'no ' + program.name}, not {program}", remedy)
    if module not in program.read_text("utf-8", errors="replace"):
        return bad(name, f"{program} does not run {module}", remedy)
    return good(name, f"{program} comes first, and runs {module}")


def version_check() -> Check:
    """Which versions run here; Flower has to be the one that this was written for."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "missing"
    said = ", ".join(f"{name} {one}" for name, one in found.items())
    if not found["flwr"].startswith(_FLOWER) or "missing" in found.values():
        return bad("versions", said, "pip install pharma-fl, which brings the versions that it needs")
    return good("versions", said)


def _bytes(file: KitFile) -> bytes:
    return file.content.encode()
