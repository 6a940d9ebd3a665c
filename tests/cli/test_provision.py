"""`pharma-fl provision` and `pharma-fl commands`: what is made, what is kept, what is refused, what is printed."""

import json
import os
import shlex
import stat
import subprocess

import pytest
from cryptography import x509
from tests.cli.calls import call, refused

from pharma_fl.config import PartnerKeys, RosterKeys
from pharma_fl.deployment.lines import coordinator_lines, partner_lines
from pharma_fl.signing_key import SigningKey

NAMES = ("north", "east", "south")


@pytest.fixture
def kits(tmp_path):
    """A coordinator and three partners, each with its own keys, before any card was sent."""
    link = "fl.example.com:8443"
    listed = ("--address", link, "--partners", ",".join(NAMES))
    call("init", "coordinator", tmp_path / "fl", "--name", "lipids", *listed)
    call("provision", tmp_path / "fl" / "federation.toml")
    for name in NAMES:
        call("init", "partner", tmp_path / name, "--name", name, "--superlink", link)
        call("provision", tmp_path / name / "partner.toml")
    return tmp_path


def cards(folder, names=NAMES):
    return [folder / name / "card.toml" for name in names]


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def end_of(folder):
    return x509.load_pem_x509_certificate((folder / "fl" / "tls" / "server.pem").read_bytes())


def test_private_keys_are_for_their_owner_alone(kits):
    private = [path for path, content in files(kits).items() if b"PRIVATE KEY" in content]
    assert {path.relative_to(kits).as_posix() for path in private} == {
        *(f"{name}/{key}" for name in NAMES for key in ("identity.key", "keys/supernode.key")),
        "fl/tls/ca.key",
        "fl/tls/server.key",
    }
    assert {stat.S_IMODE(path.stat().st_mode) for path in private} == {0o600}


def test_a_second_call_keeps_everything_and_says_so(kits):
    before = files(kits)
    for file in ("fl/federation.toml", "north/partner.toml"):
        said = json.loads(call("provision", kits / file, "--json").stdout)
        assert said["made"] == []
        assert {"fl": "tls/ca.key", "north": "keys/supernode.key"}[file.split("/")[0]] in said["kept"]
    assert files(kits) == before


def test_cards_become_lists_of_keys(kits):
    call("provision", kits / "fl" / "federation.toml", "--cards", *cards(kits))
    identities = {name: SigningKey(kits / name / "identity.key").public for name in NAMES}
    roster = RosterKeys.load(kits / "fl" / "roster.toml").partners
    assert {name: entry.identity for name, entry in roster.items()} == identities
    for name in NAMES:
        said = call("provision", kits / name / "partner.toml", "--cards", *cards(kits)).stdout
        assert all(key in said for key in identities.values())
        assert PartnerKeys.load(kits / name / "partner-keys.toml").partners == identities
        public = (kits / "fl" / "cards" / f"{name}.pub").read_text()
        assert public == (kits / name / "keys" / "supernode.pub").read_text()


def test_one_s_own_card_may_be_left_out(kits):
    call("provision", kits / "north" / "partner.toml", "--cards", *cards(kits, ["east", "south"]))
    assert set(PartnerKeys.load(kits / "north" / "partner-keys.toml").partners) == set(NAMES)


def test_the_roster_needs_every_partner_and_no_other(kits):
    file = kits / "fl" / "federation.toml"
    assert "No card of south" in refused("provision", file, "--cards", *cards(kits, ["north", "east"]))
    call("init", "partner", kits / "west", "--name", "west", "--superlink", "fl.example.com:8443")
    call("provision", kits / "west" / "partner.toml")
    assert "does not list west" in refused("provision", file, "--cards", *cards(kits, [*NAMES, "west"]))
    assert not (kits / "fl" / "roster.toml").exists()


def test_somebody_else_s_card_under_one_s_own_name_is_refused(kits, tmp_path_factory):
    other = tmp_path_factory.mktemp("other") / "north"
    call("init", "partner", other, "--name", "north", "--superlink", "fl.example.com:8443")
    call("provision", other / "partner.toml")
    said = refused("provision", kits / "north" / "partner.toml", "--cards", other / "card.toml", *cards(kits, ["east"]))
    assert "PFL-C09" in said


@pytest.mark.parametrize(
    ("side", "listed"), [("fl/federation.toml", "fl/roster.toml"), ("east/partner.toml", "east/partner-keys.toml")]
)
def test_a_changed_identity_is_accepted_by_a_person_alone(kits, side, listed):
    call("provision", kits / side, "--cards", *cards(kits))
    before = (kits / listed).read_text()
    for name in ("identity.key", "card.toml"):
        (kits / "north" / name).unlink()
    call("provision", kits / "north" / "partner.toml")
    assert "north is another" in refused("provision", kits / side, "--cards", *cards(kits))
    assert (kits / listed).read_text() == before
    call("provision", kits / side, "--cards", *cards(kits), "--replace")
    assert SigningKey(kits / "north" / "identity.key").public in (kits / listed).read_text()


def test_renewing_makes_a_certificate_for_the_same_key(kits):
    before, key = end_of(kits), (kits / "fl" / "tls" / "server.key").read_bytes()
    authority = (kits / "fl" / "tls" / "ca.pem").read_bytes()
    call("provision", kits / "fl" / "federation.toml", "--renew")
    assert end_of(kits).serial_number != before.serial_number
    assert end_of(kits).public_key() == before.public_key()
    assert (kits / "fl" / "tls" / "server.key").read_bytes() == key
    assert (kits / "fl" / "tls" / "ca.pem").read_bytes() == authority


