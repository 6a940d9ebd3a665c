"""Which SuperNodes the SuperLink knows, by the names and keys that they were registered with.

`flwr supernode list` shows neither, so this asks the SuperLink's control interface itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import httpx
from flwr.proto.control_pb2 import ListNodesRequest
from flwr.proto.node_pb2 import NodeInfo
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

from pharma_fl.errors import FederationError


@dataclass(frozen=True, kw_only=True)
class SuperNode:
    """One registered SuperNode.

    Attributes
    ----------
    node : int
        Flower's id.
    name : str
        What it was registered as: the partner's name.
    public_key : bytes
        PEM.
    status : str
        ``registered`` (never seen), ``online`` or ``offline``.
    since : str
        When it came or went, ISO 8601; empty where it was never seen.
    """

    node: int
    name: str
    public_key: bytes
    status: str
    since: str


def supernodes(address: str, root_certificates: bytes) -> list[SuperNode]:
    """Ask the SuperLink of this machine.

    Parameters
    ----------
    address : str
        ``host:port`` by which this machine reaches it.
    root_certificates : bytes
        PEM of the authority that signed its certificate.

    Raises
    ------
    FederationError
        ``PFL-F24`` it does not answer, or refuses.
    """
    client = ControlHttpClient.from_server_address(
        address,
        insecure=False,
        root_certificates=root_certificates,
        interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr CLI")],
    )
    try:
        found = client.ListNodes(ListNodesRequest()).nodes_info
    except httpx.HTTPStatusError as error:
        raise FederationError(
            "PFL-F24", f"The SuperLink at {address} refuses to list its SuperNodes: {error.response.text}"
        ) from error
    except httpx.HTTPError as error:
        raise FederationError(
            "PFL-F24", f"No SuperLink answers at {address} ({error}). Start it: start, beside federation.toml."
        ) from error
    finally:
        client.close()
    return [_of(one) for one in found if one.status != "unregistered"]


def _of(node: NodeInfo) -> SuperNode:
    return SuperNode(
        node=node.node_id,
        name=node.name,
        public_key=node.public_key,
        status=node.status,
        since=node.last_deactivated_at if node.status == "offline" else node.last_activated_at,
    )
