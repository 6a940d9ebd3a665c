"""The coordinator's authority and certificate: for whom they hold, for how long, and what does not pass."""

import datetime as dt
import ipaddress
import stat

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from pharma_fl.deployment.certificates import check, ends, issue, make_authority, make_key, request
from pharma_fl.errors import ConfigError

HOSTS = ["fl.example.com", "10.1.2.3", "::1", "localhost", "127.0.0.1"]


@pytest.fixture
def tls(tmp_path):
    make_authority(tmp_path / "ca.key", tmp_path / "ca.pem", "lipids")
    make_key(tmp_path / "server.key")
    issue(tmp_path / "ca.key", tmp_path / "ca.pem", tmp_path / "server.key", tmp_path / "server.pem", HOSTS)
    return tmp_path


def shake(tls, *hosts, roots=None, key=None):
    check(
        certificate=tls / "server.pem",
        key=key or tls / "server.key",
        roots=roots or tls / "ca.pem",
        hosts=hosts,
    )


def certificate(path):
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_it_holds_for_every_host_it_was_made_for(tls):
    shake(tls, *HOSTS)


@pytest.mark.parametrize("host", ["other.example.com", "example.com", "10.1.2.4", "::2"])
def test_it_holds_for_no_other(tls, host):
    with pytest.raises(ConfigError, match=f"PFL-C12.*{host}"):
        shake(tls, host)


def test_another_authority_does_not_vouch_for_it(tls, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    make_authority(other / "ca.key", other / "ca.pem", "lipids")
    with pytest.raises(ConfigError, match="PFL-C12"):
        shake(tls, "localhost", roots=other / "ca.pem")


def test_another_key_does_not_fit_it(tls):
    make_key(tls / "other.key")
    with pytest.raises(ConfigError, match="PFL-C12"):
        shake(tls, "localhost", key=tls / "other.key")


def test_one_that_has_ended_is_refused(tls, monkeypatch):
    monkeypatch.setattr("pharma_fl.deployment.certificates.SERVER_DAYS", 0)
    # It begins an hour ago and ends now.
    issue(tls / "ca.key", tls / "ca.pem", tls / "server.key", tls / "server.pem", HOSTS)
    with pytest.raises(ConfigError, match=r"expired.*--renew"):
        shake(tls, "localhost")


def test_lifetimes_and_uses(tls):
    authority, server = certificate(tls / "ca.pem"), certificate(tls / "server.pem")
    now = dt.datetime.now(dt.UTC)
    assert 3650 <= (authority.not_valid_after_utc - now).days <= 3653
    assert 395 <= (server.not_valid_after_utc - now).days <= 397
    assert ends(tls / "server.pem") == server.not_valid_after_utc
    constraints = authority.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert (constraints.ca, constraints.path_length) == (True, 0)
    assert not server.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["fl.example.com", "localhost"]
    addresses = [ipaddress.ip_address(one) for one in ("10.1.2.3", "::1", "127.0.0.1")]
    assert names.get_values_for_type(x509.IPAddress) == addresses
    server.verify_directly_issued_by(authority)


def test_keys_are_for_their_owner_and_never_made_twice(tls):
    before = {name: (tls / name).read_bytes() for name in ("ca.key", "server.key", "ca.pem")}
    assert not make_key(tls / "server.key")
    assert not make_authority(tls / "ca.key", tls / "ca.pem", "lipids")
    assert before == {name: (tls / name).read_bytes() for name in before}
    assert {stat.S_IMODE((tls / name).stat().st_mode) for name in ("ca.key", "server.key")} == {0o600}


def test_a_key_that_others_may_open_is_refused(tls):
    (tls / "server.key").chmod(0o640)
    with pytest.raises(ConfigError, match="PFL-C12.*0640"):
        make_key(tls / "server.key")


@pytest.mark.parametrize("gone", ["ca.key", "ca.pem"])
def test_half_an_authority_is_not_made_anew(tls, gone):
    (tls / gone).unlink()
    with pytest.raises(ConfigError, match=f"PFL-C12.*{gone}"):
        make_authority(tls / "ca.key", tls / "ca.pem", "lipids")


def test_a_request_asks_for_the_key_and_every_host(tls):
    request(tls / "server.key", tls / "server.csr", HOSTS)
    made = x509.load_pem_x509_csr((tls / "server.csr").read_bytes())
    assert made.is_signature_valid
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert len(list(names)) == len(HOSTS)
    assert made.public_key() == load_pem_private_key((tls / "server.key").read_bytes(), None).public_key()


@pytest.mark.parametrize("content", [b"", b"-----BEGIN CERTIFICATE-----\nx\n", "é".encode()])
def test_what_is_no_certificate_is_refused(tls, content):
    (tls / "ca.pem").write_bytes(content)
    with pytest.raises(ConfigError, match="PFL-C12"):
        shake(tls, "localhost")
