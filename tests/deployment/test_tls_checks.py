"""Certificates that are right, wrong and old; SuperLinks that answer over TLS on loopback, and other things that do."""

import contextlib
import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from pharma_fl.deployment.certificates import ends, issue, make_authority, make_key
from pharma_fl.deployment.tls_checks import (
    Call,
    call,
    certificate_check,
    clock_check,
    days_check,
    port_check,
    superlink_check,
)

NOW = datetime(2026, 11, 29, 6, 0, tzinfo=UTC)


class Files:
    """An authority and its server's key and certificate."""

    def __init__(self, folder, hosts=("localhost", "127.0.0.1")):
        self.roots, self.key, self.certificate = folder / "ca.pem", folder / "server.key", folder / "server.pem"
        make_authority(folder / "ca.key", self.roots, "test")
        make_key(self.key)
        issue(folder / "ca.key", self.roots, self.key, self.certificate, hosts)

    def check(self, **changes):
        facts = {"certificate": self.certificate, "key": self.key, "roots": self.roots, "hosts": ["localhost"]}
        return certificate_check(**facts | changes, remedy="provision")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return Files(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    return Files(tmp_path_factory.mktemp("others"))


@contextlib.contextmanager
def a_server(files=None, *, date=NOW):
    """Yield the address of a server that answers one question; without files it does not speak TLS."""
    said = f"HTTP/1.1 403 Forbidden\r\ndate: {format_datetime(date, usegmt=True)}\r\ncontent-length: 0\r\n\r\n".encode()

    def serve():
        with contextlib.suppress(OSError):
            connection, _ = listener.accept()
            with connection:
                if files is None:
                    connection.sendall(b"SSH-2.0-other\r\n")
                    connection.recv(1000)
                    return
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(files.certificate, files.key)
                with context.wrap_socket(connection, server_side=True) as spoken:
                    spoken.recv(1000)
                    spoken.sendall(said)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        thread.join(20)


def free_address():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return f"127.0.0.1:{probe.getsockname()[1]}"


def test_a_certificate_is_good_for_its_key_its_authority_and_its_hosts(files, others):
    assert files.check().status == "ok"
    for wrong in ({"hosts": ["fl.example.com"]}, {"key": others.key}, {"roots": others.roots}):
        found = files.check(**wrong)
        assert (found.status, found.remedy) == ("fail", "provision"), wrong


@pytest.mark.parametrize(("days", "status"), [(31, "ok"), (29, "warn"), (0.5, "warn"), (-1, "fail")])
def test_a_certificate_is_renewed_in_time(files, days, status):
    now = ends(files.certificate) - timedelta(days=days)
    assert days_check("certificate days", files.certificate, "renew", now=now).status == status


def test_a_certificate_that_is_not_there_fails(tmp_path):
    assert days_check("certificate days", tmp_path / "none.pem", "provision").status == "fail"


def test_a_superlink_shows_its_certificate_and_its_clock_though_it_refuses_the_question(files):
    with a_server(files) as address:
        called = call(address, files.roots)
    assert (called.connected, called.error, called.date) == (True, "", NOW)
    assert superlink_check(address, called, files.roots).status == "ok"
    assert port_check(address, called, files.certificate, "start").status == "ok"


def test_another_authority_s_superlink_is_not_believed(files, others):
    with a_server(others) as address:
        called = call(address, files.roots)
    found = superlink_check(address, called, files.roots)
    assert found.status == "fail"
    assert "certificate is not accepted" in found.found
    assert "sha256sum" in found.remedy


def test_what_is_no_superlink_holds_the_port(files):
    with a_server() as address:
        called = call(address, files.roots)
    assert called.connected
    assert port_check(address, called, files.certificate, "start").status == "fail"
    assert superlink_check(address, called, files.roots).status == "fail"


def test_a_superlink_with_its_old_certificate_was_not_restarted(files, tmp_path):
    with a_server(files) as address:
        called = call(address, files.roots)
    renewed = Files(tmp_path)
    found = port_check(address, called, renewed.certificate, "restart")
    assert found.status == "fail"
    assert "restart" in found.remedy


def test_a_free_port_waits_for_its_superlink_and_is_out_of_reach_for_partners(files):
    address = free_address()
    called = call(address, files.roots)
    assert not called.connected
    assert port_check(address, called, files.certificate, "start").status == "warn"
    assert superlink_check(address, called, files.roots).status == "fail"


def test_an_address_of_another_machine_cannot_be_listened_at(files):
    found = port_check("192.0.2.1:8000", Call(connected=False), files.certificate, "start")
    assert found.status == "fail"
    assert "superlink.listen" in found.remedy


def test_a_root_certificate_that_cannot_be_read_is_said(files, tmp_path):
    with a_server(files) as address:
        called = call(address, tmp_path / "none.pem")
    assert "none.pem cannot be used" in called.error


@pytest.mark.parametrize(
    ("seconds", "status"), [(0, "ok"), (-59, "ok"), (61, "warn"), (-299, "warn"), (300, "fail"), (-4000, "fail")]
)
def test_a_clock_that_goes_wrong_is_noticed_before_flower_refuses(seconds, status):
    called = Call(connected=True, date=NOW)
    assert clock_check(called, now=NOW + timedelta(seconds=seconds)).status == status


def test_without_an_answer_clocks_are_not_compared():
    assert clock_check(Call(connected=False)).status == "warn"
