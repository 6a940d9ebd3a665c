"""A partner's part in secure sums, through the very messages: what an honest setup opens, and what all else gets.

Nothing that is refused is charged, and no refusal says more than its code.
"""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tomli_w
from flwr.common.serde import recorddict_to_proto
from tests.clients.consortium import RUN, Consortium, said, trunk_size, vector_of
from tests.partners import NAMES, a_plan, a_request, a_shared_plan

from pharma_fl.messages.rounds import MASKED
from pharma_fl.messages.secure_sum import UNMASK, read_keys_reply, read_unmask_reply, terms_of, unmask_request
from pharma_fl.messages.wire import from_arrays
from pharma_fl.secagg.bundles import seal_bundles
from pharma_fl.secagg.keys import Secrets, list_digest, make_advert
from pharma_fl.signing_key import SigningKey

ALL = frozenset(NAMES)


@pytest.fixture
def four(tmp_path):
    """Partners that have not heard of a run."""
    return Consortium(tmp_path)


@pytest.fixture
def ready(four):
    """Partners whose setup is done."""
    return four.set_up()


def on_the_wire(content):
    return recorddict_to_proto(content).SerializeToString(deterministic=True)


# What leaves


def test_a_reply_holds_one_vector_of_whole_numbers_and_two_public_ones_and_nothing_else(tmp_path):
    """Of partners with few and with many compounds alike."""
    four = Consortium(tmp_path, by_name={"north": {"n": 20}, "south": {"n": 400}}).set_up()
    replies = {name: four.round(name) for name in NAMES}
    for content in replies.values():
        assert set(content) == {"arrays", "metrics", "config"}
        assert dict(content["config"]) == {"status": "done", "run": "run-1", "round": 1}
        arrays = from_arrays(content["arrays"])
        assert set(arrays) == {MASKED}
        assert (str(arrays[MASKED].dtype), tuple(arrays[MASKED].shape)) == ("torch.int32", (trunk_size(),))
        assert dict(content["metrics"]) == dict(replies["north"]["metrics"])
        assert set(content["metrics"]) == {"epsilon_spent", "epsilon_left"}


def test_nothing_of_the_setup_but_what_is_public_or_sealed_leaves(four):
    four.all_keys()
    for content in [four.keys("north"), four.shares("north")]:
        assert set(content) == {"config"}
    assert set(four.keys("north")["config"]) == {"status", "name", "sealing", "rounds", "signature"}
    assert set(four.shares("north")["config"]) == {"status", "names", "sealed"}
    sealed = four.all_shares()
    kept = four.keep("north", sealed)
    assert (set(kept), dict(kept["config"])) == ({"config"}, {"status": "done"})
    for path in four.state("north").iterdir():
        stored = path.read_bytes()
        assert four.adverts["north"].sealing in stored
        # What was sealed is kept as it was opened, and does not travel so.
        assert sealed["east"]["north"] not in stored
    assert four.entries() == dict.fromkeys(NAMES, 0)


def test_the_setups_file_is_never_readable_for_others(four, monkeypatch):
    """Not for a moment, in a folder that is: a kill may make a moment last."""
    modes, move = [], Path.replace

    def watched(path, target):
        if "secure-sum" in Path(target).name:
            modes.append(path.stat().st_mode & 0o777)
        return move(path, target)

    for name in NAMES:
        four.state(name).mkdir(mode=0o755)
    monkeypatch.setattr(Path, "replace", watched)
    four.set_up()
    for name in NAMES:
        (place,) = four.state(name).glob("secure-sum*")
        assert place.stat().st_mode & 0o777 == 0o600
    assert modes == [0o600] * len(NAMES) * 3


# Keys


def test_keys_are_made_once_a_run(four):
    first = on_the_wire(four.keys("north"))
    assert on_the_wire(four.keys("north")) == first
    four.set_up().vectors(1)
    assert on_the_wire(four.keys("north")) == first
    assert said(four.keys("north", plan=a_shared_plan(noise_multiplier=5.0))) == "PFL-F34"
    assert on_the_wire(four.keys("north", run="run-2")) != first


