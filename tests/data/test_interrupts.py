"""Kills, full disks, second processes: what was there stays, and what is finished is not lost."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pharma_fl.config import Partner
from pharma_fl.data.exclusive import exclusive
from pharma_fl.data.prepare import prepare
from pharma_fl.data.structure_cache import FILE
from pharma_fl.errors import DataError

MANY = 700

PREPARE = """
import sys
from pathlib import Path
from pharma_fl.config import Partner
from pharma_fl.data import structure_cache
from pharma_fl.data.prepare import prepare
structure_cache._COMMIT_EVERY_S = 0.0  # A fast machine is killed before its first second is over.
if __name__ == "__main__":
    # It goes on when it is told to, so that it is killed where the test wants it.
    told = lambda done, total: (print(done, flush=True), sys.stdin.readline())
    prepare(Partner.load(Path(sys.argv[1])), workers=2, progress=told)
"""


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture
def large(make_partner):
    """A partner with compounds enough to be interrupted."""
    rows = range(1, MANY + 1)
    t1 = "".join(f"{n},2,=,{3 + n % 7}\n" for n in rows)
    t2 = "".join(f"{n},{'C' * (n % 35)}c1c(O)cc(CC(=O)N{'C' * (n // 35)}O)cc1\n" for n in rows)
    header = "input_compound_id,input_assay_id,standard_qualifier,standard_value\n"
    return lambda **rest: make_partner(t1=header + t1, t2="input_compound_id,smiles\n" + t2, **rest)


def start(partner_file, script):
    script.write_text(PREPARE)
    return subprocess.Popen(
        [sys.executable, str(script), str(partner_file)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def go_on_until(running, wanted):
    """Let it work out so many structures of those that it found to do."""
    for line in running.stdout:
        if int(line) >= wanted:
            return
        running.stdin.write("\n")
        running.stdin.flush()
    raise AssertionError("it ended before it could be killed")


def processes_of(session):
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(entry.name))
    return found


@pytest.mark.slow
def test_a_killed_prepare_goes_on_and_ends_the_same(large, tmp_path):
    partner = large()
    whole = prepare(partner, workers=2)
    reference = contents(partner.path("data"))
    for path in partner.path("cache").iterdir():
        path.unlink()

    for wanted in (100, 100, 200):
        running = start(tmp_path / "partner.toml", tmp_path / "script.py")
        go_on_until(running, wanted)
        running.kill()
        running.wait()
        running.stdin.close()
        running.stdout.close()
        assert contents(partner.path("data")) == reference
        # Workers notice that nobody reads their answers.
        deadline = time.monotonic() + 60
        while processes_of(running.pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not processes_of(running.pid)

    seen = []
    again = prepare(partner, workers=1, progress=lambda done, total: seen.append(total))
    assert again == whole
    assert contents(partner.path("data")) == reference
    assert 0 < seen[0] < MANY - 100
    assert not list(partner.path("cache").glob("spool-*"))
    assert not list(tmp_path.glob(".data.*.part"))


@pytest.mark.slow
def test_an_interrupt_is_one_and_keeps_what_is_finished(large, tmp_path):
    large()
    running = start(tmp_path / "partner.toml", tmp_path / "script.py")
    go_on_until(running, 100)
    os.killpg(running.pid, signal.SIGINT)
    running.stdin.close()
    running.stdout.close()
    assert running.wait(timeout=60) != 0
    partner = Partner.load(tmp_path / "partner.toml")
    assert not partner.path("data").exists()
    seen = []
    prepare(partner, progress=lambda done, total: seen.append(total))
    assert seen[0] < MANY


def test_a_second_process_is_told_to_wait(make_partner):
    partner = make_partner()
    prepare(partner)
    before = contents(partner.path("data"))
    script = (
        "import sys, time; from pathlib import Path; from pharma_fl.data.exclusive import exclusive\n"
        "with exclusive(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"
    )
    for lock in (partner.path("cache") / "lock", partner.path(".data.lock")):
        holder = subprocess.Popen([sys.executable, "-c", script, str(lock)], stdout=subprocess.PIPE, text=True)
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(DataError, match="Another process") as caught:
            prepare(partner)
        assert caught.value.code == "PFL-D11"
        holder.kill()
        holder.wait()
        holder.stdout.close()
    assert contents(partner.path("data")) == before
    prepare(partner)


def test_a_lock_is_free_again(tmp_path):
    for _ in range(2):
        with exclusive(tmp_path / "lock"), pytest.raises(DataError), exclusive(tmp_path / "lock"):
            pass


FULL = """
import resource, signal, sys
from pathlib import Path
from pharma_fl.config import Partner
from pharma_fl.data.prepare import prepare
from pharma_fl.errors import DataError
if __name__ == "__main__":
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
    try:
        prepare(Partner.load(Path(sys.argv[1])))
    except DataError as error:
        print(error.code)
"""


@pytest.mark.parametrize("limit", [2_000, 40_000, 120_000])
def test_a_full_disk_is_an_error_and_nothing_is_lost(large, tmp_path, limit):
    """The limit on a file's size stands for the disk: writing beyond it fails in the same places."""
    partner = large(toml="[fingerprint]\nbits = 256")
    prepare(partner, workers=2)
    before, cached = contents(partner.path("data")), (partner.path("cache") / FILE).stat().st_size
    assert cached > 120_000
    other = large(toml="[fingerprint]\nbits = 512")
    script = tmp_path / "full.py"
    script.write_text(FULL)
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "partner.toml"), str(limit)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.stdout == "PFL-D10\n", done.stderr
    assert contents(partner.path("data")) == before
    assert not list(partner.path("cache").glob("spool-*"))
    prepare(other, workers=2)
    assert contents(partner.path("data")) != before
