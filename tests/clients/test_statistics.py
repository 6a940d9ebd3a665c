"""Noised statistics of prepared data: charged first, exact under the noise, and each call a charge of its own."""

import json
import math

import numpy as np
import pytest
from scipy.stats import kstest
from tests.clients.dying import RESERVE, kill
from tests.conftest import SeededNoise
from tests.partners import METRICS_ALLOWED, a_partner

from pharma_fl.clients import statistics
from pharma_fl.clients.statistics import ASSAY_TYPES, Statistics, read_statistics, release_statistics
from pharma_fl.errors import BudgetExceeded, DataError, PolicyViolation, PrivacyError
from pharma_fl.privacy.accountant import epsilon
from pharma_fl.privacy.charge import Charge
from pharma_fl.privacy.ledger import Ledger

BUDGET = METRICS_ALLOWED["budget"]


class NoNoise(SeededNoise):
    def add_normal(self, tensor, std, scale=1.0):
        tensor.mul_(scale)


def willing(folder, name="north", **changes):
    return a_partner(folder, name, **({"budget": BUDGET} | changes))


def release(partner, out, *, noise=None, sigma=10.0, norm=4.0):
    return release_statistics(partner, out, noise_multiplier=sigma, clipping_norm=norm, noise=noise)


def entries(partner):
    return [(entry.round, entry.kind) for entry in Ledger.of(partner).entries() if hasattr(entry, "purpose")]


def with_types(partner, *types):
    """Rewrite the assay types of tasks.csv, by row."""
    place = partner.path(partner.data)
    lines = [line.split(",") for line in (place / "tasks.csv").read_text().splitlines()]
    column = lines[0].index("assay_type")
    for line, kind in zip(lines[1:], types, strict=True):
        line[column] = kind
    (place / "tasks.csv").write_text("\n".join(",".join(line) for line in lines) + "\n")
    manifest = json.loads((place / "manifest.json").read_text())
    manifest["files"]["tasks.csv"]["bytes"] = (place / "tasks.csv").stat().st_size
    (place / "manifest.json").write_text(json.dumps(manifest))


def by_hand(partner, norm):
    """Counts from the files alone, each compound's labels and values within sqrt(norm^2 - 1)."""
    place = partner.path(partner.data)
    raw = {path.stem: np.load(path) for path in place.glob("*.npy")}
    rows = [line.split(",") for line in (place / "tasks.csv").read_text().splitlines()]
    kind, column, assay_type = (rows[0].index(name) for name in ("kind", "column", "assay_type"))
    types = {(line[kind], int(line[column])): line[assay_type] for line in rows[1:]}
    total = {("labels", t): 0.0 for t in ASSAY_TYPES} | {("values", t): 0.0 for t in ASSAY_TYPES}
    for row in range(len(raw["folds"])):
        own = dict.fromkeys(total, 0.0)
        for name, what, of in (("y_class", "labels", "classification"), ("y_regr", "values", "regression")):
            for cell in range(raw[f"{name}_indptr"][row], raw[f"{name}_indptr"][row + 1]):
                own[what, types[of, int(raw[f"{name}_indices"][cell])]] += 1
        length = math.sqrt(sum(value**2 for value in own.values()))
        for key, value in own.items():
            total[key] += value * min(1.0, math.sqrt(norm**2 - 1) / length if length else 1.0)
    return len(raw["folds"]), total


@pytest.mark.parametrize("norm", [1.2, 2.0, 100.0])
def test_under_the_noise_lie_the_clipped_counts_of_the_files(tmp_path, norm):
    partner = willing(tmp_path)
    with_types(partner, "ADME", "AUX_HTS", "OTHER")
    made = release(partner, tmp_path / "s.json", noise=NoNoise(), norm=norm)
    compounds, total = by_hand(partner, norm)
    assert made.compounds == compounds == 150
    for (what, kind), value in total.items():
        assert getattr(made, what)[kind] == pytest.approx(value, abs=1e-5)
    if norm == 100.0:
        assert made.values == dict.fromkeys(ASSAY_TYPES, 0.0) | {"OTHER": 150.0}
        assert sum(made.labels.values()) == len(np.load(partner.path(partner.data) / "y_class_values.npy"))


