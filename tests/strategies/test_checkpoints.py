"""What is on disk after a round is all that the next one depends on, and a run goes on from it bit for bit."""

import json
from dataclasses import fields, replace

import pytest
import torch
from tests.partners import a_plan, a_shared_plan
from tests.strategies.federations import Grid, Watcher, a_federation, run, three

from pharma_fl.config import TrainingSettings
from pharma_fl.errors import FederationError, ModelError
from pharma_fl.messages.wire import from_arrays, to_arrays
from pharma_fl.model.pretrained import initial_trunk
from pharma_fl.privacy.plan import propose
from pharma_fl.strategies.checkpoints import Checkpoints, RunState
from pharma_fl.strategies.dp_fedavg import DpFedAvg
from pharma_fl.strategies.resume import agreed, check_same
from pharma_fl.strategies.run_record import RoundRecord, RunEnd
from pharma_fl.strategies.server_optimizer import ServerOptimizer


def a_record(number=1, **changes):
    known = {
        "participants": ["east"],
        "refused": {"north": "PFL-F13"},
        "epsilon_spent": {"east": 0.1 + 0.2},
        "epsilon_left": {"east": 1 / 3},
        "change_norm": 1e-300,
        "partner_change_norms": {"east": 2.0},
        "bytes_sent": 2**40,
        "bytes_received": 7,
        "seconds": 1.5,
    }
    return RoundRecord(round=number, **known | changes)


def a_state(number=1, **changes):
    generator = torch.Generator().manual_seed(number)
    trunk = {"input.weight": torch.randn(64, 8, generator=generator), "input.bias": torch.randn(8, generator=generator)}
    # What a detour over text would lose.
    trunk["input.bias"][:4] = torch.tensor([-0.0, 1e-45, 3.4028235e38, 1 / 3])
    known = {"run": "run-1", "round": number, "agreed": "a" * 64, "plan": a_plan(), "trunk": trunk}
    return RunState(**known | changes)


def same_bits(one, other):
    return one.keys() == other.keys() and all(
        (value.dtype, value.shape) == (other[name].dtype, other[name].shape)
        and value.numpy().tobytes() == other[name].numpy().tobytes()
        for name, value in one.items()
    )


def assert_same(one, other):
    for field in fields(RunState):
        here, there = getattr(one, field.name), getattr(other, field.name)
        if field.name in ("trunk", "optimizer"):
            assert same_bits(here, there), field.name
        else:
            assert here == there, field.name
            assert type(here) is type(there), field.name


# --- States ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "more",
    [
        {},
        {
            "plan": a_shared_plan(),
            "members": ("east", "south"),
            "refused": {"north": "PFL-F15"},
            "ledgers": {"east": "b" * 64},
            "bad_replies": {"east": 2},
            "rounds_done": 6,
            "void_in_a_row": 1,
            "secure_sum": {"east": {"sealing": "ab", "rounds": "cd", "signature": "ef"}},
            "record": a_record(7, void=True, noised_auc_roc={"pooled": {"value": 0.7, "standard_error": 0.01}}),
        },
    ],
    ids=["least", "most"],
)
def test_a_state_comes_back_as_it_was(tmp_path, more):
    state = a_state(7, **more)
    Checkpoints(tmp_path).save(state)
    assert_same(Checkpoints(tmp_path).load(), state)


OPTIMIZERS = {
    "sgd": {},
    "momentum": {"server_momentum": 0.9, "server_learning_rate": 0.7},
    "adam": {"server_optimizer": "adam", "server_learning_rate": 0.01, "server_momentum": 0.9},
}


