"""What goes wrong in a federation: a network that is cut, partners that answer nothing, or garbage."""

import os
import selectors
import signal
import socket
import sys
import threading
from pathlib import Path


class Cable:
    """A TCP proxy between one SuperNode and the SuperLink: it can be cut, and mended."""

    def __init__(self, port, to):
        self._to, self._cut, self._pairs = to, threading.Event(), []
        self._listener = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self):
        """Drop what is open, and let nothing through; who connects hears nothing, as behind a dead router."""
        self._cut.set()
        for pair in self._pairs:
            for end in pair:
                end.close()
        self._pairs.clear()

    def mend(self):
        """Let everything through again; who waited for an answer meanwhile connects anew."""
        self._cut.clear()
        for pair in self._pairs:
            for end in pair:
                end.close()
        self._pairs.clear()

    def close(self):
        self.cut()
        self._listener.close()

    def _accept(self):
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if self._cut.is_set():
                self._pairs.append((near,))
                continue
            try:
                far = socket.create_connection(("127.0.0.1", self._to))
            except OSError:
                near.close()
                continue
            self._pairs.append((near, far))
            threading.Thread(target=self._pump, args=(near, far), daemon=True).start()

    @staticmethod
    def _pump(near, far):
        other = {near: far, far: near}
        with selectors.DefaultSelector() as ready, near, far:
            try:
                for end in other:
                    ready.register(end, selectors.EVENT_READ)
                while True:
                    for key, _ in ready.select(1.0):
                        data = key.fileobj.recv(1 << 16)
                        if not data:
                            return
                        other[key.fileobj].sendall(data)
            except (OSError, ValueError):
                return  # one end is gone, or the cable was cut


SILENT = "#!/bin/sh\nexec sleep 100000\n"
"""In the place of a partner's flwr-clientapp: takes a message and never answers."""

GARBAGE = f"""#!/bin/sh
exec {sys.executable} -I -c '
import sys
import numpy as np
from flwr.app import Array, ArrayRecord
from pharma_fl.clients import app, guard

class Broken(app.PartnerApp):
    def __call__(self, message, context):
        reply = super().__call__(message, context)
        if "arrays" in reply.content:
            arrays = reply.content["arrays"]
            spoilt = {{name: Array(np.full_like(array.numpy(), np.nan)) for name, array in arrays.items()}}
            reply.content["arrays"] = ArrayRecord(spoilt)
        return reply

app.app = Broken()
guard.main(sys.argv[1:])
' "$@"
"""
"""The same, of a partner whose every update is not a number."""


class Replaced:
    """A partner's flwr-clientapp with another in its place, until `restore`."""

    def __init__(self, folder, program):
        self._path = folder / "bin" / "flwr-clientapp"
        self._before = self._path.read_bytes()
        self._write(program.encode())

    def restore(self):
        self._write(self._before)

    def _write(self, content):
        beside = self._path.with_suffix(".new")
        beside.write_bytes(content)
        beside.chmod(0o700)
        beside.replace(self._path)


def processes(program, mark):
    """Return the ids of running processes of a program whose environment has a mark."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            command = (place / "cmdline").read_bytes()
            if program.encode() in command and mark.encode() in (place / "environ").read_bytes():
                found.append(int(place.name))
        except OSError:
            continue
    return found


def kill_all(program, mark):
    """Kill processes without warning, and return how many there were."""
    found = processes(program, mark)
    for process in found:
        os.kill(process, signal.SIGKILL)
    return len(found)
