"""`pharma-fl doctor`: a kit that is as it should be, and each thing that can be wrong with it, found by name."""

import json
import re
import shutil
from pathlib import Path

import pytest
from tests.cli.fake_flower import server_app_s
from tests.deployment.kits import provision_all, supernode, write_federation
from tests.partners import a_partner, a_request
from typer.testing import CliRunner

from pharma_fl.cli import main as module
from pharma_fl.cli.doctor import checks_of
from pharma_fl.cli.doctor_coordinator import needed_bytes, plan_check, supernode_check
from pharma_fl.cli.doctor_package import package_check
from pharma_fl.clients import bundle
from pharma_fl.clients.train import train_round
from pharma_fl.config import Federation, RosterKeys
from pharma_fl.deployment.run_folder import look
from pharma_fl.errors import FederationError, PharmaFlError
from pharma_fl.locks import locked
from pharma_fl.strategies.supernodes import SuperNode

NAMES = ("north", "south")
SECTIONS = """
[model]
input_bits = 64
hidden = [8]
[training]
rounds = 3
local_steps = 2
[privacy]
noise_multiplier = 4.0
"""


def call(*arguments):
    result = CliRunner().invoke(module.app, ["doctor", *map(str, arguments)])
    if result.exception and not isinstance(result.exception, SystemExit | PharmaFlError):
        raise result.exception
    return result


def statuses(file, plan=None):
    """Return each check's answer by name; every answer that is not ok has a remedy."""
    checks = checks_of(file, plan)
    assert all(one.remedy for one in checks if one.status != "ok")
    return {one.name: one.status for one in checks}