@pytest.mark.parametrize("settings", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
@pytest.mark.parametrize("broken_after", [1, 3])
def test_a_server_optimizer_goes_on_bit_for_bit(tmp_path, settings, broken_after):
    settings = TrainingSettings(**settings)
    changes = [a_state(number).trunk for number in range(10, 16)]
    changes = [{name: value.clamp(-1, 1) for name, value in change.items()} for change in changes]
    whole = ServerOptimizer(initial_trunk(a_federation().model, 0), settings)
    for change in changes:
        whole.step(change)
    broken = ServerOptimizer(initial_trunk(a_federation().model, 0), settings)
    for change in changes[:broken_after]:
        broken.step(change)
    Checkpoints(tmp_path).save(a_state(trunk=broken.trunk, optimizer=broken.state))
    kept = Checkpoints(tmp_path).load()
    resumed = ServerOptimizer(kept.trunk, settings)
    resumed.resume(kept.optimizer)
    assert same_bits(resumed.state, broken.state)
    for change in changes[broken_after:]:
        resumed.step(change)
    assert same_bits(resumed.trunk, whole.trunk)
    assert same_bits(resumed.state, whole.state)
    # What was kept is not what is stepped.
    assert same_bits(kept.trunk, broken.trunk)


def test_of_an_optimizer_that_remembers_something_that_is_kept():
    remembering = {}
    for name, settings in OPTIMIZERS.items():
        optimizer = ServerOptimizer(a_state().trunk, TrainingSettings(**settings))
        assert optimizer.state == {}
        optimizer.step(a_state().trunk)
        remembering[name] = {key.partition("/")[2] for key in optimizer.state}
    assert remembering == {"sgd": set(), "momentum": {"momentum_buffer"}, "adam": {"step", "exp_avg", "exp_avg_sq"}}


# --- The folder --------------------------------------------------------------------------------------------------


def places(folder):
    return sorted(path.name for path in (folder / "checkpoints").glob("round-*"))


def test_so_many_rounds_stay_as_are_asked_for_and_the_public_start(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for number in range(6):
        checkpoints.save(a_state(number))
    assert places(tmp_path) == ["round-0000", "round-0004", "round-0005"]
    assert checkpoints.latest().name == "round-0005"
    assert_same(checkpoints.load(), a_state(5))


def test_one_that_is_kept_is_the_latest(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=1)
    for number in range(3):
        checkpoints.save(a_state(number))
    assert places(tmp_path) == ["round-0000", "round-0002"]


def test_more_rounds_than_four_digits_count_are_kept_in_order(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for number in range(9998, 10002):
        checkpoints.save(a_state(number))
    assert set(places(tmp_path)) == {"round-10000", "round-10001"}
    assert checkpoints.load().round == 10001


@pytest.mark.parametrize("written", ["trunk.safetensors", "optimizer.safetensors", "state.json", "latest"])
def test_a_save_that_broke_off_leaves_the_state_before(tmp_path, monkeypatch, written):
    """Killed before that file is in place; the next save goes over what is left of it."""
    from pharma_fl.model import weights
    from pharma_fl.strategies import checkpoints as module

    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(a_state(1))
    whole = module.write_atomic

    def killed(path, content, **more):
        if path.name == written:
            raise KeyboardInterrupt
        whole(path, content, **more)

    with monkeypatch.context() as patched:
        patched.setattr(module, "write_atomic", killed)
        patched.setattr(weights, "write_atomic", killed)
        with pytest.raises(KeyboardInterrupt):
            checkpoints.save(a_state(2))
    assert_same(checkpoints.load(), a_state(1))
    checkpoints.save(a_state(2))
    assert_same(checkpoints.load(), a_state(2))


def test_a_model_that_was_cut_short_is_named(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(a_state())
    path = checkpoints.latest() / "trunk.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ModelError, match="PFL-M02"):
        checkpoints.load()


def test_records_and_the_end_come_back_as_they_were(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.rounds() == []
    assert checkpoints.end() is None
    assert not checkpoints.has_told(1)
    records = [a_record(1), a_record(2, void=True, evaluated=["east"])]
    for record in records:
        checkpoints.append(record)
    assert checkpoints.rounds() == records
    assert [checkpoints.has_told(number) for number in (1, 2, 3)] == [True, True, False]
    end = RunEnd(status="stopped", rounds=1, reason="Why.", refused={"north": "PFL-F13"})
    checkpoints.finish(end)
    assert checkpoints.end() == end


def test_half_a_line_at_the_end_is_dropped(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.append(a_record(1))
    whole = (tmp_path / "rounds.jsonl").read_bytes()
    checkpoints.append(a_record(2))
    written = (tmp_path / "rounds.jsonl").read_bytes()
    for length in range(len(whole), len(written)):
        (tmp_path / "rounds.jsonl").write_bytes(written[:length])
        assert checkpoints.rounds() == [a_record(1)]
        assert not checkpoints.has_told(2)
        checkpoints.reopen(2)
        assert (tmp_path / "rounds.jsonl").read_bytes() == whole
    # What follows is a line of its own.
    checkpoints.append(a_record(2))
    assert checkpoints.rounds() == [a_record(1), a_record(2)]


def test_reopened_a_folder_knows_nothing_of_later_rounds_and_has_no_end(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.reopen(0)
    for number in (1, 2, 3):
        checkpoints.append(a_record(number))
    checkpoints.finish(RunEnd(status="completed", rounds=3))
    checkpoints.reopen(2)
    assert checkpoints.rounds() == [a_record(1), a_record(2)]
    assert checkpoints.end() is None


def test_survivors_are_those_of_that_run_and_round_alone(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.survivors("run-1", 1) == set()
    checkpoints.settle_survivors("run-1", 1, {"south", "east"})
    assert Checkpoints(tmp_path).survivors("run-1", 1) == {"south", "east"}
    assert checkpoints.survivors("run-1", 2) == checkpoints.survivors("run-2", 1) == set()


# --- Whose folder it is ------------------------------------------------------------------------------------------


def test_a_second_coordinator_is_kept_out_while_the_first_runs(tmp_path):
    with Checkpoints(tmp_path).held():
        with pytest.raises(FederationError, match="PFL-F23") as caught, Checkpoints(tmp_path).held():
            pass
        assert str(tmp_path) in str(caught.value)
        assert "federation.toml: output" in str(caught.value)
        # Elsewhere another may.
        with Checkpoints(tmp_path / "other").held():
            pass
    with Checkpoints(tmp_path).held():
        pass


def test_however_a_coordinator_ends_the_folder_is_free_again(tmp_path):
    with pytest.raises(KeyboardInterrupt), Checkpoints(tmp_path).held():
        raise KeyboardInterrupt
    with Checkpoints(tmp_path).held():
        pass


def a_strategy(folder, federation, watchers=()):
    plan = propose(federation.privacy, federation.training)
    return DpFedAvg(federation, plan, Checkpoints(folder / "coordinator"), watchers)


def start(strategy, grid, rounds=None):
    trunk = to_arrays(initial_trunk(strategy.federation.model, strategy.federation.seed))
    return from_arrays(strategy.start(grid, trunk, num_rounds=rounds).arrays)


def test_a_run_in_a_folder_where_another_runs_asks_nobody_anything(tmp_path):
    grid = Grid(three(tmp_path))
    strategy = a_strategy(tmp_path, a_federation())
    with strategy.checkpoints.held(), pytest.raises(FederationError, match="PFL-F23"):
        start(strategy, grid)
    assert grid.sent == []
    assert not (tmp_path / "coordinator" / "checkpoints").exists()


def test_a_new_run_does_not_go_over_an_old_one(tmp_path):
    grid = Grid(three(tmp_path))
    run(tmp_path, a_federation(rounds=1), grid)
    asked, before = len(grid.sent), (tmp_path / "coordinator" / "end.json").read_bytes()
    with pytest.raises(FederationError, match="PFL-F20"):
        start(a_strategy(tmp_path, a_federation(rounds=1)), grid)
    assert len(grid.sent) == asked
    assert (tmp_path / "coordinator" / "end.json").read_bytes() == before


# --- Going on ----------------------------------------------------------------------------------------------------


def test_without_a_run_there_is_nothing_to_go_on_with(tmp_path):
    with pytest.raises(FederationError, match="PFL-F22") as caught:
        a_strategy(tmp_path, a_federation()).resume()
    assert str(tmp_path / "coordinator") in str(caught.value)


def changed(**parts):
    """The federation with some of its settings changed."""
    federation = a_federation()
    update = {name: getattr(federation, name).model_copy(update=change) for name, change in parts.items()}
    return federation.model_copy(update=update)


BEGUN = a_state(agreed=agreed(a_federation()))


@pytest.mark.parametrize(
    "federation",
    [
        changed(privacy={"clipping_norm": 2.0}),
        changed(privacy={"epsilon": 4.0}),
        changed(training={"rounds": 5}),
        changed(training={"server_momentum": 0.5}),
        changed(model={"hidden": (16,)}),
        a_federation(weights={"east": 2.0}),
        a_federation(("east", "north", "south", "west")),
        a_federation().model_copy(update={"seed": 1}),
        a_federation().model_copy(update={"name": "other"}),
    ],
    ids=["clip", "epsilon", "rounds", "server", "model", "weights", "partners", "seed", "name"],
)
def test_a_run_does_not_go_on_under_other_settings(federation):
    with pytest.raises(FederationError, match="PFL-F22") as caught:
        check_same(BEGUN, federation)
    assert "Run run-1 began with other settings" in str(caught.value)


@pytest.mark.parametrize(
    "federation",
    [
        a_federation(),
        a_federation(quorum="min_partners = 1\nwait_s = 7.0", when_missed="wait", timeout=99.0),
        a_federation(more="[evaluation]\nevery = 2"),
        a_federation().model_copy(update={"output": "elsewhere", "keep_checkpoints": 1, "roster": "roster.toml"}),
    ],
    ids=["none", "quorum", "evaluation", "places"],
)
def test_what_concerns_the_coordinator_alone_may_be_changed(federation):
    check_same(BEGUN, federation)


def test_a_run_goes_on_with_another_quorum_but_not_with_another_privacy(tmp_path):
    grid = Grid(three(tmp_path), lost=lambda kind, number, node: (kind, number, node) == ("train", 2, 102))
    watcher, checkpoints, trunk = run(tmp_path, a_federation(rounds=3), grid)
    assert (watcher.end.status, watcher.end.rounds) == ("stopped", 1)
    ended = checkpoints.load()
    with pytest.raises(FederationError, match="PFL-F22"):
        a_strategy(tmp_path, a_federation(rounds=3, privacy="epsilon = 4.0")).resume()
    watcher = Watcher()
    strategy = a_strategy(tmp_path, a_federation(rounds=3, quorum="min_partners = 2"), [watcher])
    strategy.resume()
    assert (strategy.run, strategy.plan) == (ended.run, ended.plan)
    start(strategy, grid)
    assert (watcher.end.status, watcher.end.rounds) == ("completed", 3)
    assert [record.round for record in watcher.rounds] == [2, 3]
    assert [record.round for record in checkpoints.rounds()] == [1, 2, 3]
    assert checkpoints.rounds()[1].participants == ["east", "north"]
    # The round that was missed is asked for again with the trunk of the one before it.
    asked = [m for m in grid.sent if m.metadata.message_type == "train" and m.content["config"]["round"] == 2]
    assert len(asked) >= 6
    assert all(same_bits(from_arrays(message.content["arrays"]), trunk) for message in asked)
    assert {message.content["config"]["run"] for message in asked} == {ended.run}


def test_a_run_that_is_over_goes_on_to_its_end_without_asking_for_anything(tmp_path):
    grid = Grid(three(tmp_path))
    _, checkpoints, trunk = run(tmp_path, a_federation(rounds=2), grid)
    before, asked = checkpoints.load(), sum(m.metadata.message_type == "train" for m in grid.sent)
    watcher = Watcher()
    strategy = a_strategy(tmp_path, a_federation(rounds=2), [watcher])
    strategy.resume()
    assert same_bits(start(strategy, grid), trunk)
    assert (watcher.end.status, watcher.end.rounds) == ("completed", 2)
    assert watcher.rounds == []
    assert sum(m.metadata.message_type == "train" for m in grid.sent) == asked
    assert_same(checkpoints.load(), before)


def test_a_run_that_broke_off_before_anybody_joined_begins_anew(tmp_path):
    """Nobody was asked for anything, so neither its name nor its plan binds anybody."""
    grid = Grid(three(tmp_path))
    federation = a_federation(rounds=1)
    Checkpoints(tmp_path / "coordinator").save(
        a_state(0, agreed=agreed(federation), trunk=initial_trunk(federation.model, federation.seed))
    )
    watcher = Watcher()
    strategy = a_strategy(tmp_path, federation, [watcher])
    strategy.resume()
    start(strategy, grid)
    assert (watcher.end.status, watcher.end.rounds) == ("completed", 1)
    assert strategy.checkpoints.load().run == strategy.run != "run-1"


def test_what_is_kept_can_be_read_by_eye(tmp_path):
    Checkpoints(tmp_path).save(replace(BEGUN, members=("east",)))
    content = json.loads((tmp_path / "checkpoints" / "round-0001" / "state.json").read_text())
    assert content["members"] == ["east"]
    assert "trunk" not in content
    assert "optimizer" not in content