def test_keys_for_another_federation_in_the_same_run_are_refused(four):
    from pharma_fl.messages.secure_sum import KEYS, keys_request

    four.keys("north")
    assert said(four.query("north", KEYS, keys_request("other", RUN, four.plan))) == "PFL-F34"


def test_keys_for_a_plan_that_shares_no_noise_are_refused(four):
    assert said(four.keys("north", plan=a_plan())) == "PFL-F34"


@pytest.mark.parametrize("lost", ["the folder", "the setup's file", "the setup, for another run's"])
def test_a_run_that_has_begun_gets_no_new_keys(ready, lost):
    """New ones would hide vectors that the old ones hid before."""
    ready.vectors(1)
    before = ready.entries()
    if lost == "the folder":
        shutil.rmtree(ready.state("north"))
    elif lost == "the setup's file":
        (ready.state("north") / "secure-sum.safetensors").unlink()
    else:
        assert said(ready.keys("north", run="run-2")) == "done"
    assert said(ready.keys("north")) == "PFL-F34"
    assert said(ready.shares("north")) == "PFL-F34"
    assert said(ready.unmask("north", ALL)) == "PFL-F34"
    assert said(ready.round("north", 2)) == ("PFL-P16" if lost == "the folder" else "PFL-F34")
    assert ready.entries() == before


def test_a_run_goes_on_with_the_keys_that_another_run_did_not_replace(ready):
    """Asked for by somebody else while it runs, keys are one run's at a time: the first run ends, and leaks nothing."""
    masked = ready.vectors(1)
    ready.keys("north", run="run-2")
    assert said(ready.unmask("north", ALL)) == "PFL-F34"
    others = [name for name in NAMES if name != "north"]
    assert len(ready.opened(masked, answering=others)) == trunk_size()


def spoil_keys(four, change):
    path = four.folder / "north" / "partner-keys.toml"
    keys = dict(four.public)
    change(keys)
    path.write_text(tomli_w.dumps({"partners": keys}))


SPOILED = {
    "no identity": (lambda c: (c.folder / "north" / "identity.key").unlink(), "PFL-P13"),
    "an identity for all to read": (lambda c: (c.folder / "north" / "identity.key").chmod(0o640), "PFL-P13"),
    "no list": (lambda c: (c.folder / "north" / "partner-keys.toml").unlink(), "PFL-C01"),
    "not on the list": (lambda c: spoil_keys(c, lambda keys: keys.pop("north")), "PFL-F30"),
    "another key on the list": (lambda c: spoil_keys(c, lambda keys: keys.update(north="ab" * 32)), "PFL-F30"),
    "one key for two": (lambda c: spoil_keys(c, lambda keys: keys.update(west=keys["east"])), "PFL-C03"),
    "a list of one": (lambda c: spoil_keys(c, lambda keys: [keys.pop(one) for one in NAMES[1:]]), "PFL-C03"),
}


@pytest.mark.parametrize(("spoil", "code"), SPOILED.values(), ids=SPOILED.keys())
def test_without_an_identity_and_a_list_a_partner_takes_no_part(four, spoil, code):
    """Whether the files were never there or are lost between the questions."""
    four.all_keys()
    spoil(four)
    assert said(four.keys("north")) == code
    assert said(four.shares("north")) == code
    assert four.entries() == dict.fromkeys(NAMES, 0)


def test_a_sum_of_fewer_partners_than_a_partner_knows_is_refused(tmp_path):
    fewer = a_shared_plan(contributors=3, tolerated_losses=0)
    four = Consortium(tmp_path, by_name={"south": {"policy": {"min_contributors": 3}}})
    assert said(four.keys("north", plan=fewer)) == "PFL-F30"
    assert said(four.keys("south", plan=fewer)) == "done"
    fewest = a_shared_plan(contributors=2, tolerated_losses=0)
    assert said(four.keys("north", plan=fewest)) == "PFL-F30"
    assert said(four.keys("south", plan=fewest)) == "PFL-P20"