@pytest.fixture(autouse=True)
def installed(monkeypatch):
    """What is installed is as it was installed, however these tests run; returns what was changed."""
    changed = []
    monkeypatch.setattr(bundle, "installed_package", lambda: Path("/venv/pharma_fl"))
    monkeypatch.setattr(bundle, "changed_files", lambda: changed)
    return changed


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Kits of a coordinator and two partners, provisioned, with data, and nothing of it running."""
    folder = tmp_path_factory.mktemp("kits")
    federation = write_federation(folder / "coordinator", NAMES, SECTIONS)
    for seed, name in enumerate(NAMES):
        a_partner(folder, name, seed=seed, supernode=supernode(federation))
        (folder / name / "data" / "agreement.json").write_text("{}")
        (folder / name / "consortium.key").write_text("secret")
        (folder / name / "consortium.key").chmod(0o600)
    provision_all(folder / "coordinator", [folder / name for name in NAMES])
    return folder


@pytest.fixture
def kits(whole, tmp_path):
    """The same in the same place, put back as it was afterwards: paths are written into kits."""
    shutil.copytree(whole, tmp_path / "copy", dirs_exist_ok=True)
    yield whole
    shutil.rmtree(whole)
    shutil.copytree(tmp_path / "copy", whole)


@pytest.fixture
def coordinator(kits):
    return kits / "coordinator" / "federation.toml"


@pytest.fixture
def north(kits):
    return kits / "north" / "partner.toml"


COORDINATOR = {
    "settings": "ok",
    "versions": "ok",
    "package": "ok",
    "kit": "ok",
    "start script": "ok",
    "gate": "ok",
    "certificate": "ok",
    "certificate days": "ok",
    "authority days": "ok",
    "certificate key": "ok",
    "authority key": "ok",
    "port": "warn",
    "roster": "ok",
    "SuperNodes": "warn",
    "plan": "ok",
    "disk": "ok",
    "output": "ok",
}
"""A whole kit whose SuperLink does not run."""
PARTNER = {
    "settings": "ok",
    "versions": "ok",
    "package": "ok",
    "kit": "ok",
    "start script": "ok",
    "guard": "ok",
    "root certificate": "ok",
    "SuperLink": "fail",
    "clock": "warn",
    "SuperNode key": "ok",
    "identity key": "ok",
    "consortium key": "ok",
    "SuperNode": "warn",
    "data": "ok",
    "device": "ok",
    "disk": "ok",
    "ledger": "ok",
    "budget": "ok",
}
"""A whole kit whose SuperLink is out of reach."""


def test_a_whole_coordinator_s_kit_passes(coordinator):
    assert statuses(coordinator) == COORDINATOR
    result = call(coordinator)
    assert result.exit_code == 0
    assert re.search(r"warn +port .*is free: the SuperLink does not run\n +-> .*/coordinator/start", result.output)
    shown = json.loads(call(coordinator, "--json").stdout)
    assert shown["ok"]
    assert shown["checks"][0]["name"] == "settings"


def spoil(path, old, new):
    path.write_text(path.read_text().replace(old, new))


@pytest.mark.parametrize(
    ("break_it", "failing"),
    [
        (lambda kit: (kit / "tls" / "server.key").chmod(0o644), {"certificate key"}),
        (lambda kit: (kit / "tls" / "ca.key").chmod(0o644), {"authority key"}),
        (lambda kit: (kit / "tls" / "server.pem").unlink(), {"certificate", "certificate days"}),
        (lambda kit: spoil(kit / "federation.toml", "localhost:", "fl.example.com:"), {"certificate"}),
        (lambda kit: (kit / "roster.toml").unlink(), {"roster"}),
        (lambda kit: spoil(kit / "federation.toml", "south = 1.0", "west = 1.0"), {"roster"}),
        (lambda kit: (kit / "bin" / "flower-superlink").unlink(), {"kit", "gate"}),
        (lambda kit: (kit / "bin" / "flower-superlink").write_text("exec flower-superlink"), {"gate"}),
        (lambda kit: spoil(kit / "federation.toml", "noise_multiplier = 4.0", "epsilon = 1e-9"), {"plan"}),
        (lambda kit: spoil(kit / "federation.toml", "rounds = 3", "rounds = x"), {"settings"}),
        (lambda kit: spoil(kit / "federation.toml", "[superlink]", "[quorum]"), {"settings"}),
    ],
)
def test_what_is_wrong_at_the_coordinator_fails_by_name(coordinator, break_it, failing):
    break_it(coordinator.parent)
    assert {name for name, status in statuses(coordinator).items() if status == "fail"} == failing
    assert call(coordinator).exit_code == 1


def test_a_start_script_without_its_settings_fails(coordinator):
    for name in ("start", "environment"):
        if (coordinator.parent / name).exists():
            spoil(coordinator.parent / name, "FLWR_TELEMETRY_ENABLED=0", "")
    found = statuses(coordinator)
    assert (found["kit"], found["start script"]) == ("warn", "fail")


def test_the_output_folder_s_run_is_told(coordinator):
    output = coordinator.parent / "coordinator"
    server_app_s(output)
    assert statuses(coordinator)["output"] == "warn"
    with locked(output / "run.lock"):
        assert statuses(coordinator)["output"] == "ok"
    assert look(output).state == "broke-off"


def test_a_plan_without_privacy_is_no_plan_to_be_silent_about():
    text = 'name = "x"\n[partners]\nnorth = 1.0\n[privacy]\nmechanism = "none"\n'
    assert plan_check(Federation.parse(text, source="test")).status == "warn"


def test_the_disk_holds_the_checkpoints_that_are_kept():
    text = 'name = "x"\nkeep_checkpoints = {}\n[partners]\nnorth = 1.0\n[privacy]\nnoise_multiplier = 4.0\n{}'
    few = Federation.parse(text.format(1, ""), source="test")
    many = Federation.parse(text.format(11, '[training]\nserver_optimizer = "adam"\n'), source="test")
    trunk = (4096 + 1) * 32 * 4
    assert needed_bytes(few) - needed_bytes(many) == trunk * 3 - 3 * trunk * 13


def nodes_of(kit):
    """Return what a SuperLink tells of a roster's SuperNodes."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_public_key

    roster = RosterKeys.load(kit / "roster.toml").partners
    return roster, [
        SuperNode(
            node=number,
            name=name,
            public_key=load_ssh_public_key(entry.supernode.encode()).public_bytes(
                Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
            ),
            status="online",
            since="",
        )
        for number, (name, entry) in enumerate(sorted(roster.items()))
    ]


