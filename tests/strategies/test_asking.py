"""Partners are asked until they answer: again when a reply is lost, elsewhere when they moved, and never for long."""

import pytest
from tests.strategies.slow_nodes import CRASHED, GONE, LOST, RAISED, Nodes, a_clock, an_inquiry


@pytest.fixture
def clock(monkeypatch):
    return a_clock(monkeypatch)


def taken(inquiry, clock, seconds=60.0, **more):
    """All replies that come within so many seconds from the start."""
    return list(inquiry.replies(1000.0 + seconds, **more))


def question_of(reply):
    return reply.content["config"]["question"]


def test_everybody_is_asked_once_and_each_answers_as_it_comes(clock):
    grid = Nodes(clock, n1=[3.0], n2=[1.0])
    inquiry = an_inquiry(grid, {"east": 1, "north": 2})
    assert inquiry.silent == {"east", "north"}
    assert [name for name, _ in taken(inquiry, clock)] == ["north", "east"]
    assert grid.sent == [(0.0, 1, 60.0), (0.0, 2, 60.0)]
    assert inquiry.silent == inquiry.lost == set()
    # It does not wait for its deadline where nobody is waited for.
    assert clock.now < 1000.0 + 3.5


def test_a_reply_that_was_lost_is_had_at_the_second_asking(clock):
    grid = Nodes(clock, n1=[LOST, 1.0], n2=[1.0])
    replies = taken(an_inquiry(grid, {"east": 1, "north": 2}), clock)
    assert [name for name, _ in replies] == ["north", "east"]
    assert question_of(replies[1][1]) == "m002"
    assert grid.times(1) == [0.0, pytest.approx(10.0, abs=0.2)]
    assert grid.times(2) == [0.0]


def test_who_stays_silent_is_asked_now_and_then_until_the_deadline(clock):
    grid = Nodes(clock, n1=[], n2=[0.0])
    inquiry = an_inquiry(grid, {"east": 1, "north": 2})
    assert [name for name, _ in taken(inquiry, clock, 45.0)] == ["north"]
    assert grid.times(1) == [pytest.approx(10.0 * number, abs=0.6) for number in range(5)]
    assert inquiry.silent == {"east"}
    # A question to it is open: it may answer any moment.
    assert inquiry.lost == set()
    assert list(inquiry.errors()) == []
    assert clock.now == pytest.approx(1045.0, abs=0.2)


def test_the_first_reply_counts_and_later_ones_are_dropped(clock):
    grid = Nodes(clock, n1=[12.0, 2.5], n2=[30.0])
    replies = taken(an_inquiry(grid, {"east": 1, "north": 2}), clock)
    assert [(name, question_of(reply)) for name, reply in replies] == [("east", "m000"), ("north", "m001")]


def test_of_two_replies_that_come_together_one_counts(clock):
    grid = Nodes(clock, n1=[12.0, 2.0], n2=[LOST, LOST, 1.0])
    replies = taken(an_inquiry(grid, {"east": 1, "north": 2}), clock)
    assert [name for name, _ in replies] == ["east", "north"]


def test_a_partner_that_moves_is_asked_at_its_new_node_at_once(clock):
    grid, nodes = Nodes(clock, n1=[], n2=[0.0], n3=[1.0]), {"east": 1, "north": 2}

    def look():
        if clock.now >= 1007.0:
            nodes["east"] = 3

    replies = taken(an_inquiry(grid, nodes, again_s=1e6, look=look), clock)
    assert [name for name, _ in replies] == ["north", "east"]
    assert grid.times(1) == [0.0]
    # Somebody looks every three seconds.
    assert grid.times(3) == [pytest.approx(9.0, abs=0.5)]


def test_the_node_that_a_partner_left_may_still_answer(clock):
    grid, nodes = Nodes(clock, n1=[8.0], n2=[0.0], n3=[]), {"east": 1, "north": 2}
    clock.at(5.0, lambda: nodes.update(east=3))
    replies = taken(an_inquiry(grid, nodes, again_s=1e6), clock)
    assert [name for name, _ in replies] == ["north", "east"]
    assert grid.times(3) == [pytest.approx(5.0, abs=0.2)]


