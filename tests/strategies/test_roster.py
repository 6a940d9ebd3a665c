"""Names stay with their node while it is connected, and follow the partner to a new one when it is gone."""

import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict
from tests.partners import a_partner, a_plan
from tests.strategies.federations import Grid, Watcher, a_federation

from pharma_fl import __version__
from pharma_fl.messages.envelope import CONFIG
from pharma_fl.messages.join import JoinAnswer, JoinRequest, join_answer
from pharma_fl.messages.wire import to_arrays
from pharma_fl.model.pretrained import initial_trunk
from pharma_fl.privacy.plan import propose
from pharma_fl.strategies.checkpoints import Checkpoints
from pharma_fl.strategies.dp_fedavg import DpFedAvg
from pharma_fl.strategies.roster import Roster, call_roster

PLAN = a_plan()
ASK = JoinRequest(federation="test", run="test-1", plan=PLAN, challenge=bytes(32))


def said(name, **answer):
    """What the node of a partner answers."""
    fields = {"status": "joined", "version": __version__, "plan": PLAN.digest}
    return join_answer(JoinAnswer(partner=name, **fields | answer))


class Nodes:
    """A grid in front of nodes that only say who they are; as strict as the grid of a deployment."""

    def __init__(self, **names):
        self.connected = {int(node[1:]): said(name) for node, name in names.items()}
        self.asked, self.waiting = [], {}

    def get_node_ids(self):
        return list(self.connected)

    def push_messages(self, messages):
        for message in messages:
            message.metadata.__dict__["_message_id"] = f"m{len(self.asked)}"
            self.asked.append(message.metadata.dst_node_id)
            self.waiting[message.metadata.message_id] = message
        pushed = [message.metadata.message_id for message in messages]
        assert pushed, "nothing to push"
        return pushed

    def pull_messages(self, numbers):
        numbers = list(numbers)
        replies = []
        for number in numbers:
            answer = self.connected.get(self.waiting[number].metadata.dst_node_id)
            if isinstance(answer, Exception):
                raise answer
            if answer is None:
                continue
            message = self.waiting.pop(number)
            content = RecordDict({CONFIG: answer}) if isinstance(answer, ConfigRecord) else answer
            reply = Message(content, reply_to=message)
            reply.metadata.__dict__["_src_node_id"] = message.metadata.dst_node_id
            replies.append(reply)
        return replies


def a_roster(grid, names=("east", "north")):
    federation = a_federation(names)
    return federation, call_roster(grid, federation, ASK)


def test_a_name_follows_its_partner_to_a_new_node_when_the_old_one_is_gone():
    grid = Nodes(n1="east", n2="north")
    federation, roster = a_roster(grid)
    assert roster.nodes == {"east": 1, "north": 2}
    del grid.connected[2]
    grid.connected[3] = said("north", ledger="a" * 64, affordable_rounds=1)
    roster.refresh(grid, federation, ASK)
    assert roster.nodes == {"east": 1, "north": 3}
    assert grid.asked == [1, 2, 3]
    # What was told at the start is what the partner's ledger must still have.
    assert roster.ledgers == {}
    assert roster.affordable_rounds == {}


def test_a_name_whose_node_is_connected_stays(caplog):
    grid = Nodes(n1="east", n2="north")
    federation, roster = a_roster(grid)
    grid.connected[3] = said("north")
    for _ in range(3):
        roster.refresh(grid, federation, ASK)
        assert roster.nodes == {"east": 1, "north": 2}
    assert [r.levelname for r in caplog.records if "Node 3 is ignored" in r.getMessage()] == ["WARNING"]
    # Flower counts a killed node as connected for a while; by then the new one has said who it is.
    del grid.connected[2]
    roster.refresh(grid, federation, ASK)
    assert roster.nodes == {"east": 1, "north": 3}
    assert grid.asked == [1, 2, 3]


def test_a_partner_that_came_back_during_the_call_is_not_lost():
    grid = Nodes(n1="east", n2="east")
    federation, roster = a_roster(grid)
    assert roster.nodes == {"east": 1}
    del grid.connected[1]
    roster.refresh(grid, federation, ASK)
    assert roster.nodes == {"east": 2}


def test_who_takes_part_is_fixed():
    grid = Nodes(n1="east", n2="north")
    grid.connected[2] = said("north", status="refused", code="PFL-P20")
    federation, roster = a_roster(grid, ("east", "north", "south"))
    grid.connected = {1: said("east"), 3: said("north"), 4: said("south"), 5: said("stranger"), 6: said("")}
    roster.refresh(grid, federation, ASK)
    assert roster.nodes == {"east": 1}
    assert roster.refused == {"north": "PFL-P20"}