def test_the_pieces_in_which_data_are_read_make_no_difference(tmp_path, monkeypatch):
    partner = willing(tmp_path)
    whole = release(partner, tmp_path / "a.json", noise=NoNoise())
    monkeypatch.setattr(statistics, "_CHUNK", 7)
    pieces = release(partner, tmp_path / "b.json", noise=NoNoise())
    assert (whole.compounds, whole.labels, whole.values) == (pieces.compounds, pieces.labels, pieces.values)


def test_types_that_nobody_knows_count_as_other(tmp_path):
    partner = willing(tmp_path)
    with_types(partner, "", "MADE-UP", "")
    made = release(partner, tmp_path / "s.json", noise=NoNoise(), norm=100.0)
    assert made.values["OTHER"] == 150.0
    assert sum(made.labels.values()) == made.labels["OTHER"] > 0


def test_one_compound_moves_all_counts_together_by_at_most_the_clip(tmp_path):
    """Whatever it was measured in: the rows that are summed have that norm at most, and the compound counts as 1."""
    partner = willing(tmp_path)
    data = statistics.PreparedData.open(partner.path(partner.data))
    for norm in (1.1, 2.0, 50.0):
        rows = statistics._contributions(data, norm, "compound", None).toarray()
        assert rows.shape == (150, 1 + 2 * len(ASSAY_TYPES))
        assert np.linalg.norm(rows, axis=1).max() <= norm * (1 + 1e-12)
        assert set(rows[:, 0]) == {1.0}


def test_the_noise_that_leaves_is_the_one_that_is_charged(tmp_path):
    budget = {"epsilon": 500.0, "delta": 1e-5, "epsilon_for_metrics": 500.0}
    partner = willing(tmp_path, budget=budget, policy={"placebo": True})
    found = []
    for number in range(1, 41):
        made = release(partner, tmp_path / f"{number}.json", sigma=20.0, norm=3.0)
        found += [made.compounds, *made.labels.values(), *made.values.values()]
        assert made.noise_std == 60.0
    assert kstest(found, "norm", args=(0, 60.0)).pvalue > 1e-4
    for wrong in (2 / 3, 3 / 2):
        assert kstest(found, "norm", args=(0, wrong * 60.0)).pvalue < 1e-4
    assert Ledger.of(partner).charges() == (Charge(1.0, 20.0, 40),)


def test_every_call_is_a_charge_and_draws_anew(tmp_path):
    partner = willing(tmp_path)
    one, two = (release(partner, tmp_path / f"{name}.json") for name in "ab")
    assert one.compounds != two.compounds
    assert entries(partner) == [(1, "reserved"), (1, "released"), (2, "reserved"), (2, "released")]
    # Noise and clip may differ.
    release(partner, tmp_path / "c.json", sigma=20.0, norm=8.0)
    assert Ledger.of(partner).epsilon(partner.budget) == epsilon([Charge(1.0, 10.0, 2), Charge(1.0, 20.0, 1)], 1e-5)


def test_the_file_says_what_was_done_and_nothing_else(tmp_path):
    partner = willing(tmp_path, budget=BUDGET | {"delta": 1e-6})
    made = release(partner, tmp_path / "s.json", sigma=12.0)
    content = json.loads((tmp_path / "s.json").read_text())
    assert set(content) == {
        *("format", "format_version", "released", "noise_multiplier", "clipping_norm", "noise_std", "unit", "relation"),
        *("epsilon", "delta", "compounds", "labels", "values"),
    }
    assert content["epsilon"] == epsilon([Charge(1.0, 12.0, 1)], 1e-6)
    assert (content["noise_std"], content["unit"], content["relation"]) == (48.0, "compound", "add-or-remove-one")
    # The same rows whatever there is: a list of types would tell what a partner has none of.
    assert set(content["labels"]) == set(content["values"]) == set(ASSAY_TYPES)
    assert str(tmp_path) not in json.dumps(content)
    assert "north" not in json.dumps(content)
    assert read_statistics(tmp_path / "s.json") == made