def test_a_partner_that_is_not_there_is_asked_again_when_it_is_connected(clock):
    grid = Nodes(clock, n1=[(0.5, GONE), 1.0], n2=[0.0])
    grid.connected = {2}
    clock.at(20.0, lambda: grid.connected.add(1))
    inquiry = an_inquiry(grid, {"east": 1, "north": 2}, again_s=1e6)
    lost = []
    replies = taken(inquiry, clock, enough=lambda: lost.append((clock.now, inquiry.lost)))
    assert [name for name, _ in replies] == ["north", "east"]
    assert not replies[1][1].has_error()
    assert all(names == {"east"} for now, names in lost if 1001.0 < now < 1020.0)
    # Within one look of its return.
    assert grid.times(1) == [0.0, pytest.approx(21.5, abs=1.8)]


def test_a_partner_that_is_not_there_is_asked_now_and_then_even_if_it_seems_to_stay_away(clock):
    grid = Nodes(clock, n1=[(0.5, GONE), (0.5, GONE), 1.0], n2=[0.0])
    grid.connected = {2}
    inquiry = an_inquiry(grid, {"east": 1, "north": 2})
    assert [name for name, _ in taken(inquiry, clock)] == ["north", "east"]
    assert grid.times(1) == [pytest.approx(10.0 * number, abs=0.4) for number in range(3)]


def test_however_often_a_node_was_away_is_not_held_against_its_partner(clock):
    grid = Nodes(clock, n1=[(0.5, GONE)] * 5 + [1.0], n2=[0.0])
    replies = taken(an_inquiry(grid, {"east": 1, "north": 2}), clock)
    assert [(name, reply.has_error()) for name, reply in replies] == [("north", False), ("east", False)]
    # Connected, it is asked again soon, though not at once.
    assert grid.times(1) == [pytest.approx(5.0 * number, abs=1.0) for number in range(6)]


@pytest.mark.parametrize("code", [1, RAISED, 7, CRASHED])
def test_a_partner_whose_app_failed_is_asked_once_more_and_no_oftener(clock, code):
    grid = Nodes(clock, n1=[(1.0, code), (1.0, code), 1.0], n2=[0.0])
    inquiry = an_inquiry(grid, {"east": 1, "north": 2})
    replies = taken(inquiry, clock)
    assert [(name, reply.has_error()) for name, reply in replies] == [("north", False), ("east", True)]
    assert replies[1][1].error.code == code
    assert len(grid.times(1)) == 2
    # At once: it is there.
    assert grid.times(1)[1] == pytest.approx(1.0, abs=0.3)
    assert inquiry.silent == set()
    assert list(inquiry.errors()) == []


def test_a_partner_whose_app_crashed_once_may_answer_at_the_second_try(clock):
    grid = Nodes(clock, n1=[(1.0, CRASHED), 1.0], n2=[0.0])
    replies = taken(an_inquiry(grid, {"east": 1, "north": 2}), clock)
    assert [(name, reply.has_error()) for name, reply in replies] == [("north", False), ("east", False)]


def test_what_a_partner_failed_with_is_told_where_it_never_answered(clock):
    grid = Nodes(clock, n1=[(1.0, CRASHED), (1.0, GONE)], n2=[0.0])
    grid.connected = {2}
    inquiry = an_inquiry(grid, {"east": 1, "north": 2}, again_s=1e6)
    assert [name for name, _ in taken(inquiry, clock)] == ["north"]
    assert inquiry.silent == inquiry.lost == {"east"}
    assert [(name, error.error.code) for name, error in inquiry.errors()] == [("east", GONE)]


def test_a_reply_that_cannot_be_unpacked_is_one_partners(clock):
    broken = ValueError("what a partner sent")
    grid = Nodes(clock, n1=[(1.0, broken)], n2=[1.0])
    replies = dict(taken(an_inquiry(grid, {"east": 1, "north": 2}), clock))
    assert replies["east"] is broken
    assert not replies["north"].has_error()
    assert len(grid.sent) == 2


