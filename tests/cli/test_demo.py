"""The demo, run as a stranger runs it, and everything it leaves behind."""

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import safe_open

from pharma_fl.privacy.accountant import epsilon
from pharma_fl.privacy.ledger import Ledger
from pharma_fl.privacy.second_opinions import epsilon_by_opacus

pytest.importorskip("rdkit")
pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(600)]

COMMAND = Path(sys.executable).parent / "pharma-fl"
PARTNERS = ["north", "east", "south", "west"]


def pharma_fl(*arguments, **environment):
    own = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"} | environment
    return subprocess.run(
        [str(COMMAND), *map(str, arguments)], check=False, capture_output=True, text=True, timeout=500, env=own
    )


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """One fast demo for all tests of this module."""
    out = tmp_path_factory.mktemp("demo") / "out"
    result = pharma_fl("demo", "--out", out, "--fast")
    assert result.returncode == 0, result.stderr
    return out, result.stdout


def summary_of(out):
    return json.loads((out / "summary.json").read_text())


def test_it_prints_the_tables_and_says_where_everything_is(done):
    out, printed = done
    for words in ("Alone", "Federated", "Placebo", "Epsilon spent", "report.html", "mlflow ui"):
        assert words in printed
    assert "Traceback" not in printed
    assert (out / "report.html").stat().st_size > 10_000
    assert (out / "utility.png").read_bytes().startswith(b"\x89PNG")


def test_summary_has_every_setting_at_every_partner(done):
    out, _ = done
    summary = summary_of(out)
    assert summary["partners"] == PARTNERS
    assert {"dataset", "partners", "results", "budgets", "seconds", "versions"} <= summary.keys()
    wanted = {("sp", None, False), ("fed", None, False), ("fed", None, True)}
    wanted |= {(s, 3.0, p) for s in ("fed-dp", "fed-dp-shared", "placebo") for p in (False, True)}
    for partner in PARTNERS:
        found = {
            (r["setting"], r["epsilon"], r["personalised"])
            for r in summary["results"]
            if r["partner"] == partner and r["metric"] == "auc_roc"
        }
        assert found == wanted
    keys = {"setting", "epsilon", "personalised", "seed", "partner", "metric", "value"}
    assert all(set(result) == keys for result in summary["results"])
    assert all(0 <= r["value"] <= 1 for r in summary["results"] if r["metric"].startswith("auc"))


@pytest.mark.parametrize(("setting", "steps"), [("fed-dp", 3 * 10), ("fed-dp-shared", 3)])
def test_budgets_are_the_ledgers_and_two_accountants_agree(done, setting, steps):
    out, _ = done
    budgets = [b for b in summary_of(out)["budgets"] if b["setting"] == setting]
    assert {b["partner"] for b in budgets} == set(PARTNERS)
    for entry in budgets:
        ledger = Ledger(out / "runs" / f"{setting}-eps3-seed0" / "partners" / entry["partner"] / "ledger.sqlite")
        charges = ledger.charges()
        assert sum(charge.steps for charge in charges) == steps
        assert entry["epsilon_spent"] == epsilon(charges, entry["delta"])
        assert entry["epsilon_spent"] == pytest.approx(epsilon_by_opacus(charges, entry["delta"]), rel=0.02)
        assert 2.98 < entry["epsilon_spent"] <= entry["epsilon_budget"] == 3.0


def test_mlflow_holds_epsilon_by_round_and_the_artifacts(done):
    out, _ = done
    with sqlite3.connect(out / "mlflow.db") as store:
        names = {row[0] for row in store.execute("select name from runs")}
        rounds = store.execute(
            "select step, value from metrics join runs using (run_uuid) "
            "where runs.name = 'fed-dp-eps3-seed0' and key = 'epsilon_spent/north' order by step"
        ).fetchall()
        params = dict(
            store.execute(
                "select key, params.value from params join runs using (run_uuid) where runs.name = 'fed-dp-eps3-seed0'"
            ).fetchall()
        )
        unprotected = store.execute(
            "select count(*) from metrics join runs using (run_uuid) "
            "where runs.name = 'fed-seed0' and key like 'epsilon%'"
        ).fetchone()[0]
    store.close()
    assert names == {"fed-seed0", "fed-dp-eps3-seed0", "fed-dp-shared-eps3-seed0", "placebo-eps3-seed0"}
    assert [step for step, _ in rounds] == [1, 2, 3]
    assert rounds[-1][1] == next(b["epsilon_spent"] for b in summary_of(out)["budgets"] if b["setting"] == "fed-dp")
    assert params["plan.sample_rate"] == "0.3"
    assert params["version.opacus"]
    assert unprotected == 0
    stored = {path.name for path in (out / "mlartifacts").rglob("*") if path.is_file()}
    assert {"trunk.safetensors", "state.json", "report.html", "utility.png"} <= stored