def test_supernodes_are_compared_with_the_roster_by_their_keys(coordinator):
    roster, nodes = nodes_of(coordinator.parent)
    assert supernode_check(nodes, roster, "register").status == "ok"
    missing = supernode_check(nodes[:1], roster, "register")
    assert (missing.status, missing.found, missing.remedy) == ("fail", "not registered: south", "register")
    away = supernode_check([nodes[0], SuperNode(**vars(nodes[1]) | {"status": "registered"})], roster, "register")
    assert (away.status, away.found) == ("warn", "not connected: south (registered)")
    known = {"north": roster["north"]}
    strange = supernode_check(nodes, known, "register")
    assert (strange.status, "unregister" in strange.remedy) == ("warn", True)


def test_a_whole_partner_s_kit_misses_its_superlink_alone(north, coordinator):
    assert statuses(north) == PARTNER
    assert statuses(north, coordinator) == PARTNER | {"plan": "ok"}
    assert call(north).exit_code == 1


@pytest.mark.parametrize(
    ("break_it", "name", "status"),
    [
        (lambda kit: (kit / "keys" / "supernode.key").chmod(0o644), "SuperNode key", "fail"),
        (lambda kit: (kit / "keys" / "supernode.key").write_text("no key"), "SuperNode key", "fail"),
        (lambda kit: (kit / "identity.key").unlink(), "identity key", "fail"),
        (lambda kit: shutil.copy(kit.parent / "south" / "identity.key", kit), "identity key", "fail"),
        (lambda kit: (kit / "partner-keys.toml").unlink(), "identity key", "warn"),
        (lambda kit: (kit / "tls" / "ca.pem").unlink(), "root certificate", "fail"),
        (lambda kit: (kit / "consortium.key").unlink(), "consortium key", "warn"),
        (lambda kit: (kit / "consortium.key").chmod(0o644), "consortium key", "fail"),
        (lambda kit: (kit / "data" / "agreement.json").unlink(), "data", "warn"),
        (lambda kit: (kit / "data" / "manifest.json").unlink(), "data", "fail"),
        (lambda kit: (kit / "bin" / "flwr-clientapp").unlink(), "guard", "fail"),
        (
            lambda kit: spoil(kit / "partner.toml", "[budget]", '[compute]\ndevice = "cuda:99"\n[budget]'),
            "device",
            "fail",
        ),
    ],
)
def test_what_is_wrong_at_a_partner_is_found_by_name(north, break_it, name, status):
    break_it(north.parent)
    assert statuses(north)[name] == status


def test_a_ledger_that_was_lost_fails_and_so_do_limits_that_were_loosened(north):
    from pharma_fl.config import Partner

    train_round(Partner.load(north), a_request(1))
    assert statuses(north) == PARTNER
    before = north.read_text()
    spoil(north, "epsilon = 5.0", "epsilon = 6.0")
    assert statuses(north)["budget"] == "fail"
    north.write_text(before)
    (north.parent / "ledger.sqlite").unlink()
    found = statuses(north)
    assert (found["ledger"], found["budget"]) == ("fail", "fail")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("noise_multiplier = 4.0", "noise_multiplier = 0.4"),
        ("rounds = 3", "rounds = 5000"),
        ("north = 1.0", "west = 1.0"),
    ],
)
def test_a_plan_that_the_partner_does_not_allow_fails(north, coordinator, old, new):
    spoil(coordinator, old, new)
    assert statuses(north, coordinator)["plan"] == "fail"


def test_a_package_that_was_changed_or_is_another_fails(installed, monkeypatch):
    assert package_check().status == "ok"
    installed.append("pharma_fl/errors.py")
    assert "pharma_fl/errors.py" in package_check().found

    def elsewhere():
        raise FederationError("PFL-F41", "pharma_fl was imported from elsewhere.")

    monkeypatch.setattr(bundle, "installed_package", elsewhere)
    assert package_check().status == "fail"


def test_other_files_and_options_that_do_not_go_together_are_refused(coordinator, tmp_path):
    assert call(tmp_path / "other.toml").exception.code == "PFL-C08"
    assert call(coordinator, "--plan", coordinator).exception.code == "PFL-C08"
