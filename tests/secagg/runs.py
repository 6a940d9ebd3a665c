"""Partners of a run, set up as by a coordinator that follows the rules."""

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pharma_fl.secagg.bundles import open_bundles, seal_bundles
from pharma_fl.secagg.keys import Secrets, check_adverts, list_digest, make_advert
from pharma_fl.secagg.opening import opened_sum
from pharma_fl.secagg.session import Session
from pharma_fl.secagg.terms import Terms


def terms_of(contributors=4, colluders=1, losses=1, *, kind=Terms, **others):
    facts = {"federation": "f", "run": "r", "plan": "ab" * 32, "rounds": 2, "values": 5, "ring_bits": 32} | others
    return kind(contributors=contributors, tolerated_colluders=colluders, tolerated_losses=losses, **facts)


class Lax(Terms):
    """Terms that refuse nothing: what the inequalities are there for."""

    def __post_init__(self):
        pass


class Run:
    """A run's partners with their identities, secrets, adverts and, after the setup, sessions."""

    def __init__(self, terms, names=None):
        self.terms = terms
        self.names = names or [f"partner {place}" for place in range(terms.contributors)]
        self.identities = {name: Ed25519PrivateKey.generate() for name in self.names}
        self.partner_keys = {name: key.public_key().public_bytes_raw().hex() for name, key in self.identities.items()}
        self.secrets = {name: Secrets.fresh() for name in self.names}
        self.adverts = {name: self.advert(name) for name in self.names}

    def advert(self, name, **others):
        """What a partner says of itself, or would say with other secrets, terms or another identity."""
        facts = {"secrets": self.secrets[name], "terms": self.terms, "sign": self.identities[name].sign} | others
        return make_advert(name, **facts)

    def check(self, name, adverts=None, **others):
        """What a partner says to a list."""
        facts = {"terms": self.terms, "own": self.adverts[name], "partner_keys": self.partner_keys} | others
        return check_adverts(list(self.adverts.values()) if adverts is None else adverts, **facts)

    def set_up(self):
        """Exchange bundles and keep what each partner keeps."""
        adverts = tuple(self.adverts.values())
        self.digest = list_digest(adverts, self.terms)
        given = {n: seal_bundles(self.secrets[n], n, adverts, self.terms, self.digest) for n in self.names}
        self.sessions = {}
        for name in self.names:
            sealed = {other: given[other][0][name] for other in self.names if other != name}
            bundles = open_bundles(sealed, self.secrets[name], name, adverts, self.terms, self.digest)
            self.sessions[name] = Session(
                terms=self.terms,
                name=name,
                root=self.secrets[name].root,
                adverts=adverts,
                digest=self.digest,
                bundles=bundles | {name: given[name][1]},
            )
        return self

    def vectors(self, rng):
        """Random numbers over the whole ring, by partner."""
        ends = np.iinfo(self.terms.dtype)
        return {
            name: rng.integers(ends.min, ends.max, self.terms.values, self.terms.dtype, endpoint=True)
            for name in self.names
        }

    def masked(self, vectors, round_number=1):
        """What the partners send."""
        sent = {name: vector.copy() for name, vector in vectors.items()}
        for name, vector in sent.items():
            self.sessions[name].add_masks(vector, round_number)
        return sent

    def answers(self, survivors, answering=None, round_number=1):
        """What survivors answer, or those of them who do."""
        return {name: self.sessions[name].unmask(round_number, survivors) for name in answering or survivors}

    def opened(self, masked, answers, round_number=1):
        """The coordinator's sum."""
        return opened_sum(
            masked,
            answers,
            adverts=tuple(self.adverts.values()),
            digest=self.digest,
            terms=self.terms,
            round_number=round_number,
        )
