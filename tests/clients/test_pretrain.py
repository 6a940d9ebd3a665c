"""A public start: what is written, who may start from it, and what still travels."""

import json
import shutil

import pytest
import torch
from tests.partners import MODEL, a_partner, a_request
from typer.testing import CliRunner

from pharma_fl.cli.main import app
from pharma_fl.clients.pretrain import PretrainSettings, pretrain
from pharma_fl.clients.records import open_records, training_folds
from pharma_fl.clients.start import start_network
from pharma_fl.clients.train import train_round
from pharma_fl.config import Federation, Partner
from pharma_fl.errors import ConfigError, ModelError
from pharma_fl.model.network import trunk_of
from pharma_fl.model.pretrained import initial_trunk, load_pretrained

SETTINGS = PretrainSettings(epochs=30, batch_size=32, learning_rate=0.02)


@pytest.fixture
def public(tmp_path):
    partner = a_partner(tmp_path, "public", n=400, bits=64, seed=5)
    outcome = pretrain(partner, MODEL, SETTINGS, source="made for this test", out=tmp_path / "public.safetensors")
    return tmp_path / "public.safetensors", outcome


def starting(tmp_path, public, name="north", **settings):
    partner = a_partner(tmp_path, name, pretrained="start.safetensors", **settings)
    shutil.copy(public[0], partner.path("start.safetensors"))
    return partner


def from_checkpoint(public, **changes):
    return MODEL.model_copy(update={"pretrained": public[1]["digest"]} | changes)


def test_the_checkpoint_says_where_it_comes_from(public):
    path, outcome = public
    found = load_pretrained(path, outcome["digest"])
    assert found.digest == outcome["digest"]
    assert found.provenance["source"] == "made for this test"
    assert found.provenance["compounds"] == 240
    assert found.provenance["model"]["input_bits"] == 64
    assert found.provenance["training"]["epochs"] == 30
    assert set(found.weights) == {"input.weight", "input.bias"}
    # It learned what there is to learn, on a fold that it did not train on.
    assert outcome["validation_score"] > 0.75


def test_partner_and_coordinator_start_from_it(tmp_path, public):
    model = from_checkpoint(public)
    trunk = initial_trunk(model, 0, load_pretrained(public[0], model.pretrained))
    assert torch.equal(trunk["input.weight"], load_pretrained(public[0]).weights["input.weight"])
    assert not torch.equal(trunk["input.weight"], initial_trunk(MODEL, 0)["input.weight"])
    partner = starting(tmp_path, public)
    assert set(train_round(partner, a_request(model=model, trunk=trunk)).released) == set(trunk)


def test_with_a_frozen_start_only_adapters_travel(tmp_path, public):
    model = from_checkpoint(public, frozen_layers=1, adapter_rank=2)
    trunk = initial_trunk(model, 0, load_pretrained(public[0]))
    assert set(trunk) == {"input_adapter.down.weight", "input_adapter.up.weight"}
    partner = starting(tmp_path, public)
    reply = train_round(partner, a_request(model=model, trunk=trunk))
    assert set(reply.released) == set(trunk)
    assert all(bool(change.any()) for change in reply.released.values())
    network = start_network(partner, model, open_records(partner, model, training_folds(partner)), 0)
    assert torch.equal(network.trunk.input.weight, load_pretrained(public[0]).weights["input.weight"])


def test_a_frozen_random_start_needs_no_checkpoint(tmp_path):
    model = MODEL.model_copy(update={"hidden": (8, 6), "frozen_layers": 1})
    trunk = initial_trunk(model, 0)
    assert set(trunk) == {"middle.0.weight", "middle.0.bias"}
    assert set(train_round(a_partner(tmp_path), a_request(model=model, trunk=trunk)).released) == set(trunk)


