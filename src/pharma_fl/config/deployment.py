"""How the two sides reach each other: the coordinator's SuperLink, a partner's SuperNode. Simulations have neither."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from pharma_fl.config.base import Settings

Address = Annotated[str, Field(pattern=r"^(\[[0-9a-fA-F:]+\]|[A-Za-z0-9.-]{1,253}):[0-9]{1,5}$")]
Host = Annotated[str, Field(pattern=r"^[0-9A-Za-z.:-]{1,253}$")]
Port = Annotated[int, Field(ge=1, le=65_535)]


class SuperLinkSettings(Settings):
    """Where the coordinator's SuperLink listens, and with what it proves who it is."""

    address: Address
    """Name or address and port by which partners reach it; the certificate is made for it."""
    listen: Host = "0.0.0.0"  # noqa: S104 - partners come from other companies
    """Address of this machine that it listens on, at the port of `address`."""
    certificate: str = "tls/server.pem"
    private_key: str = "tls/server.key"
    root_certificates: str = "tls/ca.pem"
    database: str = "superlink.sqlite"
    """Flower's own state, so that a SuperLink that was restarted knows its nodes."""
    flwr_home: str = "flwr"
    """Folder of Flower's own files."""


class SuperNodeSettings(Settings):
    """Which SuperLink the partner's SuperNode goes to, and with what it proves who it is."""

    superlink: Address
    """The coordinator's SuperLink."""
    root_certificates: str = "tls/ca.pem"
    """Certificate of the authority that signed the SuperLink's."""
    private_key: str = "keys/supernode.key"
    """Made by pharma-fl provision; its public half is in the coordinator's roster."""
    port: Port = 9094
    """Port of this machine, on loopback alone, by which the SuperNode speaks to what it starts."""
    flwr_home: str = "flwr"
    """Folder of Flower's own files."""
