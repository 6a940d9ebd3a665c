"""What a partner keeps secret in a run, and what it says of it to the others under its signature."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from pharma_fl.errors import FederationError
from pharma_fl.secagg.derivation import derived, digest_of, framed
from pharma_fl.secagg.shamir import ELEMENT, PRIME, element
from pharma_fl.secagg.terms import Terms

KEY = 32
"""Bytes of a public key."""

PER_ROUND = 2 * KEY
"""Bytes that an advert holds for each round: the public round key, and the check of the self-mask seed."""


class Secrets:
    """All secrets of one partner in one run, which follow from one.

    Parameters
    ----------
    root : bytes
        32 bytes that are used in one run alone, by one partner.
    """

    def __init__(self, root: bytes) -> None:
        if len(root) != KEY:
            raise ValueError(f"Expected a root secret of {KEY} bytes, got {len(root)}.")
        self.root = root

    @classmethod
    def fresh(cls) -> Secrets:
        """Return new ones, from the operating system's randomness."""
        return cls(secrets.token_bytes(KEY))

    def sealing_key(self, terms: Terms) -> X25519PrivateKey:
        """Return the key that others seal their shares for."""
        return X25519PrivateKey.from_private_bytes(derived(self.root, "sealing key", terms.encoded))

    def round_seed(self, terms: Terms, round_number: int) -> int:
        """Return what a round's key follows from, as a number that can be shared."""
        return element(derived(self.root, "round seed", terms.encoded, round_number, length=48))

    def self_seed(self, terms: Terms, round_number: int) -> int:
        """Return what a round's self mask follows from, as a number that can be shared."""
        return element(derived(self.root, "self seed", terms.encoded, round_number, length=48))


def round_key(seed: int, terms: Terms, round_number: int) -> X25519PrivateKey:
    """Return the key from which a partner's masks with all others follow in one round."""
    secret = seed.to_bytes(ELEMENT, "little")
    return X25519PrivateKey.from_private_bytes(derived(secret, "round key", terms.encoded, round_number))


def self_check(seed: int, terms: Terms, name: str, round_number: int) -> bytes:
    """Return what tells the right self-mask seed from a wrong one, and says nothing else of it."""
    return derived(seed.to_bytes(ELEMENT, "little"), "self check", terms.encoded, name, round_number)


def public_bytes(key: X25519PrivateKey) -> bytes:
    """Return the public half, 32 bytes."""
    return key.public_key().public_bytes_raw()


@dataclass(frozen=True, kw_only=True)
class Advert:
    """What a partner says of itself before a run.

    Parameters
    ----------
    name : str
        The partner.
    sealing : bytes
        X25519 key that others seal shares for, 32 bytes.
    rounds : bytes
        For each round an X25519 key and the check of a self-mask seed, 64 bytes together.
    signature : bytes
        Ed25519, of the partner's identity, over all of it and the run's terms; 64 bytes.
    """

    name: str
    sealing: bytes = field(repr=False)
    rounds: bytes = field(repr=False)
    signature: bytes = field(repr=False)

    def key_of(self, round_number: int) -> bytes:
        """Return a round's public key."""
        start = PER_ROUND * (round_number - 1)
        return self.rounds[start : start + KEY]

    def check_of(self, round_number: int) -> bytes:
        """Return the check of a round's self-mask seed."""
        start = PER_ROUND * (round_number - 1) + KEY
        return self.rounds[start : start + KEY]


def make_advert(name: str, secrets: Secrets, terms: Terms, sign: Callable[[bytes], bytes]) -> Advert:
    """Return a partner's advert.

    Parameters
    ----------
    name : str
        The partner, as the others' lists of keys name it.
    secrets : Secrets
        Its secrets of this run.
    terms : Terms
        The run.
    sign : callable
        Signs bytes with the partner's Ed25519 identity.
    """
    rounds = b"".join(
        public_bytes(round_key(secrets.round_seed(terms, number), terms, number))
        + self_check(secrets.self_seed(terms, number), terms, name, number)
        for number in range(1, terms.rounds + 1)
    )
    sealing = public_bytes(secrets.sealing_key(terms))
    return Advert(name=name, sealing=sealing, rounds=rounds, signature=sign(_signed(name, sealing, rounds, terms)))


def by_name(adverts: Collection[Advert]) -> dict[str, Advert]:
    """Return the adverts in the order that gives partners their points."""
    return {advert.name: advert for advert in sorted(adverts, key=lambda advert: advert.name)}


