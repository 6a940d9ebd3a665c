"""The strategy against partners in this process: sums, quorum, refusals, and replies that nobody should trust."""

import math
from pathlib import Path

import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.app.error import Error
from tests.partners import a_partner
from tests.strategies.federations import Grid, a_federation, ledger_of, run, spent, three

from pharma_fl.config import Federation, Partner
from pharma_fl.messages.wire import from_arrays
from pharma_fl.model.pretrained import initial_trunk
from pharma_fl.model.weights import load_weights
from pharma_fl.privacy.accountant import epsilon
from pharma_fl.privacy.charge import Charge
from pharma_fl.privacy.plan import propose
from pharma_fl.privacy.second_opinions import epsilon_by_opacus


def test_a_whole_run(tmp_path):
    files = three(tmp_path)
    grid = Grid(files)
    watcher, checkpoints, trunk = run(tmp_path, a_federation(), grid)
    assert (watcher.end.status, watcher.end.rounds) == ("completed", 4)
    assert [r.round for r in checkpoints.rounds()] == [1, 2, 3, 4]
    stored, _ = load_weights(checkpoints.latest() / "trunk.safetensors")
    assert all(torch.equal(stored[name], value) for name, value in trunk.items())
    assert checkpoints.end() == watcher.end


def test_epsilon_reported_is_the_accountants_for_the_steps_taken_and_opacus_agrees(tmp_path):
    files = three(tmp_path)
    federation = a_federation()
    watcher, _, _ = run(tmp_path, federation, Grid(files))
    noise = propose(federation.privacy, federation.training).noise_multiplier
    for record in watcher.rounds:
        taken = [Charge(0.5, noise, 2 * record.round)]
        assert set(record.epsilon_spent.values()) == {epsilon(taken, 1e-5)}
        assert epsilon(taken, 1e-5) == pytest.approx(epsilon_by_opacus(taken, 1e-5), rel=0.02)
    assert sum(charge.steps for charge in ledger_of(tmp_path, "north").charges()) == 8
    assert spent(tmp_path, "north") == watcher.rounds[-1].epsilon_spent["north"]
    assert 2.98 < spent(tmp_path, "north") <= 3.0


def test_everything_that_is_sent_is_known(tmp_path):
    grid = Grid(three(tmp_path))
    run(tmp_path, a_federation(rounds=1), grid)
    for message in grid.sent:
        if message.metadata.message_type == "train":
            assert set(message.content) == {"arrays", "config"}
            assert set(message.content["arrays"]) == {"input.weight", "input.bias"}
            settings = {"plan", "model", "training"}
            assert set(message.content["config"]) == {"federation", "run", "round", "seed", "witnesses"} | settings
        else:
            assert message.metadata.message_type == "query.join"
            assert set(message.content) == {"config"}
            assert set(message.content["config"]) == {"federation", "run", "plan", "challenge"}


def test_the_model_is_the_weighted_mean_of_the_changes(tmp_path):
    files = three(tmp_path)
    seen = {}

    def remember(reply, number, node):
        seen[node] = from_arrays(reply.content["arrays"])
        return reply

    federation = a_federation(rounds=1, weights={"east": 2.0, "north": 1.0, "south": 1.0})
    _, _, trunk = run(tmp_path, federation, Grid(files, remember))
    start = initial_trunk(federation.model, 0)
    for name, value in trunk.items():
        mean = 0.5 * seen[100][name] + 0.25 * seen[101][name] + 0.25 * seen[102][name]
        torch.testing.assert_close(value, start[name] + mean)


