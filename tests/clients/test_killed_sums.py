"""Killed for real at any point of a secure sum, a partner gives no second answer, and goes on where it can."""

import signal

import numpy as np
import pytest
from tests.clients.consortium import Consortium, said, trunk_size, vector_of
from tests.clients.dying import RELEASE, RESERVE
from tests.clients.sum_killer import Killer
from tests.partners import NAMES

from pharma_fl.clients.session_file import SessionFile
from pharma_fl.messages.secure_sum import read_keys_reply, read_unmask_reply

ALL = frozenset(NAMES)
OTHERS = [name for name in NAMES if name != "north"]
SETUP = "pharma_fl.clients.session_file:SessionFile.save"
STEP = "pharma_fl.privacy.dp_sgd:DpSgd.summed_step"
STORE = "pharma_fl.clients.state:PrivateState.save"
ANSWER = "pharma_fl.clients.secure_sum:write_atomic"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def killer():
    process = Killer()
    yield process
    process.close()


@pytest.fixture
def four(tmp_path):
    return Consortium(tmp_path)


@pytest.fixture
def killed(four, killer):
    """Kill north while it answers."""

    def kill(what, point, questions=None):
        assert killer.kill(what, point, four.folder, "north", questions) == signal.SIGKILL

    return kill


def goes_on(four, number=1):
    """The sum of all four opens."""
    return len(four.opened(four.vectors(number), number)) == trunk_size()


@pytest.mark.parametrize("when", ["before", "after"])
def test_between_keys_and_shares_the_keys_stay(four, killed, when):
    killed("keys", (when, SETUP))
    stored = SessionFile.load(four.state("north"))
    assert (stored is not None) is (when == "after")
    advert = read_keys_reply(four.keys("north"))
    if stored is not None:
        assert advert == stored.own
    assert read_keys_reply(four.keys("north")) == advert
    four.set_up()
    assert four.adverts["north"] == advert
    assert goes_on(four)


@pytest.mark.parametrize("when", ["before", "after"])
def test_while_sealing_its_shares_it_goes_on_with_the_same(four, killed, when):
    adverts = four.all_keys()
    killed("shares", (when, SETUP), tuple(adverts.values()))
    first = dict(four.shares("north")["config"])
    assert dict(four.shares("north")["config"]) == first
    four.set_up()
    assert four.adverts == adverts
    assert goes_on(four)


@pytest.mark.parametrize("when", ["before", "after"])
def test_while_keeping_the_others_shares_it_goes_on(four, killed, when):
    four.all_keys()
    sealed = four.all_shares()
    killed("keep", (when, SETUP), {name: sealed[name]["north"] for name in OTHERS})
    # After it was stored, the answer is all that is missing.
    assert said(four.round("north")) == ("done" if when == "after" else "PFL-F34")
    assert [said(four.keep(name, sealed)) for name in NAMES] == ["done"] * 4
    assert goes_on(four)


@pytest.mark.parametrize("point", [("after", RESERVE), ("after", STEP), ("before", STORE)])
def test_after_the_charge_and_before_the_vector_is_stored_there_is_none_ever(four, killed, point):
    four.set_up()
    killed("train", point)
    assert four.charged("north") == [1]
    assert [said(four.round("north")) for _ in range(2)] == ["PFL-P11"] * 2
    assert said(four.unmask("north", ALL)) == "PFL-F33"
    assert four.charged("north") == [1]
    # The others' round opens without it, and the next with it.
    assert len(four.opened(four.vectors(1, OTHERS), 1)) == trunk_size()
    assert goes_on(four, 2)
    assert four.charged("north") == [1, 2]


@pytest.mark.parametrize("point", [("before", RESERVE), ("after", STORE), ("before", RELEASE), ("after", RELEASE)])
def test_before_the_charge_and_after_the_vector_is_stored_there_is_one(four, killed, point):
    four.set_up()
    killed("train", point)
    stored = point[1] != RESERVE
    assert four.charged("north") == ([1] if stored else [])
    first = vector_of(four.round("north"))
    assert np.array_equal(vector_of(four.round("north")), first)
    assert four.charged("north") == [1]
    masked = four.vectors(1)
    assert np.array_equal(masked["north"], first)
    assert len(four.opened(masked)) == trunk_size()


def test_before_its_answer_is_stored_any_may_follow_for_none_has_left(four, killed):
    four.set_up().vectors(1)
    killed("unmask", ("before", ANSWER), ALL)
    three = {"north", "east", "west"}
    answer = read_unmask_reply(four.unmask("north", three))
    assert set(answer.round_keys) == {"south"}
    assert said(four.unmask("north", ALL)) == "PFL-F33"


def test_after_its_answer_is_stored_no_other_follows(four, killed):
    four.set_up().vectors(1)
    killed("unmask", ("after", ANSWER), ALL)
    assert said(four.unmask("north", {"north", "east", "west"})) == "PFL-F33"
    answer = read_unmask_reply(four.unmask("north", ALL))
    assert (set(answer.self_seeds), answer.round_keys) == (ALL, {})
    assert goes_on(four)