REFUSED = {
    "too little noise": ({"policy": {"min_metrics_noise_multiplier": 10.5}}, PolicyViolation, "PFL-P20"),
    "nothing set aside": ({"budget": {"epsilon": 5.0}}, BudgetExceeded, "PFL-P10.*epsilon_for_metrics"),
    "too little set aside": ({"budget": BUDGET | {"epsilon_for_metrics": 0.1}}, BudgetExceeded, "P10.*for_metrics"),
    "too little at all": ({"budget": BUDGET | {"epsilon": 0.1}}, BudgetExceeded, "P10.*budget.epsilon"),
    "tasks that follow from data": ({"data_derived": (7,)}, PrivacyError, "PFL-P04"),
    "cohorts without dates": (
        {"budget": BUDGET | {"cohorts": ["2025-01-01"]}, "tables": {"date": "date"}},
        DataError,
        "PFL-D17",
    ),
    "series that are not known": ({"budget": BUDGET | {"unit": "series", "series_size": 3}}, PrivacyError, "PFL-P08"),
}


@pytest.mark.parametrize(("changes", "error", "code"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_refused_reads_nothing_and_writes_nothing(tmp_path, monkeypatch, changes, error, code):
    partner = willing(tmp_path, **changes)
    touched = []
    for name in ("_contributions", "_by_type", "noised_sum", "write_atomic"):
        monkeypatch.setattr(statistics, name, lambda *_, name=name, **__: touched.append(name))
    with pytest.raises(error, match=code):
        release(partner, tmp_path / "s.json")
    assert touched == []
    assert entries(partner) == []
    assert not (tmp_path / "s.json").exists()


def test_nothing_is_charged_for_a_file_that_cannot_be_written(tmp_path):
    partner = willing(tmp_path)
    (tmp_path / "there.json").write_text("paid for")
    for out in (
        tmp_path / "there.json",
        tmp_path / "no folder" / "s.json",
        partner.path(partner.data) / "s.json",
        partner.path(partner.data) / ".." / "data" / "s.json",
    ):
        with pytest.raises(PrivacyError, match="PFL-P22"):
            release(partner, out)
    assert entries(partner) == []
    assert (tmp_path / "there.json").read_text() == "paid for"


@pytest.mark.parametrize("cause", [ValueError("no"), MemoryError(), OSError(28, "disk full")])
@pytest.mark.parametrize("point", ["_contributions", "write_atomic"])
def test_after_the_charge_every_failure_has_one_code(tmp_path, monkeypatch, cause, point):
    partner = willing(tmp_path)

    def fail(*_, **__):
        raise cause

    with monkeypatch.context() as patch:
        patch.setattr(statistics, point, fail)
        with pytest.raises(PrivacyError, match="PFL-P17"):
            release(partner, tmp_path / "s.json")
    assert entries(partner) == [(1, "reserved")]
    assert not (tmp_path / "s.json").exists()
    release(partner, tmp_path / "s.json")
    assert entries(partner) == [(1, "reserved"), (2, "reserved"), (2, "released")]


def test_arrays_are_read_after_the_charge(tmp_path, monkeypatch):
    partner = willing(tmp_path)
    seen, read = [], statistics._contributions

    def watched(*arguments):
        seen.append(entries(partner))
        return read(*arguments)

    monkeypatch.setattr(statistics, "_contributions", watched)
    release(partner, tmp_path / "s.json")
    assert seen == [[(1, "reserved")]]


def test_a_series_is_one_unit(tmp_path):
    partner = willing(tmp_path, series=np.arange(150) // 30, budget=BUDGET | {"unit": "series", "series_size": 30})
    made = release(partner, tmp_path / "s.json", noise=NoNoise())
    assert made.unit == "series"
    # Five series, whose compounds and whose measurements are clipped to the same part each.
    assert made.compounds == pytest.approx(5 * 4 / math.sqrt(2))
    assert Ledger.of(partner).charges() == (Charge(1.0, 10.0, 1, "series"),)
    assert made.epsilon == epsilon([Charge(1.0, 10.0, 1)], 1e-5)


def test_cohorts_that_cannot_pay_are_not_counted(tmp_path, monkeypatch):
    from datetime import date

    from pharma_fl.privacy.entries import Cohort

    days = np.where(np.arange(150) < 100, 18_000, 20_000)
    partner = willing(tmp_path, days=days, budget=BUDGET | {"cohorts": ["2022-01-01"]}, tables={"date": "date"})
    assert release(partner, tmp_path / "a.json", noise=NoNoise()).compounds == 150
    reserve = Ledger.reserve

    def later_alone(self, *arguments, **named):
        assert len(reserve(self, *arguments, **named)) == 2
        return (Cohort(since=date(2022, 1, 1), until=None),)

    monkeypatch.setattr(Ledger, "reserve", later_alone)
    assert release(partner, tmp_path / "b.json", noise=NoNoise()).compounds == 50


def test_a_placebo_releases_noise_alone(tmp_path):
    made = release(willing(tmp_path, policy={"placebo": True}), tmp_path / "s.json", noise=NoNoise())
    assert made.compounds == 0
    assert not any(made.labels.values())
    assert not any(made.values.values())


def a_file(path, change=lambda content: None):
    content = Statistics(
        released="2026-01-31",
        noise_multiplier=10,
        clipping_norm=4,
        noise_std=40,
        unit="compound",
        epsilon=0.4,
        delta=1e-5,
        compounds=1.5,
        labels={"ADME": 1.0},
        values={},
    ).model_dump(mode="json")
    change(content)
    path.write_text(json.dumps(content))
    return path


def test_what_says_that_it_is_something_else_is_not_read(tmp_path):
    for content in ("{}", "[]", "7", "{", '{"format": "pharma-fl-agreement"}'):
        (tmp_path / "x.json").write_text(content)
        assert read_statistics(tmp_path / "x.json") is None
    (tmp_path / "x.json").write_bytes(b"\xff\x00")
    assert read_statistics(tmp_path / "x.json") is None
    assert read_statistics(tmp_path) is None
    assert read_statistics(tmp_path / "none") is None
    assert read_statistics(a_file(tmp_path / "y.json")).compounds == 1.5


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.update(format_version=2),
        lambda c: c.pop("noise_std"),
        lambda c: c.update(compounds="[red]many"),
        lambda c: c.update(compounds=1e300),
        lambda c: c.update(more=1),
        lambda c: c["labels"].update({"[red]": 1.0}),
        lambda c: c.update(released="\x1b[2J"),
        lambda c: c.update(epsilon=-1),
    ],
)
def test_a_damaged_file_is_named(tmp_path, change):
    with pytest.raises(DataError, match="PFL-D14.*s.json"):
        read_statistics(a_file(tmp_path / "s.json", change))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("point", "charged", "written"),
    [
        (("before", RESERVE), False, False),
        (("after", RESERVE), True, False),
        (("before", "pharma_fl.clients.statistics:write_atomic"), True, False),
        (("after", "pharma_fl.clients.statistics:write_atomic"), True, True),
    ],
)
def test_killed_at_any_point_the_ledger_counts_what_could_have_left(tmp_path, point, charged, written):
    partner = willing(tmp_path)
    out = tmp_path / "s.json"
    kill("statistics", point, tmp_path / "north" / "partner.toml")
    assert bool(entries(partner)) is charged
    assert out.exists() is written
    release(partner, tmp_path / "again.json")
    assert entries(partner)[-2:] == [(1 + charged, "reserved"), (1 + charged, "released")]
