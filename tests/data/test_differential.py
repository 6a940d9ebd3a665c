"""The fast rules for activities against the plain loop of `oracle`: every value, threshold, label, quorum and weight.

Values are multiples of 1/8, so that sums and quantiles are exact on both sides; rounding has tests of its own.
Set PHARMA_FL_EXAMPLES to try more tables than usual.
"""

import copy
import dataclasses
import functools
import itertools
import math
import os
import random
import statistics
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.data import oracle
from tests.data.oracle import SPELLINGS, TUNER, TYPES, Numbers

from pharma_fl.data.activities import QUALIFIERS, aggregate
from pharma_fl.data.rules import Rules
from pharma_fl.data.targets import assay_tasks
from pharma_fl.data.tasks import Task
from pharma_fl.data.thresholds import from_data

EXAMPLES = int(os.environ.get("PHARMA_FL_EXAMPLES", "150"))
MANY = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
FEW = settings(MANY, max_examples=max(1, EXAMPLES // 5))
SEEDS = 100
RANDOM = st.randoms(use_true_random=False)
EXPERTS = [f"expert_threshold_{number}" for number in range(1, 6)]
WEIGHTS = {"training_weight", "quorum_weight", "censored_weight"}
VERDICTS = {"training_quorum", "evaluate", "quorum_weight"}


# --- tables ---------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Made:
    """Tables and settings of one comparison; rows are (position of the assay, record, censor code, value)."""

    assays: list
    rows: list
    folds: list
    count: int
    catalogue: list | None = None
    numbers: Numbers = TUNER


def an_assay(name="7", kind="OTHER", *, binary=False, regression=True, experts=(), direction="high", identity=None):
    return {
        "assay": name,
        "assay_type": kind,
        "use_in_regression": regression,
        "is_binary": binary,
        "experts": list(experts),
        "direction": direction,
        "catalog_assay_id": identity,
    }


def eighths(low, high):
    return [number / 8 for number in range(low * 8, high * 8 + 1)]


PANEL_VALUES = [3.0, 10.0, 2.875, 10.125, *eighths(4, 7), *eighths(4, 7)]
VALUES = {
    "ADME": [*eighths(-2, 2), 100.0, 1e12, -1e12, 1e12 + 0.125, -2e12],
    "AUX_HTS": [*eighths(-4, 4), 10.0, -10.0, 10.125, -10.125, 3.0, -3.0],
    "AUX_PL": [],
    **dict.fromkeys(["NON-CATALOG-PANEL", "CATALOG-PANEL", "OTHER"], PANEL_VALUES),
}
BINARY_VALUES = [1.0, -1.0] * 6 + [0.0, 1.5, -2.0]


# Mostly exact, about evenly mixed, all censored.
MIXTURES = [[*SPELLINGS, *["", "="] * times] for times in (25, 10, 2, 0)] + [["<", ">>"]]


def pool(one):
    return BINARY_VALUES if one["is_binary"] else VALUES[one["assay_type"]]


def some_assay(choice, name, kind=None):
    kind = kind or choice.choice(TYPES)
    return an_assay(
        name,
        kind,
        binary=kind == "AUX_PL" or choice.random() < 0.15,
        regression=choice.random() < 0.7,
        experts=[choice.choice(eighths(-1, 1) if kind == "ADME" else [4.5, 5.0, 5.25, 6.125, 6.5])
                 for _ in range(choice.choice([0, 0, 0, 1, 2, 3, 4, 5]))],
        direction=choice.choice(["high", "low", ""]),
        identity=choice.choice([1, 2, 3, None]) if kind == "CATALOG-PANEL" else None,
    )  # fmt: skip


def some_catalogue(choice, numbers=TUNER):
    """The consortium's table, or none; some rows name thresholds or methods that no assay has."""
    if choice.random() < 0.1:
        return None
    special = numbers.catalogue_auxiliary
    experts = choice.sample([special, 5.0, 5.25, 5.5, 6.0, 6.5], choice.randint(1, 5))
    triples = {
        (identity, cut, "aux_low" if (cut == special) == (choice.random() < 0.9) else "expert")
        for identity in (1, 2, 3)
        for cut in [*experts, 0.0, 7.0]
        if choice.random() < 0.6
    }
    return [
        {
            "catalog_assay_id": identity,
            "catalog_task_id": 100 + position,
            "threshold": cut,
            "threshold_method": method,
            "experts": experts,
        }
        for position, (identity, cut, method) in enumerate(sorted(triples or {(9, 5.0, "expert")}))
    ]


def small_numbers(choice):
    """Rules of small, mostly different numbers, so that few rows decide quorums."""
    pair = lambda low, high: (choice.randint(low, high), choice.randint(low, high))  # noqa: E731
    changes = {
        "adaptive": {
            kind: oracle.Adaptive(
                trials=choice.choice([(8.0, 7.0, 6.0, 5.0, 4.7, 4.4), (6.5, 5.5)]),
                share=choice.choice([0.2, 0.5]),
                labels=pair(1, 4),
            )
            for kind in TUNER.adaptive
        },
        "variance": choice.choice([1e-12, 0.1]),
        "class_training": {kind: pair(1, 4) for kind in TUNER.class_training},
        "catalogue_labels": choice.choice([4, 8, 12, 16]),
        "class_evaluation": {kind: pair(1, 2) for kind in TYPES},
        "value_training": {kind: (choice.choice([2, 6, 12]), choice.randint(2, 8)) for kind in TYPES},
        "value_evaluation": {kind: choice.randint(1, 3) for kind in TYPES},
        "value_spread": {kind: None if kind == "ADME" else choice.choice([0.1, 0.5]) for kind in TYPES},
    }
    return dataclasses.replace(TUNER, **changes)


def some_tables(choice, *, numbers=None, kinds=None, rows=30, thousandths=False):
    """Make tables by calls of a `random.Random`, a real one or hypothesis's."""
    numbers = numbers or small_numbers(choice)
    kinds = kinds or [choice.choice(TYPES) for _ in range(choice.randint(1, 3))]
    count, records = choice.choice([1, 2, 2, 3]), choice.choice([6, 12, 18])
    described = [some_assay(choice, str(7 + number), kind) for number, kind in enumerate(kinds)]
    made = []
    for where, one in enumerate(described):
        # Few different values make ties, few qualifiers make quorums.
        palette = choice.sample(pool(one), choice.choice([3, 6, 12]))
        spellings = choice.choice(MIXTURES)
        for _ in range(choice.choice([choice.randint(0, rows), rows, 4])):
            record = choice.randrange(records) if choice.random() < 0.95 else -1
            spelling = choice.choice(spellings)
            value = choice.choice(palette)
            if thousandths and not one["is_binary"]:
                value += choice.choice([0, 1, 4, 5, 25, -15]) / 1000
            made.append((where, record, SPELLINGS[spelling], value))
    choice.shuffle(made)
    return Made(
        assays=described,
        rows=made,
        folds=[choice.randrange(count) for _ in range(records)],
        count=count,
        catalogue=some_catalogue(choice, numbers),
        numbers=numbers,
    )


@functools.cache
def seeded(seed):
    """Tables of three assays of every type with small quorums, the same for a seed, and what the loop makes of them."""
    made = some_tables(random.Random(seed), kinds=TYPES * 3, rows=40)
    return made, by_loop(made)


# --- both sides -----------------------------------------------------------------------------------------------


@functools.cache
def _built_in():
    return Rules.built_in().model_dump(by_alias=True)


def rules_of(numbers, change=None):
    """Write the oracle's numbers as the code's rules; `change` may edit the table before it is validated."""
    if numbers is TUNER and change is None:
        return Rules.built_in()
    content = copy.deepcopy(_built_in())
    content["every_type"] |= {"least_spread": numbers.variance, "censored_share": numbers.censored_share}
    for kind in TYPES:
        section = content[kind]
        section["initial_weight"] = numbers.initial[kind]
        if kind in numbers.credible:
            section["measurements"] |= dict(zip(["lowest", "highest"], numbers.credible[kind], strict=True))
            section["measurements"]["decimals"] = numbers.decimals.get(kind)
        if kind in numbers.class_training:
            pair = zip(["actives", "inactives"], numbers.class_training[kind], strict=True)
            section["classification"]["training"] |= dict(pair)
        if section["classification"]["evaluation"] is not None:
            pair = zip(["actives_in_each_fold", "inactives_in_each_fold"], numbers.class_evaluation[kind], strict=True)
            section["classification"]["evaluation"] |= dict(pair)
        if section["regression"] is not None:
            pair = zip(["measured", "exact"], numbers.value_training[kind], strict=True)
            section["regression"]["training"] |= dict(pair)
            if section["regression"]["evaluation"] is not None:
                section["regression"]["evaluation"] |= {
                    "exact_in_each_fold": numbers.value_evaluation[kind],
                    "spread_in_each_fold": numbers.value_spread[kind],
                }
    for kind, rule in numbers.adaptive.items():
        content[kind]["thresholds"] |= {
            "trials": rule.trials,
            "trial_share": rule.share,
            "trial_actives": rule.labels[0],
            "trial_inactives": rule.labels[1],
            "censored_factor": rule.factor,
            "sandwich": rule.sandwich,
            "sandwich_up_to": rule.up_to,
        }
    low, high = numbers.quartiles
    content["ADME"]["thresholds"] |= {
        "quantile_low": low, "quantile_high": high, "least_values": numbers.median_values
    }  # fmt: skip
    content["AUX_HTS"]["thresholds"]["threshold"] = numbers.hts
    content["CATALOG-PANEL"]["thresholds"]["auxiliary"] = [numbers.catalogue_auxiliary]
    content["CATALOG-PANEL"]["classification"]["training"]["labels"] = numbers.catalogue_labels
    if change is not None:
        change(content)
    return Rules.model_validate(content)


def frames(made):
    """The tables as the code reads them: assays, measurements, catalogue."""
    names = [name for name in made.assays[0] if name != "experts"]
    assays = {name: [one[name] for one in made.assays] for name in names}
    assays["catalog_assay_id"] = np.array(assays["catalog_assay_id"], dtype=np.float64)
    rows = zip(*made.rows, strict=True) if made.rows else [[]] * 4
    types = {"assay": np.int32, "record": np.int32, "censor": np.int8, "value": np.float64}
    columns = {name: np.array(column, dtype=types[name]) for name, column in zip(types, rows, strict=True)}
    catalogue = None
    if made.catalogue is not None:
        names = [name for name in made.catalogue[0] if name != "experts"]
        catalogue = {name: [row[name] for row in made.catalogue] for name in names}
        catalogue = pd.DataFrame(catalogue | _experts(made.catalogue))
    return pd.DataFrame(assays | _experts(made.assays)), pd.DataFrame(columns), catalogue


def _experts(rows):
    filled = [[*row["experts"], *[math.nan] * 5][:5] for row in rows]
    return dict(zip(EXPERTS, map(list, zip(*filled, strict=True)), strict=True))


TABLE = {"assay": np.int32, "record": np.int32, "value": np.float64, "unrounded": np.float64, "censor": np.int8}


def by_code(made, rules=None):
    """Return {(assay, record): (unrounded, value, code)}, reasons, and the tasks of each assay, all as plain things."""
    rules = rules or rules_of(made.numbers)
    assays, rows, catalogue = frames(made)
    found = aggregate(assays, rows, rules)
    assert found.table.columns.tolist() == list(TABLE)
    table = {name: found.table[name].to_numpy() for name in TABLE}
    assert all(table[name].dtype == TABLE[name] for name in TABLE)
    keys = list(zip(table["assay"].tolist(), table["record"].tolist(), strict=True))
    assert keys == sorted(set(keys))
    answers = zip(*(table[name].tolist() for name in ("unrounded", "value", "censor")), strict=True)
    folds = np.array(made.folds, dtype=np.int8)
    tasks = []
    for where, one in enumerate(assays.to_dict("records")):
        mine = {name: column[table["assay"] == where] for name, column in table.items()}
        result = assay_tasks(
            one,
            mine["record"],
            mine["value"],
            mine["censor"],
            folds,
            made.count,
            rules,
            catalogue,
            unrounded=mine["unrounded"],
        )
        derived = from_data(one, rules)
        assert all(task.data_derived == derived for task, _ in result if task.kind == "classification")
        tasks.append([_plain(task, labels, mine["record"]) for task, labels in result])
    return dict(zip(keys, answers, strict=True)), found.reason.tolist(), tasks


def _plain(task, labels, records):
    if labels is not None:
        assert labels.dtype == np.int8
        labels = dict(zip(records.tolist(), labels.tolist(), strict=True))
    return {**dataclasses.asdict(task), "labels": labels}


def by_loop(made):
    """Return what `by_code` does, from the oracle."""
    measured, reasons = oracle.aggregated(made.assays, made.rows, made.numbers)
    tasks = []
    for where, one in enumerate(made.assays):
        mine = {record: answer for (assay, record), answer in sorted(measured.items()) if assay == where}
        tasks.append(oracle.tasks(one, mine, made.folds, made.count, made.numbers, made.catalogue))
    return measured, reasons, tasks


def assert_same(found, expected):
    """Everything is equal, weights to 1e-12. Flags that hang on the last bit of a standard deviation may differ."""
    assert found[1] == expected[1]
    assert found[0] == expected[0]
    for mine, theirs in zip(found[2], expected[2], strict=True):
        assert [task["task"] for task in mine] == [task["task"] for task in theirs]
        for task, other in zip(mine, theirs, strict=True):
            skipped = {"near"} | (VERDICTS if other["near"] else set())
            assert task.keys() == other.keys() - {"near"}
            for name in task.keys() - skipped - WEIGHTS:
                assert (name, task[name]) == (name, other[name])
                assert type(task[name]) is type(other[name]), name
            for name in WEIGHTS - skipped:
                pair = (task[name], other[name])
                assert pair == (None, None) or math.isclose(*pair, rel_tol=1e-12, abs_tol=1e-12), name


def differ(found, expected):
    try:
        assert_same(found, expected)
    except AssertionError:
        return True
    return False


def compare(made):
    expected = by_loop(made)
    assert_same(by_code(made), expected)
    return expected


# --- the comparison -------------------------------------------------------------------------------------------


def test_every_field_of_a_task_is_compared():
    made, expected = seeded(1)
    names = {field.name for field in dataclasses.fields(Task)}
    assert all(task.keys() == names | {"labels", "near"} for tasks in expected[2] for task in tasks)
    assert by_code(made)[2]


@MANY
@given(RANDOM)
def test_small_tables_agree(choice):
    compare(some_tables(choice, numbers=TUNER))


@MANY
@given(RANDOM)
def test_small_tables_with_small_quorums_agree(choice):
    compare(some_tables(choice))


@MANY
@given(RANDOM)
def test_small_tables_of_one_type_agree(choice):
    compare(some_tables(choice, kinds=[choice.choice(TYPES)], rows=60))


@FEW
@given(RANDOM)
def test_tables_of_values_that_binary_fractions_cannot_hold_agree(choice):
    compare(some_tables(choice, thousandths=True))


@FEW
@given(RANDOM)
def test_the_order_of_rows_does_not_matter(choice):
    made = some_tables(choice)
    rows = list(made.rows)
    choice.shuffle(rows)
    first, second = by_code(made), by_code(dataclasses.replace(made, rows=rows))
    assert first[0] == second[0]
    assert first[2] == second[2]
    assert Counter(zip(made.rows, first[1], strict=True)) == Counter(zip(rows, second[1], strict=True))


@FEW
@given(RANDOM)
def test_assays_can_be_aggregated_in_batches(choice):
    made = some_tables(choice)
    whole = by_code(made)[0]
    parts = {}
    for where in range(len(made.assays)):
        mine = [row for row in made.rows if row[0] == where]
        parts |= by_code(dataclasses.replace(made, rows=mine))[0]
    assert parts == whole


PUBLIC = [
    "task", "kind", "assay", "assay_type", "direction", "threshold", "threshold_method", "auxiliary", "catalog_task_id",
    "training_weight",
]  # fmt: skip


@FEW
@given(RANDOM)
def test_what_tables_of_assays_say_is_the_same_without_any_measurement(choice):
    """Tasks and training weights that are not marked as derived from data do not depend on data."""
    made = some_tables(choice)
    full, empty = by_code(made)[2], by_code(dataclasses.replace(made, rows=[]))[2]
    assert not any(task["data_derived"] for tasks in empty for task in tasks)
    for some, none in zip(full, empty, strict=True):
        public = [[task[name] for name in PUBLIC] for task in some if not task["data_derived"]]
        assert public == [[task[name] for name in PUBLIC] for task in none]


@functools.cache
def large(seed):
    """Thousands of rows under TUNER's own numbers, and what the loop makes of them; quorums are met or missed."""
    choice = random.Random(seed)
    catalogue = [
        {
            "catalog_assay_id": identity,
            "catalog_task_id": 10 * identity + number,
            "threshold": cut,
            "threshold_method": "aux_low" if cut == 4.53 else "expert",
            "experts": [4.53, 5.0, 6.0],
        }
        for identity, cuts in ((1, (4.53, 5.0)), (2, (4.53, 5.0, 6.0)))
        for number, cut in enumerate(cuts)
    ]
    direction = ["high", "low", "", "high"][seed]
    size = [700, 150, 700, 60][seed]
    plan = [
        (an_assay("1", "OTHER", direction=direction), size),
        (an_assay("2", "NON-CATALOG-PANEL", direction="low"), size),
        (an_assay("3", "ADME", direction=direction), size),
        (an_assay("4", "ADME", binary=True), 150 + 50 * seed),
        (an_assay("5", "OTHER", experts=(5.0, 6.5)), 400),
        (an_assay("6", "ADME", experts=(5.0,), direction="low"), 400),
        (an_assay("7", "CATALOG-PANEL", direction=direction, identity=1), 2 * size),
        (an_assay("8", "CATALOG-PANEL", direction="high", identity=2), 300),
        (an_assay("9", "CATALOG-PANEL", direction="low"), 60 + 80 * seed),
        (an_assay("10", "AUX_HTS", direction=direction), 13_000),
        (an_assay("11", "AUX_PL", binary=True), 13_000),
        (an_assay("12", "AUX_HTS", direction="high"), 60 + 30 * seed),
    ]
    rows = []
    for where, (one, measured) in enumerate(plan):
        records = range(12_000) if measured > 12_000 else range(measured * 2 // 3)
        for position in range(measured):
            # Each compound once, then replicates and failed structures.
            record = records[position] if position < len(records) else choice.choice([*records[:50], -1])
            if one["is_binary"]:
                # Of 12,000 compounds with one measurement about 10,800 to 9,600 are inactive.
                value = choice.choices([1.0, -1.0, 0.0], [0.1 + 0.04 * seed, 0.9 - 0.04 * seed, 0.001])[0]
            else:
                centre, width = (0, 1.25) if one["assay_type"] == "AUX_HTS" else (4.5 + seed / 2, 1.25)
                value = round(choice.gauss(centre, width) * 8) / 8
            rows.append((where, record, SPELLINGS[choice.choice(["", "=", "", "~", "<", ">"])], value))
    choice.shuffle(rows)
    made = Made(
        assays=[one for one, _ in plan],
        rows=rows,
        folds=[choice.randrange(3) for _ in range(12_000)],
        count=3,
        catalogue=catalogue,
    )
    return made, by_loop(made)


@pytest.mark.parametrize("seed", range(4))
def test_large_tables_agree(seed):
    made, expected = large(seed)
    assert_same(by_code(made), expected)


def test_large_tables_meet_and_miss_the_quorums():
    seen = set(itertools.chain(*(facts(large(seed)[1]) for seed in range(4))))
    assert all_facts() - seen <= {"censored none", "censored all"}


def test_the_numbers_of_the_loop_are_the_built_in_rules():
    assert rules_of(TUNER, lambda content: content) == Rules.built_in()


@pytest.mark.parametrize(
    ("value", "expected"),
    [(4, [-1, -1, 0, 1, 1, 0]), (5, [-1, 1, 1, 1, 1, -1]), (6, [0, 1, 1, 0, -1, -1])],
)
def test_the_loop_gives_the_published_table_of_labels(value, expected):
    sides = [an_assay(direction=side) for side in ("high", "low")]
    assert [oracle.label(one, 5.0, value, code) for one in sides for code in (-1, 0, 1)] == expected


def test_the_loop_gives_the_published_censored_weights():
    weights = [round(oracle.censored_weight(100, part, 0.05), 4) for part in (0, 5, 10, 25, 50, 75, 90, 100)]
    assert weights == [1, 1, 0.4737, 0.1579, 0.0526, 0.0175, 0.0058, 0]


def facts(expected):
    """Name what happened in one comparison."""
    _, reasons, tasks = expected
    yield from (f"reason {reason}" for reason in reasons)
    for task in itertools.chain(*tasks):
        group = "aux " + task["assay_type"] if task["assay_type"] in oracle.AUXILIARY_TYPES else task["assay_type"]
        about = f"{task['kind']} {group}"
        yield f"method {task['threshold_method']}"
        yield f"direction {task['direction']}"
        yield f"{about} training {task['training_quorum']}"
        yield f"{about} evaluate {task['evaluate']}"
        yield f"data_derived {task['data_derived']}"
        yield f"near {task['near']}"
        if task["kind"] == "regression":
            weight = task["censored_weight"]
            yield "censored none" if weight == 1 else "censored all" if weight == 0 else "censored some"
        else:
            yield from (f"label {mark}" for mark in set(task["labels"].values()))
            if task["assay_type"] == "CATALOG-PANEL":
                known = "known" if task["catalog_task_id"] is not None else "unknown"
                own = "own" if task["quorum_type"] == "CATALOG-PANEL" else "demoted"
                yield f"catalogue {known} {own} training {task['training_quorum']} evaluate {task['evaluate']}"


def all_facts():
    never_evaluated = ("AUX_HTS", "AUX_PL")
    wanted = {f"reason {reason}" for reason in ("", "structure_failed", "not_plus_minus_one", "out_of_range")}
    wanted |= {"reason qualifier_tie", "label -1", "label 0", "label 1"}
    wanted |= {f"method {name}" for name in ("", "expert", "aux_low", "aux_high", "fixed_adaptive", "median")}
    wanted |= {"method quartile", "method fixed"}
    wanted |= {f"direction {side}" for side in ("", "high", "low", "absolute")}
    wanted |= {f"data_derived {flag}" for flag in (True, False)}
    wanted |= {f"censored {share}" for share in ("none", "some", "all")}
    for kind in TYPES:
        for form in ("classification", "regression") if kind != "AUX_PL" else ("classification",):
            about = f"{form} aux {kind}" if kind in never_evaluated else f"{form} {kind}"
            wanted |= {f"{about} training {flag}" for flag in (True, False)}
            wanted |= {f"{about} evaluate {flag}" for flag in (True, False) if not flag or kind not in never_evaluated}
    wanted |= {f"catalogue known own training True evaluate {flag}" for flag in (True, False)}
    for known in ("known", "unknown"):
        wanted |= {f"catalogue {known} demoted training True evaluate {flag}" for flag in (True, False)}
        wanted.add(f"catalogue {known} demoted training False evaluate False")
    return wanted


def test_many_seeded_tables_agree_and_nothing_is_rare():
    """Every reason, method, label and verdict comes up at least ten times; few flags hang on a last bit."""
    seen = Counter()
    for seed in range(SEEDS):
        made, expected = seeded(seed)
        assert_same(by_code(made), expected)
        seen.update(facts(expected))
    wanted = all_facts()
    assert {name: seen[name] for name in wanted if seen[name] < 10} == {}
    assert set(seen) <= wanted | {"near True", "near False"}
    assert seen["near True"] < 0.05 * seen["near False"]


# --- the comparison is not blind ------------------------------------------------------------------------------


CHANGES = {
    "binary_threshold": lambda _: 0.5,
    "least_spread": lambda _: 0.4,
    "censored_share": lambda _: 0.5,
    "initial_weight": lambda value: value / 2,
    "otherwise": lambda _: "OTHER",
    "lowest": lambda value: value / 2,
    "highest": lambda value: value / 2,
    "replicates": lambda value: "median" if value == "largest" else "largest",
    "decimals": lambda value: value - 1,
    "trials": lambda value: (5.5, *value),
    "trial_share": lambda _: 0.9,
    "censored_factor": lambda value: value + 1,
    "sandwich": lambda value: value + 0.25,
    "sandwich_up_to": lambda value: value - 1,
    "quantile_low": lambda value: value + 0.1,
    "quantile_high": lambda value: value - 0.1,
    "threshold": lambda value: value - 1,
    "auxiliary": lambda _: (5.0,),
    "spread_in_each_fold": lambda value: value + 0.25,
}


def leaves(content, path=()):
    """Yield the path of every setting of the rules that can be changed by itself."""
    for name, value in content.items():
        if isinstance(value, dict):
            yield from leaves(value, (*path, name))
        elif value is not None and name != "rule" and not isinstance(value, bool):
            yield (*path, name)


@pytest.mark.parametrize("path", list(leaves(_built_in())), ids=".".join)
def test_every_number_of_the_rules_matters_and_is_seen(path):
    def change(content):
        for name in path[:-1]:
            content = content[name]
        content[path[-1]] = CHANGES.get(path[-1], lambda value: value + 1)(content[path[-1]])

    tables = map(seeded, range(SEEDS))
    assert any(differ(by_code(made, rules_of(made.numbers, change)), expected) for made, expected in tables)


def _below_counts(members):
    return max(members, key=lambda member: (member[0], member[1] == 0, -member[1]))


def _zero_quartile(one, measured, numbers):
    found = ADME_CUTS(one, measured, numbers)
    return [*found, oracle.Cut(0.0, "quartile", data_derived=True)] if found and one["direction"] == "" else found


ADME_CUTS = oracle._adme_cuts
BROKEN = {
    "below counts among the largest": ("_largest", _below_counts),
    "a tie of qualifiers is exact": ("_most_frequent", lambda some: max(some, key=lambda c: (some.count(c), c == 0))),
    "censored before exact": ("_exact_first", lambda code: (code == 0, code)),
    "above before below": ("_exact_first", lambda code: (code != 0, -code)),
    "nothing is rounded": ("_rounded", lambda value, _: value),
    "population deviation": ("deviation", lambda some: statistics.pstdev(some) if len(some) > 1 else 0.0),
    "a single value varies": ("deviation", lambda some: statistics.stdev(some) if len(some) > 1 else math.inf),
    "absent folds do not count": (
        "by_fold",
        lambda pairs, count: [[one for f, one in pairs if f == fold] for fold in sorted({f for f, _ in pairs})] or [[]],
    ),
    "a threshold is inactive": ("_high_label", lambda v, c, cut: 0 if c == (1, -1)[v > cut] else int(v > cut) or -1),
    "qualifiers do not matter": ("_high_label", lambda value, _, cut: 1 if value >= cut else -1),
    "all censored weigh all": ("censored_weight", lambda *_: 1.0),
    "a quartile of zero": ("_adme_cuts", _zero_quartile),
    "the wrong kind of quantile": ("_quantile", lambda values, share: sorted(values)[int(share * (len(values) - 1))]),
}  # fmt: skip


@pytest.mark.parametrize("rule", BROKEN)
def test_a_broken_rule_is_seen(rule, monkeypatch):
    """With one rule of the loop wrong, loop and code part."""
    tables = [seeded(seed)[0] for seed in range(SEEDS)]
    monkeypatch.setattr(oracle, *BROKEN[rule])
    assert any(differ(by_code(made), by_loop(made)) for made in tables)


@pytest.mark.parametrize("spelling", sorted(SPELLINGS))
def test_a_wrong_code_of_one_qualifier_is_seen(spelling):
    """The same measurements with another code of one spelling give something else."""
    one = an_assay(experts=(5.0,))
    spelled = [("", 5.5), (spelling, 5.0), (spelling, 6.0), (spelling, 4.5)]
    rows = [(0, record, SPELLINGS[word], value) for record, (word, value) in enumerate(spelled)]
    wrong = [
        (where, record, code if value == 5.5 else (code + 2) % 3 - 1, value) for where, record, code, value in rows
    ]
    made = Made([one], rows, [0, 1, 0, 1], 2)
    compare(made)
    assert differ(by_code(dataclasses.replace(made, rows=wrong)), by_loop(made))


def test_qualifiers_are_read_as_the_loop_does():
    assert QUALIFIERS == SPELLINGS


# --- rounding and spread --------------------------------------------------------------------------------------


@MANY
@given(st.lists(st.one_of(st.floats(3, 10), st.integers(3000, 10_000).map(lambda n: n / 1000)), max_size=20))
def test_dose_response_values_are_rounded_to_two_decimals_half_to_even(values):
    for kind in ("OTHER", "NON-CATALOG-PANEL", "CATALOG-PANEL"):
        rows = [(0, record, 0, value) for record, value in enumerate(values)]
        made = Made([an_assay(kind=kind, regression=True)], rows, [0] * 20, 1)
        for (_, record), (unrounded, rounded, _) in compare(made)[0].items():
            assert unrounded == values[record]
            assert rounded == (unrounded if kind == "CATALOG-PANEL" else float(np.round(unrounded, 2)))


def test_variance_is_taken_before_rounding_and_all_else_after():
    """4.996 becomes 5.00 and is active at 5; the assay keeps the variance that rounding removes."""
    rows = [(0, record, 0, 4.996 + record % 4 / 1000) for record in range(20)]
    numbers = dataclasses.replace(
        TUNER,
        class_training=dict.fromkeys(TUNER.class_training, (20, 1)),
        class_evaluation=dict.fromkeys(TYPES, (1, 1)),
    )
    rows.append((0, 20, 0, 4.994))
    made = Made([an_assay(experts=(5.0,))], rows, [record % 2 for record in range(21)], 2, numbers=numbers)
    _, _, [tasks] = compare(made)
    five = by_code(made)[2][0][1]
    assert (five["threshold"], five["actives"], five["inactives"]) == (5.0, 20, 1)
    assert five["training_quorum"]
    assert tasks[1]["training_quorum"]


@pytest.mark.parametrize("value", [5.1, 0.1, 123456.7, 1e12 / 3, -9e11 / 7])
def test_equal_values_do_not_vary_however_large(value):
    """Otherwise the last bits of a mean would decide."""
    rows = [(0, record, 0, value) for record in range(120)]
    made = Made([an_assay(kind="ADME", experts=(0.0,))], rows, [record % 3 for record in range(120)], 3)
    assert not any(task["training_quorum"] for task in compare(made)[2][0])
    assert not any(task["training_quorum"] for task in by_code(made)[2][0])
    varied = [*rows[:-3], *((0, 117 + fold, 0, value + 1) for fold in range(3))]
    assert by_code(dataclasses.replace(made, rows=varied))[2][0][-1]["training_quorum"]


@pytest.mark.parametrize(("width", "evaluated"), [(0.5, True), (0.375, False)])
def test_a_deviation_of_exactly_one_half_suffices(width, evaluated):
    values = [5.0] + [5.0 - width, 5.0 + width] * 12
    scale = math.sqrt(sum((value - 5) ** 2 for value in values) / 24)
    assert (scale >= 0.5) == evaluated
    rows = [(0, record, 0, values[record // 2]) for record in range(50)]
    made = Made([an_assay()], rows, [record % 2 for record in range(50)], 2)
    assert by_code(made)[2][0][-1]["evaluate"] == evaluated
    assert by_loop(made)[2][0][-1]["evaluate"] == evaluated


@pytest.mark.parametrize(("limit", "passes"), [(0.5, False), (0.4375, True)])
def test_a_deviation_of_exactly_the_least_one_does_not_suffice(limit, passes):
    numbers = dataclasses.replace(TUNER, variance=limit, class_training=dict.fromkeys(TUNER.class_training, (1, 1)))
    rows = [(0, record, 0, 4.5 + record // 2 / 2) for record in range(6)]
    made = Made([an_assay(experts=(5.0,))], rows, [record % 2 for record in range(6)], 2, numbers=numbers)
    assert by_code(made)[2][0][1]["training_quorum"] == passes
    assert by_loop(made)[2][0][1]["training_quorum"] == passes
