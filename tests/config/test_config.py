"""Configuration: what is written is read, what is wrong is named."""

import pytest
from tests.conftest import PROJECT

from pharma_fl.config import Federation, Partner, federation_file, partner_file
from pharma_fl.config.presets import preset
from pharma_fl.errors import ConfigError, PharmaFlError

GOOD = 'name = "x"\n[partners]\na = 1.0\nb = 2.0\n[privacy]\nepsilon = 3.0\n'


def test_defaults():
    federation = Federation.parse(GOOD, source="test")
    assert federation.min_partners == 2
    assert federation.privacy.sample_rate == 0.3


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (GOOD.replace("3.0", "-3.0"), "privacy.epsilon"),
        (GOOD.replace("3.0", "nan"), "privacy.epsilon"),
        (GOOD.replace("3.0", "inf"), "privacy.epsilon"),
        (GOOD.replace("3.0", '"much"'), "privacy.epsilon"),
        (GOOD.replace("epsilon", "epsilom"), "privacy.epsilom: unknown key"),
        (GOOD + "delta = 1.0\n", "privacy.delta"),
        (GOOD + "sample_rate = 1.5\n", "privacy.sample_rate"),
        (GOOD + "noise_multiplier = 1.0\n", "exactly one"),
        (GOOD + 'mechanism = "none"\n', "protects nothing"),
        (GOOD + "[training]\nrounds = 0\n", "training.rounds"),
        (GOOD + "[quorum]\nmin_partners = 3\n", "exceeds the 2 partners"),
        (GOOD.replace("a = 1.0", "a = 0"), "partners.a"),
        (GOOD.replace("a = 1.0", '"A/../B" = 1'), "partners"),
        (GOOD.replace('name = "x"', ""), "name: required"),
        (GOOD.replace("[partners]\na = 1.0\nb = 2.0", "[partners]"), "partners"),
        ("name = ", "not valid TOML"),
    ],
)
def test_what_is_wrong_is_named(text, named):
    with pytest.raises(ConfigError, match=named) as caught:
        Federation.parse(text, source="federation.toml")
    assert "federation.toml" in str(caught.value)


def test_all_wrong_keys_are_named_at_once():
    with pytest.raises(ConfigError) as caught:
        Federation.parse(GOOD.replace("3.0", "-1") + "[model]\nhidden = []\nfoo = 1\n", source="t")
    assert all(key in str(caught.value) for key in ("privacy.epsilon", "model.hidden", "model.foo"))


def test_a_missing_or_unreadable_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="PFL-C01"):
        Federation.load(tmp_path / "absent.toml")
    (tmp_path / "latin.toml").write_bytes(b'name = "\xe9"')
    with pytest.raises(ConfigError, match="UTF-8"):
        Federation.load(tmp_path / "latin.toml")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('name = "a"\n', "budget"),
        ('name = "a"\n[budget]\nepsilon = 0\n', "budget.epsilon"),
        ('name = "a"\n[budget]\nepsilon = 1\n[folds]\ntest = 4\n', "two different folds"),
        ('name = "a"\n[budget]\nepsilon = 1\n[policy]\nallow = true\n', "policy.allow"),
    ],
)
def test_a_wrong_partner_file_is_refused(tmp_path, text, named):
    path = tmp_path / "partner.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=named):
        Partner.load(path)


def test_paths_are_relative_to_the_file(tmp_path, monkeypatch):
    (tmp_path / "partner.toml").write_text('name = "a"\ndata = "../d"\n[budget]\nepsilon = 1\n')
    monkeypatch.chdir("/")
    assert Partner.load(tmp_path / "partner.toml").path("../d") == tmp_path / "../d"


@pytest.mark.parametrize("path", sorted((PROJECT / "strategies").glob("*.toml")), ids=lambda p: p.name)
def test_every_strategy_preset_is_valid(path):
    Federation.load(path)
    assert preset("strategies", path.stem)


@pytest.mark.parametrize("path", sorted((PROJECT / "clients").glob("*.toml")), ids=lambda p: p.name)
def test_every_partner_preset_is_valid(path):
    Partner.load(path)
    assert preset("clients", path.stem)


def test_the_private_presets_differ_in_how_they_share_noise_alone():
    """The demo compares them at the same epsilon, so model and mechanism must agree."""
    own = Federation.load(PROJECT / "strategies" / "dp-fedavg.toml")
    shared = Federation.load(PROJECT / "strategies" / "dp-fedsgd.toml")
    assert (own.privacy.noise_mode, shared.privacy.noise_mode) == ("local", "shared")
    assert shared.privacy.model_copy(update={"noise_mode": "local"}) == own.privacy
    assert (own.partners, own.seed, own.model) == (shared.partners, shared.seed, shared.model)


def test_an_unknown_preset_is_refused():
    with pytest.raises(ConfigError, match="PFL-C06"):
        preset("clients", "absent")


def test_locating_files(monkeypatch):
    monkeypatch.delenv("PHARMA_FL_FEDERATION", raising=False)
    monkeypatch.delenv("PHARMA_FL_PARTNERS", raising=False)
    with pytest.raises(ConfigError, match="PFL-C04"):
        federation_file({"federation": ""})
    monkeypatch.setenv("PHARMA_FL_FEDERATION", "/b.toml")
    assert str(federation_file({})) == "/b.toml"
    assert str(federation_file({"federation": "/a.toml"})) == "/a.toml"
    with pytest.raises(ConfigError, match="PFL-C05"):
        partner_file({"partition-id": 0}, {})


def test_an_error_keeps_its_code_across_processes():
    import copy

    error = copy.copy(ConfigError("PFL-C01", "text"))
    assert isinstance(error, PharmaFlError)
    assert (error.code, str(error)) == ("PFL-C01", "[PFL-C01] text")
