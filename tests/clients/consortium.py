"""Partners of a secure sum behind their ClientApps, and a coordinator that asks them whatever a test tells it to."""

import numpy as np
from flwr.app import MessageType
from tests.clients.test_app import ask, file_of
from tests.partners import MODEL, NAMES, ONE_STEP, a_partner, a_request, a_shared_plan, share_keys

from pharma_fl.config import Partner
from pharma_fl.errors import BudgetExceeded, PharmaFlError, PolicyViolation
from pharma_fl.messages.envelope import CONFIG
from pharma_fl.messages.rounds import MASKED
from pharma_fl.messages.secure_sum import (
    KEEP,
    KEYS,
    SHARES,
    UNMASK,
    keep_request,
    keys_request,
    read_keys_reply,
    read_shares_reply,
    read_unmask_reply,
    shares_request,
    terms_of,
    unmask_request,
)
from pharma_fl.messages.wire import round_request
from pharma_fl.privacy.ledger import Ledger
from pharma_fl.secagg.keys import list_digest
from pharma_fl.secagg.opening import opened_sum
from pharma_fl.signing_key import SigningKey

RUN = "run-1"
SENTENCES = {kind.public for kind in (*PharmaFlError.__subclasses__(), BudgetExceeded, PolicyViolation)}
"""All that a refusal says beside its code."""


def said(content):
    """Return ``"done"``, or the code of a refusal, in which nothing else may be than a code and a fixed sentence."""
    config = dict(content.config_records[CONFIG])
    if config["status"] == "done":
        return "done"
    assert set(content) == {CONFIG}
    assert set(config) == {"status", "code", "reason"}
    assert config["status"] == "refused"
    assert config["reason"] in SENTENCES
    return config["code"]


def vector_of(content):
    """Return the one array of a reply."""
    assert said(content) == "done"
    (array,) = content.array_records["arrays"].values()
    return array.numpy()


class Consortium:
    """Partners with data, identities and each other's keys; `by_name` are settings of single ones.

    Attributes
    ----------
    adverts : dict
        What each partner said of itself, once asked.
    """

    def __init__(self, folder, plan=None, *, names=NAMES, run=RUN, request=None, by_name=None, **settings):
        self.folder, self.names, self.run = folder, list(names), run
        self.plan = plan or a_shared_plan()
        self.request = {"training": ONE_STEP} | (request or {})
        for seed, name in enumerate(self.names):
            a_partner(folder, name, seed=seed, **(settings | (by_name or {}).get(name, {})))
        self.public = share_keys(folder, self.names)
        self.adverts = {}

    @property
    def terms(self):
        return terms_of("trial", self.run, self.plan)

    def partner(self, name):
        return Partner.load(file_of(self.folder, name))

    def identity(self, name):
        return SigningKey(self.folder / name / "identity.key")

    def state(self, name):
        return self.folder / name / "state"

    def ledger(self, name):
        return Ledger.of(self.partner(name))

    def entries(self):
        """How long each ledger is: nobody can have been charged while it stays."""
        return {name: len(self.ledger(name).entries()) for name in self.names}

    def charged(self, name):
        """Rounds that a partner's ledger says were charged."""
        return [entry.round for entry in self.ledger(name).entries() if entry.kind == "reserved"]

    def query(self, name, action, content):
        return ask(file_of(self.folder, name), content, f"{MessageType.QUERY}.{action}")

    def keys(self, name, *, plan=None, run=None):
        return self.query(name, KEYS, keys_request("trial", run or self.run, plan or self.plan))

    def all_keys(self):
        self.adverts = {name: read_keys_reply(self.keys(name)) for name in self.names}
        return self.adverts

    def shares(self, name, adverts=None):
        shown = self.adverts if adverts is None else adverts
        return self.query(name, SHARES, shares_request(self.run, list(shown.values())))

    def all_shares(self):
        """Return what each partner sealed, by sender and receiver."""
        return {name: read_shares_reply(self.shares(name)) for name in self.names}

    def keep(self, name, sealed, **changes):
        """Hand a partner what the others sealed for it."""
        given = {sender: sealed[sender][name] for sender in self.names if sender != name} | changes
        return self.query(name, KEEP, keep_request(self.run, given))

    def set_up(self):
        self.all_keys()
        sealed = self.all_shares()
        assert {name: said(self.keep(name, sealed)) for name in self.names} == dict.fromkeys(self.names, "done")
        return self

    def round(self, name, number=1, **changes):
        fields = {"run": self.run, "plan": self.plan} | self.request | changes
        return ask(file_of(self.folder, name), round_request(a_request(number, **fields)))

    def vectors(self, number=1, names=None):
        """Return what partners send in a round."""
        return {name: vector_of(self.round(name, number)) for name in names or self.names}

    def unmask(self, name, survivors, number=1, *, run=None):
        return self.query(name, UNMASK, unmask_request(run or self.run, number, survivors))

    def opened(self, masked, number=1, answering=None):
        """Return the sum of vectors, opened with the answers of those who sent them, or of some."""
        answers = {n: read_unmask_reply(self.unmask(n, masked, number)) for n in answering or masked}
        return opened_sum(
            masked,
            answers,
            adverts=tuple(self.adverts.values()),
            digest=list_digest(tuple(self.adverts.values()), self.terms),
            terms=self.terms,
            round_number=number,
        )


def trunk_size(model=MODEL):
    """How many values are summed; one hidden layer."""
    return (model.input_bits + 1) * model.hidden[0]


def is_masked(content):
    """Whether a reply's one array is the masked vector, of whole numbers."""
    assert set(content.array_records["arrays"]) == {MASKED}
    return vector_of(content).dtype in (np.int32, np.int64)
