"""Kits as running processes: keys and certificates decide who takes part, and a partner that was killed comes back."""

import json

import pytest
from tests.deployment.kits import Kits, supernode, write_federation
from tests.partners import a_partner

from pharma_fl.deployment.certificates import make_authority

NAMES = ("east", "north")
SECTIONS = """
    [model]
    input_bits = 64
    hidden = [8]
    [training]
    rounds = 2
    local_steps = 1
    [privacy]
    epsilon = 3.0
    [tracking]
    enabled = false
"""


def stranger(folder, federation, name):
    """A partner with keys of its own that no roster lists."""
    a_partner(folder, name, seed=9, supernode=supernode(federation))
    return folder / name


def refusal(kits, name):
    return "Exit Code: 305" in kits.log(name)


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_partners_of_the_roster_train_and_nobody_else_is_let_in(tmp_path):
    federation = write_federation(tmp_path / "coordinator", NAMES, SECTIONS)
    for seed, name in enumerate(NAMES):
        a_partner(tmp_path, name, seed=seed, supernode=supernode(federation))
    with Kits(tmp_path, NAMES) as kits:
        kits.start_link()
        assert "registered as" in kits.register()
        assert "was registered before" in kits.register()
        for name in NAMES:
            kits.start_node(name)
        kits.wait(lambda: set(kits.nodes().values()) == {"online"}, 120, "the SuperNodes to be known")

        # A key that is not registered, and a SuperLink that another authority vouches for.
        from pharma_fl.deployment.provision import provision_partner

        for name in ("unknown", "wary"):
            place = stranger(tmp_path, federation, name)
            (place / "tls").mkdir()
            (place / "tls" / "ca.pem").write_bytes((kits.coordinator / "tls" / "ca.pem").read_bytes())
            provision_partner(place / "partner.toml")
        make_authority(tmp_path / "wary" / "other.key", tmp_path / "wary" / "other.pem", "other")
        (tmp_path / "wary" / "other.pem").replace(tmp_path / "wary" / "tls" / "ca.pem")
        kits.start_node("unknown")
        kits.start_node("wary")
        kits.wait(lambda: refusal(kits, "unknown"), 120, "the unknown SuperNode to be refused")
        kits.submit()
        kits.wait(lambda: not kits.lives("run"), 600, "the end of the run")
        assert set(kits.nodes()) == set(NAMES)
        logs = kits.logs()
        wary = kits.log("wary")
        kits.stop("unknown")
        kits.stop("wary")
    end = json.loads((tmp_path / "coordinator" / "coordinator" / "end.json").read_text())
    assert (end["status"], end["rounds"], end["refused"]) == ("completed", 2, {}), logs
    assert "SuperNode ID" not in wary, logs
    assert "CERTIFICATE_VERIFY_FAILED" in wary, logs


def connections(kits, name):
    return kits.log(name).count("SuperNode ID")


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_whoever_is_killed_comes_back_without_anybody_s_help(tmp_path):
    federation = write_federation(tmp_path / "coordinator", NAMES, SECTIONS)
    for seed, name in enumerate(NAMES):
        a_partner(tmp_path, name, seed=seed, supernode=supernode(federation))
    with Kits(tmp_path, NAMES) as kits:
        kits.start_all()
        kits.wait(lambda: set(kits.nodes().values()) == {"online"}, 120, "the SuperNodes to be known")

        # A SuperLink that was killed knows its nodes from its database: nobody registers again.
        kits.kill("superlink")
        kits.start_link()
        # A SuperNode that was killed is refused until its lease has ended, and its script tries again until then.
        kits.kill("north")
        kits.start_node("north")
        kits.wait(lambda: refusal(kits, "north"), 60, "the killed SuperNode to be refused")
        kits.wait(lambda: connections(kits, "north") == 2, 180, "the killed SuperNode to be let in again")
        kits.wait(lambda: set(kits.nodes().values()) == {"online"}, 60, "both to be known")
        assert connections(kits, "east") == 1

        # One that is asked to end says good-bye, and is let in at once.
        kits.stop("east")
        kits.start_node("east")
        kits.wait(lambda: connections(kits, "east") == 2, 60, "the SuperNode that ended in order to be let in")
        assert not refusal(kits, "east")
