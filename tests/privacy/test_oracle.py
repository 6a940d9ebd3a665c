"""The oracle is checked by hand, by finite differences and by what clipping promises."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.privacy.oracle import (
    SPOILS,
    Cell,
    Problem,
    Settings,
    clipped,
    clipped_sum,
    distance,
    doubles,
    forward,
    make_masks,
    make_parameters,
    make_problem,
    record_gradient,
    record_loss,
    series_clipped_sum,
    size,
    spoil,
)

BITS, CLASSES, VALUES = 9, 4, 3
CATALOGUE = (1, -1, 1, 0)

CASES = {
    "one layer": ({"hidden": (5,)}, Settings()),
    "deep, relu": ({"hidden": (5, 4, 6)}, Settings(input_scale=0.3)),
    "deep, tanh": ({"hidden": (5, 4)}, Settings(activation="tanh", input_scale=2.0)),
    "split": ({"hidden": (5, 7)}, Settings(activation="tanh", class_features=4, value_features=3)),
    "catalogue": ({"hidden": (6,), "catalogue_columns": 3}, Settings(class_features=4, catalogue=CATALOGUE)),
    "adapters": ({"hidden": (5, 4, 4), "adapter_rank": 2}, Settings(activation="tanh", input_scale=0.5)),
    "dropout": ({"hidden": (6, 5)}, Settings(activation="tanh", dropout=0.4)),
}


def build(case, *, n=7, seed=0, **options):
    shape, settings = CASES[case]
    options = {"counts": True, "duplicates": True, **options}
    problem = make_problem(seed, n=n, bits=BITS, class_tasks=CLASSES, value_tasks=VALUES, **options)
    parameters = make_parameters(
        seed + 1, bits=BITS, class_tasks=CLASSES, value_tasks=VALUES, settings=settings, **shape
    )
    masks = make_masks(seed + 2, n, shape["hidden"], rate=settings.dropout) if settings.dropout else None
    return problem, parameters, settings, masks


def line(masks, i):
    return None if masks is None else [mask[i] for mask in masks]


def moved(parameters, direction, step):
    return {name: p + step * direction[name] for name, p in parameters.items()}


def inner(a, b):
    return sum(float((a[name] * b[name]).sum()) for name in a)


def test_a_problem_has_what_goes_wrong():
    problem = make_problem(0, n=12, bits=BITS, class_tasks=CLASSES, value_tasks=VALUES, counts=True, duplicates=True)
    labelled = {cell.row for cell in problem.class_cells + problem.value_cells}
    bare = {int(row) for row in np.flatnonzero(~problem.x.any(axis=1))}
    assert bare - labelled
    assert bare & labelled
    assert set(range(12)) - labelled - bare
    assert problem.x.max() > 1
    for cells in (problem.class_cells, problem.value_cells):
        places = [cell[:2] for cell in cells]
        assert places == sorted(places)
        assert len(set(places)) < len(places)
    assert {cell.censor for cell in problem.value_cells} == {-1, 0, 1}
    assert {cell.value for cell in problem.class_cells} == {0, 1}
    plain = make_problem(0, n=12, bits=BITS, class_tasks=CLASSES, value_tasks=VALUES)
    assert set(np.unique(plain.x)) == {0, 1}
    assert len({cell[:2] for cell in plain.class_cells}) == len(plain.class_cells)
    again = make_problem(0, n=12, bits=BITS, class_tasks=CLASSES, value_tasks=VALUES)
    np.testing.assert_array_equal(again.x, plain.x)
    assert again.value_cells == plain.value_cells


def test_numbers_are_what_float32_holds():
    problem, parameters, _, _ = build("adapters")
    for numbers in (problem.x, problem.class_weights, problem.value_weights, problem.censored_weights):
        np.testing.assert_array_equal(numbers.astype(np.float32).astype(np.float64), numbers)
    assert all(np.float32(cell.value) == cell.value for cell in problem.value_cells)
    assert distance({name: p.float() for name, p in parameters.items()}, parameters) == 0


def test_one_record_by_hand():
    """x = (1, 0, 2), scale 0.5; pre-activations (1, -0.25); h = (1, 0); logits (2, 1), value 0.5."""
    problem = Problem(
        x=np.array([[1.0, 0.0, 2.0]]),
        class_cells=[Cell(0, 0, 1.0)],
        value_cells=[Cell(0, 0, 2.5, 1.0)],
        class_weights=np.array([3.0, 100.0]),
        value_weights=np.array([0.5]),
        censored_weights=np.array([0.25]),
    )
    parameters = doubles(
        {
            "trunk.input.weight": torch.tensor([[1.0, 0.5], [7.0, 7.0], [0.5, -0.75]]),
            "trunk.input.bias": torch.tensor([0.0, 0.25]),
            "heads.classes.weight": torch.tensor([[2.0, 9.0], [1.0, 9.0]]),
            "heads.classes.bias": torch.tensor([0.0, 0.0]),
            "heads.values.weight": torch.tensor([[1.0, 9.0]]),
            "heads.values.bias": torch.tensor([-0.5]),
        }
    )
    settings = Settings(input_scale=0.5)
    logits, values = forward(parameters, problem.x[0], settings)
    assert logits.tolist() == [2.0, 1.0]
    assert values.tolist() == [0.5]
    sigmoid = 1 / (1 + math.exp(-2))
    loss = float(record_loss(parameters, problem, 0, settings))
    assert loss == pytest.approx(-3 * math.log(sigmoid) + 0.5 * 0.25 * 2**2, rel=1e-14)
    gradient = record_gradient(parameters, problem, 0, settings)
    e, f = 3 * (sigmoid - 1), -0.5 * 0.25 * 2 * 2
    d = 2 * e + f
    expected = {
        "trunk.input.weight": torch.tensor([[0.5 * d, 0], [0, 0], [d, 0]], dtype=torch.float64),
        "trunk.input.bias": torch.tensor([d, 0], dtype=torch.float64),
        "heads.classes.weight": torch.tensor([[e, 0], [0, 0]], dtype=torch.float64),
        "heads.classes.bias": torch.tensor([e, 0], dtype=torch.float64),
        "heads.values.weight": torch.tensor([[f, 0]], dtype=torch.float64),
        "heads.values.bias": torch.tensor([f], dtype=torch.float64),
    }
    assert distance(gradient, expected) < 1e-14
    assert size(gradient) == pytest.approx(math.sqrt(2.25 * d**2 + 2 * e**2 + 2 * f**2), rel=1e-14)


@pytest.mark.parametrize("censor", [-1.0, 0.0, 1.0])
@pytest.mark.parametrize("predicted", [-1.0, 1.0])
def test_a_censored_value_is_paid_on_its_wrong_side_alone(censor, predicted):
    problem = replace(make_problem(0, n=1, bits=2, class_tasks=0, value_tasks=1), value_cells=[Cell(0, 0, 0.0, censor)])
    parameters = make_parameters(0, bits=2, hidden=(2,), class_tasks=0, value_tasks=1)
    parameters["heads.values.weight"].zero_()
    parameters["heads.values.bias"].fill_(predicted)
    weight = float(problem.value_weights[0]) * (1 if censor == 0 else float(problem.censored_weights[0]))
    right_side = censor * predicted > 0
    assert float(record_loss(parameters, problem, 0, Settings())) == (0 if right_side else weight)


@pytest.mark.parametrize("case", CASES)
def test_gradients_are_finite_differences(case):
    problem, parameters, settings, masks = build(case)
    rng = np.random.default_rng(3)
    step = 1e-6
    for row in range(len(problem)):
        gradient = record_gradient(parameters, problem, row, settings, masks=line(masks, row))
        assert set(gradient) == set(parameters)
        for _ in range(3):
            direction = {name: torch.from_numpy(rng.normal(size=tuple(p.shape))) for name, p in parameters.items()}
            up, down = (
                float(
                    record_loss(
                        moved(parameters, direction, way * step), problem, row, settings, masks=line(masks, row)
                    )
                )
                for way in (1, -1)
            )
            assert (up - down) / (2 * step) == pytest.approx(inner(gradient, direction), rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("case", ["catalogue", "adapters", "dropout"])
def test_each_coordinate_is_a_finite_difference(case):
    problem, parameters, settings, masks = build(case, label_rate=0.9)
    row = next(r for r in range(len(problem)) if problem.x[r].any() and any(c.row == r for c in problem.class_cells))
    gradient = record_gradient(parameters, problem, row, settings, masks=line(masks, row))
    for name, p in parameters.items():
        for i in np.ndindex(*p.shape):
            there = doubles(parameters)
            sides = []
            for way in (1e-6, -1e-6):
                there[name][i] = p[i] + way
                sides.append(float(record_loss(there, problem, row, settings, masks=line(masks, row))))
            slope = (sides[0] - sides[1]) / 2e-6
            assert slope == pytest.approx(float(gradient[name][i]), rel=1e-6, abs=1e-7), (name, i)


@pytest.mark.parametrize("duplicates", [False, True])
def test_norms_are_those_of_the_closed_form(duplicates):
    """||g||^2 = (|x|^2 + 1) |d|^2 + (|h|^2 + 1) sum_t e_t^2, where e_t is the whole error of task t.

    The sum of squares over cells is something else where a task comes twice, which shows that such records tell.
    """
    problem, parameters, settings, _ = build("one layer", n=12, duplicates=duplicates, label_rate=0.7)
    differs = 0
    for row in range(len(problem)):
        x = problem.x[row]
        weight, bias = parameters["trunk.input.weight"].numpy(), parameters["trunk.input.bias"].numpy()
        h = np.maximum(x @ weight + bias, 0)
        logits, values = (t.numpy() for t in forward(parameters, x, settings))
        errors, cellwise = np.zeros(CLASSES + VALUES), 0.0
        for cell in problem.class_cells:
            if cell.row == row:
                e = problem.class_weights[cell.task] * (1 / (1 + np.exp(-logits[cell.task])) - cell.value)
                errors[cell.task] += e
                cellwise += e**2
        for cell in problem.value_cells:
            if cell.row == row:
                wrong = values[cell.task] - cell.value
                wrong = {0: wrong, 1: min(wrong, 0), -1: max(wrong, 0)}[int(cell.censor)]
                share = problem.censored_weights[cell.task] if cell.censor else 1
                e = problem.value_weights[cell.task] * share * 2 * wrong
                errors[CLASSES + cell.task] += e
                cellwise += e**2
        heads = np.vstack([parameters["heads.classes.weight"].numpy(), parameters["heads.values.weight"].numpy()])
        d = (errors @ heads) * (h > 0)
        norm = math.sqrt((x @ x + 1) * (d @ d) + (h @ h + 1) * (errors @ errors))
        measured = size(record_gradient(parameters, problem, row, settings))
        assert measured == pytest.approx(norm, rel=1e-12, abs=1e-15)
        differs += not math.isclose(cellwise, errors @ errors, rel_tol=1e-3)
    assert differs == 0 or duplicates
    assert differs > 3 or not duplicates


@pytest.mark.parametrize("case", ["deep, relu", "deep, tanh", "dropout"])
def test_a_forward_pass_is_the_formula(case):
    problem, parameters, settings, masks = build(case)
    p = {name: tensor.numpy() for name, tensor in parameters.items()}
    activation = np.tanh if settings.activation == "tanh" else lambda z: np.maximum(z, 0)
    h = activation(settings.input_scale * problem.x @ p["trunk.input.weight"] + p["trunk.input.bias"])
    for i in range(len(CASES[case][0]["hidden"])):
        if i:
            h = activation(h @ p[f"trunk.middle.{i - 1}.weight"].T + p[f"trunk.middle.{i - 1}.bias"])
        if masks is not None:
            h = np.where(masks[i] == 1, h / 0.6, 0)
    for row in range(len(problem)):
        logits, values = forward(parameters, problem.x[row], settings, masks=line(masks, row))
        np.testing.assert_allclose(logits, h[row] @ p["heads.classes.weight"].T + p["heads.classes.bias"], rtol=1e-12)
        np.testing.assert_allclose(values, h[row] @ p["heads.values.weight"].T + p["heads.values.bias"], rtol=1e-12)


def test_dropped_units_are_as_if_they_were_not_there():
    problem, parameters, settings, _ = build("dropout")
    masks = [np.ones(6), np.ones(5)]
    masks[0][2] = masks[1][4] = 0
    gradient = record_gradient(parameters, problem, 0, settings, masks=masks)
    assert not gradient["trunk.input.weight"][:, 2].any()
    assert not gradient["trunk.middle.0.weight"][:, 2].any()
    assert not gradient["trunk.middle.0.weight"][4].any()
    assert not gradient["heads.classes.weight"][:, 4].any()
    without = forward(parameters, problem.x[0], settings)[0]
    kept = forward(parameters, problem.x[0], replace(settings, dropout=0.0), masks=[np.ones(6), np.ones(5)])[0]
    torch.testing.assert_close(without, kept, rtol=0, atol=0)
    assert not torch.equal(without, forward(parameters, problem.x[0], settings, masks=masks)[0])


def test_features_are_split_from_left_and_right():
    problem, parameters, settings, _ = build("split")
    narrow = doubles(parameters)
    wide = replace(settings, class_features=None, value_features=None)
    wide_parameters = doubles(parameters)
    wide_parameters["heads.classes.weight"] = torch.cat([narrow["heads.classes.weight"], torch.zeros(CLASSES, 3)], 1)
    wide_parameters["heads.values.weight"] = torch.cat([torch.zeros(VALUES, 4), narrow["heads.values.weight"]], 1)
    for row in range(len(problem)):
        for a, b in zip(
            forward(narrow, problem.x[row], settings), forward(wide_parameters, problem.x[row], wide), strict=True
        ):
            torch.testing.assert_close(a, b, rtol=1e-14, atol=1e-14)


def test_a_catalogue_column_replaces_the_private_one_and_is_shared():
    problem, parameters, settings, _ = build("catalogue", label_rate=1.0)
    row = next(cell.row for cell in problem.class_cells)
    gradient = record_gradient(parameters, problem, row, settings)
    for task, column in enumerate(CATALOGUE):
        assert bool(gradient["heads.classes.bias"][task].any()) == (column < 0)
    assert gradient["trunk.catalogue.bias"][0] != 0
    assert gradient["trunk.catalogue.bias"][1] != 0
    assert gradient["trunk.catalogue.bias"][2] == 0  # nobody's
    logits = forward(parameters, problem.x[row], settings)[0]
    assert logits[0] == logits[2]


def test_adapters_are_low_rank_changes_of_the_weights():
    problem, parameters, settings, _ = build("adapters")
    merged = {name: p for name, p in doubles(parameters).items() if "adapter" not in name}
    merged["trunk.input.weight"] += (
        parameters["trunk.input_adapter.down.weight"] @ parameters["trunk.input_adapter.up.weight"].T
    )
    for i in range(2):
        merged[f"trunk.middle.{i}.weight"] += (
            parameters[f"trunk.middle_adapters.{i}.up.weight"] @ parameters[f"trunk.middle_adapters.{i}.down.weight"]
        )
    for row in range(len(problem)):
        for a, b in zip(
            forward(parameters, problem.x[row], settings), forward(merged, problem.x[row], settings), strict=True
        ):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
        adapted, plain = (record_gradient(p, problem, row, settings) for p in (parameters, merged))
        assert distance({name: adapted[name] for name in plain}, plain) < 1e-12 * (1 + size(plain))


@pytest.mark.parametrize("mode", ["flat", "groups", "automatic", "adaptive"])
@pytest.mark.parametrize("case", ["deep, relu", "catalogue", "adapters", "dropout"])
def test_one_record_moves_the_sum_by_at_most_the_clip(mode, case):
    problem, parameters, settings, masks = build(case)
    norm, head_norm = 0.3, 0.2
    rows = list(range(len(problem)))
    total, norms = clipped_sum(parameters, problem, rows, settings, mode, norm, head_norm, masks=masks)
    added = {name: torch.zeros_like(p) for name, p in total.items()}
    pressed = 0
    for row in rows:
        one, (n,) = clipped_sum(
            parameters, problem, [row], settings, mode, norm, head_norm, masks=masks and [m[[row]] for m in masks]
        )
        assert n == norms[row]
        added = {name: added[name] + one[name] for name in added}
        raw = record_gradient(parameters, problem, row, settings, masks=line(masks, row))
        parts = {"trunk": norm, "heads": head_norm} if mode == "groups" else {"": norm}
        for i, (prefix, limit) in enumerate(parts.items()):
            of_part, raw_part = ({k: v for k, v in a.items() if k.startswith(prefix)} for a in (one, raw))
            before = n[i] if mode == "groups" else n
            assert before == pytest.approx(size(raw_part), rel=1e-14)
            assert size(of_part) <= limit * (1 + 1e-12)
            if mode == "automatic":
                assert size(of_part) < limit
                assert size(of_part) == pytest.approx(limit * before / (before + 0.01 * limit), rel=1e-12)
            else:
                assert size(of_part) == pytest.approx(min(before, limit), rel=1e-12)
            pressed += before > limit
    assert pressed > 3
    assert distance(total, added) < 1e-12


def test_without_need_to_clip_the_sum_is_that_of_the_gradients():
    problem, parameters, settings, _ = build("deep, relu")
    rows = [0, 3, 3, 5]
    raw = [record_gradient(parameters, problem, row, settings) for row in rows]
    expected = {name: sum(g[name] for g in raw) for name in parameters}
    for mode in ("flat", "groups", "adaptive"):
        total, norms = clipped_sum(parameters, problem, rows, settings, mode, 1e6, 1e6)
        assert distance(total, expected) < 1e-13
        assert len(norms) == 4


def test_the_gradient_is_linear_in_the_task_weights():
    problem, parameters, settings, _ = build("deep, tanh")
    for row in range(len(problem)):
        whole = record_gradient(parameters, problem, row, settings)
        classes = record_gradient(parameters, replace(problem, value_weights=0 * problem.value_weights), row, settings)
        values = record_gradient(parameters, replace(problem, class_weights=0 * problem.class_weights), row, settings)
        assert distance(whole, {name: classes[name] + values[name] for name in whole}) < 1e-12


def test_nobody_and_records_without_labels_give_zero():
    problem, parameters, settings, _ = build("deep, tanh")
    labelled = {cell.row for cell in problem.class_cells + problem.value_cells}
    silent = sorted(set(range(len(problem))) - labelled)
    assert len(silent) >= 2
    for mode in ("flat", "groups", "automatic"):
        for rows in ([], silent):
            total, norms = clipped_sum(parameters, problem, rows, settings, mode, 1.0, 1.0)
            assert size(total) == 0
            assert norms == [(0.0, 0.0) if mode == "groups" else 0.0] * len(rows)


@pytest.mark.parametrize("mode", ["flat", "groups", "automatic", "adaptive"])
@pytest.mark.parametrize("kind", SPOILS)
def test_a_spoilt_record_contributes_nothing(kind, mode):
    problem, parameters, settings, _ = build("deep, relu", n=5)
    row = 1
    rows = list(range(5))
    spoilt, _ = clipped_sum(parameters, spoil(problem, row, kind), rows, settings, mode, 0.5, 0.4)
    rest, _ = clipped_sum(parameters, problem, [r for r in rows if r != row], settings, mode, 0.5, 0.4)
    assert math.isfinite(size(spoilt))
    assert distance(spoilt, rest) == 0


def test_an_input_or_a_gradient_just_below_the_limits_still_counts():
    problem, parameters, settings, _ = build("one layer", n=1, label_rate=1.0)
    x = np.zeros_like(problem.x)
    for count, counts in ((0.99e6, True), (1.01e6, False)):
        x[0, 0] = count
        parameters["trunk.input.weight"].fill_(1e-9)
        total, _ = clipped_sum(parameters, replace(problem, x=x), [0], settings, "flat", 1.0)
        assert (size(total) > 0) == counts
    for length, counts in ((0.99e12, True), (1.01e12, False), (math.inf, False), (math.nan, False)):
        gradient = {"trunk.a": torch.tensor([length], dtype=torch.float64), "heads.a": torch.ones(1)}
        for mode in ("flat", "groups", "automatic"):
            assert (size(clipped(gradient, mode, 1.0, 1.0)[0]) > 0) == counts


def test_frozen_parameters_neither_count_nor_are_summed():
    problem, parameters, settings, _ = build("adapters")
    frozen = [name for name in parameters if name.startswith("trunk.") and "adapter" not in name]
    rows = list(range(len(problem)))
    for mode in ("flat", "groups", "automatic"):
        total, norms = clipped_sum(parameters, problem, rows, settings, mode, 0.5, 0.4, frozen)
        assert set(total) == set(parameters) - set(frozen)
        everything = clipped_sum(parameters, problem, rows, settings, mode, 0.5, 0.4)[1]
        lengths, whole = (np.hypot.reduce(np.atleast_2d(np.array(n).T), axis=0) for n in (norms, everything))
        assert (lengths <= whole).all()
        assert (lengths < whole).sum() > 3
    with pytest.raises(KeyError, match="no parameters"):
        clipped_sum(parameters, problem, rows, settings, "flat", 1.0, frozen=["trunk.inputs.weight"])


@pytest.mark.parametrize("mode", ["flat", "groups", "automatic"])
def test_a_series_is_clipped_as_one(mode):
    problem, parameters, settings, masks = build("dropout", n=9)
    rows = list(range(9))
    arguments = (settings, mode, 0.5, 0.4)
    alone, norms = clipped_sum(parameters, problem, rows, *arguments, masks=masks)
    as_series, series_norms = series_clipped_sum(parameters, problem, rows, rows, *arguments, masks=masks)
    assert distance(alone, as_series) == 0
    assert norms == series_norms

    series = [0, 1, 0, 2, 2, 2, 1, 0, 3]
    total, norms = series_clipped_sum(parameters, problem, rows, series, *arguments, masks=masks)
    assert len(norms) == 4
    expected = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for one in range(4):
        raw = [
            record_gradient(parameters, problem, row, settings, masks=line(masks, row))
            for row in rows
            if series[row] == one
        ]
        part, n = clipped({name: sum(g[name] for g in raw) for name in parameters}, *arguments[1:])
        assert n == pytest.approx(norms[one], rel=1e-13)
        expected = {name: expected[name] + part[name] for name in expected}
    assert distance(total, expected) < 1e-13
    assert distance(total, alone) > 0.01


@pytest.mark.parametrize("kind", SPOILS)
def test_a_spoilt_record_is_left_out_of_its_series_alone(kind):
    problem, parameters, settings, _ = build("deep, relu", n=6)
    for mode in ("flat", "groups"):
        arguments = (settings, mode, 0.5, 0.4)
        spoilt = spoil(problem, 1, kind)
        total, norms = series_clipped_sum(parameters, spoilt, range(6), [0, 0, 1, 1, 2, 0], *arguments)
        rest, expected = series_clipped_sum(parameters, problem, [0, 2, 3, 4, 5], [0, 1, 1, 2, 0], *arguments)
        assert distance(total, rest) == 0
        assert norms == expected
        assert size(rest) > 0


def test_a_series_of_spoilt_records_alone_contributes_nothing():
    problem, parameters, settings, _ = build("deep, relu", n=2)
    problem = spoil(spoil(problem, 0, "nan value"), 1, "infinite bit")
    total, norms = series_clipped_sum(parameters, problem, range(2), [0, 0], settings, "flat", 0.5)
    assert size(total) == 0
    assert norms == [0.0]


def test_a_record_with_too_long_an_input_is_left_out_wherever_it_stands_in_its_series():
    problem, parameters, settings, _ = build("one layer", n=6, label_rate=1.0)
    parameters["trunk.input.weight"].fill_(1e-9)
    for place in range(6):
        x = problem.x.copy()
        x[place, 0] = 1.01e6
        found, (n,) = series_clipped_sum(parameters, replace(problem, x=x), range(6), [0] * 6, settings, "flat", 1.0)
        rest = [row for row in range(6) if row != place]
        expected, (m,) = series_clipped_sum(parameters, problem, rest, [0] * 5, settings, "flat", 1.0)
        assert distance(found, expected) == 0
        assert n == m
        assert size(expected) > 0


@pytest.mark.parametrize("trained", ["trunk.input.weight", "trunk.input.bias", None])
def test_too_long_an_input_of_a_frozen_layer_does_no_harm(trained):
    problem, parameters, settings, _ = build("one layer", n=1, label_rate=1.0)
    parameters["trunk.input.weight"].fill_(1e-9)
    x = problem.x.copy()
    x[0, 0] = 1.01e6
    frozen = {"trunk.input.weight", "trunk.input.bias"} - {trained}
    total, _ = clipped_sum(parameters, replace(problem, x=x), [0], settings, "flat", 1.0, frozen=frozen)
    assert (size(total) == 0) == (trained is not None)


def test_distance_refuses_what_cannot_be_compared():
    a = {"heads.values.bias": torch.zeros(2), "trunk.input.bias": torch.tensor([3.0, 4.0])}
    assert size(a) == 5
    assert distance(a, a) == 0
    assert distance(a, {**a, "heads.values.bias": torch.tensor([0.0, 12.0])}) == 12
    with pytest.raises(KeyError, match="one side"):
        distance(a, {"trunk.input.bias": a["trunk.input.bias"]})
    with pytest.raises(ValueError, match="against"):
        distance(a, {**a, "heads.values.bias": torch.zeros(2, 1)})
    assert math.isnan(distance(a, {**a, "heads.values.bias": torch.tensor([math.nan, 0.0])}))


def test_what_the_oracle_does_not_know_is_refused():
    problem, parameters, settings, _ = build("one layer")
    with pytest.raises(KeyError, match="knows no parameter"):
        record_gradient({**parameters, "trunk.middle.0.scale": torch.ones(1)}, problem, 0, settings)
    with pytest.raises(ValueError, match="no clip mode"):
        clipped_sum(parameters, problem, [0], settings, "per_layer", 1.0)
    with pytest.raises(ValueError, match="masks of 2 lines"):
        clipped_sum(parameters, problem, [0, 1], settings, "flat", 1.0, masks=[np.ones((7, 5))])
    with pytest.raises(ValueError, match="mask for each"):
        forward(parameters, problem.x[0], settings, masks=[np.ones(5)] * 2)