def test_a_new_address_needs_a_new_certificate(kits):
    file = kits / "fl" / "federation.toml"
    file.write_text(file.read_text().replace("fl.example.com:8443", "10.1.2.3:9000"))
    said = refused("provision", file)
    assert "10.1.2.3" in said
    assert "--renew" in said
    call("provision", file, "--renew")
    assert "127.0.0.1:9000" in (kits / "fl" / "flwr" / "config.toml").read_text()
    assert "--port 9000" in (kits / "fl" / "start").read_text()


def test_a_company_s_own_authority(kits, tmp_path):
    """A request for its authority, then its certificate in the place of ours; the authority's key is nowhere here."""
    from pharma_fl.deployment.certificates import issue

    fl, company = kits / "fl", kits / "company"
    company.mkdir()
    for name in ("ca.key", "ca.pem", "server.pem", "server.key"):
        (fl / "tls" / name).rename(company / name)
    call("provision", fl / "federation.toml", "--csr")
    assert sorted(path.name for path in (fl / "tls").iterdir()) == ["server.csr", "server.key"]
    hosts = ["fl.example.com", "127.0.0.1"]
    issue(company / "ca.key", company / "ca.pem", fl / "tls" / "server.key", fl / "tls" / "server.pem", hosts)
    (fl / "tls" / "ca.pem").write_bytes((company / "ca.pem").read_bytes())
    said = json.loads(call("provision", fl / "federation.toml", "--json").stdout)
    assert "tls/server.pem" in said["kept"]
    assert not (fl / "tls" / "ca.key").exists()
    assert "--csr" in refused("provision", fl / "federation.toml", "--renew")


def test_a_company_s_certificate_that_leaves_this_machine_out_is_refused(kits):
    """The SuperLink's own processes call it by 127.0.0.1."""
    from pharma_fl.deployment.certificates import issue

    tls = kits / "fl" / "tls"
    issue(tls / "ca.key", tls / "ca.pem", tls / "server.key", tls / "server.pem", ["fl.example.com"])
    assert "127.0.0.1" in refused("provision", kits / "fl" / "federation.toml")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("fl/federation.toml", "--cards"), "PFL-C09"),
        (("fl/federation.toml", "north/card.toml"), "PFL-C09"),
        (("fl/federation.toml", "--replace"), "PFL-C09"),
        (("north/partner.toml", "--renew"), "PFL-C12"),
        (("north/partner.toml", "--csr"), "PFL-C12"),
        (("fl/federation.toml", "--csr", "--renew"), "PFL-C12"),
        (("fl/start",), "PFL-C08"),
        (("fl",), "PFL-C08"),
        (("absent/partner.toml",), "PFL-C01"),
    ],
)
def test_what_does_not_go_together_is_refused(kits, arguments, code):
    before = files(kits)
    assert code in refused("provision", *(one if one.startswith("--") else kits / one for one in arguments))
    assert files(kits) == before


def test_a_simulation_s_files_are_refused(tmp_path):
    (tmp_path / "federation.toml").write_text('name = "a"\n[partners]\nb = 1.0\n[privacy]\nepsilon = 1.0\n')
    assert "PFL-C08" in refused("provision", tmp_path / "federation.toml")
    assert "PFL-C08" in refused("commands", tmp_path)


def test_commands_of_the_coordinator(kits):
    said = json.loads(call("commands", kits / "fl", "--json").stdout)
    lines = coordinator_lines(kits / "fl", _federation(kits))
    assert said["role"] == "coordinator"
    assert tuple(said["start"]) == lines.start
    assert said["environment"] == lines.environment
    assert set(said["register"]) == set(NAMES)
    shown = call("commands", kits / "fl").stdout.splitlines()
    for command in (lines.start, *lines.register.values(), *lines.then.values()):
        assert shlex.join(command) in shown


def test_commands_of_a_partner(kits):
    from pharma_fl.config import Partner

    lines = partner_lines(kits / "north", Partner.load(kits / "north" / "partner.toml"))
    shown = call("commands", kits / "north").stdout.splitlines()
    for command in (lines.start, *lines.then.values()):
        assert shlex.join(command) in shown


def test_a_shell_takes_what_is_printed(kits):
    """The exports hold for what comes after them."""
    exports = [
        line for line in call("commands", kits / "north").stdout.splitlines() if line.startswith(("export", "#"))
    ]
    done = subprocess.run(["sh", "-ec", "\n".join([*exports, "env"])], capture_output=True, text=True, check=True)
    assert f"FLWR_HOME={kits / 'north' / 'flwr'}" in done.stdout.splitlines()
    assert f"PATH={kits / 'north' / 'bin'}{os.pathsep}" in done.stdout


def test_a_folder_that_is_no_kit_has_no_commands(kits):
    assert "neither" in refused("commands", kits)
    (kits / "north" / "federation.toml").write_text("")
    assert "PFL-C08" in refused("commands", kits / "north")


def _federation(kits):
    from pharma_fl.config import Federation

    return Federation.load(kits / "fl" / "federation.toml")
