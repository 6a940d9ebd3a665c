"""Cards: what one says, that a change is noticed, and what lists of them are refused."""

import tomllib

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_public_key

from pharma_fl.config import PartnerKeys, RosterKeys
from pharma_fl.deployment.cards import (
    Card,
    load_cards,
    make_supernode_key,
    partner_keys_of,
    roster_of,
    supernode_public,
)
from pharma_fl.errors import ConfigError
from pharma_fl.signing_key import SigningKey


def a_card(folder, name):
    make_supernode_key(folder / f"{name}.key")
    card = Card.make(name, SigningKey.make(folder / f"{name}.identity"), supernode_public(folder / f"{name}.key"))
    (folder / f"{name}.toml").write_text(card.dumps())
    return card


@pytest.fixture
def cards(tmp_path):
    return {name: a_card(tmp_path, name) for name in ("north", "east", "south")}


def test_a_card_comes_back_as_it_was_written(tmp_path, cards):
    assert Card.load(tmp_path / "north.toml") == cards["north"]
    assert "PRIVATE" not in (tmp_path / "north.toml").read_text()


def test_flower_takes_the_key(tmp_path, cards):
    """As `flwr supernode register` and `flower-supernode` load them."""
    from flwr.cli.supernode.register import try_load_public_key

    public = load_ssh_public_key(cards["north"].supernode.encode())
    assert isinstance(public, ec.EllipticCurvePublicKey)
    (tmp_path / "north.pub").write_text(f"{cards['north'].supernode} north\n")
    assert try_load_public_key(tmp_path / "north.pub").startswith(b"-----BEGIN PUBLIC KEY-----")


@pytest.mark.parametrize("key", ["name", "identity", "supernode"])
def test_a_card_that_was_changed_is_refused(tmp_path, cards, key):
    """Also with whole values of another card, which are well-formed."""
    text = (tmp_path / "north.toml").read_text()
    changed = text.replace(getattr(cards["north"], key), getattr(cards["east"], key))
    assert changed != text
    (tmp_path / "north.toml").write_text(changed)
    with pytest.raises(ConfigError, match="PFL-C09"):
        Card.load(tmp_path / "north.toml")


def test_lists_hold_every_card(tmp_path, cards):
    loaded = load_cards(tmp_path / f"{name}.toml" for name in cards)
    assert list(loaded) == ["east", "north", "south"]
    roster = RosterKeys.parse(roster_of(loaded, cards), source="roster.toml").partners
    assert {name: (entry.identity, entry.supernode) for name, entry in roster.items()} == {
        name: (card.identity, card.supernode) for name, card in cards.items()
    }
    keys = PartnerKeys.parse(partner_keys_of(loaded), source="partner-keys.toml").partners
    assert keys == {name: card.identity for name, card in cards.items()}


def test_missing_and_unknown_partners_are_named(tmp_path, cards):
    loaded = load_cards([tmp_path / "north.toml", tmp_path / "east.toml"])
    with pytest.raises(ConfigError, match=r"PFL-C09.*No card of south, west.*does not list east"):
        roster_of(loaded, ["north", "south", "west"])


def test_two_partners_with_one_key_are_refused(tmp_path, cards):
    for kind in ("identity", "supernode"):
        identity = SigningKey.make(tmp_path / ("north.identity" if kind == "identity" else "west.identity"))
        make_supernode_key(tmp_path / "west.key")
        supernode = supernode_public(tmp_path / ("north.key" if kind == "supernode" else "west.key"))
        (tmp_path / "west.toml").write_text(Card.make("west", identity, supernode).dumps())
        with pytest.raises(ConfigError, match=f"PFL-C09.*north and west have the same {kind} key"):
            load_cards([tmp_path / "north.toml", tmp_path / "west.toml"])


def test_two_cards_of_one_partner_are_refused_unless_they_are_equal(tmp_path, cards):
    assert len(load_cards([tmp_path / "north.toml"] * 2)) == 1
    (tmp_path / "later").mkdir()
    a_card(tmp_path / "later", "north")
    with pytest.raises(ConfigError, match="PFL-C09.*Two cards of north"):
        load_cards([tmp_path / "north.toml", tmp_path / "later" / "north.toml"])


def test_a_key_of_another_kind_is_refused(tmp_path, cards):
    content = tomllib.loads((tmp_path / "north.toml").read_text())
    content["supernode"] = "ecdsa-sha2-nistp384 AAAA"
    identity = SigningKey(tmp_path / "north.identity")
    (tmp_path / "north.toml").write_text(Card.make("north", identity, content["supernode"]).dumps())
    with pytest.raises(ConfigError, match="PFL-C09.*no key"):
        Card.load(tmp_path / "north.toml")
    with pytest.raises(ConfigError, match="PFL-C12"):
        supernode_public(tmp_path / "north.identity")
