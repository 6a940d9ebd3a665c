"""Checks of TLS: what the certificate's files say, and what a SuperLink shows when it is called."""

from __future__ import annotations

import shlex
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

from pharma_fl.deployment.certificates import check, ends
from pharma_fl.deployment.checks import Check, bad, doubtful, good, guarded
from pharma_fl.deployment.lines import address_of

SOON_DAYS = 30
CLOCK_WARN_S, CLOCK_FAIL_S = 60, 300
"""Flower refuses a SuperNode's signature that is five minutes old or ahead."""
_TIMEOUT_S = 10.0
_HEAD_BYTES = 65_536


@dataclass(frozen=True, kw_only=True)
class Call:
    """What came of calling a SuperLink.

    Attributes
    ----------
    connected : bool
        Somebody listens there.
    error : str
        Why there is no answer over TLS; empty where there is one.
    certificate : bytes
        What it showed, DER.
    date : datetime or None
        Its clock, as HTTP says it.
    """

    connected: bool
    error: str = ""
    certificate: bytes = b""
    date: datetime | None = None


def call(address: str, roots: Path, *, name: str | None = None) -> Call:
    """Call a SuperLink over TLS 1.2 or later and ask for its health; a refusal of the question is an answer too.

    Parameters
    ----------
    address : str
        ``host:port``.
    roots : Path
        PEM of the authority that must have signed its certificate.
    name : str, optional
        What the certificate must be for; left out, the host.
    """
    host, port = address_of(address)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        raw = socket.create_connection((host, port), timeout=_TIMEOUT_S)
    except OSError as error:
        return Call(connected=False, error=error.strerror or str(error))
    try:
        # As Flower loads it.
        context.load_verify_locations(cadata=roots.read_bytes().decode("ascii"))
    except (OSError, ValueError) as error:
        raw.close()
        return Call(connected=True, error=f"{roots} cannot be used ({error})")
    try:
        with raw, context.wrap_socket(raw, server_hostname=name or host) as connection:
            certificate = connection.getpeercert(binary_form=True) or b""
            connection.sendall(f"HEAD /health HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode())
            return Call(connected=True, certificate=certificate, date=_date(_head(connection)))
    except ssl.SSLCertVerificationError as error:
        return Call(connected=True, error=f"its certificate is not accepted: {error.verify_message}")
    except OSError as error:
        return Call(connected=True, error=f"it does not speak TLS as a SuperLink does ({error})")


def certificate_check(*, certificate: Path, key: Path, roots: Path, hosts: Sequence[str], remedy: str) -> Check:
    """Whether the certificate is the key's, signed by the authority, and accepted for every host."""

    def look() -> Check:
        check(certificate=certificate, key=key, roots=roots, hosts=hosts)
        return good("certificate", f"{certificate} is its key's, and is accepted for {', '.join(hosts)}")

    return guarded("certificate", look, remedy)


def days_check(name: str, certificate: Path, remedy: str, *, now: datetime | None = None) -> Check:
    """How long a certificate lasts."""

    def look() -> Check:
        end = ends(certificate)
        days = (end - (now or datetime.now(UTC))).days
        found = f"{certificate} ends on {end.date().isoformat()}, in {days} days"
        if days < 0:
            return bad(name, f"{certificate} ended on {end.date().isoformat()}", remedy)
        return doubtful(name, found, remedy) if days < SOON_DAYS else good(name, found)

    return guarded(name, look, remedy)


def port_check(address: str, called: Call, certificate: Path, remedy: str) -> Check:
    """At the coordinator: whether its port is free, or its own SuperLink answers there."""
    host, port = address_of(address)
    if not called.connected:
        try:
            with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((host, port))
        except OSError as error:
            return bad(
                "port", f"{address} cannot be listened at: {error.strerror}", "superlink.listen, superlink.address"
            )
        return doubtful("port", f"{address} is free: the SuperLink does not run", remedy)
    own = ssl.PEM_cert_to_DER_cert(_first(certificate.read_text("ascii")))
    if called.error or called.certificate != own:
        why = called.error or "it shows another certificate"
        return bad(
            "port",
            f"another program, or a SuperLink that was not restarted, answers at {address}: {why}",
            f"See which it is: ss -ltnp sport = :{port}; then {remedy}",
        )
    return good("port", f"this SuperLink answers at {address}")


def superlink_check(address: str, called: Call, roots: Path) -> Check:
    """At a partner: whether the SuperLink answers, and is the one that the root certificate vouches for."""
    host, port = address_of(address)
    if not called.connected:
        return bad(
            "SuperLink",
            f"{address} is out of reach: {called.error}",
            f"Ask the coordinator whether it runs; here: getent hosts {host}; the firewall has to let {port}/tcp out",
        )
    if called.error:
        return bad(
            "SuperLink",
            f"{address} answers, but {called.error}",
            f"Compare ca.pem with the coordinator's by telephone: sha256sum {shlex.quote(str(roots))}",
        )
    return good("SuperLink", f"{address} answers with a certificate that {roots} vouches for")


def clock_check(called: Call, *, now: datetime | None = None) -> Check:
    """Whether this clock goes as the SuperLink's does."""
    if called.date is None:
        return doubtful("clock", "not compared: the SuperLink said no time", "Compare it by hand: date -u")
    seconds = ((now or datetime.now(UTC)) - called.date).total_seconds()
    found = f"{abs(seconds):.0f} s {'ahead of' if seconds > 0 else 'behind'} the SuperLink's"
    remedy = "Let both machines follow a time server: timedatectl set-ntp true"
    if abs(seconds) >= CLOCK_FAIL_S:
        return bad("clock", f"{found}; Flower refuses a SuperNode from {CLOCK_FAIL_S} s on", remedy)
    return doubtful("clock", found, remedy) if abs(seconds) > CLOCK_WARN_S else good("clock", found)


def _head(connection: ssl.SSLSocket) -> str:
    content = b""
    while b"\r\n\r\n" not in content and len(content) < _HEAD_BYTES:
        part = connection.recv(4096)
        if not part:
            break
        content += part
    return content.decode("latin-1")


def _date(head: str) -> datetime | None:
    for line in head.split("\r\n"):
        name, _, value = line.partition(":")
        if name.lower() == "date":
            try:
                return parsedate_to_datetime(value.strip())
            except ValueError:
                return None
    return None


def _first(text: str) -> str:
    end = "-----END CERTIFICATE-----"
    return text[text.index("-----BEGIN CERTIFICATE-----") : text.index(end) + len(end)]
