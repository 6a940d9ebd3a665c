"""What Flower ships with a run: a bundle, which at a partner is looked at and never executed."""

from __future__ import annotations

import hashlib
import io
import json
import tomllib
import zipfile
from base64 import urlsafe_b64encode
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

import pharma_fl
from pharma_fl.errors import FederationError

COMPONENTS = {"serverapp": "pharma_fl.strategies.app:app", "clientapp": "pharma_fl.clients.app:app"}
"""The apps of a run of ours, in the installed package."""

_LARGEST = 10 * 1024 * 1024
_LARGEST_UNPACKED = 4 * _LARGEST
_LARGEST_PYPROJECT = 256 * 1024
_PACKINGS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
"""What Flower writes. Others may ask for gigabytes of memory before they give a byte."""
_ENDINGS = {".toml", ".md"}
_NAMES = {".info/CONTENT", "LICENSE"}


def check_bundle(content: bytes) -> str:
    """Look at a bundle's bytes, without writing or running any of them, and return their SHA-256.

    A bundle that this project makes holds configuration alone and names the apps of the installed package. One that
    holds anything else was made to run something else at a partner.

    Raises
    ------
    FederationError
        ``PFL-F40`` it is no such bundle.
    """
    if len(content) > _LARGEST:
        raise _refused(f"it has {len(content):,} bytes, and at most {_LARGEST:,} are read")
    try:
        components: Any = _configuration(content)
    except FederationError:
        raise
    except Exception as error:  # what unpacks and parses raises what it likes, and a stranger chose the bytes
        raise _refused(f"it cannot be read ({type(error).__name__})") from error
    for key in ("tool", "flwr", "app", "components"):
        components = components.get(key, {}) if isinstance(components, dict) else {}
    if components != COMPONENTS:
        raise _refused("its pyproject.toml names other apps than those of pharma-fl")
    return hashlib.sha256(content).hexdigest()


def installed_package() -> Path:
    """Return the folder of the pharma_fl that runs, which must be the one that is installed here.

    Raises
    ------
    FederationError
        ``PFL-F41`` it was imported from elsewhere, or is not installed.
    """
    here = Path(pharma_fl.__file__).resolve().parent
    try:
        installed = distribution("pharma-fl")
        places = {Path(str(installed.locate_file("pharma_fl"))).resolve()}
        # Of an editable installation pip writes down where it is.
        origin = json.loads(installed.read_text("direct_url.json") or "{}")
        if origin.get("dir_info", {}).get("editable"):
            places.add(Path(url2pathname(urlparse(origin["url"]).path)).resolve() / "src" / "pharma_fl")
    except PackageNotFoundError:
        places = set()
    if here not in places:
        raise FederationError(
            "PFL-F41",
            f"pharma_fl was imported from {here}, which is not where it is installed. Nothing was done. Start the "
            "SuperNode from its own folder, without PYTHONPATH, and install pharma-fl in its environment.",
        )
    return here


def changed_files() -> list[str]:
    """Return files of the installed package that are not what was installed; of an editable one, none are known.

    The wheel's RECORD is compared. Whoever can change files can change it too: this finds accidents.
    """
    found = []
    for file in distribution("pharma-fl").files or ():
        if file.hash is None or file.parts[0] != "pharma_fl":
            continue
        path = Path(str(file.locate()))
        digest = hashlib.new(file.hash.mode, path.read_bytes()).digest() if path.is_file() else b""
        if file.hash.value != _encoded(digest):
            found.append(str(file))
    return found


def _configuration(content: bytes) -> dict[str, Any]:
    with zipfile.ZipFile(io.BytesIO(content)) as bundle:
        entries = bundle.infolist()
        for entry in entries:
            _check_entry(entry)
        if len({entry.filename for entry in entries}) < len(entries):
            raise _refused("it holds two files of one name")
        if sum(entry.file_size for entry in entries) > _LARGEST_UNPACKED:
            raise _refused(f"it unpacks to more than {_LARGEST_UNPACKED:,} bytes")
        with bundle.open("pyproject.toml") as stream:
            # What an entry says of its own size need not be so.
            text = stream.read(_LARGEST_PYPROJECT + 1)
    if len(text) > _LARGEST_PYPROJECT:
        raise _refused(f"its pyproject.toml has more than {_LARGEST_PYPROJECT:,} bytes")
    return tomllib.loads(text.decode())


def _check_entry(entry: zipfile.ZipInfo) -> None:
    path = PurePosixPath(entry.filename)
    if path.is_absolute() or ".." in path.parts or "\\" in entry.filename:
        raise _refused("it holds a path that leads out of it")
    if (entry.external_attr >> 16) & 0o170000 == 0o120000:
        raise _refused("it holds a link")
    if entry.flag_bits & 1:
        raise _refused("it is encrypted")
    if entry.compress_type not in _PACKINGS:
        raise _refused("it is packed otherwise than Flower packs")
    if not entry.is_dir() and entry.filename not in _NAMES and path.suffix not in _ENDINGS:
        raise _refused(f"it holds more than configuration ({path.suffix or 'a file without an ending'})")


def _encoded(digest: bytes) -> str:
    return urlsafe_b64encode(digest).rstrip(b"=").decode()


def _refused(why: str) -> FederationError:
    return FederationError(
        "PFL-F40",
        f"The bundle that the coordinator ships with the run is refused: {why}. None of it was run. Ask the coordinator"
        " what it submits; the bundles of pharma-fl init hold configuration alone.",
    )
