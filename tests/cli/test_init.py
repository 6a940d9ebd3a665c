"""`pharma-fl init`: folders to start from, out of the presets with their comments, and nothing overwritten."""

import json
import stat

import pytest
from tests.cli.calls import call, refused
from tests.conftest import PROJECT

from pharma_fl.config import Federation, Partner

FL = ("--name", "lipids", "--address", "fl.example.com:8443", "--partners", "north,east, south")


def comments(text):
    return {line.split("#", 1)[1] for line in text.splitlines() if "#" in line}


@pytest.mark.parametrize("preset", ["dp-fedsgd", "dp-fedavg", "fedavg-unprotected"])
def test_a_coordinator_s_folder(tmp_path, preset):
    call("init", "coordinator", tmp_path / "fl", *FL, "--preset", preset)
    federation = Federation.load(tmp_path / "fl" / "federation.toml")
    assert federation.name == "lipids"
    assert federation.partners == {"north": 1.0, "east": 1.0, "south": 1.0}
    assert federation.roster == "roster.toml"
    assert (federation.superlink.address, federation.superlink.listen) == ("fl.example.com:8443", "0.0.0.0")
    given = Federation.load(PROJECT / "strategies" / f"{preset}.toml")
    for same in ("model", "training", "privacy", "quorum", "evaluation", "seed"):
        assert getattr(federation, same) == getattr(given, same)
    text = (tmp_path / "fl" / "federation.toml").read_text()
    assert comments((PROJECT / "strategies" / f"{preset}.toml").read_text()) <= comments(text)


@pytest.mark.parametrize("preset", ["standard", "strict", "gpu"])
def test_a_partner_s_folder(tmp_path, preset):
    link = ("--superlink", "fl.example.com:8443")
    call("init", "partner", tmp_path / "n", "--name", "south", *link, "--preset", preset, "--port", "9100")
    partner = Partner.load(tmp_path / "n" / "partner.toml")
    assert partner.name == "south"
    assert (partner.supernode.superlink, partner.supernode.port) == ("fl.example.com:8443", 9100)
    given = Partner.load(PROJECT / "clients" / f"{preset}.toml")
    for same in ("budget", "policy", "tables", "structures", "fingerprint", "folds", "compute"):
        assert getattr(partner, same) == getattr(given, same)
    text = (tmp_path / "n" / "partner.toml").read_text()
    assert comments((PROJECT / "clients" / f"{preset}.toml").read_text()) <= comments(text)


def test_folders_are_for_their_owner(tmp_path):
    call("init", "coordinator", tmp_path / "fl", *FL)
    call("init", "partner", tmp_path / "n", "--name", "north", "--superlink", "fl.example.com:8443")
    for side in ("fl", "n"):
        for path in [tmp_path / side, *(tmp_path / side).rglob("*")]:
            assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path


def test_nothing_is_overwritten(tmp_path):
    call("init", "coordinator", tmp_path / "fl", *FL)
    before = {path: path.read_bytes() for path in (tmp_path / "fl").rglob("*") if path.is_file()}
    assert "PFL-C07" in refused("init", "coordinator", tmp_path / "fl", *FL)
    (tmp_path / "fl" / "federation.toml").unlink()
    assert "PFL-C07" in refused("init", "coordinator", tmp_path / "fl", *FL)
    assert not (tmp_path / "fl" / "federation.toml").exists()
    del before[tmp_path / "fl" / "federation.toml"]
    assert before == {path: path.read_bytes() for path in (tmp_path / "fl").rglob("*") if path.is_file()}


def test_a_folder_with_other_files_can_be_used(tmp_path):
    (tmp_path / "T1.csv").write_text("mine")
    call("init", "partner", tmp_path, "--name", "north", "--superlink", "fl.example.com:8443")
    assert (tmp_path / "T1.csv").read_text() == "mine"


def test_programs_are_told_what_was_made(tmp_path):
    said = json.loads(call("init", "coordinator", tmp_path / "fl", *FL, "--json").stdout)
    assert said["folder"] == str(tmp_path / "fl")
    assert all((tmp_path / "fl" / name).is_file() for name in said["files"])
    assert any("provision" in step for step in said["next"])


@pytest.mark.parametrize(
    ("changes", "code", "named"),
    [
        ({"--name": 'x"y'}, "PFL-C0[23]", ""),
        ({"--name": "North"}, "PFL-C03", "name"),
        ({"--address": "fl.example.com"}, "PFL-C03", "superlink.address"),
        ({"--address": "https://fl.example.com:8443"}, "PFL-C03", "superlink.address"),
        ({"--partners": ""}, "PFL-C03", "partners"),
        ({"--partners": "north,north"}, "PFL-C02", ""),
        ({"--partners": "north,Ea st"}, "PFL-C0[23]", ""),
        ({"--preset": "absent"}, "PFL-C06", "dp-fedavg"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(tmp_path, changes, code, named):
    import re

    options = dict(zip(FL[::2], FL[1::2], strict=True)) | changes
    said = refused("init", "coordinator", tmp_path / "fl", *(part for pair in options.items() for part in pair))
    assert re.search(code, said)
    assert named in said
    assert not (tmp_path / "fl").exists()