def test_federating_without_noise_is_one_process_over_all_rows(tmp_path):
    """Full batches, one step a round, no clip: five rounds equal five steps on the union of the partners' rows."""
    from pharma_fl.clients.records import open_records, training_folds
    from pharma_fl.model.fit import new_network
    from pharma_fl.model.losses import network_losses
    from pharma_fl.model.network import trunk_of

    files = three(tmp_path, policy={"allow_unprotected": True})
    federation = Federation.parse(
        """
        name = "test"
        [partners]
        east = 1.0
        north = 1.0
        south = 1.0
        [model]
        input_bits = 64
        hidden = [8]
        head_start = 1.0
        [training]
        rounds = 5
        local_steps = 1
        trunk_learning_rate = 0.3
        head_learning_rate = 0.1
        [privacy]
        mechanism = "none"
        sample_rate = 1.0
        expected_batch = 40.0
        """,
        source="test",
    )
    _, _, trunk = run(tmp_path, federation, Grid(files))
    records = []
    for path in files:
        partner = Partner.load(path)
        records.append(open_records(partner, federation.model, training_folds(partner)))
    # One trunk, one private head a partner, plain autograd over all rows at once.
    heads = [new_network(federation.model, r, 0) for r in records]
    shared = heads[0].trunk
    for network in heads:
        network.trunk = shared
    for _ in range(5):
        pairs = zip(heads, records, strict=True)
        loss = sum(network_losses(n, r.all(), weights=r.weights).sum() / 40.0 for n, r in pairs)
        for parameter in [*shared.parameters(), *(p for n in heads for p in n.heads.parameters())]:
            parameter.grad = None
        loss.backward()
        with torch.no_grad():
            for parameter in shared.parameters():
                parameter.sub_(0.3 * parameter.grad / 3)
            for network in heads:
                for parameter in network.heads.parameters():
                    parameter.sub_(0.1 * parameter.grad)
    for name, value in trunk_of(heads[0]).items():
        torch.testing.assert_close(trunk[name], value, rtol=1e-5, atol=1e-6)


def test_a_partner_whose_budget_is_spent_ends_the_run_with_the_last_model(tmp_path):
    a_partner(tmp_path, "poor", seed=9, budget={"epsilon": 1.6})
    a_partner(tmp_path, "rich")
    grid = Grid([tmp_path / "poor" / "partner.toml", tmp_path / "rich" / "partner.toml"])
    watcher, checkpoints, trunk = run(tmp_path, a_federation(("poor", "rich")), grid)
    assert watcher.end.status == "stopped"
    assert 0 < watcher.end.rounds < 4
    assert watcher.end.refused == {"poor": "PFL-P10"}
    assert "poor (PFL-P10)" in watcher.end.reason
    assert checkpoints.latest().name == f"round-{watcher.end.rounds:04d}"
    stored, _ = load_weights(checkpoints.latest() / "trunk.safetensors")
    assert all(torch.equal(stored[name], value) for name, value in trunk.items())
    assert spent(tmp_path, "poor") <= 1.6


def test_with_a_smaller_quorum_the_run_goes_on_without_it(tmp_path):
    a_partner(tmp_path, "poor", seed=9, budget={"epsilon": 1.6})
    a_partner(tmp_path, "rich")
    grid = Grid([tmp_path / "poor" / "partner.toml", tmp_path / "rich" / "partner.toml"])
    watcher, _, _ = run(tmp_path, a_federation(("poor", "rich"), quorum="min_partners = 1"), grid)
    assert (watcher.end.status, watcher.end.rounds) == ("completed", 4)
    assert watcher.rounds[-1].participants == ["rich"]
    assert watcher.rounds[-1].refused == {"poor": "PFL-P10"}


def test_a_policy_that_refuses_keeps_the_run_from_starting(tmp_path):
    files = three(tmp_path)
    a_partner(tmp_path, "strict", policy={"min_noise_multiplier": 500.0})
    files.append(tmp_path / "strict" / "partner.toml")
    federation = a_federation(("east", "north", "south", "strict"))
    watcher, checkpoints, _ = run(tmp_path, federation, Grid(files))
    assert (watcher.end.status, watcher.end.rounds) == ("stopped", 0)
    assert watcher.end.refused == {"strict": "PFL-P20"}
    assert checkpoints.latest().name == "round-0000"
    assert not ledger_of(tmp_path, "north").entries()


def test_a_node_that_is_not_on_the_list_takes_no_part(tmp_path):
    files = three(tmp_path)
    a_partner(tmp_path, "stranger")
    a_partner(tmp_path / "copy", "north", seed=8)
    grid = Grid([*files, tmp_path / "stranger" / "partner.toml", tmp_path / "copy" / "north" / "partner.toml"])
    watcher, _, _ = run(tmp_path, a_federation(rounds=1), grid)
    assert watcher.rounds[0].participants == ["east", "north", "south"]
    assert {m.metadata.dst_node_id for m in grid.sent if m.metadata.message_type == "train"} == {100, 101, 102}


def test_a_partner_that_never_connects_is_waited_for_with_a_deadline(tmp_path):
    watcher, _, _ = run(tmp_path, a_federation(("east", "north", "south", "absent")), Grid(three(tmp_path)))
    assert watcher.end.status == "stopped"
    assert watcher.end.refused == {"absent": "PFL-F13"}