def test_heads_stay_and_the_trunk_travels(done):
    out, _ = done
    run = out / "runs" / "fed-dp-eps3-seed0"
    with safe_open(run / "coordinator" / "checkpoints" / "round-0003" / "trunk.safetensors", "pt") as stream:
        assert set(stream.keys()) == {"input.weight", "input.bias"}
    with safe_open(run / "partners" / "north" / "state" / "current.safetensors", "pt") as stream:
        assert {"heads/classes.weight", "heads/classes.bias", "reply/input.weight"} <= set(stream.keys())
    assert (run / "partners" / "north" / "model" / "model.json").exists()
    shared = out / "runs" / "fed-dp-shared-eps3-seed0" / "partners" / "north" / "state" / "current.safetensors"
    with safe_open(shared, "pt") as stream:
        assert {key for key in stream.keys() if key.startswith("reply/")} == {"reply/masked"}  # noqa: SIM118


def test_budget_shows_what_was_spent_and_what_a_plan_would_cost(done):
    out, _ = done
    run = out / "runs" / "fed-dp-eps3-seed0"
    toml = run / "partners/north/partner.toml"
    shown = pharma_fl("budget", "show", toml, "--plan", run / "federation.toml", "--json")
    content = json.loads(shown.stdout)
    assert content["epsilon_spent"] == next(
        b["epsilon_spent"] for b in summary_of(out)["budgets"] if b["partner"] == "north" and b["setting"] == "fed-dp"
    )
    assert content["plan"]["affordable_rounds"] == 0
    unprotected = pharma_fl("budget", "show", out / "runs" / "fed-seed0" / "partners/north/partner.toml")
    assert "no epsilon" in unprotected.stdout


def test_a_second_run_on_a_spent_ledger_is_refused_cleanly(done, tmp_path):
    out, _ = done
    run = out / "runs" / "fed-dp-eps3-seed0"
    text = (run / "federation.toml").read_text().replace('name = "b3db"', 'name = "again"\noutput = "again"', 1)
    (run / "again.toml").write_text(text)
    result = pharma_fl("simulate", run / "again.toml", "--partners", run / "partners", "--json")
    content = json.loads(result.stdout)
    assert result.returncode == 3
    assert content["status"] == "stopped"
    assert set(content["refused"].values()) == {"PFL-P10"}
    assert "Traceback" not in result.stderr
    audit = (run / "partners" / "north" / "audit.jsonl").read_text()
    assert "above the budget of 3" in audit


def test_with_the_tracking_server_down_the_run_is_the_same(done, tmp_path):
    out, _ = done
    run = out / "runs" / "fed-seed0"
    (run / "offline.toml").write_text(
        (run / "federation.toml").read_text().replace('name = "b3db"', 'name = "offline"\noutput = "offline"', 1)
    )
    result = pharma_fl(
        "simulate", run / "offline.toml", "--partners", run / "partners", MLFLOW_TRACKING_URI="http://127.0.0.1:9"
    )
    assert result.returncode == 0, result.stderr
    assert "MLflow tracking stopped" in result.stderr
    assert len((run / "offline" / "rounds.jsonl").read_text().splitlines()) == 3


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    result = pharma_fl("demo", "--out", tmp_path, "--fast")
    assert result.returncode == 2
    assert "PFL-C10" in result.stderr
    assert (tmp_path / "thesis.txt").read_text() == "mine"
