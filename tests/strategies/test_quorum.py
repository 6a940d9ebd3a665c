"""What happens to a round that too few have answered: it waits, it is void, or it ends the run."""

import pytest
import torch
from flwr.app import ConfigRecord, RecordDict
from tests.partners import NAMES
from tests.strategies.federations import Grid, a_federation, a_summing_federation, four, ledger_of, run, run_sums, three
from tests.strategies.slow_nodes import GONE, LOST, Nodes, a_clock, an_inquiry

from pharma_fl.config.federation import QuorumSettings
from pharma_fl.messages.wire import from_arrays
from pharma_fl.model.weights import load_weights
from pharma_fl.strategies.quorum import gather

BOTH = {"east": 1, "north": 2}


@pytest.fixture
def clock(monkeypatch):
    return a_clock(monkeypatch)


def gathered(inquiry, *, needed=2, timeout=30.0, good=lambda name: True, **quorum):
    """Gather; return whose replies were taken."""
    taken = []

    def take(name, reply):
        del reply
        taken.append(name)
        return good(name)

    settings = QuorumSettings(ask_again_s=10.0, **quorum)
    gather(inquiry, settings, timeout=timeout, needed=needed, take=take)
    return taken


def passed(clock):
    return pytest.approx(clock.now - 1000.0, abs=0.5)


# --- One round ---------------------------------------------------------------------------------------------------


def test_it_ends_as_soon_as_all_have_answered(clock):
    inquiry = an_inquiry(Nodes(clock, n1=[3.0], n2=[1.0]), BOTH)
    assert gathered(inquiry) == ["north", "east"]
    assert passed(clock) == 3.0


def test_who_may_still_answer_is_waited_for_until_the_deadline_though_enough_have(clock):
    inquiry = an_inquiry(Nodes(clock, n1=[20.0], n2=[1.0]), BOTH, again_s=1e6)
    assert gathered(inquiry, needed=1) == ["north", "east"]
    assert passed(clock) == 20.0


def test_who_is_gone_is_not_waited_for_where_enough_have_answered(clock):
    grid = Nodes(clock, n1=[(0.5, GONE)], n2=[1.0])
    grid.connected = {2}
    assert gathered(an_inquiry(grid, BOTH), needed=1) == ["north"]
    assert passed(clock) == 1.0


@pytest.mark.parametrize("when_missed", ["skip", "stop"])
def test_after_the_deadline_nobody_is_waited_for_unless_the_federation_says_so(clock, when_missed):
    inquiry = an_inquiry(Nodes(clock, n1=[31.0], n2=[1.0]), BOTH, again_s=1e6)
    assert gathered(inquiry, when_missed=when_missed) == ["north"]
    assert passed(clock) == 30.0


def test_the_deadline_is_put_off_until_enough_have_answered(clock, caplog):
    inquiry = an_inquiry(Nodes(clock, n1=[95.0], n2=[1.0]), BOTH, again_s=1e6)
    assert gathered(inquiry, wait_s=500.0) == ["north", "east"]
    assert passed(clock) == 95.0
    said = "1 partners have answered where 2 are needed: waiting 500 s more for ['east']."
    assert said in [record.getMessage() for record in caplog.records]


def test_it_is_put_off_by_no_more_than_is_allowed(clock):
    inquiry = an_inquiry(Nodes(clock, n1=[], n2=[1.0]), BOTH)
    assert gathered(inquiry, wait_s=45.0) == ["north"]
    assert passed(clock) == 75.0


def test_it_is_not_put_off_where_enough_have_answered(clock):
    inquiry = an_inquiry(Nodes(clock, n1=[31.0], n2=[1.0]), BOTH, again_s=1e6)
    assert gathered(inquiry, needed=1, wait_s=500.0) == ["north"]
    assert passed(clock) == 30.0


@pytest.mark.parametrize("needed", [2, 3])
def test_it_is_not_put_off_where_those_who_are_missing_would_not_be_enough(clock, needed):
    """One of the two refused, so that its reply is there and no good."""
    inquiry = an_inquiry(Nodes(clock, n1=[], n2=[1.0]), BOTH)
    assert gathered(inquiry, needed=needed, wait_s=500.0, good=lambda name: name != "north") == ["north"]
    assert passed(clock) == 30.0


