"""The coordinator's TLS: an authority and a certificate of its own, or a request to the company's authority.

Every connection to the SuperLink is TLS, also that of the processes it starts itself, which go to this machine's own
address. So the certificate names what partners call (`superlink.address`) and what this machine calls itself.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import ssl
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pharma_fl.atomic import write_atomic
from pharma_fl.deployment.private_files import make_once
from pharma_fl.errors import ConfigError

AUTHORITY_DAYS = 3653
SERVER_DAYS = 397
"""What browsers accept at most; long enough for a federation, short enough that somebody knows how to renew it."""
_PUBLIC = 0o644


def make_key(path: Path) -> bool:
    """Make a private key, P-384 in PKCS#8, where there is none; return whether it was made."""
    return make_once(
        path,
        lambda: ec.generate_private_key(ec.SECP384R1()).private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        ),
    )


def make_authority(key: Path, certificate: Path, name: str) -> bool:
    """Make an authority for this federation alone where there is none; return whether it was made.

    Raises
    ------
    ConfigError
        ``PFL-C12`` one of the two files is there without the other.
    """
    if certificate.exists() and key.exists():
        make_key(key)
        return False
    if certificate.exists() or key.exists():
        there, missing = (certificate, key) if certificate.exists() else (key, certificate)
        raise ConfigError(
            "PFL-C12",
            f"{there} is there, and {missing} is not. Restore it from a backup, use --csr for a company's authority, "
            f"or move {there} away for a new authority, whose certificate every partner then needs.",
        )
    make_key(key)
    signer = _load_key(key)
    subject = _name(f"{name} federation authority")
    public = signer.public_key()
    made = (
        _builder(subject, public, AUTHORITY_DAYS)
        .issuer_name(subject)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(authority=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
        .sign(signer, SHA384())
    )
    write_atomic(certificate, made.public_bytes(Encoding.PEM), mode=_PUBLIC)
    return True


def issue(authority_key: Path, authority: Path, key: Path, certificate: Path, hosts: Sequence[str]) -> None:
    """Write a server certificate for these hosts, signed by the authority; the first of them is its common name."""
    signer, issuer = _load_key(authority_key), _load_certificate(authority)
    public = _load_key(key).public_key()
    made = (
        _builder(_name(hosts[0]), public, SERVER_DAYS)
        .issuer_name(issuer.subject)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(_alternatives(hosts), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .sign(signer, SHA384())
    )
    write_atomic(certificate, made.public_bytes(Encoding.PEM), mode=_PUBLIC)


def request(key: Path, path: Path, hosts: Sequence[str]) -> None:
    """Write a certificate request (PKCS#10) for these hosts."""
    made = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(_name(hosts[0]))
        .add_extension(_alternatives(hosts), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(_load_key(key), SHA384())
    )
    write_atomic(path, made.public_bytes(Encoding.PEM), mode=_PUBLIC)


def ends(certificate: Path) -> dt.datetime:
    """Return when the first certificate of a file ends."""
    return _load_certificate(certificate).not_valid_after_utc


def check(*, certificate: Path, key: Path, roots: Path, hosts: Sequence[str]) -> None:
    """Shake hands once for each host, in memory, as partners and Flower's own processes will.

    Raises
    ------
    ConfigError
        ``PFL-C12`` a file is missing or is not what it should be; the certificate is not the key's, not signed by the
        authority, has ended, or is for other hosts.
    """
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        server.load_cert_chain(certificate, key)
        # As Flower loads it.
        client.load_verify_locations(cadata=roots.read_bytes().decode("ascii"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            "PFL-C12",
            f"Cannot use {certificate}, {key} and {roots} together ({error}). Put the authority's certificate, in PEM "
            "and ASCII, and the server's, which must be this key's, where they belong (superlink in federation.toml).",
        ) from error
    for host in hosts:
        try:
            _handshake(server, client, host)
        except ssl.SSLError as error:
            said = getattr(error, "verify_message", "") or str(error)
            raise ConfigError(
                "PFL-C12",
                f"{certificate} is not accepted for {host}: {said}. Make a new one: pharma-fl provision FILE --renew, "
                "or --csr for the company's authority, which has to keep every name and address of the request.",
            ) from error


def _handshake(server: ssl.SSLContext, client: ssl.SSLContext, host: str) -> None:
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    one = server.wrap_bio(to_server, to_client, server_side=True)
    other = client.wrap_bio(to_client, to_server, server_hostname=host)
    done = 0
    while done < 2:
        done = 0
        # The client speaks first; either side waits until the other has spoken.
        for end in (other, one):
            try:
                end.do_handshake()
                done += 1
            except ssl.SSLWantReadError:
                continue


def _builder(subject: x509.Name, public: ec.EllipticCurvePublicKey, days: int) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        # Clocks of several companies differ.
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=days))
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common[:64])])


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _alternatives(hosts: Sequence[str]) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([_alternative(host) for host in dict.fromkeys(hosts)])


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(
            "PFL-C12", f"Cannot read the key {path} ({type(error).__name__}). Restore it from a backup."
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError("PFL-C12", f"{path} holds no elliptic-curve key. Move it away, and provision again.")
    return key


def _load_certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(
            "PFL-C12", f"Cannot read the certificate {path} ({type(error).__name__}). Restore it, or provision again."
        ) from error
