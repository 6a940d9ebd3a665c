"""What `pharma-fl provision` makes on either side: keys and certificates, lists of the partners' keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pharma_fl.atomic import write_atomic
from pharma_fl.config import Federation, Partner, PartnerKeys, RosterKeys
from pharma_fl.deployment.cards import (
    Card,
    check_known,
    load_cards,
    make_supernode_key,
    partner_keys_of,
    roster_of,
    supernode_public,
)
from pharma_fl.deployment.certificates import check, ends, issue, make_authority, make_key, request
from pharma_fl.deployment.kit import KitFile, coordinator_files, partner_files, write_kit
from pharma_fl.deployment.lines import (
    FEDERATION_FILE,
    PARTNER_FILE,
    called_hosts,
    card_file,
    certified_hosts,
    superlink_of,
    supernode_of,
)
from pharma_fl.errors import ConfigError
from pharma_fl.signing_key import SigningKey

CARD_FILE = "card.toml"
_PUBLIC = 0o644


@dataclass(kw_only=True)
class Provisioned:
    """What was made and kept, as paths under the folder, and what to do next."""

    folder: Path
    made: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    next: list[str] = field(default_factory=list)
    keys: dict[str, str] = field(default_factory=dict)
    """Identity keys by partner, for people to compare."""
    certificate_ends: str | None = None

    def note(self, path: Path, *, made: bool) -> None:
        """Note that a file was made, or was there and kept."""
        shown = str(path.relative_to(self.folder)) if path.is_relative_to(self.folder) else str(path)
        (self.made if made else self.kept).append(shown)


def provision_coordinator(
    file: Path, *, cards: Sequence[Path] = (), renew: bool = False, csr: bool = False, replace: bool = False
) -> Provisioned:
    """Make the coordinator's authority and certificate, or a request; with cards, the roster.

    Parameters
    ----------
    file : Path
        federation.toml, with [superlink].
    cards : sequence of Path
        One card of each partner of the federation; without any the roster stays as it is.
    renew : bool
        Make a new server certificate though there is one; its key stays.
    csr : bool
        Make a request for a company's authority in the place of an authority and a certificate.
    replace : bool
        Accept another identity key of a partner that the roster knows.

    Raises
    ------
    ConfigError
        ``PFL-C08`` no [superlink], ``PFL-C09`` cards, ``PFL-C12`` keys and certificates.
    """
    federation, folder = Federation.load(file), _folder(file, FEDERATION_FILE)
    link = superlink_of(federation)
    done = Provisioned(folder=folder)
    _refresh(folder, coordinator_files(folder, federation), done)
    key, certificate, roots = (folder / one for one in (link.private_key, link.certificate, link.root_certificates))
    hosts = certified_hosts(link)
    done.note(key, made=make_key(key))
    if csr:
        path = key.with_suffix(".csr")
        request(key, path, hosts)
        done.note(path, made=True)
        done.next = [
            f"Have {path} signed as a TLS server certificate for {', '.join(hosts)}.",
            f"Put the certificate, and any between it and the root, into {certificate}; the authority's into {roots}.",
            f"pharma-fl provision {file}",
        ]
        return done
    _certify(done, key, certificate, roots, federation, renew=renew)
    check(certificate=certificate, key=key, roots=roots, hosts=called_hosts(link))
    done.certificate_ends = ends(certificate).date().isoformat()
    if cards:
        _write_roster(done, federation, cards, replace=replace)
        done.next = [f"{folder / 'register'}, once the SuperLink runs"]
    else:
        done.next = [
            f"Send {roots} to every partner.",
            _with_cards("their", folder, file),
        ]
    return done


def provision_partner(file: Path, *, cards: Sequence[Path] = (), replace: bool = False) -> Provisioned:
    """Make a partner's keys and card; with cards, the list of the partners' identity keys.

    Parameters
    ----------
    file : Path
        partner.toml, with [supernode].
    cards : sequence of Path
        The cards of all partners of the federation; one's own may be left out.
    replace : bool
        Accept another identity key of a partner that the list knows.

    Raises
    ------
    ConfigError
        ``PFL-C08`` no [supernode], ``PFL-C09`` cards, ``PFL-C12`` the SuperNode's key.
    PrivacyError
        ``PFL-P13`` the identity key.
    """
    partner, folder = Partner.load(file), _folder(file, PARTNER_FILE)
    node, identity_file, card_path = supernode_of(partner), partner.path(partner.identity_key), folder / CARD_FILE
    done = Provisioned(folder=folder)
    _refresh(folder, partner_files(folder, partner), done)
    private = partner.path(node.private_key)
    done.note(private, made=make_supernode_key(private))
    public = supernode_public(private)
    _write_public(done, private.with_suffix(".pub"), f"{public} {partner.name}\n")
    was_there = identity_file.exists()
    identity = SigningKey.make(identity_file, setting="identity_key")
    done.note(identity_file, made=not was_there)
    own = Card.make(partner.name, identity, public)
    _write_public(done, card_path, own.dumps())
    done.keys = {partner.name: own.identity}
    if cards:
        _write_partner_keys(done, partner, own, cards, replace=replace)
        done.next = ["Compare these keys with the other partners, by telephone or in person."]
    else:
        done.next = [
            f"Send {card_path} to the coordinator, and by another way to the other partners.",
            f"Put the coordinator's ca.pem into {partner.path(node.root_certificates)}.",
            _with_cards("the other partners'", folder, file),
        ]
    return done


def _certify(
    done: Provisioned, key: Path, certificate: Path, roots: Path, federation: Federation, *, renew: bool
) -> None:
    # Of a company's authority there is no key here, and its certificate is kept as it is.
    authority_key = roots.with_name("ca.key")
    if certificate.exists() and roots.exists() and not authority_key.exists():
        if renew:
            raise ConfigError(
                "PFL-C12",
                f"{authority_key} is not there, so another authority has to renew: --csr in place of --renew.",
            )
        done.note(certificate, made=False)
        return
    made = make_authority(authority_key, roots, federation.name)
    done.note(authority_key, made=made)
    done.note(roots, made=made)
    new = renew or made or not certificate.exists()
    if new:
        issue(authority_key, roots, key, certificate, certified_hosts(superlink_of(federation)))
    done.note(certificate, made=new)


def _write_roster(done: Provisioned, federation: Federation, paths: Sequence[Path], *, replace: bool) -> None:
    if federation.roster is None:
        raise ConfigError("PFL-C08", 'federation.toml names no roster to write. Add roster = "roster.toml" to it.')
    path, cards = done.folder / federation.roster, load_cards(paths)
    text = roster_of(cards, federation.partners)
    if path.exists() and not replace:
        known = RosterKeys.load(path).partners
        check_known(cards, {name: entry.identity for name, entry in known.items()}, path)
    for name, card in cards.items():
        _write_public(done, card_file(done.folder, name), f"{card.supernode} {name}\n")
    _write_public(done, path, text)
    done.keys = {name: card.identity for name, card in cards.items()}


def _write_partner_keys(
    done: Provisioned, partner: Partner, own: Card, paths: Sequence[Path], *, replace: bool
) -> None:
    cards = load_cards(paths)
    if cards.setdefault(partner.name, own).identity != own.identity:
        raise ConfigError(
            "PFL-C09",
            f"A card says that it is of {partner.name}, with another key than this partner's. Ask who sent it.",
        )
    path = partner.path(partner.partner_keys)
    if path.exists() and not replace:
        check_known(cards, PartnerKeys.load(path).partners, path)
    done.keys = {name: cards[name].identity for name in sorted(cards)}
    _write_public(done, path, partner_keys_of({name: cards[name] for name in sorted(cards)}))


def _write_public(done: Provisioned, path: Path, text: str) -> None:
    new = not path.exists() or path.read_text("utf-8") != text
    if new:
        write_atomic(path, text.encode(), mode=_PUBLIC)
    done.note(path, made=new)


def _refresh(folder: Path, files: dict[str, KitFile], done: Provisioned) -> None:
    for name in write_kit(folder, files):
        done.note(folder / name, made=True)


def _with_cards(whose: str, folder: Path, file: Path) -> str:
    cards = folder / "cards"
    return f"Put {whose} cards into {cards}, then: pharma-fl provision {file} --cards {cards}/*.toml"


def _folder(file: Path, expected: str) -> Path:
    path = file.resolve()
    if path.name != expected:
        raise ConfigError("PFL-C08", f"Expected a file with the name {expected}, got {file}: a kit is found by it.")
    return path.parent
