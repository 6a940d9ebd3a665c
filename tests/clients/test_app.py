"""The ClientApp: what is in its messages, and what never is."""

import json

import pytest
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MessageType, RecordDict
from tests.partners import a_partner, a_plan, a_request

from pharma_fl.clients.app import app
from pharma_fl.messages.wire import from_arrays, join_request, round_request


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
    assert dict(content.config_records["config"]) == {"status": "done"}
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
    joined = [ask(file_of(tmp_path, n), join_request(a_plan()), "query.join") for n in ("small", "large")]
    without_name = [{k: v for k, v in dict(j.config_records["config"]).items() if k != "partner"} for j in joined]
    assert without_name[0] == without_name[1]


def test_joining_says_who_and_whether(tmp_path):
    a_partner(tmp_path, policy={"min_noise_multiplier": 6.0})
    answer = dict(ask(file_of(tmp_path), join_request(a_plan()), "query.join").config_records["config"])
    assert answer["partner"] == "north"
    assert (answer["status"], answer["code"]) == ("refused", "PFL-P20")
    willing = dict(
        ask(file_of(tmp_path), join_request(a_plan(noise_multiplier=7.0)), "query.join").config_records["config"]
    )
    assert willing["status"] == "joined"
    assert willing["affordable_rounds"] == 6


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

    monkeypatch.setattr("pharma_fl.clients.app.train_round", break_down)
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
    message = Message(join_request(a_plan()), dst_node_id=2, message_type="query.join")
    message.metadata.__dict__["_message_id"] = "m"
    assert app(message, context).content["config"]["partner"] == "north"
    context.node_config = {"partition-id": 0}
    assert app(message, context).content["config"]["partner"] == "east"


def test_evaluation_is_not_offered(tmp_path):
    a_partner(tmp_path)
    with pytest.raises(ValueError, match="No evaluate function"):
        ask(file_of(tmp_path), RecordDict({"config": ConfigRecord()}), MessageType.EVALUATE)
