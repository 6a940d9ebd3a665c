"""What the boundary for replies lets through, and who is left out for what it does not."""

import math

import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.app.error import Error
from tests.conftest import SeededNoise
from tests.partners import NAMES, TRAINING, a_partner, a_plan, a_request, a_shared_plan
from tests.strategies.federations import Grid, Watcher, a_federation, a_summing_federation, four, run, run_sums, three

from pharma_fl.clients.train import train_round
from pharma_fl.messages.wire import from_arrays, round_reply, to_arrays
from pharma_fl.model.pretrained import initial_trunk
from pharma_fl.privacy.plan import propose
from pharma_fl.strategies.boundary import Wanted, largest_norm, largest_sum, read_answer
from pharma_fl.strategies.checkpoints import Checkpoints
from pharma_fl.strategies.dp_fedavg import DpFedAvg
from pharma_fl.strategies.server_optimizer import norm

REQUEST = a_request()
VALUES = sum(value.numel() for value in REQUEST.trunk.values())
BOUND = largest_norm(REQUEST.plan, TRAINING, VALUES, largest_sample=8.0)
WANTED = Wanted(run="run-1", round=1, largest_norm=BOUND)


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    """A real round's change."""
    partner = a_partner(tmp_path_factory.mktemp("honest"))
    return train_round(partner, REQUEST, noise=SeededNoise()).released


def a_reply(change, *, config=None, metrics=None):
    question = Message(RecordDict(), dst_node_id=1, message_type="train")
    question.metadata.__dict__["_message_id"] = "q"
    arrays = ArrayRecord({name: Array(value.numpy()) for name, value in change.items()})
    content = {
        "arrays": arrays,
        "config": ConfigRecord({"status": "done", "run": "run-1", "round": 1} | (config or {})),
    }
    if metrics is not None:
        content["metrics"] = MetricRecord(metrics)
    return Message(RecordDict(content), reply_to=question)


def read(message):
    return read_answer(message, REQUEST.trunk, WANTED)


