"""The files of a kit that follow from its TOML file: scripts, systemd units, Flower's configuration, the bundle.

They are written again by every `pharma-fl provision`, so that an address is changed in one place.
"""

from __future__ import annotations

import getpass
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

import tomli_w

from pharma_fl import __version__
from pharma_fl.atomic import write_atomic
from pharma_fl.config import Federation, Partner
from pharma_fl.deployment.lines import (
    CONNECTION,
    FEDERATION_FILE,
    PARTNER_FILE,
    Command,
    Lines,
    coordinator_lines,
    local_address,
    partner_lines,
    superlink_of,
    supernode_of,
)
from pharma_fl.deployment.private_files import make_folder


@dataclass(frozen=True, kw_only=True)
class KitFile:
    """One file of a kit."""

    content: str
    mode: int = 0o600


def coordinator_files(folder: Path, federation: Federation) -> dict[str, KitFile]:
    """Return the coordinator's files by path under `folder`."""
    link, lines = superlink_of(federation), coordinator_lines(folder, federation)
    connection = {
        "default": CONNECTION,
        CONNECTION: {
            "address": local_address(link),
            "root-certificates": str(folder / link.root_certificates),
        },
    }
    note = _note(FEDERATION_FILE)
    return {
        "environment": _environment(lines, note),
        "start": _start(lines, note, "the SuperLink"),
        "register": _register(lines, note),
        "bin/flower-superlink": _replacement("pharma_fl.strategies.superlink", _GATE),
        "systemd/pharma-fl-superlink.service": _unit(lines, note, "SuperLink", [folder / link.flwr_home]),
        f"{link.flwr_home}/config.toml": KitFile(content=note + tomli_w.dumps({"superlink": connection})),
        "app/pyproject.toml": KitFile(content=note + _BUNDLE.format(version=_bundle_version())),
    }


def partner_files(folder: Path, partner: Partner) -> dict[str, KitFile]:
    """Return a partner's files by path under `folder`."""
    lines, note = partner_lines(folder, partner), _note(PARTNER_FILE)
    written = [partner.state, partner.ledger, partner.signing_key, partner.audit_log, partner.model]
    own = [folder / supernode_of(partner).flwr_home, *((folder / one).parent for one in written)]
    return {
        "environment": _environment(lines, note),
        "start": _start(lines, note, "this partner's SuperNode"),
        "bin/flwr-clientapp": _replacement("pharma_fl.clients.guard", _GUARD),
        "systemd/pharma-fl-supernode.service": _unit(lines, note, "SuperNode", own),
    }


def write_kit(folder: Path, files: dict[str, KitFile]) -> list[str]:
    """Write the files that are not there or differ, and return which."""
    changed = []
    for name, file in files.items():
        path = folder / name
        make_folder(path.parent)
        if path.exists() and path.read_text("utf-8") == file.content and path.stat().st_mode & 0o777 == file.mode:
            continue
        path.unlink(missing_ok=True)
        write_atomic(path, file.content.encode(), mode=file.mode)
        path.chmod(file.mode)
        changed.append(name)
    return changed


def shell(command: Command) -> str:
    """Return a command as one line for a shell; systemd reads it alike."""
    return shlex.join(command)


def _note(source: str) -> str:
    return f"# Follows from {source}, and is written again by pharma-fl provision: change {source}, not this file.\n"


def _environment(lines: Lines, note: str) -> KitFile:
    return KitFile(content=f"{note}# For commands by hand: . {lines.folder / 'environment'}\n{_exports(lines)}\n")


def _start(lines: Lines, note: str, what: str) -> KitFile:
    return KitFile(
        content=_START.format(
            note=note, what=what, folder=lines.folder, exports=_exports(lines), command=shell(lines.start)
        ),
        mode=0o700,
    )


def _register(lines: Lines, note: str) -> KitFile:
    calls = "\n".join(f"register {name} {shell(command)}" for name, command in lines.register.items())
    return KitFile(
        content=_REGISTER.format(note=note, folder=lines.folder, exports=_exports(lines), calls=calls), mode=0o700
    )


def _replacement(module: str, why: str) -> KitFile:
    return KitFile(content=f'#!/bin/sh\n{why}exec {shell((sys.executable, "-I", "-m", module))} "$@"\n', mode=0o700)


def _unit(lines: Lines, note: str, what: str, others: list[Path]) -> KitFile:
    places = sorted({lines.folder, *(one for one in others if not one.is_relative_to(lines.folder))})
    return KitFile(
        content=_UNIT.format(
            note=note,
            what=what,
            name=lines.name,
            user=getpass.getuser(),
            folder=lines.folder,
            places=" ".join(str(one) for one in places),
            environment="\n".join(f"Environment={key}={value}" for key, value in lines.environment.items()),
            command=shell((str(lines.program), *lines.start[1:])),
        )
    )


