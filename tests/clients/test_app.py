"""The ClientApp: what is in its messages, and what never is."""

import json
import re

import pytest
import torch
from flwr.app import ArrayRecord, Context, Message, MessageType, RecordDict
from tests.partners import METRICS_ALLOWED, a_join, a_metrics_request, a_partner, a_plan, a_request

from pharma_fl.clients.app import app
from pharma_fl.messages.wire import from_arrays, metrics_request, round_request
from pharma_fl.privacy.ledger import Ledger


def ask(partner_file, content, kind=MessageType.TRAIN, **node_config):
    context = Context(
        run_id=1,
        node_id=2,
        node_config=node_config or {"partner": str(partner_file)},
        state=RecordDict(),
        run_config={},
    )
    message = Message(content, dst_node_id=2, message_type=kind)
    message.metadata.__dict__["_message_id"] = "m"
    return app(message, context).content


def file_of(folder, name="north"):
    return folder / name / "partner.toml"


def test_a_rounds_reply_holds_the_trunk_and_two_public_numbers_and_nothing_else(tmp_path):
    a_partner(tmp_path)
    content = ask(file_of(tmp_path), round_request(a_request()))
    assert set(content) == {"arrays", "metrics", "config"}
    assert set(content.array_records["arrays"]) == {"input.weight", "input.bias"}
    assert set(content.metric_records["metrics"]) == {"epsilon_spent", "epsilon_left"}
    assert dict(content.config_records["config"]) == {"status": "done", "run": "run-1", "round": 1}
    shapes = {name: tuple(value.shape) for name, value in from_arrays(content.array_records["arrays"]).items()}
    assert shapes == {"input.weight": (64, 8), "input.bias": (8,)}
    assert context_is_empty(tmp_path)


def context_is_empty(folder):
    # What the app keeps, it keeps on its own disk: Flower's context would be in the node's memory alone.
    return (folder / "north" / "state" / "current.safetensors").exists()


def test_public_numbers_do_not_depend_on_the_data(tmp_path):
    a_partner(tmp_path, "small", n=20, seed=1)
    a_partner(tmp_path, "large", n=400, seed=2)
    replies = [ask(file_of(tmp_path, name), round_request(a_request())) for name in ("small", "large")]
    assert dict(replies[0].metric_records["metrics"]) == dict(replies[1].metric_records["metrics"])
    joined = [ask(file_of(tmp_path, n), a_join("trial", a_plan()), "query.join") for n in ("small", "large")]
    own = {"partner", "ledger"}
    without_name = [{k: v for k, v in dict(j.config_records["config"]).items() if k not in own} for j in joined]
    assert without_name[0] == without_name[1]


def test_joining_says_who_and_whether(tmp_path):
    a_partner(tmp_path, policy={"min_noise_multiplier": 6.0})
    answer = dict(ask(file_of(tmp_path), a_join("trial", a_plan()), "query.join").config_records["config"])
    assert answer["partner"] == "north"
    assert (answer["status"], answer["code"]) == ("refused", "PFL-P20")
    willing = dict(
        ask(file_of(tmp_path), a_join("trial", a_plan(noise_multiplier=7.0)), "query.join").config_records["config"]
    )
    assert willing["status"] == "joined"
    assert willing["affordable_rounds"] == 6


def test_what_is_told_of_the_ledger_at_joining_is_a_bare_hash(tmp_path):
    partner = a_partner(tmp_path, policy={"report_budget": False})

    def join():
        return dict(ask(file_of(tmp_path), a_join("trial", a_plan()), "query.join").config_records["config"])

    before = join()
    assert (before["affordable_rounds"], before["agreement"], before["signature"]) == (-1, "", b"")
    ask(file_of(tmp_path), round_request(a_request()))
    after = join()
    assert before["ledger"] != after["ledger"] == Ledger.of(partner).head
    assert all(re.fullmatch(r"[0-9a-f]{64}", told["ledger"]) for told in (before, after))
    # Whoever is refused does not learn either that rounds were carried out elsewhere.
    refused = ask(file_of(tmp_path), a_join("trial", a_plan(noise_multiplier=0.1)), "query.join")
    assert refused["config"]["ledger"] == ""


def test_a_federation_that_is_not_named_in_the_policy_is_refused(tmp_path):
    a_partner(tmp_path, policy={"federations": ["ours"]})
    answer = ask(file_of(tmp_path), a_join("trial", a_plan()), "query.join")["config"]
    assert (answer["status"], answer["code"]) == ("refused", "PFL-P20")
    assert ask(file_of(tmp_path), a_join("ours", a_plan()), "query.join")["config"]["status"] == "joined"
    assert ask(file_of(tmp_path), round_request(a_request()))["config"]["code"] == "PFL-P20"


BAD = {
    "no arrays": lambda r: r.pop("arrays"),
    "no config": lambda r: r.pop("config"),
    "an unknown key": lambda r: r["config"].__setitem__("evaluate", 1),
    "a plan that is no JSON": lambda r: r["config"].__setitem__("plan", "{"),
    "a plan with an unknown key": lambda r: r["config"].__setitem__("plan", '{"x": 1}'),
    "a round that is text": lambda r: r["config"].__setitem__("round", "one"),
    "a round that is true": lambda r: r["config"].update(round=True),
    "a seed that is true": lambda r: r["config"].update(seed=True),
    "a run without a name": lambda r: r["config"].__setitem__("run", ""),
    "a federation without a name": lambda r: r["config"].__setitem__("federation", ""),
    "a witness that is no hash": lambda r: r["config"].__setitem__("witnesses", ["../ledger"]),
    "witnesses that are one": lambda r: r["config"].__setitem__("witnesses", "0" * 64),
    "a run of a megabyte": lambda r: r["config"].__setitem__("run", "r" * 1_000_000),
    "a bit worth 1e100": lambda r: r["config"].__setitem__("model", '{"input_scale": 1e100}'),
    "other arrays": lambda r: r.__setitem__("arrays", ArrayRecord()),
}


