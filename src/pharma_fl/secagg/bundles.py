"""The shares of a partner's secrets, sealed for each of the others before the first round."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from pharma_fl.errors import FederationError
from pharma_fl.secagg.derivation import derived, framed
from pharma_fl.secagg.keys import Advert, Secrets, by_name
from pharma_fl.secagg.masks import key_stream
from pharma_fl.secagg.shamir import ELEMENT, PRIME, element, split
from pharma_fl.secagg.terms import Terms

_SHARES = 2 * ELEMENT
"""Bytes of a bundle for each round: a share of the round key's seed, then one of the self mask's."""

_DRAWN = 48
"""Random bytes that become one coefficient."""

_NONCE = bytes(12)
"""Each key seals one bundle, ever."""


def seal_bundles(
    secrets: Secrets, own_name: str, adverts: Collection[Advert], terms: Terms, digest: str
) -> tuple[dict[str, bytes], bytes]:
    """Share a partner's secrets of all rounds with the partners of a list that it has checked.

    Asked again with the same list the answer is the same, byte for byte: all of it follows from the root secret and
    the list. Shares made for two lists are independent of each other.

    Parameters
    ----------
    secrets : Secrets
        This partner's.
    own_name : str
        This partner.
    adverts : collection of Advert
        The list.
    terms : Terms
        The run.
    digest : str
        What `check_adverts` returned for the list.

    Returns
    -------
    sealed : dict of str to bytes
        For each other partner a bundle that it alone can open: 64 bytes a round, and 16 that vouch for it.
    own : bytes
        The bundle with this partner's own shares, to be kept.
    """
    listed = by_name(adverts)
    parts: list[list[bytes]] = [[] for _ in listed]
    for number in range(1, terms.rounds + 1):
        drawn = _coefficients(secrets, terms, digest, number)
        for seed in (secrets.round_seed(terms, number), secrets.self_seed(terms, number)):
            coefficients = [next(drawn) for _ in range(terms.threshold - 1)]
            for part, share in zip(parts, split(seed, coefficients, len(listed)), strict=True):
                part.append(share.to_bytes(ELEMENT, "little"))
    bundles = {name: b"".join(part) for name, part in zip(listed, parts, strict=True)}
    own = bundles.pop(own_name)
    private = secrets.sealing_key(terms)
    sealed = {}
    for name, bundle in bundles.items():
        context = _context(terms, digest, own_name, name)
        sealed[name] = _box(private, listed[name], context).encrypt(_NONCE, bundle, context)
    return sealed, own


def open_bundles(
    sealed: Mapping[str, bytes],
    secrets: Secrets,
    own_name: str,
    adverts: Collection[Advert],
    terms: Terms,
    digest: str,
) -> dict[str, bytes]:
    """Open what all other partners sealed for this one.

    Parameters
    ----------
    sealed : mapping of str to bytes
        By the name of the partner who sealed it.
    secrets, own_name, adverts, terms, digest
        As for `seal_bundles`.

    Returns
    -------
    dict of str to bytes
        The bundles of all others, by name.

    Raises
    ------
    FederationError
        ``PFL-F32`` one is missing or cannot be opened: it was changed, or its sender was shown another list.
    """
    listed = by_name(adverts)
    others = set(listed) - {own_name}
    if set(sealed) != others:
        raise FederationError(
            "PFL-F32",
            f"Expected sealed bundles of {_listed(others)}, got those of {_listed(sealed)}. Leave the run.",
        )
    private = secrets.sealing_key(terms)
    opened = {}
    for name, content in sealed.items():
        context = _context(terms, digest, name, own_name)
        try:
            bundle = _box(private, listed[name], context).decrypt(_NONCE, content, context)
        except InvalidTag as error:
            raise FederationError(
                "PFL-F32",
                f"The bundle of {name!r} cannot be opened: it was changed on its way, or {name!r} was shown another "
                "list of partners or keys. Leave the run, and compare the lists with that partner.",
            ) from error
        if len(bundle) != _SHARES * terms.rounds or not all(_is_element(share) for share in _shares(bundle)):
            raise FederationError(
                "PFL-F32", f"The bundle of {name!r} does not hold shares of {terms.rounds} rounds. Leave the run."
            )
        opened[name] = bundle
    return opened


def round_share(bundle: bytes, round_number: int) -> bytes:
    """Return a bundle's share of a round key's seed."""
    start = _SHARES * (round_number - 1)
    return bundle[start : start + ELEMENT]


def self_share(bundle: bytes, round_number: int) -> bytes:
    """Return a bundle's share of a self mask's seed."""
    start = _SHARES * (round_number - 1) + ELEMENT
    return bundle[start : start + ELEMENT]


def _coefficients(secrets: Secrets, terms: Terms, digest: str, round_number: int) -> Iterator[int]:
    key = derived(secrets.root, "coefficients", terms.encoded, digest, round_number)
    drawn = key_stream(key, 2 * (terms.threshold - 1) * _DRAWN)
    return (element(drawn[start : start + _DRAWN]) for start in range(0, len(drawn), _DRAWN))


def _context(terms: Terms, digest: str, sender: str, receiver: str) -> bytes:
    return framed("bundle", terms.encoded, digest, sender, receiver)


def _box(private: X25519PrivateKey, other: Advert, context: bytes) -> ChaCha20Poly1305:
    shared = private.exchange(X25519PublicKey.from_public_bytes(other.sealing))
    return ChaCha20Poly1305(derived(shared, "bundle key", context))


def _listed(names: Collection[str]) -> str:
    return ", ".join(map(repr, sorted(names))) or "nobody"


def _shares(bundle: bytes) -> Iterator[bytes]:
    return (bundle[start : start + ELEMENT] for start in range(0, len(bundle), ELEMENT))


def _is_element(share: bytes) -> bool:
    return int.from_bytes(share, "little") < PRIME