def test_a_partner_without_the_checkpoint_refuses_uncharged(tmp_path, public):
    model = from_checkpoint(public)
    trunk = initial_trunk(model, 0, load_pretrained(public[0]))
    lacking = a_partner(tmp_path, "lacking")
    other = starting(tmp_path, public, "other")
    content = other.path("start.safetensors").read_bytes()
    other.path("start.safetensors").write_bytes(content[:-4] + b"\0\0\0\0")
    elsewhere = starting(tmp_path, public, "elsewhere")
    manifest = json.loads(elsewhere.path("data/manifest.json").read_text())
    elsewhere.path("data/manifest.json").write_text(json.dumps(manifest | {"key_id": "another"}))
    for partner, named in ((lacking, "names none"), (other, "SHA-256"), (elsewhere, "another key_id")):
        with pytest.raises(ModelError, match=named) as caught:
            train_round(partner, a_request(model=model, trunk=trunk))
        assert caught.value.code == "PFL-M11"
        assert not partner.path(partner.ledger).exists() or not _entries(partner)


def _entries(partner):
    from pharma_fl.privacy.ledger import Ledger

    return Ledger(partner.path(partner.ledger)).entries()


def test_a_checkpoint_of_another_shape_is_refused(public):
    found = load_pretrained(public[0])
    with pytest.raises(ModelError, match="input_scale = 0.4"):
        initial_trunk(MODEL.model_copy(update={"input_scale": 1.0}), 0, found)
    with pytest.raises(ModelError, match=r"hidden = \(8,\)"):
        initial_trunk(MODEL.model_copy(update={"hidden": (9,)}), 0, found)
    found.weights["input.weight"] = found.weights["input.weight"][:, :4]
    with pytest.raises(ModelError, match="PFL-M03"):
        initial_trunk(MODEL, 0, found)


def test_other_weights_are_no_checkpoint(tmp_path):
    from pharma_fl.model.weights import save_weights

    save_weights(tmp_path / "w.safetensors", {"a": torch.zeros(1)})
    with pytest.raises(ModelError, match="says nothing of its source"):
        load_pretrained(tmp_path / "w.safetensors")


FEDERATION = """
name = "test"
{0}
[partners]
north = 1.0
[model]
input_bits = 64
hidden = [8]
{1}
[privacy]
epsilon = 1.0
"""


def test_the_command_prints_what_federation_toml_needs(tmp_path):
    a_partner(tmp_path, "public", n=200)
    (tmp_path / "federation.toml").write_text(FEDERATION.format("", ""))
    arguments = ["pretrain", str(tmp_path / "public/partner.toml"), "--federation", str(tmp_path / "federation.toml")]
    arguments += ["--source", "made", "--out", str(tmp_path / "out.safetensors"), "--epochs", "2"]
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    digest = json.loads(done.stdout)["digest"]
    text = FEDERATION.format('pretrained = "out.safetensors"', f'pretrained = "{digest}"')
    federation = Federation.parse(text, source="test")
    assert load_pretrained(tmp_path / federation.pretrained, federation.model.pretrained).digest == digest
    again = CliRunner().invoke(app, arguments)
    assert isinstance(again.exception, ConfigError)
    with pytest.raises(ConfigError, match="together, or neither"):
        Federation.parse(FEDERATION.format("", f'pretrained = "{digest}"'), source="test")


def test_what_is_pretrained_is_the_whole_trunk(tmp_path):
    partner = Partner.load(a_partner(tmp_path, "public", n=100).path("partner.toml"))
    model = MODEL.model_copy(update={"frozen_layers": 1, "adapter_rank": 2})
    pretrain(partner, model, PretrainSettings(epochs=1), source="made", out=tmp_path / "out.safetensors")
    found = load_pretrained(tmp_path / "out.safetensors")
    assert set(found.weights) == {"input.weight", "input.bias"}
    assert set(trunk_of(start_of(model, found))) == {"input_adapter.down.weight", "input_adapter.up.weight"}


def start_of(model, pretrained):
    from pharma_fl.model.network import SparseMultitaskNetwork
    from pharma_fl.model.pretrained import start_from

    network = SparseMultitaskNetwork(model, class_tasks=1, value_tasks=0, seed=0)
    start_from(network, pretrained)
    return network