def with_arrays(reply, change):
    arrays = from_arrays(reply.content["arrays"])
    change(arrays)
    reply.content["arrays"] = ArrayRecord({name: Array(value.numpy()) for name, value in arrays.items()})
    return reply


def set_nan(arrays):
    arrays["input.bias"][0] = math.nan


def with_extra_record(reply):
    reply.content["more"] = MetricRecord({"loss": 0.1})
    return reply


def with_extra_metric(reply):
    reply.content["metrics"] = MetricRecord({"num-examples": 17})
    return reply


def with_record(reply, record):
    return _content(reply, RecordDict({"arrays": record, "config": reply.content["config"]}))


def with_bytes(reply, data):
    arrays = reply.content.array_records["arrays"]
    bias = arrays["input.bias"]
    arrays["input.bias"] = Array(dtype=bias.dtype, shape=bias.shape, stype=bias.stype, data=data)
    return reply


SPOILED = {
    "NaN": (lambda r: with_arrays(r, set_nan), "PFL-F12"),
    "a missing array": (lambda r: with_arrays(r, lambda a: a.pop("input.bias")), "PFL-F12"),
    "a head": (lambda r: with_arrays(r, lambda a: a.update({"head.weight": torch.zeros(3, 8)})), "PFL-F12"),
    "another shape": (lambda r: with_arrays(r, lambda a: a.update({"input.bias": torch.zeros(9)})), "PFL-F12"),
    "integers": (lambda r: with_arrays(r, lambda a: a.update({"input.bias": torch.zeros(8).long()})), "PFL-F12"),
    "a further record": (with_extra_record, "PFL-F11"),
    "an unaccounted number": (with_extra_metric, "PFL-F11"),
    "a weight moved too far": (lambda r: with_arrays(r, lambda a: a["input.bias"].fill_(3e38)), "PFL-F12"),
    "arrays that are settings": (lambda r: with_record(r, ConfigRecord({"x": 1})), "PFL-F11"),
    "an empty array": (lambda r: with_bytes(r, b""), "PFL-F12"),
    "a broken header": (lambda r: with_bytes(r, b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order"), "PFL-F12"),
    "an archive": (lambda r: with_bytes(r, b"PK\x03\x04 not one"), "PFL-F12"),
    "no reply": (lambda r: None, "PFL-F13"),
    "an error of Flower's": (lambda r: _error(r), "PFL-F10"),  # noqa: PLW0108 - defined below
    "nothing known": (lambda r: _content(r, RecordDict({"x": ConfigRecord()})), "PFL-F11"),
}


def _content(reply, content):
    reply.__dict__["_content"] = content
    return reply


def _error(reply):
    error = Message(Error(code=2, reason="CC(=O)O"), reply_to=_as_question(reply))
    error.metadata.__dict__["_src_node_id"] = reply.metadata.src_node_id
    return error


def _as_question(reply):
    question = Message(RecordDict(), dst_node_id=reply.metadata.src_node_id, message_type="train")
    question.metadata.__dict__["_message_id"] = "q"
    return question


@pytest.mark.parametrize(("spoil", "code"), SPOILED.values(), ids=SPOILED.keys())
def test_a_bad_reply_is_dropped_and_the_others_go_on(tmp_path, spoil, code):
    def spoil_north(reply, number, node):
        return spoil(reply) if node == 101 and number == 2 else reply

    federation = a_federation(quorum="min_partners = 2", rounds=3)
    watcher, _, trunk = run(tmp_path, federation, Grid(three(tmp_path), spoil_north))
    assert watcher.end.status == "completed"
    assert watcher.rounds[1].participants == ["east", "south"]
    assert watcher.rounds[1].refused == {"north": code}
    assert watcher.rounds[2].participants == ["east", "north", "south"]
    assert all(torch.isfinite(value).all() for value in trunk.values())


def test_round_records_survive_their_file(tmp_path):
    watcher, checkpoints, _ = run(tmp_path, a_federation(rounds=2), Grid(three(tmp_path)))
    assert checkpoints.rounds() == watcher.rounds
    record = watcher.rounds[0]
    assert record.bytes_sent == record.bytes_received == 3 * 4 * (64 * 8 + 8)
    assert Path(checkpoints.folder / "end.json").exists()