@pytest.mark.parametrize(
    "policy",
    [
        {"min_tolerated_colluders": 2},
        {"min_contributors": 5},
        {"min_noise_multiplier": 17.0},
        {"federations": ["ours"]},
        {"max_sample_rate": 0.4},
    ],
)
def test_keys_are_for_plans_within_the_policy(tmp_path, policy):
    four = Consortium(tmp_path, by_name={"north": {"policy": policy}})
    assert said(four.keys("north")) == "PFL-P20"
    assert said(four.round("north")) == "PFL-P20"
    assert not four.state("north").exists()


# The list of partners


def outsider(four, name="stranger"):
    """Keys that are in order but for whose they are."""
    key = SigningKey.make(four.folder / f"{name}.key")
    return make_advert(name, Secrets.fresh(), four.terms, key.sign)


def another_of(four, name, terms=None):
    """Other keys under a partner's own signature."""
    return make_advert(name, Secrets.fresh(), terms or four.terms, four.identity(name).sign)


def without(adverts, *names):
    return {name: advert for name, advert in adverts.items() if name not in names}


def with_key_at(advert, place):
    """One key of an advert swapped for a coordinator's own."""
    key = outsider_key()
    if place == "sealing":
        return replace(advert, sealing=key)
    start = 64 * (place - 1)
    return replace(advert, rounds=advert.rounds[:start] + key + advert.rounds[start + 32 :])


def outsider_key():
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    return X25519PrivateKey.generate().public_key().public_bytes_raw()


def of_another_run(four, name):
    return another_of(four, name, terms_of("trial", "run-0", four.plan))


def of_another_plan(four, name):
    return another_of(four, name, terms_of("trial", RUN, a_shared_plan(noise_multiplier=1.0)))


LISTS = {
    "a partner left out": (lambda c, a: without(a, "west"), "PFL-F30"),
    "a partner in the place of another": (lambda c, a: a | {"west": a["east"]}, "PFL-F30"),
    "a stranger more": (lambda c, a: a | {"x": outsider(c)}, "PFL-F30"),
    "a stranger in the place of a partner": (lambda c, a: a | {"west": outsider(c)}, "PFL-F30"),
    "a stranger in the partner's own place": (lambda c, a: a | {"north": outsider(c)}, "PFL-F30"),
    "nobody": (lambda c, a: {}, "PFL-F30"),
    "a swapped key to seal for": (lambda c, a: a | {"west": with_key_at(a["west"], "sealing")}, "PFL-F31"),
    "a swapped key of the first round": (lambda c, a: a | {"west": with_key_at(a["west"], 1)}, "PFL-F31"),
    "a swapped key of the last round": (lambda c, a: a | {"west": with_key_at(a["west"], 6)}, "PFL-F31"),
    "keys with a stranger's signature": (lambda c, a: a | {"west": outsider(c, "west")}, "PFL-F31"),
    "keys of a run before": (lambda c, a: a | {"west": of_another_run(c, "west")}, "PFL-F31"),
    "keys of a plan with less noise": (lambda c, a: a | {"west": of_another_plan(c, "west")}, "PFL-F31"),
    "one's own keys of a run before": (lambda c, a: a | {"north": of_another_run(c, "north")}, "PFL-F31"),
    "one's own name with other keys": (lambda c, a: a | {"north": another_of(c, "north")}, "PFL-F31"),
    "one partner's keys under two names": (lambda c, a: a | {"west": replace(a["east"], name="west")}, "PFL-F31"),
}


@pytest.mark.parametrize(("change", "code"), LISTS.values(), ids=LISTS.keys())
def test_a_list_that_is_not_the_partners_own_is_refused(four, change, code):
    adverts = four.all_keys()
    assert said(four.shares("north", change(four, adverts))) == code
    assert said(four.round("north")) == "PFL-F34"
    # Whatever was tried, the partner is as before.
    assert said(four.shares("north")) == "done"
    assert four.entries() == dict.fromkeys(NAMES, 0)


def test_another_list_than_before_is_refused_though_all_of_it_is_signed(four):
    adverts = four.all_keys()
    sealed = on_the_wire(four.shares("north"))
    assert said(four.shares("north", adverts | {"west": another_of(four, "west")})) == "PFL-F34"
    assert on_the_wire(four.shares("north", dict(reversed(adverts.items())))) == sealed


