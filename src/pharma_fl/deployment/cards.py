"""A partner's card: its public keys, for the coordinator and for the other partners. It holds no secret.

The identity key signs the card, so a card whose SuperNode key was changed on its way is noticed. Whether the identity
is that partner's is what people compare by telephone: the card cannot say it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Self

import tomli_w
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
    load_ssh_public_key,
)
from pydantic import Field

from pharma_fl.config import PartnerKeys, RosterEntry, RosterKeys
from pharma_fl.config.base import Settings
from pharma_fl.config.federation import Name
from pharma_fl.config.partner_keys import PublicKey
from pharma_fl.deployment.private_files import make_once
from pharma_fl.errors import ConfigError
from pharma_fl.signing_key import SigningKey, is_signed


class Card(Settings):
    """card.toml, whole."""

    name: Name
    identity: PublicKey
    """Ed25519, raw, in hexadecimal."""
    supernode: Annotated[str, Field(pattern=r"^ecdsa-sha2-nistp(256|384|521) [A-Za-z0-9+/=]{1,400}$")]
    """Public key of the SuperNode, as OpenSSH writes it."""
    signature: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]
    """Of all that, by the identity key."""

    @classmethod
    def make(cls, name: str, identity: SigningKey, supernode: str) -> Self:
        """Make and sign a card."""
        signature = identity.sign(_signed(name, identity.public, supernode)).hex()
        return cls(name=name, identity=identity.public, supernode=supernode, signature=signature)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a card and check its signature.

        Raises
        ------
        ConfigError
            ``PFL-C09`` it is not signed by its identity, or its SuperNode key is none; and as `Settings.load`.
        """
        card = super().load(path)
        if not is_signed(
            card.identity, bytes.fromhex(card.signature), _signed(card.name, card.identity, card.supernode)
        ):
            raise ConfigError(
                "PFL-C09", f"{path} was changed after {card.name} signed it. Ask {card.name} for its card again."
            )
        try:
            load_ssh_public_key(card.supernode.encode())
        except (ValueError, UnsupportedAlgorithm) as error:
            raise ConfigError("PFL-C09", f"{path}: supernode is no key. Ask {card.name} for its card again.") from error
        return card

    def dumps(self) -> str:
        """Return the file's text."""
        head = (
            f"# Card of {self.name}: public keys, for the coordinator and for the other partners. It holds no secret.\n"
        )
        return head + tomli_w.dumps(self.model_dump())


def make_supernode_key(path: Path) -> bool:
    """Make a SuperNode's key where there is none, of the kind that Flower reads: P-384 in OpenSSH's own format."""
    return make_once(
        path,
        lambda: ec.generate_private_key(ec.SECP384R1()).private_bytes(
            Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()
        ),
    )


def supernode_public(path: Path) -> str:
    """Return a SuperNode's public key as OpenSSH writes it.

    Raises
    ------
    ConfigError
        ``PFL-C12`` the file is missing or holds no such key.
    """
    try:
        key = load_ssh_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(
            "PFL-C12",
            f"Cannot read the SuperNode's key {path} ({type(error).__name__}). Flower wants an elliptic-curve key in "
            "OpenSSH's format: restore it, or move it away and provision again (supernode.private_key).",
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError("PFL-C12", f"{path} is no elliptic-curve key. Move it away, and provision again.")
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def load_cards(paths: Iterable[Path]) -> dict[str, Card]:
    """Read cards by partner name, ascending.

    Raises
    ------
    ConfigError
        ``PFL-C09`` a name comes twice with other keys, two partners have the same key, or as `Card.load`.
    """
    cards: dict[str, Card] = {}
    for path in paths:
        card = Card.load(path)
        if cards.setdefault(card.name, card) != card:
            raise ConfigError("PFL-C09", f"Two cards of {card.name} differ. Ask {card.name} which one holds.")
    for kind in ("identity", "supernode"):
        owners: dict[str, str] = {}
        for card in cards.values():
            first = owners.setdefault(getattr(card, kind), card.name)
            if first != card.name:
                raise ConfigError(
                    "PFL-C09",
                    f"{first} and {card.name} have the same {kind} key. Each makes its own: pharma-fl provision.",
                )
    return dict(sorted(cards.items()))


def roster_of(cards: Mapping[str, Card], partners: Iterable[str]) -> str:
    """Return roster.toml for exactly these partners.

    Raises
    ------
    ConfigError
        ``PFL-C09`` cards are missing, or are of partners that federation.toml does not list.
    """
    _same_names(cards, partners, "federation.toml ([partners])")
    entries = {name: RosterEntry(identity=card.identity, supernode=card.supernode) for name, card in cards.items()}
    return _NOTE.format("pharma-fl provision") + tomli_w.dumps(RosterKeys(partners=entries).model_dump())


def partner_keys_of(cards: Mapping[str, Card]) -> str:
    """Return partner-keys.toml for these partners."""
    keys = {name: card.identity for name, card in cards.items()}
    text = _NOTE.format("pharma-fl provision") + tomli_w.dumps({"partners": keys})
    PartnerKeys.parse(text, source="the cards")
    return text


def check_known(cards: Mapping[str, Card], known: Mapping[str, str], source: Path) -> None:
    """Refuse another identity for a partner that is known already.

    Raises
    ------
    ConfigError
        ``PFL-C09`` a partner's identity key is another than before.
    """
    changed = [name for name, card in cards.items() if known.get(name, card.identity) != card.identity]
    if changed:
        raise ConfigError(
            "PFL-C09",
            f"The identity key of {_list(changed)} is another than in {source}. Ask there, by a way that the "
            "coordinator does not control, whether it was changed; if so, --replace accepts it.",
        )


_NOTE = "# Written by {} from the partners' cards.\n"


def _same_names(cards: Mapping[str, Card], partners: Iterable[str], place: str) -> None:
    wanted = set(partners)
    said = []
    if missing := sorted(wanted - set(cards)):
        said.append(f"No card of {_list(missing)}.")
    if unknown := sorted(set(cards) - wanted):
        said.append(f"{place} does not list {_list(unknown)}.")
    if said:
        raise ConfigError(
            "PFL-C09", " ".join(said) + " Give one card of every partner of the federation, and no other."
        )


def _list(names: Sequence[str]) -> str:
    return ", ".join(names)


def _signed(name: str, identity: str, supernode: str) -> bytes:
    return f"pharma-fl card 1\n{name}\n{identity}\n{supernode}".encode()
