"""The network against dense products, and its public start."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from pydantic import ValidationError
from tests.conftest import make_records

from pharma_fl.config import ModelSettings
from pharma_fl.errors import ModelError
from pharma_fl.model.fit import FitSettings, fit, new_network
from pharma_fl.model.network import SparseMultitaskNetwork, load_trunk, trunk_of
from pharma_fl.model.predict import predict
from pharma_fl.model.pretrained import initial_trunk
from pharma_fl.model.records import fold_columns
from pharma_fl.model.weights import check_shapes, load_weights, save_weights

MODEL = ModelSettings(input_bits=64, input_scale=0.4, hidden=(7, 5), activation="relu")


def test_forward_equals_dense_products():
    records = make_records(30)
    network = new_network(MODEL, records, seed=1)
    x = torch.from_numpy(records.x.toarray())
    hidden = torch.relu(0.4 * x @ network.trunk.input.weight + network.trunk.input.bias)
    hidden = torch.relu(network.trunk.middle[0](hidden))
    expected = torch.cat([network.heads.classes(hidden), network.heads.values(hidden)], 1)
    logits, values = network(records.all().x)
    torch.testing.assert_close(torch.cat([logits, values], 1), expected)


def test_the_start_is_public_and_common():
    one = SparseMultitaskNetwork(MODEL, class_tasks=3, value_tasks=1, seed=5)
    other = SparseMultitaskNetwork(MODEL, class_tasks=2, value_tasks=0, seed=5)
    for name, value in initial_trunk(MODEL, 5).items():
        assert torch.equal(value, trunk_of(one)[name])
        assert torch.equal(value, trunk_of(other)[name])
    assert torch.equal(one.heads.classes.weight[:2], other.heads.classes.weight)
    assert not torch.equal(one.heads.classes.weight[0], one.heads.classes.weight[1])
    elsewhere = SparseMultitaskNetwork(MODEL, class_tasks=3, value_tasks=1, seed=6)
    assert not torch.equal(elsewhere.heads.classes.weight, one.heads.classes.weight)


def test_a_head_start_of_zero_is_zero():
    network = SparseMultitaskNetwork(MODEL.model_copy(update={"head_start": 0.0}), class_tasks=2, value_tasks=0, seed=0)
    assert not network.heads.classes.weight.any()


def test_the_trunk_holds_no_head():
    network = SparseMultitaskNetwork(MODEL, class_tasks=3, value_tasks=1, seed=0)
    assert set(trunk_of(network)) == {"input.weight", "input.bias", "middle.0.weight", "middle.0.bias"}
    changed = {name: value + 1 for name, value in trunk_of(network).items()}
    load_trunk(network, changed)
    assert all(torch.equal(value, changed[name]) for name, value in trunk_of(network).items())


def test_folding_merges_columns_by_position():
    x = sp.random_array((20, 50), density=0.2, rng=np.random.default_rng(0), format="csr", dtype=np.float32)
    x.data[:] = 1
    expected = np.zeros((20, 12))
    for row, column in zip(*x.nonzero(), strict=True):
        expected[row, column % 12] = 1
    assert np.array_equal(fold_columns(x, 12).toarray(), expected)


def test_a_prediction_does_not_depend_on_its_neighbours():
    records = make_records(40)
    network = new_network(MODEL, records, seed=1)
    logits, values = predict(network, records)
    assert logits.shape == (40, 3)
    assert values.shape == (40, 1)
    one, _ = predict(network, records_of(records, [11]))
    np.testing.assert_allclose(one[0], logits[11], rtol=1e-5, atol=1e-6)


def records_of(records, rows):
    from dataclasses import replace

    return replace(
        records,
        x=records.x[rows],
        classes=records.classes[rows],
        values=records.values[rows],
        censor=records.censor[rows],
    )


def test_fit_learns_and_repeats_itself():
    records = make_records(200, seed=2, class_tasks=1, value_tasks=0, label_rate=1.0)
    records.classes.data[:] = records.x[:, [3]].toarray()[:, 0]
    settings = FitSettings(model=MODEL, learning_rate=0.01, epochs=60)
    outcomes = []
    for _ in range(2):
        network = new_network(MODEL, records, seed=0)
        fit(network, records, settings, seed=9)
        outcomes.append(predict(network, records)[0])
    assert np.array_equal(*outcomes)
    assert ((outcomes[0][:, 0] > 0) == (records.classes.data > 0)).mean() > 0.95


def test_weights_survive_a_round_trip(tmp_path):
    tensors = {"a": torch.randn(3, 2), "b": torch.zeros(0)}
    save_weights(tmp_path / "w.safetensors", tensors, {"round": "7"})
    found, metadata = load_weights(tmp_path / "w.safetensors")
    assert metadata == {"round": "7"}
    assert all(torch.equal(found[name], value) for name, value in tensors.items())


@pytest.mark.parametrize("damage", [lambda b: b[:20], lambda b: b"", lambda b: b[:-3], lambda _: b"\x80\x04K\x01."])
def test_damaged_weights_are_refused(tmp_path, damage):
    path = tmp_path / "w.safetensors"
    save_weights(path, {"a": torch.randn(3, 2)})
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ModelError, match="PFL-M02"):
        load_weights(path)


@pytest.mark.parametrize(
    "foreign",
    [
        {},
        {"a": torch.zeros(2), "b": torch.zeros(1)},
        {"a": torch.zeros(3)},
        {"a": torch.zeros(2, dtype=torch.float64)},
        {"a": torch.tensor([0.0, float("nan")])},
        {"a": torch.tensor([0.0, float("inf")])},
    ],
)
def test_arrays_that_do_not_fit_are_refused(foreign):
    with pytest.raises(ModelError, match="PFL-M03"):
        check_shapes({"a": torch.zeros(2)}, foreign, place="here")


def hybrid(**changes):
    settings = {"input_bits": 64, "input_scale": 0.4, "hidden": (7, 5), "activation": "relu"}
    return ModelSettings(**(settings | changes))


def dense_trunk(network, records):
    x = torch.from_numpy(records.x.toarray())
    hidden = torch.relu(0.4 * x @ network.trunk.input.weight + network.trunk.input.bias)
    return torch.relu(network.trunk.middle[0](hidden))


def at_cells_of_dense(network, batch):
    logits, values = network(batch.x)
    return logits[batch.classes.rows, batch.classes.columns], values[batch.values.rows, batch.values.columns]


def test_each_head_sees_its_side_of_the_trunk():
    records = make_records(30)
    network = new_network(hybrid(class_features=3, value_features=4), records, seed=1)
    features = dense_trunk(network, records)
    logits, values = network(records.all().x)
    torch.testing.assert_close(logits, network.heads.classes(features[:, :3]))
    torch.testing.assert_close(values, network.heads.values(features[:, 1:]))


def test_catalogue_tasks_are_computed_by_the_shared_columns():
    records = make_records(30, class_tasks=4)
    weights = replace(records.weights, catalogue=torch.tensor([1, -1, 0, -1]))
    records = replace(records, weights=weights)
    network = new_network(hybrid(catalogue=(11, 12)), records, seed=1)
    features = dense_trunk(network, records)
    own, common = network.heads.classes(features), network.trunk.catalogue(features)
    expected = torch.stack([common[:, 1], own[:, 1], common[:, 0], own[:, 3]], 1)
    batch = records.all()
    torch.testing.assert_close(network(batch.x)[0], expected)
    for found, wanted in zip(network.at_cells(batch), at_cells_of_dense(network, batch), strict=True):
        torch.testing.assert_close(found, wanted)
    assert {"catalogue.weight", "catalogue.bias"} <= set(trunk_of(network))
    other = SparseMultitaskNetwork(hybrid(catalogue=(11, 12)), class_tasks=9, value_tasks=0, seed=1)
    assert torch.equal(other.trunk.catalogue.weight, network.trunk.catalogue.weight)


def test_frozen_layers_stay_and_do_not_travel_and_adapters_do():
    model = hybrid(hidden=(7, 6, 5), frozen_layers=2, adapter_rank=3)
    records = make_records(30)
    network = new_network(model, records, seed=1)
    assert set(trunk_of(network)) == {
        "input_adapter.down.weight",
        "input_adapter.up.weight",
        "middle_adapters.0.down.weight",
        "middle_adapters.0.up.weight",
        "middle.1.weight",
        "middle.1.bias",
    }
    whole = new_network(hybrid(hidden=(7, 6, 5)), records, seed=1)
    for a, b in zip(network(records.all().x), whole(records.all().x), strict=True):
        torch.testing.assert_close(a, b)  # adapters start as nothing
    with torch.no_grad():
        network.trunk.input_adapter.up.weight.normal_()
        network.trunk.middle_adapters[0].up.weight.normal_()
    trunk, x = network.trunk, torch.from_numpy(records.x.toarray())
    hidden = torch.relu(
        0.4 * x @ (trunk.input.weight + trunk.input_adapter.down.weight @ trunk.input_adapter.up.weight.T)
    )
    middle = trunk.middle_adapters[0].up.weight @ trunk.middle_adapters[0].down.weight
    hidden = torch.relu(hidden @ (trunk.middle[0].weight + middle).T)
    hidden = torch.relu(trunk.middle[1](hidden))
    torch.testing.assert_close(network(records.all().x)[0], network.heads.classes(hidden))
    before = {name: value.clone() for name, value in network.named_parameters()}
    fit(network, records, FitSettings(model=model, learning_rate=0.01, epochs=2), seed=0)
    moved = {name for name, value in network.named_parameters() if not torch.equal(value, before[name])}
    assert moved == {name for name, value in network.named_parameters() if value.requires_grad}


def test_a_local_trunk_beside_a_frozen_one():
    records = make_records(30)
    federated = new_network(hybrid(), records, seed=1)
    joint = SparseMultitaskNetwork(hybrid(hidden=(3,)), class_tasks=3, value_tasks=1, seed=2, beside=federated.trunk)
    x = records.all().x
    features = torch.cat([joint.trunk(x), federated.trunk(x)], 1)
    torch.testing.assert_close(joint(x)[0], joint.heads.classes(features))
    for found, wanted in zip(joint.at_cells(records.all()), at_cells_of_dense(joint, records.all()), strict=True):
        torch.testing.assert_close(found, wanted)
    assert set(trunk_of(joint)) == {"input.weight", "input.bias"}
    assert not any(parameter.requires_grad for parameter in joint.beside.parameters())


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"class_features": 6}, "at most hidden"),
        ({"class_features": 2, "value_features": 2}, "must cover all"),
        ({"catalogue": (3, 3)}, "twice"),
        ({"frozen_layers": 3}, "exceeds the 2 trunk layers"),
        ({"frozen_layers": 2}, "nothing would be shared"),
        ({"adapter_rank": 2}, "set frozen_layers"),
        ({"pretrained": "abc"}, "pretrained"),
        ({"hidden": ()}, "hidden"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes, named):
    with pytest.raises(ValidationError, match=named):
        hybrid(**changes)