def list_digest(adverts: Collection[Advert], terms: Terms) -> str:
    """Return the digest, in hexadecimal, that the keys and shares of a run are bound to.

    It is the same for every order of the adverts, and another one for any other keys, names or terms.
    """
    facts = (fact for one in by_name(adverts).values() for fact in (one.name, one.sealing, one.rounds))
    return digest_of("list", terms.encoded, *facts)


def check_adverts(adverts: Collection[Advert], *, terms: Terms, own: Advert, partner_keys: Mapping[str, str]) -> str:
    """Check the list that a coordinator shows to a partner, and return its digest.

    Parameters
    ----------
    adverts : collection of Advert
        The list, in any order.
    terms : Terms
        The run.
    own : Advert
        What this partner said of itself.
    partner_keys : mapping of str to str
        The Ed25519 identities of the other partners, raw, in hexadecimal, from this partner's own configuration.

    Raises
    ------
    FederationError
        ``PFL-F30`` the list has other partners than it should have. ``PFL-F31`` a key or signature is not that
        partner's, or of no use.
    """
    names = [advert.name for advert in adverts]
    _check_names(names, terms=terms, own=own.name, known=partner_keys)
    _check_identities({name: partner_keys[name] for name in names if name in partner_keys})
    for advert in adverts:
        if advert.name == own.name and advert != own:
            raise FederationError("PFL-F31", "The list shows other keys for this partner than it made. Leave the run.")
        if advert.name in partner_keys:
            _check_signature(advert, partner_keys[advert.name], terms)
    _check_keys(adverts, terms)
    return list_digest(adverts, terms)


def _signed(name: str, sealing: bytes, rounds: bytes, terms: Terms) -> bytes:
    return framed("advert", terms.encoded, name, sealing, rounds)


def _check_names(names: list[str], *, terms: Terms, own: str, known: Collection[str]) -> None:
    if len(names) != terms.contributors or len(set(names)) != len(names):
        raise FederationError(
            "PFL-F30",
            f"Expected {terms.contributors} different partners (the plan's contributors), got a list of {len(names)} "
            f"with {len(set(names))} different names. Leave the run, and ask who made the list.",
        )
    if own not in names:
        raise FederationError("PFL-F30", f"The list of partners leaves out this one, {own!r}. Leave the run.")
    strangers = sorted(set(names) - {own} - set(known))
    if strangers:
        raise FederationError(
            "PFL-F30",
            f"The list names {', '.join(map(repr, strangers))}, whose key is not in this partner's own list "
            "(partner.toml: partner_keys). Add the key if you know that partner, else leave the run.",
        )


def _check_identities(identities: Mapping[str, str]) -> None:
    if len({identity.lower() for identity in identities.values()}) != len(identities):
        raise FederationError(
            "PFL-F30",
            "Two partners of the list have the same identity (partner.toml: partner_keys). One partner must not stand "
            "for two.",
        )


def _check_signature(advert: Advert, identity: str, terms: Terms) -> None:
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(identity)).verify(
            advert.signature, _signed(advert.name, advert.sealing, advert.rounds, terms)
        )
    except (InvalidSignature, ValueError) as error:
        raise FederationError(
            "PFL-F31",
            f"The keys shown for {advert.name!r} are not signed by the identity in this partner's own list for this "
            "run and plan (partner.toml: partner_keys). Leave the run; ask that partner for its public key.",
        ) from error


def _check_keys(adverts: Collection[Advert], terms: Terms) -> None:
    probe = X25519PrivateKey.generate()
    seen: set[bytes] = set()
    for advert in adverts:
        if len(advert.sealing) != KEY or len(advert.rounds) != PER_ROUND * terms.rounds:
            raise _useless(advert.name, f"not those of {terms.rounds} rounds")
        for key in (advert.sealing, *(advert.key_of(number) for number in range(1, terms.rounds + 1))):
            if key in seen:
                raise _useless(advert.name, "shown twice")
            seen.add(key)
            if int.from_bytes(key, "little") >= PRIME:
                raise _useless(advert.name, "no X25519 keys")
            try:
                probe.exchange(X25519PublicKey.from_public_bytes(key))
            except ValueError as error:
                raise _useless(advert.name, "such that anybody knows what follows from them") from error


def _useless(name: str, why: str) -> FederationError:
    return FederationError("PFL-F31", f"Keys shown for {name!r} are {why}. Leave the run; ask that partner.")
