"""MLflow gets every number, and its absence costs a run nothing."""

import sqlite3
import threading

import pytest

from pharma_fl.config import Federation
from pharma_fl.privacy.plan import propose
from pharma_fl.strategies.checkpoints import Checkpoints, RunState
from pharma_fl.strategies.run_record import RoundRecord, RunEnd
from pharma_fl.tracking import mlflow_observer
from pharma_fl.tracking.mlflow_observer import MlflowObserver, attach_artifacts, tracking_uri

FEDERATION = Federation.parse(
    'name = "watched"\n[partners]\nnorth = 1.0\n[training]\nrounds = 2\n[privacy]\nepsilon = 2.0\n', source="test"
)
PLAN = propose(FEDERATION.privacy, FEDERATION.training)


def a_record(number):
    return RoundRecord(
        round=number,
        participants=["north"],
        refused={},
        epsilon_spent={"north": 0.5 * number},
        epsilon_left={"north": 2 - 0.5 * number},
        change_norm=1.5,
        partner_change_norms={"north": 1.5},
        bytes_sent=2**20,
        bytes_received=2**20,
        seconds=0.25,
        noised_auc_roc={"pooled": {"value": 0.75, "standard_error": 0.01}} if number == 2 else {},
    )


def watch(folder, observer, rounds=2):
    checkpoints = Checkpoints(folder)
    checkpoints.save(RunState(run="r", round=0, agreed="", plan=PLAN, trunk={}))
    observer.run_started(FEDERATION, PLAN, folder)
    for number in range(1, rounds + 1):
        observer.round_finished(a_record(number))
    observer.run_finished(RunEnd(status="completed", rounds=rounds))


@pytest.mark.slow
def test_a_run_is_written_whole(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    watch(tmp_path, MlflowObserver(FEDERATION.tracking))
    (tmp_path / "report.html").write_text("<p>report</p>")
    assert attach_artifacts(tmp_path, [tmp_path / "report.html"])
    with sqlite3.connect(tmp_path / "mlflow.db") as store:
        metrics = store.execute("select key, step, value from metrics").fetchall()
        params = dict(store.execute("select key, value from params").fetchall())
        status, note = (
            store.execute("select status from runs").fetchone()[0],
            store.execute("select value from tags where key = 'mlflow.note.content'").fetchone()[0],
        )
    store.close()
    assert ("epsilon_spent/north", 2, 1.0) in metrics
    assert ("epsilon_left/north", 1, 1.5) in metrics
    assert ("mib_sent", 1, 1.0) in metrics
    assert [m for m in metrics if m[0].startswith("noised")] == [("noised_auc_roc", 2, 0.75)]
    assert params["plan.noise_multiplier"] == str(PLAN.noise_multiplier)
    assert params["version.pharma-fl"]
    assert status == "FINISHED"
    assert "epsilon 2.000 at delta 1e-05" in note
    stored = {path.name for path in (tmp_path / "mlartifacts").rglob("*") if path.is_file()}
    assert {"state.json", "trunk.safetensors", "report.html"} <= stored


def test_a_broken_store_is_one_warning(tmp_path, monkeypatch, caplog):
    def broken(_uri):
        raise OSError("disk full")

    monkeypatch.setattr(mlflow_observer, "_client", broken)
    watch(tmp_path, MlflowObserver(FEDERATION.tracking))
    assert [r.message for r in caplog.records] == ["MLflow tracking stopped (OSError); the run goes on."]
    assert not attach_artifacts(tmp_path, [tmp_path / "report.html"])


def test_a_hanging_store_delays_no_round_and_the_end_by_a_bounded_time(tmp_path, monkeypatch, caplog):
    answer = threading.Event()

    def hanging(_uri):
        answer.wait(120)
        raise OSError("late")

    monkeypatch.setattr(mlflow_observer, "_client", hanging)
    monkeypatch.setattr(mlflow_observer, "_FLUSH_S", 0.2)
    watch(tmp_path, MlflowObserver(FEDERATION.tracking))
    # The store still hangs, and rounds and end are over.
    assert not answer.is_set()
    assert "did not take the run" in caplog.text
    answer.set()


def test_where_a_run_goes(tmp_path, monkeypatch):
    settings = FEDERATION.tracking
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri(settings, tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    named = settings.model_copy(update={"uri": "http://127.0.0.1:5000"})
    assert tracking_uri(named, tmp_path) == "http://127.0.0.1:5000"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:6000")
    assert tracking_uri(named, tmp_path) == "http://127.0.0.1:6000"