# --- How far a round may move the trunk --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "plan",
    [
        {},
        {"noise_multiplier": 0.7},
        {"noise_multiplier": 40.0, "clipping_norm": 0.01},
        {"clipping": "automatic"},
        {"clipping": "groups", "head_clipping_norm": 2.0},
        {"clipping": "adaptive", "clip_count_noise": 4.0},
        {"unit": "series"},
    ],
    ids=str,
)
def test_honest_rounds_stay_well_below_the_bound(tmp_path, plan):
    """All of 150 compounds are in the sample, nearly four times as many as the plan expects."""
    request = a_request(plan=a_plan(**plan, sample_rate=0.99))
    bound = largest_norm(request.plan, TRAINING, VALUES, largest_sample=8.0)
    series = {"series": [number // 2 for number in range(150)]} if "unit" in plan else {}
    partner = a_partner(tmp_path, budget={"epsilon": 1e4, "delta": 1e-5}, **series)
    for number in range(1, 4):
        moved = norm(train_round(partner, a_request(number, plan=request.plan), noise=SeededNoise(number)).released)
        assert 0 < moved < 0.7 * bound


def test_the_bound_is_near_what_an_honest_round_comes_to():
    """Else it would keep nobody from anything: ten times an honest change of noise alone is beyond it."""
    noise_alone = TRAINING.trunk_learning_rate / 40.0 * 4.0 * math.sqrt(VALUES) * math.sqrt(TRAINING.local_steps)
    assert noise_alone < BOUND < 10 * noise_alone


def test_without_protection_there_is_no_bound():
    assert (
        largest_norm(a_plan(mechanism="none", noise_multiplier=0.0), TRAINING, VALUES, largest_sample=8.0) == math.inf
    )


def test_the_noise_of_a_sum_is_far_below_its_bound():
    plan = a_shared_plan()
    total = torch.zeros(plan.summed_values, dtype=torch.float64)
    for number in range(len(NAMES)):
        share = torch.zeros(plan.summed_values, dtype=torch.float64)
        SeededNoise(number).add_normal(share, plan.shared.share_std * plan.shared.grid)
        total += share
    # Every partner's whole sample at its clip, four times as many as expected, all in one direction.
    total[0] += len(NAMES) * 4 * plan.expected_batch * plan.clipping_norm
    assert float(torch.linalg.vector_norm(total)) < 0.7 * largest_sum(plan, largest_sample=8.0)


# --- One reply ---------------------------------------------------------------------------------------------------


def test_a_real_reply_is_taken_whole(tmp_path):
    reply = train_round(a_partner(tmp_path), REQUEST)
    question = a_reply({})
    answer = read(Message(round_reply(reply, REQUEST), reply_to=question))
    assert answer.code == ""
    assert all(torch.equal(value, reply.released[name]) for name, value in answer.released.items())
    assert answer.metrics == {"epsilon_spent": reply.epsilon_spent, "epsilon_left": reply.epsilon_left}


def test_an_update_of_zero_is_an_update():
    answer = read(a_reply({name: torch.zeros_like(value) for name, value in REQUEST.trunk.items()}))
    assert answer.code == ""
    assert answer.released.keys() == REQUEST.trunk.keys()


CHANGED = {
    "ten times": (lambda value: 10 * value, "PFL-F17"),
    "minus ten times": (lambda value: -10 * value, "PFL-F17"),
    "beyond any weight": (lambda value: 1e9 * value, "PFL-F12"),
    "infinite": (lambda value: value + math.inf, "PFL-F12"),
    "not a number": (lambda value: value * math.nan, "PFL-F12"),
    "integers": (lambda value: value.int(), "PFL-F12"),
    "long integers": (lambda value: value.long(), "PFL-F12"),
    "bytes": (lambda value: value.to(torch.uint8), "PFL-F12"),
    "flags": (lambda value: value > 0, "PFL-F12"),
    "half precision": (lambda value: value.half(), "PFL-F12"),
    "double precision": (lambda value: value.double(), "PFL-F12"),
    "complex": (lambda value: value.to(torch.complex64), "PFL-F12"),
    "one dimension more": (lambda value: value[None], "PFL-F12"),
    "transposed": (lambda value: value.T if value.ndim > 1 else value, "PFL-F12"),
    "nothing in it": (lambda value: value[:0], "PFL-F12"),
    "a single number": (lambda value: value.sum(), "PFL-F12"),
}


@pytest.mark.filterwarnings("ignore:Casting complex values to real")
@pytest.mark.parametrize(("change", "code"), CHANGED.values(), ids=CHANGED.keys())
def test_a_change_of_another_size_or_kind_is_dropped(honest, change, code):
    assert read(a_reply(honest)).code == ""
    answer = read(a_reply({name: change(value) for name, value in honest.items()}))
    assert (answer.released, answer.code) == (None, code)


SAID = {
    "an earlier round": ({"round": 0}, "PFL-F18"),
    "a later round": ({"round": 2}, "PFL-F18"),
    "a round in words": ({"round": "1"}, "PFL-F18"),
    "another run": ({"run": "run-0"}, "PFL-F18"),
    "a run that is a number": ({"run": 1}, "PFL-F18"),
    "another status": ({"status": "joined"}, "PFL-F11"),
    "a status that is a number": ({"status": 1}, "PFL-F11"),
    "a key more": ({"num-examples": 17}, "PFL-F11"),
    "a refusal": ({"status": "refused", "code": "PFL-P10"}, "PFL-P10"),
    "a refusal without a code": ({"status": "refused"}, "PFL-X00"),
    "a refusal with prose": ({"status": "refused", "code": "CC(=O)O"}, "PFL-X00"),
    "a refusal with a number": ({"status": "refused", "code": 10}, "PFL-X00"),
}


@pytest.mark.parametrize(("said", "code"), SAID.values(), ids=SAID.keys())
def test_a_reply_that_says_other_things_of_itself_is_dropped(honest, said, code):
    answer = read(a_reply(honest, config=said))
    assert (answer.released, answer.code, answer.metrics) == (None, code, {})


@pytest.mark.parametrize("key", ["status", "run", "round"])
def test_a_reply_that_says_less_of_itself_is_dropped(honest, key):
    message = a_reply(honest)
    message.content["config"] = ConfigRecord({k: v for k, v in message.content["config"].items() if k != key})
    assert read(message).code == "PFL-F11"


@pytest.mark.parametrize(
    "metrics",
    [
        {"epsilon_spent": math.nan},
        {"epsilon_spent": math.inf},
        {"epsilon_spent": 1},
        {"epsilon_spent": [1.0]},
        {"epsilon_spent": 1.0, "compounds": 150.0},
    ],
    ids=str,
)
def test_a_reply_with_other_numbers_than_were_agreed_is_dropped(honest, metrics):
    assert read(a_reply(honest, metrics=metrics)).code == "PFL-F11"


# --- Whole runs --------------------------------------------------------------------------------------------------

NORTH = 101


def replaying(number, first, kept):
    """Let north answer a round with what it answered in another, which is kept."""

    def spoil(reply, at, node):
        if node == NORTH and at == first:
            kept["reply"] = reply.content
        if node == NORTH and at == number:
            reply.__dict__["_content"] = kept["reply"]
        return reply

    return spoil


def test_a_reply_of_the_round_before_is_not_taken_for_this_one(tmp_path):
    federation = a_federation(quorum="min_partners = 2", rounds=3)
    watcher, _, _ = run(tmp_path, federation, Grid(three(tmp_path), replaying(2, 1, {})))
    assert [record.refused for record in watcher.rounds] == [{}, {"north": "PFL-F18"}, {}]


def test_a_reply_of_an_earlier_run_is_not_taken_for_this_one(tmp_path):
    files, kept = three(tmp_path), {}
    federation = a_federation(quorum="min_partners = 2", rounds=1)
    run(tmp_path, federation, Grid(files, replaying(-1, 1, kept)), output="first")

    def again(reply, at, node):
        del at
        if node == NORTH:
            reply.__dict__["_content"] = kept["reply"]
        return reply

    watcher, _, _ = run(tmp_path, federation, Grid(files, again), output="second")
    assert watcher.rounds[0].refused == {"north": "PFL-F18"}


class Twice(Grid):
    """Every reply comes twice, at once and when it is asked for again."""

    def __init__(self, *arguments, **more):
        super().__init__(*arguments, **more)
        self.old = {}

    def pull_messages(self, numbers):
        for number, reply in self.waiting:
            self.old.setdefault(number, reply)
        self.waiting = []
        return [self.old[number] for number in numbers if number in self.old for _ in range(2)]


def test_a_reply_that_comes_twice_counts_once(tmp_path):
    seen = {}

    def remember(reply, number, node):
        seen[number, node] = from_arrays(reply.content["arrays"])
        return reply

    federation = a_federation(rounds=2)
    watcher, _, trunk = run(tmp_path, federation, Twice(three(tmp_path), remember))
    assert [record.participants for record in watcher.rounds] == [["east", "north", "south"]] * 2
    start = initial_trunk(federation.model, federation.seed)
    for name, value in trunk.items():
        mean = sum(change[name] for change in seen.values()) / 3
        torch.testing.assert_close(value, start[name] + mean)


def bad_in(*numbers, node=NORTH):
    """Let a node move the trunk too far in some rounds."""

    def spoil(reply, at, who):
        if at in numbers and who == node:
            change = {name: value + 1e3 for name, value in from_arrays(reply.content["arrays"]).items()}
            reply.content["arrays"] = to_arrays(change)
        return reply

    return spoil


def asked(grid, node):
    """In which rounds a node was asked for a change."""
    trains = [message for message in grid.sent if message.metadata.message_type == "train"]
    return [message.content["config"]["round"] for message in trains if message.metadata.dst_node_id == node]


def test_who_sent_too_many_bad_replies_is_left_out_and_the_others_go_on(tmp_path, caplog):
    federation = a_federation(quorum="min_partners = 2\nquarantine_after = 2", rounds=5)
    grid = Grid(three(tmp_path), bad_in(1, 3))
    watcher, checkpoints, _ = run(tmp_path, federation, grid)
    assert (watcher.end.status, watcher.end.rounds) == ("completed", 5)
    codes = [record.refused.get("north") for record in watcher.rounds]
    # A good one between the two makes up for nothing.
    assert codes == ["PFL-F17", None, "PFL-F17", "PFL-F14", "PFL-F14"]
    assert asked(grid, NORTH) == [1, 2, 3]
    assert asked(grid, 100) == asked(grid, 102) == [1, 2, 3, 4, 5]
    assert watcher.end.refused == {"north": "PFL-F14"}
    assert checkpoints.load().members == ("east", "south")
    assert "Partner north is left out (PFL-F14): 2 bad replies." in [r.getMessage() for r in caplog.records]


def test_a_partner_that_is_left_out_is_not_let_in_again_from_another_node(tmp_path):
    files = three(tmp_path)

    class Restarting(Grid):
        """North comes back as node 103."""

        def get_node_ids(self):
            return range(100, 103) if 2 not in asked(self, 100) else (100, 102, 103)

    grid = Restarting([*files, files[1]], bad_in(1))
    federation = a_federation(quorum="min_partners = 2\nquarantine_after = 1", rounds=4)
    watcher, _, _ = run(tmp_path, federation, grid)
    assert watcher.end.status == "completed"
    assert asked(grid, NORTH) == [1]
    assert asked(grid, 103) == []


def test_fewer_than_are_needed_after_one_was_left_out_end_the_run(tmp_path):
    federation = a_federation(quorum="min_partners = 2\nquarantine_after = 1", rounds=4)

    def spoil(reply, at, who):
        return bad_in(2, node=102)(bad_in(1)(reply, at, who), at, who)

    watcher, _, _ = run(tmp_path, federation, Grid(three(tmp_path), spoil))
    assert (watcher.end.status, watcher.end.rounds) == ("stopped", 1)
    assert "north (PFL-F14), south (PFL-F17)" in watcher.end.reason


def crashed(reply):
    error = Message(Error(code=2, reason=""), reply_to=a_reply({}))
    error.metadata.__dict__["_src_node_id"] = reply.metadata.src_node_id
    return error


def test_silence_crashes_and_refusals_leave_nobody_out(tmp_path):
    """A partner in trouble is not one that sends what nobody should trust."""
    refused = RecordDict({"config": ConfigRecord({"status": "refused", "code": "PFL-P17", "reason": ""})})

    def spoil(reply, at, node):
        if node != NORTH or at == 4:
            return reply
        if at == 3:
            reply.__dict__["_content"] = refused
        return {1: None, 2: crashed(reply)}.get(at, reply)

    federation = a_federation(quorum="min_partners = 2\nquarantine_after = 1", rounds=4)
    watcher, _, _ = run(tmp_path, federation, Grid(three(tmp_path), spoil))
    codes = [record.refused.get("north") for record in watcher.rounds]
    assert codes == ["PFL-F13", "PFL-F10", "PFL-P17", None]


def test_a_sum_goes_on_without_a_partner_that_is_left_out(tmp_path):
    def spoil(reply, at, node):
        if at in (1, 2) and node == 102:
            reply.content["arrays"] = to_arrays({"masked": torch.zeros(3, dtype=torch.int32)})
        return reply

    federation = a_summing_federation(rounds=4, quorum="quarantine_after = 2")
    grid = Grid(four(tmp_path, n=20), spoil)
    watcher, _, _ = run_sums(tmp_path, federation, grid)
    assert (watcher.end.status, watcher.end.rounds) == ("completed", 4)
    codes = [record.refused for record in watcher.rounds]
    assert codes == [{"south": "PFL-F12"}] * 2 + [{"south": "PFL-F14"}] * 2
    assert asked(grid, 102) == [1, 2]


def go_on(folder, federation, grid, rounds):
    """Start a run, or resume the one that is there, and let it end after so many rounds."""
    watcher, checkpoints = Watcher(), Checkpoints(folder / "coordinator")
    strategy = DpFedAvg(federation, propose(federation.privacy, federation.training), checkpoints, [watcher])
    if checkpoints.end() is not None:
        strategy.resume()
    strategy.start(grid, to_arrays(initial_trunk(federation.model, federation.seed)), num_rounds=rounds)
    return watcher


def test_bad_replies_are_counted_over_a_resume_and_who_is_left_out_stays_out(tmp_path):
    federation = a_federation(quorum="min_partners = 2\nquarantine_after = 2", rounds=5)
    grid = Grid(three(tmp_path), bad_in(1, 2))
    go_on(tmp_path, federation, grid, 1)
    assert Checkpoints(tmp_path / "coordinator").load().bad_replies == {"north": 1}
    watcher = go_on(tmp_path, federation, grid, 3)
    codes = [record.refused.get("north") for record in watcher.rounds]
    assert codes == ["PFL-F17", "PFL-F14"]
    watcher = go_on(tmp_path, federation, grid, 5)
    assert [record.refused for record in watcher.rounds] == [{"north": "PFL-F14"}] * 2
    assert (watcher.end.status, watcher.end.rounds) == ("completed", 5)
    assert asked(grid, NORTH) == [1, 2]
    assert asked(grid, 100) == [1, 2, 3, 4, 5]