def test_shares_before_keys_and_keeping_before_shares_are_refused(four):
    adverts = four.all_keys()
    sealed = four.all_shares()
    late = Consortium(four.folder / "late", names=["north", "west"])
    late.names = list(NAMES)
    assert said(late.shares("north", adverts)) == "PFL-F34"
    assert said(late.keep("north", sealed)) == "PFL-F34"
    assert said(late.keys("north", plan=a_shared_plan(contributors=2, tolerated_losses=0))) == "done"
    assert said(late.keep("north", sealed)) == "PFL-F34"


@pytest.mark.parametrize("how", ["a partner that signs for the coordinator", "a partner that lost its state"])
def test_partners_that_are_shown_different_lists_find_out_before_a_round(four, how):
    """East is shown other keys of west's than north and south, each list signed by all that are on it."""
    one = four.all_keys()
    if how == "a partner that lost its state":
        shutil.rmtree(four.state("west"))
        other = one | {"west": read_keys_reply(four.keys("west"))}
        assert other["west"] != one["west"]
        sealed = {name: four.shares(name, other if name in {"east", "west"} else one) for name in NAMES}
        sealed = {
            name: dict(zip(content["config"]["names"], content["config"]["sealed"], strict=True))
            for name, content in sealed.items()
        }
    else:
        secrets = [Secrets.fresh() for _ in range(2)]
        lists = [
            one | {"west": make_advert("west", secret, four.terms, four.identity("west").sign)} for secret in secrets
        ]
        shown = {"north": lists[0], "south": lists[0], "east": lists[1]}
        sealed = {}
        for name, adverts in shown.items():
            config = four.shares(name, adverts)["config"]
            sealed[name] = dict(zip(config["names"], config["sealed"], strict=True))
        # West helps as well as it can: its own shares fit the list that each was shown.
        sealed["west"] = {}
        for name, adverts in shown.items():
            listed, secret = tuple(adverts.values()), secrets[lists.index(adverts)]
            given, _ = seal_bundles(secret, "west", listed, four.terms, list_digest(listed, four.terms))
            sealed["west"][name] = given[name]
    honest = ("north", "south", "east")
    assert [said(four.keep(name, sealed)) for name in honest] == ["PFL-F32"] * 3
    assert [said(four.round(name)) for name in honest] == ["PFL-F34"] * 3
    assert four.entries() == dict.fromkeys(NAMES, 0)


BUNDLES = {
    "changed on its way": lambda s: {"east": s["east"]["north"][:-1] + bytes([s["east"]["north"][-1] ^ 1])},
    "cut short": lambda s: {"east": s["east"]["north"][:-64]},
    "of another partner": lambda s: {"east": s["south"]["north"]},
    "for another partner": lambda s: {"east": s["east"]["south"]},
    "sent back": lambda s: {"east": s["north"]["east"]},
    "empty": lambda s: {"east": b""},
    "one more": lambda s: {"stranger": s["east"]["north"]},
    "one's own": lambda s: {"north": s["east"]["north"]},
}


@pytest.mark.parametrize("change", BUNDLES.values(), ids=BUNDLES.keys())
def test_shares_that_were_not_sealed_for_this_place_are_refused(four, change):
    four.all_keys()
    sealed = four.all_shares()
    assert said(four.keep("north", sealed, **change(sealed))) == "PFL-F32"
    assert said(four.round("north")) == "PFL-F34"
    assert said(four.keep("north", sealed)) == "done"
    assert said(four.round("north")) == "done"


def test_missing_shares_and_those_of_another_run_are_refused(four):
    four.all_keys()
    old = four.all_shares()
    four.run = "run-2"
    four.all_keys()
    sealed = four.all_shares()
    assert said(four.keep("north", sealed, east=old["east"]["north"])) == "PFL-F32"
    four.names = ["east", "north", "south"]
    assert said(four.keep("north", sealed)) == "PFL-F32"


# Rounds


