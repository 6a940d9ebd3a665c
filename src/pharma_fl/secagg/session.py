"""What a partner keeps of a run's setup, and the two things that it does with it in each round."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from pharma_fl.errors import FederationError
from pharma_fl.secagg.bundles import round_share, self_share
from pharma_fl.secagg.keys import Advert, Secrets, round_key
from pharma_fl.secagg.masks import Round, add_streams
from pharma_fl.secagg.terms import Terms


@dataclass(frozen=True, kw_only=True)
class Unmasking:
    """One partner's answer to the question which vectors are there.

    Parameters
    ----------
    self_seeds : dict of str to bytes
        Shares of the self-mask seeds of the partners whose vectors are there.
    round_keys : dict of str to bytes
        Shares of the round-key seeds of all others.
    """

    self_seeds: dict[str, bytes] = field(repr=False)
    round_keys: dict[str, bytes] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Session:
    """A partner's part in the sums of one run.

    It remembers nothing of the rounds. Whoever holds it must send one masked vector a round, and answer one question a
    round, ever: with two answers for two sets of survivors a coordinator could open what it should not.

    Parameters
    ----------
    terms : Terms
        The run.
    name : str
        This partner.
    root : bytes
        Its root secret.
    adverts : tuple of Advert
        The list that it has checked.
    digest : str
        What `check_adverts` returned for it.
    bundles : dict of str to bytes
        The shares that it holds of every partner's secrets, its own among them.
    """

    terms: Terms
    name: str
    root: bytes = field(repr=False)
    adverts: tuple[Advert, ...] = field(repr=False)
    digest: str
    bundles: Mapping[str, bytes] = field(repr=False)

    def add_masks(self, vector: NDArray[Any], round_number: int) -> None:
        """Add this partner's masks of a round, in place: what comes out looks random to all others.

        Parameters
        ----------
        vector : int32 or int64 (values,), contiguous
            The terms' dtype. Zeros give the masks alone, to be added later.
        round_number : int
            From 1. The masks of a round hide one vector: adding them to two would reveal their difference.

        Raises
        ------
        FederationError
            ``PFL-F33`` the run has no such round.
        ValueError
            The vector is another one than the terms say.
        """
        self._check_round(round_number)
        if vector.dtype != self.terms.dtype or vector.shape != (self.terms.values,):
            raise ValueError(f"Expected {self.terms.dtype} ({self.terms.values},), got {vector.dtype} {vector.shape}.")
        secrets, bound = Secrets(self.root), Round(self.terms, self.digest, round_number)
        private = round_key(secrets.round_seed(self.terms, round_number), self.terms, round_number)
        streams = [bound.self_stream(secrets.self_seed(self.terms, round_number), self.name)]
        streams += [
            bound.pair_stream(private, advert.key_of(round_number), self.name, advert.name)
            for advert in self.adverts
            if advert.name != self.name
        ]
        add_streams(vector, streams)

    def unmask(self, round_number: int, survivors: Collection[str]) -> Unmasking:
        """Answer which shares open the sum of the survivors' vectors.

        Parameters
        ----------
        round_number : int
            From 1.
        survivors : collection of str
            The partners whose vectors the coordinator says that it has.

        Raises
        ------
        FederationError
            ``PFL-F33`` the run has no such round; survivors are unknown, named twice or too few; or this partner, which
            did send a vector, is not among them.
        """
        self._check_round(round_number)
        there, known = set(survivors), {advert.name for advert in self.adverts}
        if len(there) != len(survivors) or not there <= known:
            raise self._refusal("names partners twice or such as are not in the run")
        if len(there) < self.terms.threshold:
            raise self._refusal(
                f"names {len(there)} survivors, and the plan demands {self.terms.threshold} (contributors less "
                "tolerated losses)"
            )
        if self.name not in there:
            raise self._refusal("declares this partner lost, which sent its vector")
        return Unmasking(
            self_seeds={name: self_share(self.bundles[name], round_number) for name in sorted(there)},
            round_keys={name: round_share(self.bundles[name], round_number) for name in sorted(known - there)},
        )

    def _check_round(self, round_number: int) -> None:
        if not 1 <= round_number <= self.terms.rounds:
            raise FederationError(
                "PFL-F33",
                f"Round {round_number} is none of the {self.terms.rounds} that keys were made for. Nothing was given.",
            )

    @staticmethod
    def _refusal(what: str) -> FederationError:
        return FederationError("PFL-F33", f"The question {what}. No share was given, and the round stays closed.")
