"""Ports of this machine, and processes by what is in their environment."""

import socket
import time
from pathlib import Path

END_S = 30.0


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def listens(port):
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def processes_with(mark):
    """Return the ids of processes of which one variable, given as NAME=VALUE, begins so."""
    return [int(place.name) for place in Path("/proc").glob("[0-9]*") if _has(place, mark.encode())]


def until_none(processes):
    """Wait until these processes are gone, and return those that stay all the same."""
    deadline = time.monotonic() + END_S
    while (left := processes()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def _has(place, mark):
    try:
        return any(entry.startswith(mark) for entry in (place / "environ").read_bytes().split(b"\0"))
    except OSError:
        return False