def test_it_stops_when_it_is_enough_and_goes_on_when_called_again(clock):
    grid = Nodes(clock, n1=[1.0], n2=[20.0])
    inquiry = an_inquiry(grid, {"east": 1, "north": 2})
    good = []
    for name, _ in inquiry.replies(1060.0, enough=lambda: bool(good)):
        good.append(name)
    assert good == ["east"]
    assert clock.now < 1002.0
    assert [name for name, _ in inquiry.replies(1060.0)] == ["north"]


def test_after_its_deadline_it_may_go_on_until_a_later_one(clock):
    grid = Nodes(clock, n1=[1.0], n2=[20.0])
    inquiry = an_inquiry(grid, {"east": 1, "north": 2}, again_s=1e6)
    assert [name for name, _ in taken(inquiry, clock, 10.0)] == ["east"]
    assert taken(inquiry, clock, 15.0) == []
    assert [name for name, _ in taken(inquiry, clock, 30.0)] == ["north"]
    # The question that is open is not asked again for that.
    assert len(grid.sent) == 2


def test_a_caller_that_stops_in_the_middle_loses_nothing(clock):
    grid = Nodes(clock, n1=[1.0], n2=[1.0])
    inquiry = an_inquiry(grid, {"east": 1, "north": 2})
    first = next(inquiry.replies(1060.0))[0]
    assert {first, *(name for name, _ in inquiry.replies(1060.0))} == {"east", "north"}


def test_what_has_come_is_taken_even_after_the_deadline(clock):
    grid = Nodes(clock, n1=[1.0], n2=[1.0])
    inquiry = an_inquiry(grid, {"east": 1, "north": 2})
    clock.now += 100.0
    assert [name for name, _ in taken(inquiry, clock, 60.0)] == ["east", "north"]


def test_nothing_is_sent_when_nobody_is_there_and_who_comes_is_asked(clock):
    grid, nodes = Nodes(clock, n1=[1.0], n2=[1.0]), {}
    inquiry = an_inquiry(grid, nodes)
    assert inquiry.lost == {"east", "north"}
    clock.at(30.0, lambda: nodes.update(north=2))
    assert [name for name, _ in taken(inquiry, clock)] == ["north"]
    assert grid.sent == [(pytest.approx(30.0, abs=0.2), 2, pytest.approx(30.0, abs=0.2))]


def test_a_question_that_could_not_be_sent_is_sent_later(clock):
    grid = Nodes(clock, n1=[LOST, 1.0], n2=[LOST, 1.0])
    grid.reachable = False
    inquiry = an_inquiry(grid, {"east": 1, "north": 2})
    assert inquiry.lost == {"east", "north"}
    grid.reachable = True
    assert [name for name, _ in taken(inquiry, clock)] == ["east", "north"]


def test_a_later_question_lives_until_the_deadline_or_as_long_as_it_is_told(clock):
    grid = Nodes(clock, n1=[], n2=[0.0])
    inquiry = an_inquiry(grid, {"east": 1, "north": 2}, lifetime_s=30.0)
    taken(inquiry, clock, 30.0)
    assert [ttl for _, to, ttl in grid.sent if to == 1] == [
        30.0,
        pytest.approx(20.0, abs=0.2),
        pytest.approx(10.0, abs=0.4),
    ]
    taken(inquiry, clock, 60.0, lifetime_s=7.0)
    assert {ttl for when, _, ttl in grid.sent if when > 30.2} == {7.0}


def test_no_question_lives_shorter_than_a_second(clock):
    """Flower would drop one that came to its end on the way."""
    grid = Nodes(clock, n1=[], n2=[0.0])
    taken(an_inquiry(grid, {"east": 1, "north": 2}, lifetime_s=0.1, again_s=0.4), clock, 1.0)
    assert len(grid.times(1)) > 1
    assert {ttl for _, _, ttl in grid.sent} == {1.0}