@pytest.mark.parametrize("change", BAD.values(), ids=BAD.keys())
def test_a_strange_request_gets_a_code(tmp_path, change):
    a_partner(tmp_path)
    content = round_request(a_request())
    change(content)
    reply = ask(file_of(tmp_path), content)
    assert set(reply) == {"config"}
    assert reply["config"]["status"] == "refused"
    assert reply["config"]["code"] in {"PFL-F01", "PFL-M03"}
    # Whatever it was, the partner is as before.
    assert ask(file_of(tmp_path), round_request(a_request()))["config"]["status"] == "done"


def test_no_text_of_an_error_travels(tmp_path, monkeypatch):
    secret = "CC(=O)Oc1ccccc1C(=O)O in /home/chemist"
    a_partner(tmp_path)

    def break_down(*_args, **_kwargs):
        raise RuntimeError(secret)

    monkeypatch.setattr("pharma_fl.clients.train.train_round", break_down)
    reply = ask(file_of(tmp_path), round_request(a_request()))
    assert dict(reply["config"])["code"] == "PFL-X00"
    assert "CC(=O)" not in str(dict(reply["config"]))
    audit = [json.loads(line) for line in (tmp_path / "north" / "audit.jsonl").read_text().splitlines()]
    assert secret in audit[0]["error"]


def test_a_refusal_for_budget_names_neither_value_nor_path(tmp_path):
    a_partner(tmp_path, budget={"epsilon": 0.05})
    reply = dict(ask(file_of(tmp_path), round_request(a_request()))["config"])
    assert reply["code"] == "PFL-P10"
    assert "0.05" not in reply["reason"]
    assert str(tmp_path) not in reply["reason"]


@pytest.mark.parametrize("node_config", [{"partner": "/nowhere/partner.toml"}, {"other": 1}, {"partition-id": 3}])
def test_a_node_without_a_partner_answers_with_a_code(node_config):
    reply = ask(None, round_request(a_request()), **node_config)
    assert reply["config"]["code"].startswith("PFL-C")


def test_only_a_simulated_node_looks_into_the_folder_that_the_run_names(tmp_path):
    a_partner(tmp_path, "north")
    a_partner(tmp_path, "east")
    context = Context(
        run_id=1,
        node_id=2,
        node_config={"partner": str(file_of(tmp_path, "north")), "partition-id": 0},
        state=RecordDict(),
        run_config={"partners": str(tmp_path)},
    )
    message = Message(a_join("trial", a_plan()), dst_node_id=2, message_type="query.join")
    message.metadata.__dict__["_message_id"] = "m"
    assert app(message, context).content["config"]["partner"] == "north"
    context.node_config = {"partition-id": 0}
    assert app(message, context).content["config"]["partner"] == "east"


def test_a_reply_with_metrics_holds_one_array_and_nothing_else(tmp_path):
    a_partner(tmp_path, **METRICS_ALLOWED)
    ask(file_of(tmp_path), round_request(a_request()))
    content = ask(file_of(tmp_path), metrics_request(a_metrics_request()), MessageType.EVALUATE)
    assert set(content) == {"arrays", "config"}
    assert dict(content["config"]) == {"status": "done", "run": "run-1", "round": 1}
    (name, histogram) = from_arrays(content["arrays"]).popitem()
    assert (name, histogram.dtype, tuple(histogram.shape)) == ("histogram", torch.float64, (1, 2, 20))


@pytest.mark.parametrize(
    "change",
    [
        *(BAD[name] for name in BAD if "plan" not in name and "unknown" not in name),
        lambda r: r["config"].__setitem__("evaluation", '{"noise_multiplier": 0}'),
        lambda r: r["config"].__setitem__("evaluation", '{"bins": 1000000}'),
        lambda r: r["config"].__setitem__("fold", "test"),
    ],
)
def test_a_strange_request_for_metrics_gets_a_code_and_costs_nothing(tmp_path, change):
    partner = a_partner(tmp_path, **METRICS_ALLOWED)
    ask(file_of(tmp_path), round_request(a_request()))
    before = Ledger.of(partner).charges()
    content = metrics_request(a_metrics_request())
    change(content)
    reply = ask(file_of(tmp_path), content, MessageType.EVALUATE)
    assert set(reply) == {"config"}
    assert reply["config"]["code"] in {"PFL-F01", "PFL-F02", "PFL-M03"}
    assert Ledger.of(partner).charges() == before


def test_a_partner_that_allows_no_metrics_refuses_them(tmp_path):
    a_partner(tmp_path)
    ask(file_of(tmp_path), round_request(a_request()))
    reply = ask(file_of(tmp_path), metrics_request(a_metrics_request()), MessageType.EVALUATE)
    assert set(reply) == {"config"}
    assert (reply["config"]["status"], reply["config"]["code"]) == ("refused", "PFL-P20")