@pytest.mark.parametrize("done", ["nothing", "keys", "shares", "another run", "another plan", "another federation"])
def test_without_a_finished_setup_of_the_run_a_round_is_refused_uncharged(four, done):
    request = {}
    if done != "nothing":
        four.all_keys()
    if done == "shares":
        four.all_shares()
    if done.startswith("another"):
        four.set_up()
        request = {
            "another run": {"run": "run-2"},
            "another plan": {"plan": a_shared_plan(noise_multiplier=3.9)},
            "another federation": {"federation": "trial-2"},
        }[done]
    before = four.entries()
    assert said(four.round("north", **request)) == "PFL-F34"
    assert said(four.unmask("north", ALL)) == ("PFL-F33" if done.startswith("another") else "PFL-F34")
    assert four.entries() == before


def test_a_round_beyond_the_plan_is_refused_uncharged(ready):
    before = ready.entries()
    assert [said(ready.round("north", number)) for number in (0, 7, -1)] == ["PFL-F02"] * 3
    assert ready.entries() == before


def test_the_same_request_gets_the_same_vector_and_costs_nothing(ready):
    first = on_the_wire(ready.round("north"))
    before = ready.entries()
    assert on_the_wire(ready.round("north")) == first
    ready.unmask("north", ALL)
    assert on_the_wire(ready.round("north")) == first
    assert ready.entries() == before


@pytest.mark.parametrize(
    "change",
    [
        {"trunk": {name: value + 1 for name, value in a_request().trunk.items()}},
        {"seed": 1},
        {"plan": a_shared_plan(sample_rate=0.4)},
        {"federation": "trial-2"},
    ],
    ids=["another trunk", "another seed", "another plan", "another federation"],
)
def test_a_second_vector_of_a_round_is_refused(ready, change):
    """It would have the same masks: the difference of both would be there to read."""
    ready.round("north")
    before = ready.entries()
    assert said(ready.round("north", **change)) == "PFL-F02"
    assert ready.entries() == before


def test_an_older_round_is_refused(ready):
    ready.round("north", 1)
    ready.round("north", 3)
    before = ready.entries()
    assert [said(ready.round("north", number)) for number in (1, 2)] == ["PFL-F02"] * 2
    assert ready.entries() == before


def test_the_ledger_is_charged_before_the_vector_is_made(ready, monkeypatch):
    from pharma_fl.privacy.dp_sgd import DpSgd

    seen, step = [], DpSgd.summed_step

    def watched(*given):
        seen.append(ready.charged("north"))
        return step(*given)

    monkeypatch.setattr(DpSgd, "summed_step", watched)
    ready.round("north")
    assert seen == [[1]]


@pytest.mark.parametrize("part", ["add_masks", "save"])
def test_a_round_that_failed_after_its_charge_sends_no_vector_ever(ready, monkeypatch, part):
    from pharma_fl.clients.state import PrivateState
    from pharma_fl.secagg.session import Session

    def fail(*_, **__):
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(PrivateState if part == "save" else Session, part, fail)
        assert said(ready.round("north")) == "PFL-P17"
    assert ready.charged("north") == [1]
    assert said(ready.round("north")) == "PFL-P11"
    assert said(ready.unmask("north", ALL)) == "PFL-F33"
    assert ready.charged("north") == [1]
    assert said(ready.round("north", 2)) == "done"


# Opening


def test_four_vectors_open_and_so_do_three(ready):
    assert len(ready.opened(ready.vectors(1), 1)) == trunk_size()
    three = ready.vectors(2, ["east", "north", "west"])
    assert len(ready.opened(three, 2)) == trunk_size()


REFUSED_SURVIVORS = {
    "too few": {"north", "east"},
    "nobody": set(),
    "the others": {"east", "south", "west"},
    "a stranger more": {*NAMES, "stranger"},
    "a stranger in a place": {"north", "east", "stranger"},
}


@pytest.mark.parametrize("survivors", REFUSED_SURVIVORS.values(), ids=REFUSED_SURVIVORS.keys())
def test_other_survivors_than_a_sum_may_have_are_refused(ready, survivors):
    ready.vectors(1)
    assert said(ready.unmask("north", survivors)) == "PFL-F33"
    # A question that was not answered does not use up the round.
    assert said(ready.unmask("north", ALL)) == "done"


