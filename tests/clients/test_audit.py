"""The partner's log: a line for each question, whole and its owner's alone; and what happens when it cannot be had."""

import errno
import json
import os
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.clients.test_app import ask, file_of
from tests.partners import a_join, a_partner, a_request

from pharma_fl.clients import audit
from pharma_fl.clients.audit import write_audit
from pharma_fl.errors import FederationError
from pharma_fl.messages.wire import round_request
from pharma_fl.privacy.ledger import Ledger


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_is_json_with_a_time_and_the_file_its_owners_alone(tmp_path):
    log = tmp_path / "new" / "audit.jsonl"
    write_audit(log, event="answered", note="two\nlines")
    (line,) = lines(log)
    assert line["note"] == "two\nlines"
    assert line["time"].endswith("+00:00")
    assert log.stat().st_mode & 0o777 == 0o600


def test_lines_of_many_at_once_do_not_run_into_each_other(tmp_path):
    log = tmp_path / "audit.jsonl"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: write_audit(log, n=n, long="x" * 20_000), range(64)))
    assert sorted(line["n"] for line in lines(log)) == list(range(64))


def test_half_a_line_does_not_swallow_the_next(tmp_path):
    log = tmp_path / "audit.jsonl"
    log.write_text('{"event": "answ')
    write_audit(log, event="refused")
    assert json.loads(log.read_text().splitlines()[1])["event"] == "refused"


@pytest.fixture
def unwritable(tmp_path):
    """A log that nobody can write, not even root: a folder stands in its place."""
    partner = a_partner(tmp_path)
    partner.path(partner.audit_log).mkdir()
    return partner


def test_without_a_log_nothing_is_answered_and_nothing_is_charged(tmp_path, unwritable):
    for content, kind in ((a_join("trial"), "query.join"), (round_request(a_request()), "train")):
        said = dict(ask(file_of(tmp_path), content, kind)["config"])
        assert (said["status"], said["code"]) == ("refused", "PFL-F42")
        assert said["reason"] == FederationError.public
    assert not unwritable.path(unwritable.ledger).exists()


class FullDisk:
    """Room for so many bytes in the log."""

    def __init__(self, room):
        self.room = room

    def __call__(self, file, content):
        if len(content) > self.room:
            return os.writev(file, [content[: self.room]]) if self.room else self.fail()
        return os.writev(file, [content])

    def fail(self):
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("room", [0, 10])
def test_a_round_whose_line_does_not_fit_leaves_when_it_is_asked_for_again(tmp_path, monkeypatch, room):
    partner = a_partner(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(audit.os, "write", FullDisk(room))
        said = dict(ask(file_of(tmp_path), round_request(a_request()))["config"])
        assert (said["status"], said["code"]) == ("refused", "PFL-F42")
    charged = Ledger.of(partner).head
    assert ask(file_of(tmp_path), round_request(a_request()))["config"]["status"] == "done"
    assert Ledger.of(partner).head == charged


def test_a_refusal_keeps_its_own_code_when_its_line_does_not_fit(tmp_path, monkeypatch):
    a_partner(tmp_path, policy={"federations": ["another"]})
    monkeypatch.setattr(audit.os, "write", FullDisk(0))
    assert ask(file_of(tmp_path), round_request(a_request()))["config"]["code"] == "PFL-P20"
