"""Flower's SuperLink, with a gate: who is not on this machine gets what SuperNodes need, and nothing else.

Flower 1.41 serves three interfaces on one port. SuperNodes sign what they ask for. Commands (`flwr run`, `flwr stop`,
`flwr supernode register`) and the processes of a run need no key: whoever reaches the port could submit a bundle,
whose ServerApp is code that runs here, or register a SuperNode. A partner has to reach the port. So the gate answers
these two interfaces for connections from this machine alone.

It trusts every user of this machine, and a proxy on this machine that passes others' connections on as bytes makes them
look local: let such a proxy pass `/v1/fleet/` alone.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from ipaddress import IPv6Address, ip_address
from typing import Any

from flwr.superlink import extensions
from flwr.superlink.cli import flower_superlink

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_FOR_PARTNERS = "/v1/fleet/"
_SAID = "The SuperLink takes commands from its own machine alone."


class Gate:
    """Refuses, with status 403, what does not come from this machine and is not a SuperNode's."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "lifespan" or is_local(scope) or _is_a_supernode_s(scope):
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            body = json.dumps({"detail": _SAID}).encode()
            headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
            await send({"type": "http.response.start", "status": 403, "headers": headers})
            await send({"type": "http.response.body", "body": body})
        else:
            await send({"type": "websocket.close", "code": 1008})


def is_local(scope: Scope) -> bool:
    """Whether a connection comes from this machine: from loopback, or from the very address that it reached.

    Examples
    --------
    >>> is_local({"client": ("127.0.0.1", 50000), "server": ("127.0.0.1", 8000)})
    True
    >>> is_local({"client": ("10.0.0.7", 50000), "server": ("10.0.0.1", 8000)})
    False
    """
    client, server = _address(scope.get("client")), _address(scope.get("server"))
    return client is not None and (client.is_loopback or client == server)


def _is_a_supernode_s(scope: Scope) -> bool:
    return scope["type"] == "http" and str(scope["path"]).startswith(_FOR_PARTNERS)


def _address(place: Any) -> Any:
    try:
        address = ip_address(place[0])
    except (TypeError, ValueError, IndexError):
        return None
    # A socket for both families sees 127.0.0.1 as ::ffff:127.0.0.1.
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


def main() -> None:
    """Run `flower-superlink` with its own arguments, behind the gate."""
    of_flower = extensions.configure_app

    def configure_app(app: Any) -> None:
        of_flower(app)
        # What is added last is asked first.
        app.add_middleware(Gate)

    extensions.configure_app = configure_app
    flower_superlink()


if __name__ == "__main__":
    main()
