"""Noised metrics over the network: asked when it was said, added up, never fatal, and bad replies dropped."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.app.error import Error
from tests.partners import METRICS_ALLOWED, a_partner
from tests.strategies.federations import Grid, a_federation, ledger_of, run, three

from pharma_fl.messages.wire import from_arrays
from pharma_fl.strategies.noised_metrics import noised_areas

EVERY_TWO = """
        [evaluation]
        every = 2
        noise_multiplier = 10.0
        bins = 8
        """


def asked(grid):
    return [
        (message.content["config"]["round"], message.metadata.dst_node_id)
        for message in grid.sent
        if message.metadata.message_type == "evaluate"
    ]


def kept(seen):
    """Remember every histogram that leaves."""

    def spoil(reply, number, node):
        if "arrays" in reply.content:
            seen[number, node] = from_arrays(reply.content["arrays"])["histogram"].numpy()
        return reply

    return spoil


def test_metrics_are_asked_for_every_so_many_rounds_and_added_up(tmp_path):
    seen = {}
    grid = Grid(three(tmp_path, n=3000, **METRICS_ALLOWED), kept(seen), spoiled="evaluate")
    watcher, checkpoints, _ = run(tmp_path, a_federation(more=EVERY_TWO), grid)
    assert asked(grid) == [(number, node) for number in (2, 4) for node in (100, 101, 102)]
    assert [record.evaluated for record in watcher.rounds] == [[], ["east", "north", "south"]] * 2
    assert all(not record.evaluation_refused for record in watcher.rounds)
    for record in (watcher.rounds[1], watcher.rounds[3]):
        total = sum(seen[record.round, node] for node in (100, 101, 102))
        assert record.noised_auc_roc == noised_areas(total, (), std=10 * math.sqrt(3))
        area = record.noised_auc_roc["pooled"]
        assert 0.005 < area["standard_error"] < 0.2
        # A model that has learnt next to nothing, seen through noise: six standard errors, not luck.
        assert abs(area["value"] - 0.6) < 0.1 + 6 * area["standard_error"]
    assert [record.noised_auc_roc for record in watcher.rounds[::2]] == [{}, {}]
    # As JSON too.
    assert checkpoints.rounds() == watcher.rounds
    lines = [json.loads(line) for line in (checkpoints.folder / "rounds.jsonl").read_text().splitlines()]
    assert lines[1]["noised_auc_roc"]["pooled"]["value"] == watcher.rounds[1].noised_auc_roc["pooled"]["value"]
    assert len([c for c in ledger_of(tmp_path, "north").charges() if c.sample_rate == 1.0]) == 1


def test_what_is_sent_to_ask_is_known(tmp_path):
    grid = Grid(three(tmp_path, **METRICS_ALLOWED))
    _, _, trunk = run(tmp_path, a_federation(rounds=2, more=EVERY_TWO), grid)
    (message, *_) = [m for m in grid.sent if m.metadata.message_type == "evaluate"]
    assert set(message.content) == {"arrays", "config"}
    wanted = {"federation", "run", "round", "seed", "model", "evaluation", "witnesses"}
    assert set(message.content["config"]) == wanted
    assert len(message.content["config"]["witnesses"]) == 1
    # The model of the round that was just done, and no other.
    assert all(torch.equal(from_arrays(message.content["arrays"])[name], value) for name, value in trunk.items())


def test_nothing_is_asked_for_by_default(tmp_path):
    grid = Grid(three(tmp_path, **METRICS_ALLOWED))
    watcher, _, _ = run(tmp_path, a_federation(rounds=2), grid)
    assert asked(grid) == []
    assert watcher.rounds[0].evaluated == []


def test_partners_that_refuse_end_nothing(tmp_path):
    files = three(tmp_path)
    watcher, _, _ = run(tmp_path, a_federation(more=EVERY_TWO), Grid(files))
    assert (watcher.end.status, watcher.end.rounds) == ("completed", 4)
    assert watcher.rounds[1].evaluation_refused == dict.fromkeys(("east", "north", "south"), "PFL-P20")
    assert watcher.rounds[1].noised_auc_roc == {}
    assert watcher.rounds[1].participants == ["east", "north", "south"]


def test_those_that_answer_are_evaluated_without_the_others(tmp_path):
    a_partner(tmp_path, "east", **METRICS_ALLOWED)
    a_partner(tmp_path, "north")
    files = [tmp_path / name / "partner.toml" for name in ("east", "north")]
    watcher, _, _ = run(tmp_path, a_federation(("east", "north"), rounds=2, more=EVERY_TWO), Grid(files))
    assert watcher.rounds[1].evaluated == ["east"]
    assert watcher.rounds[1].evaluation_refused == {"north": "PFL-P20"}


def test_a_partner_that_missed_the_round_is_not_asked(tmp_path):
    files = three(tmp_path, **METRICS_ALLOWED)

    def lose(reply, number, node):
        return None if (number, node) == (2, 101) else reply

    grid = Grid(files, lose)
    watcher, _, _ = run(tmp_path, a_federation(rounds=2, quorum="min_partners = 2", more=EVERY_TWO), grid)
    assert asked(grid) == [(2, 100), (2, 102)]
    assert watcher.rounds[1].evaluated == ["east", "south"]
    assert watcher.rounds[1].evaluation_refused == {}


def with_arrays(reply, arrays):
    reply.content["arrays"] = ArrayRecord({name: Array(value) for name, value in arrays.items()})
    return reply


def histogram(value=0.0, shape=(1, 2, 8), dtype=np.float64):
    return {"histogram": np.full(shape, value, dtype=dtype)}


def with_record(reply):
    reply.content["more"] = MetricRecord({"loss": 0.1})
    return reply


def with_bytes(reply):
    reply.content["arrays"]["histogram"] = Array(dtype="float64", shape=(1, 2, 8), stype="numpy.ndarray", data=b"")
    return reply


def flower_error(reply):
    question = Message(RecordDict(), dst_node_id=reply.metadata.src_node_id, message_type="evaluate")
    question.metadata.__dict__["_message_id"] = "q"
    error = Message(Error(code=2, reason="CC(=O)O"), reply_to=question)
    error.metadata.__dict__["_src_node_id"] = reply.metadata.src_node_id
    return error


SPOILED = {
    "NaN": (lambda r: with_arrays(r, histogram(math.nan)), "PFL-F12"),
    "infinite": (lambda r: with_arrays(r, histogram(-math.inf)), "PFL-F12"),
    "too large": (lambda r: with_arrays(r, histogram(1e19)), "PFL-F12"),
    "another shape": (lambda r: with_arrays(r, histogram(shape=(1, 2, 9))), "PFL-F12"),
    "more tasks": (lambda r: with_arrays(r, histogram(shape=(3, 2, 8))), "PFL-F12"),
    "flat": (lambda r: with_arrays(r, histogram(shape=(16,))), "PFL-F12"),
    "float32": (lambda r: with_arrays(r, histogram(dtype=np.float32)), "PFL-F12"),
    "whole numbers": (lambda r: with_arrays(r, histogram(dtype=np.int64)), "PFL-F12"),
    "another name": (lambda r: with_arrays(r, {"counts": np.zeros((1, 2, 8))}), "PFL-F12"),
    "two arrays": (lambda r: with_arrays(r, histogram() | {"loss": np.zeros(1)}), "PFL-F12"),
    "no bytes": (with_bytes, "PFL-F12"),
    "a further record": (with_record, "PFL-F11"),
    "an unaccounted number": (lambda r: _put(r, "metrics", MetricRecord({"loss": 0.5})), "PFL-F11"),
    "another status": (lambda r: _put(r, "config", ConfigRecord({"status": "fine"})), "PFL-F11"),
    "nothing known": (lambda r: _replace(r, RecordDict({"x": ConfigRecord()})), "PFL-F11"),
    "a code that is none": (lambda r: _replace(r, _refusal("CC(=O)O")), "PFL-X00"),
    "no reply": (lambda r: None, "PFL-F13"),
    "an error of Flower's": (flower_error, "PFL-F10"),
}


def _put(reply, name, record):
    reply.content[name] = record
    return reply


def _replace(reply, content):
    reply.__dict__["_content"] = content
    return reply


def _refusal(code):
    return RecordDict({"config": ConfigRecord({"status": "refused", "code": code, "reason": "x"})})


@pytest.mark.parametrize(("spoil", "code"), SPOILED.values(), ids=SPOILED.keys())
def test_a_bad_reply_is_dropped_and_the_others_count(tmp_path, spoil, code):
    def spoil_north(reply, number, node):
        return spoil(reply) if node == 101 else reply

    federation = a_federation(("east", "north"), rounds=2, more=EVERY_TWO)
    for seed, name in enumerate(("east", "north")):
        a_partner(tmp_path, name, seed=seed, **METRICS_ALLOWED)
    grid = Grid([Path(tmp_path / name / "partner.toml") for name in ("east", "north")], spoil_north, spoiled="evaluate")
    watcher, _, _ = run(tmp_path, federation, grid)
    assert watcher.end.status == "completed"
    assert watcher.rounds[1].evaluated == ["east"]
    assert watcher.rounds[1].evaluation_refused == {"north": code}
    assert watcher.rounds[1].participants == ["east", "north"]
