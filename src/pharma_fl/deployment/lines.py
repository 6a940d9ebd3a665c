"""The exact commands of either side: the one source of what is printed, of start scripts and of systemd units."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pharma_fl.config import Federation, Partner, SuperLinkSettings, SuperNodeSettings
from pharma_fl.errors import ConfigError

CONNECTION = "pharma-fl"
"""How the SuperLink is called in the coordinator's flwr/config.toml."""
FEDERATION_FILE, PARTNER_FILE = "federation.toml", "partner.toml"
_PLAIN = re.compile(r"[\w/.+@,=-]+")
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - it is read, not bound

Command = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Lines:
    """What one side runs, with absolute paths and without anything that a shell would read otherwise."""

    role: Literal["coordinator", "partner"]
    name: str
    """Of the federation, or of the partner."""
    folder: Path
    environment: dict[str, str]
    """For every command of this side."""
    start: Command
    """Runs for good: the SuperLink, or the SuperNode."""
    register: dict[str, Command]
    """Makes a partner's SuperNode known to the SuperLink, by partner; at the coordinator alone."""
    then: dict[str, Command]
    """What a person calls, by what it is for."""

    @property
    def program(self) -> Path:
        """The file that `start` finds through PATH."""
        return _bin(self.folder) / self.start[0] if self.role == "coordinator" else _venv() / self.start[0]


def coordinator_lines(folder: Path, federation: Federation) -> Lines:
    """Return the coordinator's commands.

    Raises
    ------
    ConfigError
        ``PFL-C08`` federation.toml has no [superlink], or a path would not survive a shell.
    """
    link, file = superlink_of(federation), folder / FEDERATION_FILE
    start = (
        "flower-superlink",
        *("--host", link.listen, "--port", str(address_of(link.address)[1])),
        *("--ssl-ca-certfile", str(folder / link.root_certificates)),
        *("--ssl-certfile", str(folder / link.certificate)),
        *("--ssl-keyfile", str(folder / link.private_key)),
        "--enable-supernode-auth",
        "--disable-runtime-dependency-installation",
        *("--database", str(folder / link.database)),
    )
    return Lines(
        role="coordinator",
        name=federation.name,
        folder=_plain(folder),
        environment=_environment(folder, folder / link.flwr_home),
        start=start,
        register={
            name: ("flwr", "supernode", "register", str(card_file(folder, name)), CONNECTION, "--name", name)
            for name in sorted(federation.partners)
        },
        then={
            "check this side": ("pharma-fl", "doctor", str(file)),
            "run": ("pharma-fl", "run", str(file)),
            "the same with Flower's own command": (
                *("flwr", "run", str(folder / "app"), CONNECTION, "--stream"),
                *("--run-config", f'federation="{file}"'),
            ),
            "look at a run": ("pharma-fl", "status", str(file)),
            "list SuperNodes": ("flwr", "supernode", "list", CONNECTION),
        },
    )


def partner_lines(folder: Path, partner: Partner) -> Lines:
    """Return a partner's commands; errors as `coordinator_lines`, for [supernode]."""
    node, file = supernode_of(partner), folder / PARTNER_FILE
    start = (
        "flower-supernode",
        *("--superlink", node.superlink),
        *("--root-certificates", str(folder / node.root_certificates)),
        *("--auth-supernode-private-key", str(folder / node.private_key)),
        *("--host", "127.0.0.1", "--port", str(node.port)),
        *("--node-config", f'partner="{file}"'),
    )
    return Lines(
        role="partner",
        name=partner.name,
        folder=_plain(folder),
        environment=_environment(folder, folder / node.flwr_home),
        start=start,
        register={},
        then={
            "prepare the data": ("pharma-fl", "prepare", str(file)),
            "check this side": ("pharma-fl", "doctor", str(file)),
            "look at the budget": ("pharma-fl", "budget", "show", str(file)),
        },
    )


def superlink_of(federation: Federation) -> SuperLinkSettings:
    """Return [superlink], or raise `ConfigError` ``PFL-C08``."""
    if federation.superlink is None:
        raise ConfigError(
            "PFL-C08",
            "federation.toml has no [superlink], so it is of a simulation. Add superlink.address, or begin with "
            "pharma-fl init coordinator.",
        )
    return federation.superlink


def supernode_of(partner: Partner) -> SuperNodeSettings:
    """Return [supernode], or raise `ConfigError` ``PFL-C08``."""
    if partner.supernode is None:
        raise ConfigError(
            "PFL-C08",
            "partner.toml has no [supernode], so it is of a simulation. Add supernode.superlink, or begin with "
            "pharma-fl init partner.",
        )
    return partner.supernode


def address_of(address: str) -> tuple[str, int]:
    """Split ``host:port``.

    Examples
    --------
    >>> address_of("fl.example.com:8000"), address_of("[::1]:8000")
    (('fl.example.com', 8000), ('::1', 8000))
    """
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def local_address(link: SuperLinkSettings) -> str:
    """Return by which address this machine reaches its own SuperLink.

    Commands of the coordinator and what the SuperLink itself starts use it; the gate lets nobody else in
    (`pharma_fl.strategies.superlink`).

    Examples
    --------
    >>> local_address(SuperLinkSettings(address="fl.example.com:8000"))
    '127.0.0.1:8000'
    """
    host = _EVERYWHERE.get(link.listen, link.listen)
    port = address_of(link.address)[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def certified_hosts(link: SuperLinkSettings) -> list[str]:
    """Return what a certificate is asked to name: the partners' address first, then this machine's own."""
    return list(dict.fromkeys([*called_hosts(link), "localhost", "127.0.0.1"]))


def called_hosts(link: SuperLinkSettings) -> list[str]:
    """Return by which names partners and its own machine call the SuperLink; its certificate must name them."""
    return list(dict.fromkeys([address_of(link.address)[0], address_of(local_address(link))[0]]))


def card_file(folder: Path, name: str) -> Path:
    """Return the file of a partner's SuperNode key, as Flower registers it."""
    return folder / "cards" / f"{name}.pub"


def _environment(folder: Path, home: Path) -> dict[str, str]:
    places = [_bin(folder), _venv(), Path("/usr/local/bin"), Path("/usr/bin"), Path("/bin")]
    return {
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "PATH": ":".join(str(_plain(place)) for place in places),
    }


def _bin(folder: Path) -> Path:
    return folder / "bin"


def _venv() -> Path:
    # Not resolved: the interpreter of a virtual environment is a link out of it.
    return Path(sys.executable).parent


def _plain(path: Path) -> Path:
    if not _PLAIN.fullmatch(str(path)):
        raise ConfigError(
            "PFL-C08",
            f"The path {str(path)!r} has characters that mean something to a shell, to systemd or to PATH. Use a "
            "folder whose whole path has letters, digits and / . _ - + @ , = only.",
        )
    return path
