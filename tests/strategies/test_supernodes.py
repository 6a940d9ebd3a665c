"""Asking a SuperLink which SuperNodes it knows: what it answers, and when it does not."""

import httpx
import pytest
from flwr.proto.control_pb2 import ListNodesResponse
from flwr.proto.node_pb2 import NodeInfo

from pharma_fl.errors import FederationError
from pharma_fl.strategies import supernodes as module
from pharma_fl.strategies.supernodes import supernodes

CAME, WENT = "2026-11-29T05:45:04+00:00", "2026-11-29T06:45:04+00:00"


def a_node(number, status):
    return NodeInfo(
        node_id=number, name="north", public_key=b"key", status=status, last_activated_at=CAME, last_deactivated_at=WENT
    )


class Client:
    """In the place of Flower's."""

    closed = False

    def __init__(self, answer):
        self._answer = answer

    def ListNodes(self, _):  # noqa: N802 - Flower's name
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer

    def close(self):
        self.closed = True


@pytest.fixture
def answers(monkeypatch):
    def set_up(answer):
        client = Client(answer)
        monkeypatch.setattr(module.ControlHttpClient, "from_server_address", lambda *_, **__: client)
        return client

    return set_up


def test_registered_supernodes_are_told_with_name_key_and_since_when(answers):
    states = ("registered", "online", "offline", "unregistered")
    client = answers(ListNodesResponse(nodes_info=[a_node(number, state) for number, state in enumerate(states)]))
    found = supernodes("127.0.0.1:1", b"roots")
    assert [(one.node, one.status, one.since) for one in found] == [
        (0, "registered", CAME),
        (1, "online", CAME),
        (2, "offline", WENT),
    ]
    assert (found[0].name, found[0].public_key) == ("north", b"key")
    assert client.closed


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (httpx.ConnectError("refused"), "No SuperLink answers at 127.0.0.1:1"),
        (
            httpx.HTTPStatusError(
                "403", request=httpx.Request("POST", "https://x"), response=httpx.Response(403, text="no")
            ),
            "refuses to list its SuperNodes: no",
        ),
    ],
)
def test_a_superlink_that_does_not_answer_is_an_error_with_a_code(answers, error, words):
    client = answers(error)
    with pytest.raises(FederationError, match=words) as caught:
        supernodes("127.0.0.1:1", b"roots")
    assert caught.value.code == "PFL-F24"
    assert client.closed