def test_a_node_that_is_silent_holds_nobody_up_and_is_heard_later():
    grid = Nodes(n1="east", n2="north")
    federation, roster = a_roster(grid)
    del grid.connected[2]
    grid.connected[3] = None
    for _ in range(3):
        roster.refresh(grid, federation, ASK)
        assert roster.nodes == {"east": 1, "north": 2}
    grid.connected[3] = said("north")
    roster.refresh(grid, federation, ASK)
    assert roster.nodes == {"east": 1, "north": 3}
    assert grid.asked == [1, 2, 3]


def test_of_several_nodes_the_youngest_that_is_connected_has_the_name():
    grid = Nodes(n1="east")
    federation, roster = a_roster(grid, ("east",))
    grid.connected |= {2: said("east"), 3: said("east")}
    roster.refresh(grid, federation, ASK)
    del grid.connected[1]
    roster.refresh(grid, federation, ASK)
    assert roster.nodes == {"east": 3}
    # A node that Flower lost sight of may come back under its old id.
    del grid.connected[3]
    grid.connected[1] = said("east")
    roster.refresh(grid, federation, ASK)
    assert roster.nodes == {"east": 2}
    del grid.connected[2]
    roster.refresh(grid, federation, ASK)
    assert roster.nodes == {"east": 1}
    del grid.connected[1]
    roster.refresh(grid, federation, ASK)
    assert roster.nodes == {"east": 1}


def test_a_node_that_refuses_to_go_on_does_not_take_the_name_over(caplog):
    grid = Nodes(n1="east", n2="north")
    federation, roster = a_roster(grid)
    del grid.connected[2]
    grid.connected[3] = said("north", status="refused", code="PFL-P20")
    roster.refresh(grid, federation, ASK)
    assert roster.nodes == {"east": 1, "north": 2}
    assert any("refuses to go on (PFL-P20)" in r.getMessage() for r in caplog.records)


@pytest.mark.parametrize(
    "junk",
    [
        ConfigRecord({}),
        ConfigRecord({"partner": 7}),
        ConfigRecord({"partner": ["east"]}),
        ConfigRecord({"partner": b"east"}),
        ConfigRecord({"partner": "east", "status": 7}),
        ConfigRecord({"partner": "east", "status": ["joined"]}),
        ConfigRecord({"partner": "east", "code": b"x"}),
        Error(code=2, reason="crashed"),
        ValueError("what a node sent"),
    ],
    ids=str,
)
def test_no_answer_can_fail_a_round_or_be_taken_for_another(junk):
    grid = Nodes(n1="east", n2="north")
    federation, roster = a_roster(grid)
    del grid.connected[1]
    grid.connected |= {3: junk, 4: said("east")}
    for _ in range(3):
        roster.refresh(grid, federation, ASK)
    assert roster.nodes == {"east": 4, "north": 2}
    assert grid.asked == [1, 2, 3, 4]


def test_a_question_that_no_node_can_get_is_forgotten():
    class Deaf(Nodes):
        def push_messages(self, messages):
            return ["" for _ in super().push_messages(messages)]

    grid = Deaf(n1="east")
    roster = Roster()
    roster.refresh(grid, a_federation(("east",)), ASK)
    assert roster.nodes == {}


def test_a_run_goes_on_with_a_partner_that_was_started_anew(tmp_path):
    for seed, name in enumerate(("east", "north")):
        a_partner(tmp_path, name, seed=seed)

    class Restarting(Grid):
        """North dies while it holds the request for round 2; its next SuperNode has another id."""

        def get_node_ids(self):
            return range(100, 102) if len(self.files) == 2 else (100, 102)

        def push_messages(self, messages):
            messages = list(messages)
            at = [m.content["config"].get("round") for m in messages if m.metadata.message_type == "train"]
            if 2 in at and len(self.files) == 2:
                self.files.append(self.files[1])
                messages = [m for m in messages if m.metadata.dst_node_id != 101]
            return super().push_messages(messages)

    federation = a_federation(("east", "north"), quorum="min_partners = 1", rounds=3)
    watcher, grid = Watcher(), Restarting(tmp_path / name / "partner.toml" for name in ("east", "north"))
    plan = propose(federation.privacy, federation.training)
    strategy = DpFedAvg(federation, plan, Checkpoints(tmp_path / "coordinator"), [watcher])
    strategy.start(grid, to_arrays(initial_trunk(federation.model, federation.seed)))
    both = ["east", "north"]
    assert [r.participants for r in watcher.rounds] == [both, ["east"], both]
    assert strategy.roster.nodes == {"east": 100, "north": 102}
