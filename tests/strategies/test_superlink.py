"""The gate of the SuperLink: who is on another machine gets what SuperNodes need, from Flower's very app."""

import asyncio
import json

import pytest

from pharma_fl.strategies import superlink
from pharma_fl.strategies.superlink import is_local

HERE, THERE = ("127.0.0.1", 50_000), ("10.0.0.7", 50_000)


@pytest.fixture(scope="module")
def app():
    """Flower's app, as `flower-superlink` makes it, with our hook."""
    from flwr.superlink import extensions
    from flwr.superlink.main import create_app

    made = []
    with pytest.MonkeyPatch.context() as patch:
        # What main() sets is taken back with the patch.
        patch.setattr(extensions, "configure_app", extensions.configure_app)
        patch.setattr(superlink, "flower_superlink", lambda: made.append(create_app()))
        superlink.main()
    return made[0]


def routes(app):
    from fastapi.routing import APIRoute, iter_route_contexts

    return sorted({one.route.path for one in iter_route_contexts(app.routes) if isinstance(one.route, APIRoute)})


def ask(app, client, path, method="POST", kind="http"):
    """Send one request as uvicorn would, and return what the app sent."""
    sent = []
    scope = {
        "type": kind,
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "https" if kind == "http" else "wss",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(b"content-type", b"application/x-protobuf")],
        "client": client,
        "server": ("10.0.0.1", 8000),
        "subprotocols": [],
        "state": {},
    }
    if client == HERE:
        scope["server"] = ("127.0.0.1", 8000)

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    return sent


def status(app, client, path, method="POST"):
    return ask(app, client, path, method)[0]["status"]


def test_flower_has_three_interfaces_on_one_port(app):
    prefixes = {path.split("/")[2] for path in routes(app) if path.startswith("/v1/")}
    assert prefixes == {"control", "fleet", "runtime"}


def test_nothing_but_the_fleet_is_answered_to_another_machine(app):
    for path in [*routes(app), "/docs", "/openapi.json", "/", "/v1/fleet", "/v1/control/../fleet/get-run"]:
        refused = {status(app, THERE, path, method) for method in ("GET", "POST")} == {403}
        assert refused != path.startswith("/v1/fleet/"), path


def test_a_command_is_told_why(app):
    """`flwr` prints `detail`."""
    answer = ask(app, THERE, "/v1/control/start-run")
    assert "own machine" in json.loads(answer[1]["body"])["detail"]


def test_this_machine_reaches_everything(app):
    for path in ("/v1/control/list-nodes", "/v1/runtime/pull-pending-tasks", "/v1/fleet/get-run", "/health"):
        assert status(app, HERE, path) != 403


def test_a_path_that_leads_out_of_the_fleet_leads_nowhere(app):
    assert status(app, THERE, "/v1/fleet/../control/start-run") == 404


@pytest.mark.parametrize(
    ("client", "server", "local"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.8.8.8", "127.0.0.1", True),
        ("::1", "::1", True),
        ("::ffff:127.0.0.1", "::ffff:127.0.0.1", True),
        ("10.0.0.1", "10.0.0.1", True),
        ("::ffff:10.0.0.1", "10.0.0.1", True),
        ("10.0.0.7", "10.0.0.1", False),
        ("::ffff:10.0.0.7", "::ffff:10.0.0.1", False),
        ("2001:db8::7", "2001:db8::1", False),
        ("10.0.0.7", "0.0.0.0", False),
        ("localhost", "localhost", False),
        ("", "", False),
    ],
)
def test_what_counts_as_this_machine(client, server, local):
    assert is_local({"client": (client, 1), "server": (server, 2)}) is local


@pytest.mark.parametrize("scope", [{}, {"client": None, "server": None}, {"client": (), "server": ("127.0.0.1", 1)}])
def test_who_is_unknown_is_not_this_machine(scope):
    assert not is_local(scope)


def test_a_websocket_from_elsewhere_is_closed(app):
    assert ask(app, THERE, "/v1/fleet/anything", kind="websocket") == [{"type": "websocket.close", "code": 1008}]
