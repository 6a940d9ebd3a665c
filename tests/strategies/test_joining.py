"""Who is let into a run: partners that can show who they are, and that prepared alike."""

import json
import re
from dataclasses import replace

import pytest
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st
from tests.partners import a_join, a_plan
from tests.strategies.federations import a_federation

from pharma_fl import __version__
from pharma_fl.config import RosterKeys
from pharma_fl.errors import FederationError
from pharma_fl.messages import join
from pharma_fl.messages.join import (
    JoinAnswer,
    JoinRequest,
    join_answer,
    join_request,
    read_join_answer,
    read_join_request,
)
from pharma_fl.signing_key import SigningKey
from pharma_fl.strategies.joining import check_answer, not_alike
from pharma_fl.strategies.roster import Roster, call_roster

PLAN = a_plan()
ASK = JoinRequest(federation="test", run="test-1", plan=PLAN, challenge=bytes(range(32)))
PAIR = ("east", "north")


def an_answer(name="north", **changes):
    fields = {"status": "joined", "version": __version__, "plan": PLAN.digest, "ledger": "a" * 64}
    return JoinAnswer(partner=name, **fields | changes)


@pytest.fixture(scope="module")
def identities(tmp_path_factory):
    folder = tmp_path_factory.mktemp("identities")
    return {name: SigningKey.make(folder / name) for name in (*PAIR, "stranger")}


@pytest.fixture(scope="module")
def keys(identities):
    entries = {name: {"identity": identities[name].public, "supernode": f"ecdsa {name}"} for name in PAIR}
    return RosterKeys.model_validate({"partners": entries})


# --- Signatures --------------------------------------------------------------------------------------------------


def test_an_answer_that_its_partner_signed_is_believed(identities, keys):
    assert check_answer(an_answer().signed(ASK, identities["north"]), ASK, keys) == ""


def test_without_keys_a_node_is_believed_who_it_says_it_is():
    assert check_answer(an_answer(), ASK, None) == ""


@pytest.mark.parametrize("signature", [b"", bytes(64), b"short", bytes(1000)], ids=len)
def test_an_answer_without_a_good_signature_is_not_believed(keys, signature):
    assert check_answer(an_answer(signature=signature), ASK, keys) == "PFL-F16"


@pytest.mark.parametrize("signer", ["east", "stranger"])
def test_nobody_else_can_sign_for_a_partner(identities, keys, signer):
    assert check_answer(an_answer().signed(ASK, identities[signer]), ASK, keys) == "PFL-F16"


@pytest.mark.parametrize("name", ["stranger", "", "../north"])
def test_who_is_not_in_the_roster_is_not_believed(identities, keys, name):
    assert check_answer(an_answer(name).signed(ASK, identities["stranger"]), ASK, keys) == "PFL-F16"


@pytest.mark.parametrize(
    "other", [{"challenge": bytes(32)}, {"run": "test-2"}, {"federation": "other"}], ids=lambda one: next(iter(one))
)
def test_an_answer_to_another_question_is_not_believed(identities, keys, other):
    assert check_answer(an_answer().signed(replace(ASK, **other), identities["north"]), ASK, keys) == "PFL-F16"


@pytest.mark.parametrize(
    "changed",
    [
        {"status": "refused"},
        {"partner": "east"},
        {"code": "PFL-P10"},
        {"version": "9.9"},
        {"plan": "b" * 64},
        {"agreement": "{}"},
        {"ledger": "b" * 64},
        {"affordable_rounds": 7},
    ],
    ids=lambda one: next(iter(one)),
)
def test_an_answer_that_was_changed_on_its_way_is_not_believed(identities, keys, changed):
    signed = an_answer().signed(ASK, identities["north"])
    assert check_answer(replace(signed, **changed), ASK, keys) == "PFL-F16"


def test_fields_cannot_be_moved_into_each_other(identities, keys):
    """What is signed is a list, not its parts run together."""
    signed = an_answer(code="PFL", version="1").signed(ASK, identities["north"])
    assert check_answer(replace(signed, code="PFL1", version=""), ASK, keys) == "PFL-F16"


def test_who_read_another_plan_is_refused_and_another_version_is_only_told_of(identities, keys, caplog):
    other = an_answer(plan="b" * 64).signed(ASK, identities["north"])
    assert check_answer(other, ASK, keys) == "PFL-F15"
    older = an_answer(version="0.0.1\x1b[31m").signed(ASK, identities["north"])
    assert check_answer(older, ASK, keys) == ""
    (said,) = [record.getMessage() for record in caplog.records]
    assert said == f"Partner north runs pharma-fl 0.0.1?[31m, and the coordinator {__version__}."