def test_a_round_is_opened_for_one_set_of_survivors(ready):
    ready.vectors(1)
    three = {"north", "east", "west"}
    first = on_the_wire(ready.unmask("north", three))
    for other in (ALL, {"north", "east", "south"}, {"north", "south", "west"}):
        assert said(ready.unmask("north", other)) == "PFL-F33"
    assert on_the_wire(ready.unmask("north", three)) == first
    told = read_unmask_reply(ready.unmask("north", three))
    assert (set(told.self_seeds), set(told.round_keys)) == (three, {"south"})


@pytest.mark.parametrize("number", [0, 2, -1, 7, 10**12])
def test_another_round_than_that_of_the_last_vector_is_not_opened(ready, number):
    ready.vectors(1)
    assert said(ready.unmask("north", ALL, number)) == "PFL-F33"


def test_an_older_round_is_not_opened_any_more(ready):
    """Not even as before: who asks so late has lost the others' answers, or wants to try others."""
    ready.vectors(1)
    first = ready.unmask("north", ALL)
    ready.vectors(2)
    assert said(first) == "done"
    assert said(ready.unmask("north", ALL, 1)) == "PFL-F33"
    assert said(ready.unmask("north", {"north", "east", "west"}, 1)) == "PFL-F33"
    assert said(ready.unmask("north", ALL, 2)) == "done"


def test_a_state_that_was_put_back_answers_no_older_round_anew(ready):
    """The ledger knows of a later round, whatever a backup of the state says of the last answer."""
    ready.vectors(1)
    backup = ready.folder / "backup"
    shutil.copytree(ready.state("north"), backup)
    assert said(ready.unmask("north", ALL)) == "done"
    ready.vectors(2)
    shutil.rmtree(ready.state("north"))
    shutil.copytree(backup, ready.state("north"))
    assert said(ready.unmask("north", {"north", "east", "west"}, 1)) == "PFL-F33"
    assert said(ready.round("north", 2)) == "PFL-P11"
    assert said(ready.round("north", 3)) == "done"


def test_who_sent_no_vector_opens_none(ready):
    """Before its first, and in a later round that it missed."""
    assert said(ready.unmask("north", ALL)) == "PFL-F33"
    ready.vectors(1)
    ready.vectors(2, ["east", "south", "west"])
    assert said(ready.unmask("north", ALL, 2)) == "PFL-F33"
    assert said(ready.unmask("north", ALL, 1)) == "done"


def test_a_round_of_another_run_is_not_opened(ready):
    ready.vectors(1)
    assert said(ready.unmask("north", ALL, run="run-2")) == "PFL-F34"
    ready.run = "run-2"
    ready.set_up()
    # The last vector is of the run before.
    assert said(ready.unmask("north", ALL)) == "PFL-F33"
    assert said(ready.unmask("north", ALL, run=RUN)) == "PFL-F34"


STRANGE = {
    "a survivor twice": lambda c: c["survivors"].append("north"),
    "a round that is true": lambda c: c.__setitem__("round", True),  # noqa: FBT003
    "a round that is text": lambda c: c.__setitem__("round", "1"),
    "a path for a survivor": lambda c: c["survivors"].append("../north"),
    "survivors as one text": lambda c: c.__setitem__("survivors", "north"),
    "one key more": lambda c: c.__setitem__("more", 1),
}


@pytest.mark.parametrize("change", STRANGE.values(), ids=STRANGE.keys())
def test_a_strange_question_gets_a_code(ready, change):
    ready.vectors(1)
    content = unmask_request(RUN, 1, NAMES)
    change(content["config"])
    assert said(ready.query("north", UNMASK, content)) == "PFL-F01"
    assert said(ready.unmask("north", ALL)) == "done"


def test_the_partners_audit_log_says_what_the_refusal_does_not(ready):
    ready.vectors(1)
    assert said(ready.unmask("north", {"north", "east"})) == "PFL-F33"
    last = (ready.folder / "north" / "audit.jsonl").read_text().splitlines()[-1]
    assert "names 2 survivors" in last
    assert "PFL-F33" in last


def test_what_one_partner_sends_differs_from_round_to_round(ready):
    first, second = (vector_of(ready.round("north", number)) for number in (1, 2))
    assert np.mean(first == second) < 0.01
