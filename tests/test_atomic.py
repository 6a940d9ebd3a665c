"""A file is written whole, and is on disk before its name is."""

import os
from pathlib import Path

from pharma_fl.atomic import write_atomic


def test_content_is_flushed_then_named_then_the_folder_is_flushed(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "file"
    done = []
    real = os.fsync

    def fsync(handle):
        target = Path(f"/proc/self/fd/{handle}").readlink()
        done.append(("folder" if target.is_dir() else "file", path.exists()))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    write_atomic(path, b"all of it")
    assert path.read_bytes() == b"all of it"
    assert done == [("file", False), ("folder", True)]
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]