# --- Nodes -------------------------------------------------------------------------------------------------------


class Nodes:
    """A grid in front of nodes that answer the very question that they are asked."""

    def __init__(self, **nodes):
        self.nodes = {int(node[1:]): say for node, say in nodes.items()}
        self.open, self.asked = {}, []

    def get_node_ids(self):
        return list(self.nodes)

    def push_messages(self, messages):
        for message in messages:
            message.metadata.__dict__["_message_id"] = number = f"m{len(self.asked):03d}"
            self.open[number] = message
            self.asked.append(message.metadata.dst_node_id)
        return [message.metadata.message_id for message in messages]

    def pull_messages(self, numbers):
        messages = [self.open.pop(number) for number in numbers if number in self.open]
        return [
            Message(
                join_answer(self.nodes[message.metadata.dst_node_id](read_join_request(message.content))),
                reply_to=message,
            )
            for message in messages
        ]


def signing(key, name, **changes):
    """A node that signs what it says of itself."""
    return lambda request: an_answer(name, **changes).signed(request, key)


def test_partners_join_by_their_keys(identities, keys):
    grid = Nodes(n1=signing(identities["east"], "east"), n2=signing(identities["north"], "north"))
    roster = call_roster(grid, a_federation(PAIR), ASK, keys=keys)
    assert roster.nodes == {"east": 1, "north": 2}
    assert roster.ledgers == {"east": "a" * 64, "north": "a" * 64}


def test_each_node_is_given_a_challenge_of_its_own(identities, keys):
    challenges = []

    def telling(name):
        def say(request):
            challenges.append(request.challenge)
            return an_answer(name).signed(request, identities[name])

        return say

    grid = Nodes(n1=telling("east"), n2=telling("north"))
    assert call_roster(grid, a_federation(PAIR), ASK, keys=keys).nodes.keys() == {"east", "north"}
    assert len({*challenges, ASK.challenge, bytes(32)}) == 4


@pytest.mark.parametrize("impostor", ["unsigned", "stranger", "replayed", "refusing"])
def test_an_impostor_is_ignored_and_the_partner_joins_from_its_own_node(identities, keys, impostor, caplog):
    """What it says neither takes the name nor speaks a refusal for it."""
    north = identities["north"]
    says = {
        "unsigned": lambda request: an_answer(),
        "stranger": signing(identities["stranger"], "north"),
        "replayed": lambda request: an_answer().signed(replace(request, challenge=bytes(32)), north),
        "refusing": signing(identities["stranger"], "north", status="refused", code="PFL-P20"),
    }
    grid = Nodes(n1=signing(identities["east"], "east"), n2=says[impostor], n3=signing(north, "north"))
    roster = call_roster(grid, a_federation(PAIR), ASK, keys=keys)
    assert roster.nodes == {"east": 1, "north": 3}
    assert roster.refused == {}
    said = "Node 2 says it is north, which is not believed (PFL-F16)."
    assert said in [record.getMessage() for record in caplog.records]


def test_an_impostor_does_not_inherit_a_name_whose_node_is_gone(identities, keys):
    grid = Nodes(n1=signing(identities["east"], "east"), n2=signing(identities["north"], "north"))
    federation = a_federation(PAIR)
    roster = call_roster(grid, federation, ASK, keys=keys)
    del grid.nodes[2]
    grid.nodes[3] = signing(identities["stranger"], "north")
    roster.refresh(grid, federation, ASK)
    assert roster.nodes == {"east": 1, "north": 2}
    grid.nodes[4] = signing(identities["north"], "north")
    roster.refresh(grid, federation, ASK)
    assert roster.nodes == {"east": 1, "north": 4}


def test_a_partner_that_prepared_anew_meanwhile_does_not_go_on(identities, keys, caplog):
    grid = Nodes(n1=signing(identities["north"], "north"))
    federation = a_federation(("north",))
    roster = call_roster(grid, federation, ASK, keys=keys)
    del grid.nodes[1]
    grid.nodes[2] = signing(identities["north"], "north", agreement="{}")
    roster.refresh(grid, federation, ASK)
    assert roster.nodes == {"north": 1}
    assert "partner north prepared otherwise since the run began" in caplog.text


def test_who_read_another_plan_does_not_take_part(identities, keys):
    grid = Nodes(n1=signing(identities["east"], "east"), n2=signing(identities["north"], "north", plan="b" * 64))
    roster = call_roster(grid, a_federation(PAIR), ASK, keys=keys)
    assert roster.nodes == {"east": 1}
    assert roster.refused == {"north": "PFL-F15"}


# --- Agreements --------------------------------------------------------------------------------------------------


