"""A folder is replaced whole or not at all, even by a process that is killed."""

import errno
import signal
import subprocess
import sys

import pytest

from pharma_fl.data import replacement as module
from pharma_fl.data.replacement import leftovers, replacement


def content(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "old").write_text("old")
    return folder


@pytest.mark.parametrize("exchange", [True, False])
def test_a_finished_folder_takes_the_place(folder, monkeypatch, exchange):
    if not exchange:
        monkeypatch.setattr(module, "_exchange", lambda one, other: errno.EINVAL)
    with replacement(folder) as part:
        (part / "new").write_text("new")
    assert content(folder) == {"new": "new"}
    assert [path.name for path in folder.parent.iterdir()] == ["data"]


def test_a_first_folder_needs_its_parent_only_now(tmp_path):
    with replacement(tmp_path / "a" / "data") as part:
        (part / "new").write_text("new")
    assert content(tmp_path / "a" / "data") == {"new": "new"}


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failed_block_changes_nothing(folder, error):
    def fail():
        with replacement(folder) as part:
            (part / "new").write_text("new")
            raise error

    with pytest.raises(error):
        fail()
    assert content(folder) == {"old": "old"}
    assert [path.name for path in folder.parent.iterdir()] == ["data"]


def test_a_refusing_disk_changes_nothing(folder, monkeypatch):
    monkeypatch.setattr(module, "_exchange", lambda one, other: errno.EACCES)
    with pytest.raises(OSError, match="denied"), replacement(folder) as part:
        (part / "new").write_text("new")
    assert content(folder) == {"old": "old"}


def test_a_failed_rename_puts_the_old_folder_back(folder, monkeypatch):
    monkeypatch.setattr(module, "_exchange", lambda one, other: errno.EINVAL)
    with pytest.raises(FileNotFoundError), replacement(folder) as part:
        monkeypatch.setattr(module, "flush", lambda path: part.exists() and part.rename(f"{part}-gone"))
    assert content(folder) == {"old": "old"}


def test_a_link_to_the_folder_stays_a_link(folder, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(folder)
    with replacement(link) as part:
        (part / "new").write_text("new")
    assert link.is_symlink()
    assert content(folder) == {"new": "new"}


@pytest.mark.parametrize("point", ["flush", "_put"])
def test_a_killed_process_leaves_the_old_folder(folder, point):
    script = f"""
import os, signal, sys
from pathlib import Path
from pharma_fl.data import replacement as module
module.{point} = lambda *paths: os.kill(os.getpid(), signal.SIGKILL)
with module.replacement(Path(sys.argv[1])) as part:
    (part / "new").write_text("new")
"""
    done = subprocess.run([sys.executable, "-c", script, str(folder)], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert content(folder) == {"old": "old"}


def test_leftovers_are_those_of_this_folder_alone(folder, tmp_path):
    mine, other, odd = (
        tmp_path / name for name in (".data.abc_1234.part", ".data.south.abc_1234.part", ".data.x.part")
    )
    for path in (mine, other, odd):
        path.mkdir()
    assert leftovers(folder) == [mine]
    # Where the folder itself is gone, a part may be all that is left of it.
    assert not leftovers(tmp_path / "gone")


def test_leftovers_of_an_odd_name(tmp_path):
    for name in ("data[1]", "*"):
        (tmp_path / name).mkdir()
    (tmp_path / ".data[1].abc_1234.part").mkdir()
    assert leftovers(tmp_path / "data[1]") == [tmp_path / ".data[1].abc_1234.part"]
    assert not leftovers(tmp_path / "*")