def _exports(lines: Lines) -> str:
    return "\n".join(f"export {key}={shlex.quote(value)}" for key, value in lines.environment.items())


def _bundle_version() -> str:
    # Flower writes dots as dashes in names of files; a plain release number is what it wants.
    return ".".join(part for part in __version__.split(".")[:3] if part.isdigit())


_GATE = """\
# Flower's SuperLink has one port for everything: for SuperNodes, which sign each request, and for commands such as
# `flwr run`, which need no key at all. This one answers commands from this machine alone.
"""
_GUARD = """\
# A SuperNode starts what it finds by this name in PATH, for each message. Flower's own runs whatever code a bundle
# brings; this one runs the installed pharma-fl, and no code of a bundle.
"""
_START = """\
#!/bin/sh
{note}# Runs {what} in the foreground, and runs it again whenever it ends, until this script is ended
# (Ctrl-C or SIGTERM). A SuperNode that was killed is refused (Flower's exit code 305, which a shell sees as 1) until
# the SuperLink counts the old one as gone, about a minute after its last sign of life; then it is let in.
umask 077
cd {folder} || exit 1
{exports}

stopped='' child='' pause=5
trap 'stopped=1; [ -z "$child" ] || kill "$child" 2>/dev/null' HUP INT TERM
while [ -z "$stopped" ]; do
    began=$(date +%s)
    {command} &
    child=$!
    wait "$child"
    code=$?
    # A signal ends the waiting before it ends what is waited for.
    while kill -0 "$child" 2>/dev/null; do
        wait "$child"
        code=$?
    done
    [ -z "$stopped" ] || break
    [ $(($(date +%s) - began)) -lt 60 ] || pause=5
    echo "It ended with exit code $code; it is started again in $pause s." >&2
    sleep "$pause" &
    child=$!
    wait "$child"
    pause=15
done
"""
_REGISTER = """\
#!/bin/sh
{note}# Makes the partners' SuperNodes known to the running SuperLink. Call it as often as you like: after a partner was
# added, only that one is new. Exit code 1 means that some could not be registered.
cd {folder} || exit 1
{exports}

failed=0 tries=30
register() {{
    name=$1
    shift
    if [ ! -f "$4" ]; then
        echo "$name: no $4 yet. pharma-fl provision federation.toml --cards makes it of the partners' cards." >&2
        failed=1
        return
    fi
    until said=$("$@" 2>&1); do
        case $said in
            *"Public key already in use"*)
                echo "$name: was registered before"
                return
                ;;
            *"SuperLink is unavailable"*)
                # It may have been started a moment ago.
                tries=$((tries - 1))
                if [ $tries -gt 0 ] && sleep 2; then continue; fi
                ;;
        esac
        echo "$name: $said" >&2
        failed=1
        return
    done
    # Flower lists nodes by number alone; it takes the number to forget one.
    node=$(printf '%s' "$said" | sed -n 's/.*SuperNode \\([0-9][0-9]*\\) registered.*/\\1/p')
    echo "$node" >"${{4%.pub}}.node"
    echo "$name: registered as $node"
}}
{calls}
exit $failed
"""
_UNIT = """\
{note}# Copy it to /etc/systemd/system/, then: systemctl enable --now with its name.
[Unit]
Description=pharma-fl {what} of {name}
Wants=network-online.target
After=network-online.target
# A SuperNode that was killed is refused until the SuperLink counts the old one as gone: never give up.
StartLimitIntervalSec=0

[Service]
User={user}
WorkingDirectory={folder}
{environment}
ExecStart={command}
Restart=always
RestartSec=10
TimeoutStopSec=30
UMask=0077
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=read-only
ReadWritePaths={places}
PrivateTmp=yes
CapabilityBoundingSet=
LockPersonality=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native

[Install]
WantedBy=multi-user.target
"""
_BUNDLE = """\
# What `flwr run` submits. It carries no code: what runs at either side is the pharma-fl that is installed there.
[project]
name = "pharma-fl"
version = "{version}"
description = "Federated, differentially private models for drug discovery"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "pharma-fl"

[tool.flwr.app.components]
serverapp = "pharma_fl.strategies.app:app"
clientapp = "pharma_fl.clients.app:app"

[tool.flwr.app.config]
federation = ""
partners = ""
resume = false
"""