def an_agreement(change=lambda content: None):
    """An agreement's text; the form is what counts here."""
    from pharma_fl.data.agreement import STEPS

    content = {
        "format": "pharma-fl-agreement",
        "format_version": 1,
        "versions": {"rdkit": "2025.03.3", "numpy": "2.2.0", "pharma_fl": __version__},
        "key": {"id": "k1", "scheme": "hkdf"},
        "steps": {step: {"version": number, "settings": {}, "digest": "d"} for step, number in STEPS.items()},
        "probe": {"digest": "p", "results": {"aspirin": {"structure": "CC(=O)Oc1ccccc1C(=O)O", "bits": "b"}}},
    }
    change(content)
    return json.dumps(content)


def other_key(content):
    content["key"]["id"] = "k2"


def other_atoms(content):
    content["steps"]["structures"]["settings"]["max_atoms"] = 99


def newer_numpy(content):
    content["versions"]["numpy"] = "9.9.9"


def test_partners_that_prepared_alike_are_all_taken():
    assert not_alike({}) == {}
    assert not_alike({"north": an_agreement()}) == {}
    assert not_alike(dict.fromkeys(("east", "north", "south"), an_agreement())) == {}


def test_what_does_not_matter_keeps_nobody_out():
    assert not_alike({"east": an_agreement(), "north": an_agreement(newer_numpy)}) == {}
    # Neither does how the same is written.
    assert not_alike({"east": an_agreement(), "north": json.dumps(json.loads(an_agreement()), indent=4)}) == {}


def test_partners_without_agreements_agree_among_themselves():
    assert not_alike(dict.fromkeys(("east", "north"), "")) == {}


@pytest.mark.parametrize(
    ("change", "where"),
    [(other_key, "key.id: k1 at east, k2 at south"), (other_atoms, "structures.max_atoms: nothing at east, 99 at")],
)
def test_who_prepared_otherwise_than_most_is_left_out_and_told_in_what(change, where):
    found = not_alike({"east": an_agreement(), "north": an_agreement(), "south": an_agreement(change)})
    assert found.keys() == {"south"}
    assert found["south"].startswith(where)


def test_the_largest_group_is_taken_wherever_it_stands():
    found = not_alike({"east": an_agreement(), "north": an_agreement(other_key), "west": an_agreement(other_key)})
    assert found.keys() == {"east"}


@pytest.mark.parametrize("first", [an_agreement, ""], ids=["with", "without"])
def test_of_groups_of_one_size_the_first_by_name_is_taken(first):
    """Whoever answered first; partners without agreements are a group as others are."""
    first = first() if callable(first) else first
    agreements = {
        "west": an_agreement(other_key),
        "south": first,
        "north": an_agreement(other_key),
        "east": first,
    }
    assert not_alike(agreements).keys() == {"north", "west"}
    assert not_alike(dict(sorted(agreements.items()))).keys() == {"north", "west"}


def test_with_and_without_an_agreement_do_not_go_together():
    said = "agreement: one has an agreement.json, and the other imported matrices, which have none."
    assert not_alike({"east": an_agreement(), "north": an_agreement(), "south": ""}) == {"south": said}
    assert not_alike({"east": an_agreement(), "north": "", "south": ""}) == {"east": said}


GARBAGE = {
    "no JSON": "{",
    "another JSON": "[]",
    "a number": "7",
    "too deep": "[" * 100_000,
    "a long number": "1" * 10_000,
    "parts are missing": '{"format": "pharma-fl-agreement", "format_version": 1}',
    "of the future": '{"format": "pharma-fl-agreement", "format_version": 2}',
}


@pytest.mark.parametrize("text", GARBAGE.values(), ids=GARBAGE.keys())
def test_what_is_no_agreement_leaves_its_partner_out_and_nobody_else(text):
    """Not even where it comes first by name, or where two say the same."""
    found = not_alike({"east": text, "north": an_agreement()})
    assert found.keys() == {"east"}
    assert found["east"].startswith("agreement: ")
    assert not_alike({"east": text, "north": text, "south": an_agreement()}).keys() == {"east", "north"}
    assert not_alike({"east": text, "north": ""}).keys() == {"east"}
    assert not_alike({"east": text, "north": text + " "}).keys() == {"east", "north"}


def test_what_is_said_of_a_foreign_agreement_is_safe_for_a_terminal():
    def loud(content):
        content["key"]["id"] = "\x1b[31m\ud800\n"

    said = " ".join(not_alike({"east": an_agreement(), "north": an_agreement(loud)}).values())
    assert re.fullmatch(r"[ -~]+", said)