def test_questions_beyond_the_deadline_live_no_longer_than_until_the_next(clock):
    """Whoever comes after the round is over must not be charged for it."""
    grid = Nodes(clock, n1=[LOST] * 20, n2=[1.0])
    gathered(an_inquiry(grid, BOTH, lifetime_s=30.0), wait_s=60.0)
    late = [(when, ttl) for when, _, ttl in grid.sent if when > 30.5]
    assert len(late) >= 5
    assert all(ttl <= 10.0 for _, ttl in late)
    # Before it, none lives longer than the deadline.
    assert all(when + ttl <= 30.5 for when, _, ttl in grid.sent if when < 29.0)


# --- Whole runs --------------------------------------------------------------------------------------------------


class Away:
    """A grid's rule that loses what a partner is asked in a round, until so long after it was asked first."""

    def __init__(self, clock, number, *nodes, seconds=1e9):
        self.clock, self.number, self.nodes, self.seconds = clock, number, nodes, seconds
        self.begun = None

    def __call__(self, kind, number, node):
        if (kind, number) != ("train", self.number) or node not in self.nodes:
            return False
        self.begun = self.clock.now if self.begun is None else self.begun
        return self.clock.now < self.begun + self.seconds


def waiting(**settings):
    federation = {"timeout": 10.0, "when_missed": "wait", "rounds": 3, "quorum": "wait_s = 100.0\nask_again_s = 4.0"}
    return a_federation(**(federation | settings))


def charged(folder, name):
    return [entry.round for entry in ledger_of(folder, name).entries() if entry.kind == "reserved"]


def test_a_partner_that_comes_after_the_deadline_makes_the_round(tmp_path, clock):
    away = Away(clock, 2, 102, seconds=60.0)
    watcher, _, _ = run(tmp_path, waiting(), Grid(three(tmp_path), lost=away))
    assert (watcher.end.status, watcher.end.rounds) == ("completed", 3)
    assert [record.participants for record in watcher.rounds] == [["east", "north", "south"]] * 3
    assert [record.seconds > 60.0 for record in watcher.rounds] == [False, True, False]
    assert watcher.rounds[1].seconds < 70.0
    # Those who had answered were not asked for another.
    assert charged(tmp_path, "east") == charged(tmp_path, "south") == [1, 2, 3]


def test_a_run_whose_partner_never_comes_stops_after_the_wait(tmp_path, clock):
    away = Away(clock, 2, 102)
    watcher, checkpoints, trunk = run(tmp_path, waiting(), Grid(three(tmp_path), lost=away))
    assert clock.now - away.begun == pytest.approx(110.0, abs=2.0)
    assert (watcher.end.status, watcher.end.rounds) == ("stopped", 1)
    assert watcher.end.refused == {"south": "PFL-F13"}
    assert "2 partners took part where 3 are needed; missing: south (PFL-F13)." in watcher.end.reason
    assert "The model of the last good round stands." in watcher.end.reason
    assert checkpoints.latest().name == "round-0001"
    stored, _ = load_weights(checkpoints.latest() / "trunk.safetensors")
    assert all(torch.equal(stored[name], value) for name, value in trunk.items())
    assert checkpoints.end() == watcher.end


def test_a_partner_that_refuses_is_not_waited_for(tmp_path, clock):
    refused = RecordDict({"config": ConfigRecord({"status": "refused", "code": "PFL-P10", "reason": ""})})

    def refuse(reply, number, node):
        if (number, node) == (2, 102):
            reply.__dict__["_content"] = refused
        return reply

    watcher, _, _ = run(tmp_path, waiting(), Grid(three(tmp_path), refuse))
    assert (watcher.end.status, watcher.end.rounds) == ("stopped", 1)
    assert "south (PFL-P10)" in watcher.end.reason
    assert clock.now < 1010.0


