"""The coordinator's part: adding up masked vectors and taking the masks off their sum."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pharma_fl.errors import FederationError
from pharma_fl.secagg.keys import Advert, by_name, public_bytes, round_key, self_check
from pharma_fl.secagg.masks import Round, Stream, add_streams
from pharma_fl.secagg.recovery import recovered
from pharma_fl.secagg.session import Unmasking
from pharma_fl.secagg.shamir import ELEMENT
from pharma_fl.secagg.terms import Terms


def opened_sum(
    masked: Mapping[str, NDArray[Any]],
    unmaskings: Mapping[str, Unmasking],
    *,
    adverts: Collection[Advert],
    digest: str,
    terms: Terms,
    round_number: int,
) -> NDArray[Any]:
    """Return the sum of the vectors that were masked.

    Parameters
    ----------
    masked : mapping of str to int32 or int64 (values,)
        The survivors' masked vectors; not changed.
    unmaskings : mapping of str to Unmasking
        Answers of at least k survivors.
    adverts, digest, terms
        The run, as all partners have checked it.
    round_number : int
        From 1.

    Returns
    -------
    int32 or int64 (values,)
        The sum modulo 2^b, bit for bit.

    Raises
    ------
    FederationError
        ``PFL-F35`` too few vectors or answers, or too many wrong answers.
    """
    opening = Opening(adverts=adverts, digest=digest, terms=terms, round_number=round_number)
    for name, vector in masked.items():
        opening.add(name, vector)
    return opening.opened(unmaskings)


class Opening:
    """One round's sum, to which vectors are added as they come.

    Parameters
    ----------
    adverts, digest, terms, round_number
        As for `opened_sum`.
    """

    def __init__(self, *, adverts: Collection[Advert], digest: str, terms: Terms, round_number: int) -> None:
        self._adverts = by_name(adverts)
        self._points = {name: point for point, name in enumerate(self._adverts, start=1)}
        self._terms, self._bound = terms, Round(terms, digest, round_number)
        self._sum: NDArray[Any] | None = None
        self._done = False
        self.survivors: set[str] = set()
        self.wrong: set[str] = set()
        """Partners whose answers did not fit: they answered wrongly, or another had given them wrong shares."""

    def add(self, name: str, vector: NDArray[Any]) -> None:
        """Add a partner's masked vector.

        Parameters
        ----------
        name : str
            The partner.
        vector : int32 or int64 (values,)
            Not changed, and not needed any more afterwards.

        Raises
        ------
        FederationError
            ``PFL-F35`` the partner is unknown or added before, or the vector is another one than the terms say.
        """
        if name not in self._adverts or name in self.survivors or self._done:
            raise self._failure(f"A second vector of {name!r}, a late one, or one of a partner who is not in the run")
        if vector.dtype != self._terms.dtype or vector.shape != (self._terms.values,):
            raise self._failure(
                f"Expected {self._terms.dtype} ({self._terms.values},) of {name!r}, got {vector.dtype} {vector.shape}"
            )
        if self._sum is None:
            self._sum = vector.copy()
        else:
            unsigned = self._sum.view(f"u{vector.itemsize}")
            np.add(unsigned, vector.view(unsigned.dtype), out=unsigned)
        self.survivors.add(name)

    def opened(self, unmaskings: Mapping[str, Unmasking]) -> NDArray[Any]:
        """Return the sum without its masks, once.

        Raises
        ------
        FederationError
            ``PFL-F35`` too few vectors or answers, or too many wrong answers. More answers may come, and then it can
            be asked again.
        """
        if self._done:
            raise self._failure("A sum was asked for that was given already")
        if self._sum is None or len(self.survivors) < self._terms.threshold:
            raise self._failure(f"{len(self.survivors)} vectors came, and {self._terms.threshold} are needed")
        streams = self._streams(self._fitting(unmaskings))
        total, self._sum, self._done = self._sum, None, True
        add_streams(total, streams)
        return total

    def _fitting(self, unmaskings: Mapping[str, Unmasking]) -> dict[str, Unmasking]:
        """Return the answers that are of the form that was asked for."""
        missing = set(self._adverts) - self.survivors
        fitting = {}
        for name, answer in unmaskings.items():
            shares = [*answer.self_seeds.values(), *answer.round_keys.values()]
            asked = set(answer.self_seeds) == self.survivors and set(answer.round_keys) == missing
            if name in self.survivors and asked and all(len(share) == ELEMENT for share in shares):
                fitting[name] = answer
            else:
                self.wrong.add(name)
        if len(fitting) < self._terms.threshold:
            raise self._failure(
                f"{len(fitting)} answers came of the form that was asked for, and {self._terms.threshold} are needed"
            )
        return fitting

    def _streams(self, answers: Mapping[str, Unmasking]) -> list[Stream]:
        """Return what takes all masks off the sum."""
        streams = []
        for name, advert in self._adverts.items():
            if name in self.survivors:
                shares = {who: answer.self_seeds[name] for who, answer in answers.items()}
                seed = self._seed(name, shares, partial(self._is_self_seed, advert))
                streams.append(self._bound.self_stream(seed, name).negated())
                continue
            shares = {who: answer.round_keys[name] for who, answer in answers.items()}
            seed = self._seed(name, shares, partial(self._is_round_seed, advert))
            private = round_key(seed, self._terms, self._bound.number)
            # What the missing partner would have added takes away what the others added for it.
            streams += [
                self._bound.pair_stream(private, self._adverts[other].key_of(self._bound.number), name, other)
                for other in sorted(self.survivors)
            ]
        return streams

    def _seed(self, name: str, shares: Mapping[str, bytes], fits: Callable[[int], bool]) -> int:
        found = recovered(
            {self._points[who]: int.from_bytes(share, "little") for who, share in shares.items()},
            self._terms.threshold,
            fits,
            doubted={self._points[who] for who in self.wrong},
        )
        if found is None:
            raise self._failure(
                f"No {self._terms.threshold} of {len(shares)} answers (of {', '.join(map(repr, sorted(shares)))}) give "
                f"what {name!r} said of itself: some are wrong, or {name!r} gave out wrong shares"
            )
        seed, points = found
        self.wrong |= {who for who in shares if self._points[who] in points}
        return seed

    def _is_self_seed(self, advert: Advert, seed: int) -> bool:
        number = self._bound.number
        return self_check(seed, self._terms, advert.name, number) == advert.check_of(number)

    def _is_round_seed(self, advert: Advert, seed: int) -> bool:
        number = self._bound.number
        return public_bytes(round_key(seed, self._terms, number)) == advert.key_of(number)

    def _failure(self, what: str) -> FederationError:
        return FederationError(
            "PFL-F35",
            f"{what} (round {self._bound.number}). A round whose sum is not opened is void; its cost stays charged.",
        )