def test_who_prepared_otherwise_is_left_out_of_the_roster_and_the_log_says_in_what(caplog):
    roster = Roster()
    federation = a_federation(("east", "north", "south"))
    for node, (name, change) in enumerate({"east": None, "north": other_atoms, "south": None}.items()):
        text = an_agreement(change) if change else an_agreement()
        roster.admit(node, an_answer(name, agreement=text), federation)
    roster.check_alike()
    assert roster.nodes == {"east": 0, "south": 2}
    assert roster.refused == {"north": "PFL-F15"}
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith("Partner north is left out (PFL-F15): structures.max_atoms: nothing at east, 99 at north.")


# --- Messages ----------------------------------------------------------------------------------------------------

TEXT = st.text(st.characters(codec="utf-8"), max_size=20)


@given(st.sampled_from(["joined", "refused"]), st.lists(TEXT, min_size=6, max_size=6), st.integers(-1, 10**9))
def test_an_answer_is_read_as_it_was_packed(status, texts, rounds):
    fields = dict(zip(("partner", "code", "version", "plan", "agreement", "ledger"), texts, strict=True))
    answer = JoinAnswer(status=status, affordable_rounds=rounds, signature=b"\x00\xff", **fields)
    assert read_join_answer(join_answer(answer)) == answer


def test_a_question_is_read_as_it_was_packed():
    assert read_join_request(join_request(ASK)) == ASK


def answer_with(**changes):
    content = join_answer(an_answer())
    content["config"] = ConfigRecord(dict(content["config"]) | changes)
    return content


WRONG = [
    *({key: value} for key in ("status", "partner", "code", "version", "plan", "agreement", "ledger") for value in (
        7, True, b"x", ["x"]
    )),
    *({"affordable_rounds": value} for value in (True, 1.0, "1", [1])),
    *({"signature": value} for value in ("", 0, [b""])),
    {"status": "maybe"},
    {"status": ""},
    {"compounds": 150},
]  # fmt: skip


@pytest.mark.parametrize("changes", WRONG, ids=str)
def test_an_answer_of_another_form_is_none(changes):
    with pytest.raises(FederationError) as caught:
        read_join_answer(answer_with(**changes))
    assert caught.value.code == "PFL-F11"


@pytest.mark.parametrize("key", sorted(join_answer(an_answer())["config"]))
def test_an_answer_that_lacks_something_is_none(key):
    content = join_answer(an_answer())
    content["config"] = ConfigRecord({k: v for k, v in content["config"].items() if k != key})
    with pytest.raises(FederationError, match="lacks a key") as caught:
        read_join_answer(content)
    assert caught.value.code == "PFL-F11"


@pytest.mark.parametrize(
    "content",
    [
        RecordDict(),
        RecordDict({"config": MetricRecord({"status": 1})}),
        RecordDict({**join_answer(an_answer()), "metrics": MetricRecord({"loss": 0.1})}),
    ],
    ids=["nothing", "numbers", "a record more"],
)
def test_an_answer_with_other_records_is_none(content):
    with pytest.raises(FederationError) as caught:
        read_join_answer(content)
    assert caught.value.code == "PFL-F11"


def test_an_agreement_longer_than_any_is_not_read(monkeypatch):
    monkeypatch.setattr(join, "MOST_AGREEMENT", 100)
    assert read_join_answer(join_answer(an_answer(agreement="x" * 100))).agreement == "x" * 100
    with pytest.raises(FederationError, match="longer than 100 characters"):
        read_join_answer(join_answer(an_answer(agreement="x" * 101)))


ASKED_WRONGLY = [
    {"federation": 7},
    {"federation": ""},
    {"federation": "../other"},
    {"run": "a run"},
    {"run": "x" * 200},
    {"challenge": bytes(31)},
    {"challenge": bytes(33)},
    {"challenge": "0" * 32},
    {"plan": "{}"},
    {"plan": "{"},
    {"plan": 7},
    {"more": 1},
]


@pytest.mark.parametrize("changes", ASKED_WRONGLY, ids=str)
def test_a_question_of_another_form_is_refused(changes):
    content = a_join()
    content["config"] = ConfigRecord(dict(content["config"]) | changes)
    with pytest.raises(FederationError) as caught:
        read_join_request(content)
    assert caught.value.code == "PFL-F01"


@pytest.mark.parametrize("key", ["federation", "run", "plan", "challenge"])
def test_a_question_that_lacks_something_is_refused(key):
    content = a_join()
    content["config"] = ConfigRecord({k: v for k, v in content["config"].items() if k != key})
    with pytest.raises(FederationError) as caught:
        read_join_request(content)
    assert caught.value.code == "PFL-F01"