def test_where_missed_rounds_are_skipped_the_trunk_stays_and_the_next_round_goes_on(tmp_path, clock):
    grid = Grid(three(tmp_path), lost=Away(clock, 2, 102))
    federation = waiting(when_missed="skip", rounds=3)
    watcher, checkpoints, trunk = run(tmp_path, federation, grid)
    assert (watcher.end.status, watcher.end.rounds) == ("completed", 2)
    assert [record.void for record in watcher.rounds] == [False, True, False]
    assert watcher.rounds[1].participants == ["east", "north"]
    assert watcher.rounds[1].refused == {"south": "PFL-F13"}
    assert watcher.rounds[1].change_norm == 0.0
    # Until the deadline and no longer.
    assert watcher.rounds[1].seconds == pytest.approx(10.0, abs=0.5)
    asked = [m for m in grid.sent if m.metadata.message_type == "train"]
    sent = {m.content["config"]["round"]: from_arrays(m.content["arrays"]) for m in asked}
    assert all(torch.equal(sent[2][name], value) for name, value in sent[3].items())
    assert not any(torch.equal(sent[3][name], value) for name, value in trunk.items())
    assert checkpoints.rounds() == watcher.rounds
    # What a void round cost stays charged.
    assert charged(tmp_path, "east") == [1, 2, 3]
    assert charged(tmp_path, "south") == [1, 3]


def test_too_many_missed_rounds_in_a_row_end_the_run(tmp_path, clock):
    federation = waiting(when_missed="skip", rounds=6, quorum="void_rounds = 1")

    def lost(kind, number, node):
        return kind == "train" and number in (2, 4, 5) and node == 102

    watcher, checkpoints, trunk = run(tmp_path, federation, Grid(three(tmp_path), lost=lost))
    # One that is alone does not count to the others.
    assert [record.void for record in watcher.rounds] == [False, True, False, True, True]
    assert (watcher.end.status, watcher.end.rounds) == ("stopped", 2)
    assert "2 rounds in a row were void (federation.toml: quorum.void_rounds)." in watcher.end.reason
    assert "2 partners took part where 3 are needed." in watcher.end.reason
    assert watcher.end.refused == {"south": "PFL-F13"}
    stored, _ = load_weights(checkpoints.latest() / "trunk.safetensors")
    assert all(torch.equal(stored[name], value) for name, value in trunk.items())


def test_a_missed_quorum_may_end_the_run_at_once(tmp_path, clock):
    away = Away(clock, 2, 102, seconds=60.0)
    federation = waiting(when_missed="stop")
    watcher, checkpoints, _ = run(tmp_path, federation, Grid(three(tmp_path), lost=away))
    assert clock.now - away.begun == pytest.approx(10.0, abs=0.5)
    assert (watcher.end.status, watcher.end.rounds) == ("stopped", 1)
    assert watcher.end.refused == {"south": "PFL-F13"}
    assert [record.round for record in checkpoints.rounds()] == [1]


def summing(**settings):
    federation = {"timeout": 10.0, "when_missed": "wait", "rounds": 3, "quorum": "wait_s = 100.0\nask_again_s = 4.0"}
    return a_summing_federation(**(federation | settings))


def test_a_sum_waits_for_the_vectors_that_it_needs(tmp_path, clock):
    away = Away(clock, 2, 102, 103, seconds=60.0)
    watcher, _, _ = run_sums(tmp_path, summing(), Grid(four(tmp_path, n=20), lost=away), timeout=10.0)
    assert (watcher.end.status, watcher.end.rounds) == ("completed", 3)
    assert not any(record.void for record in watcher.rounds)
    assert watcher.rounds[1].seconds > 60.0
    # Three open it; whoever is not needed may have come too late.
    assert len(watcher.rounds[1].participants) >= 3
    assert charged(tmp_path, "east") == [1, 2, 3]


def test_a_sum_that_too_few_give_to_ends_a_run_that_waited(tmp_path, clock):
    away = Away(clock, 2, 102, 103)
    watcher, _, _ = run_sums(tmp_path, summing(), Grid(four(tmp_path, n=20), lost=away), timeout=10.0)
    assert clock.now - away.begun == pytest.approx(110.0, abs=2.0)
    assert (watcher.end.status, watcher.end.rounds) == ("stopped", 1)
    assert watcher.end.refused == dict.fromkeys(NAMES[2:], "PFL-F13")
    assert "2 partners took part where 3 are needed" in watcher.end.reason
