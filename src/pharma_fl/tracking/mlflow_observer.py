"""An MLflow run beside a federation, best effort: a thread writes it, and no round ever waits for it."""

from __future__ import annotations

import json
import logging
import os
import queue
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pharma_fl.atomic import write_atomic
from pharma_fl.config.federation import Federation, TrackingSettings
from pharma_fl.privacy.plan import PrivacyPlan
from pharma_fl.tracking.versions import versions

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from pharma_fl.strategies.run_record import RoundRecord, RunEnd

_LOG = logging.getLogger("pharma_fl.tracking")
_FLUSH_S = 30.0
_RUN_FILE = "mlflow_run.json"


class MlflowObserver:
    """Writes one MLflow run for one federation run.

    Every call returns at once; a background thread imports MLflow and does the work. The first failure
    is logged and ends the tracking of this run: the coordinator's folder holds the same numbers.

    Parameters
    ----------
    settings : TrackingSettings
        From federation.toml.
    """

    def __init__(self, settings: TrackingSettings) -> None:
        self._settings = settings
        self._queue: queue.SimpleQueue[Callable[[_Writer], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def run_started(self, federation: Federation, plan: PrivacyPlan, folder: Path) -> None:
        """Open the MLflow run."""
        writer = _Writer(self._settings, federation, plan, folder)
        self._thread = threading.Thread(target=self._work, args=(writer,), name="mlflow", daemon=True)
        self._thread.start()
        self._queue.put(_Writer.open)

    def round_finished(self, record: RoundRecord) -> None:
        """Log a round's metrics with the round as step."""
        self._queue.put(lambda writer: writer.write_round(record))

    def run_finished(self, end: RunEnd) -> None:
        """Close the run; waits a bounded time for what is still queued."""
        self._queue.put(lambda writer: writer.close(end))
        self._queue.put(None)
        if self._thread is not None:
            self._thread.join(_FLUSH_S)
            if self._thread.is_alive():
                _LOG.warning("MLflow did not take the run within %.0f s; its numbers are in the run folder.", _FLUSH_S)

    def _work(self, writer: _Writer) -> None:
        broken = False
        while (act := self._queue.get()) is not None:
            if broken:
                continue
            try:
                act(writer)
            except Exception as error:  # noqa: BLE001 - tracking never fails a run
                broken = True
                _LOG.warning("MLflow tracking stopped (%s); the run goes on.", type(error).__name__)


class _Writer:
    """The thread's side: plain MLflow calls."""

    def __init__(self, settings: TrackingSettings, federation: Federation, plan: PrivacyPlan, folder: Path) -> None:
        self._settings, self._federation, self._plan, self._folder = settings, federation, plan, folder
        self._client: MlflowClient | None = None
        self._run = ""

    def open(self) -> None:
        from mlflow.entities import Param  # noqa: PLC0415 - MLflow takes seconds to import

        uri = tracking_uri(self._settings, self._folder)
        self._client = client = _client(uri)
        known = self._folder / _RUN_FILE
        if known.exists():
            # The run is resumed: its metrics go on where they were.
            self._run = str(json.loads(known.read_text(encoding="utf-8"))["run"])
            client.update_run(self._run, status="RUNNING")
            return
        experiment = _experiment(client, self._settings.experiment or self._federation.name, uri)
        run = client.create_run(experiment, run_name=self._settings.run_name)
        self._run = run.info.run_id
        write_atomic(self._folder / _RUN_FILE, json.dumps({"uri": uri, "run": self._run}).encode())
        client.set_tag(self._run, "mlflow.note.content", _guarantee(self._plan))
        client.log_batch(self._run, params=[Param(key, str(value)) for key, value in _flat(self._params()).items()])

    def write_round(self, record: RoundRecord) -> None:
        from mlflow.entities import Metric  # noqa: PLC0415 - MLflow takes seconds to import

        values: dict[str, float] = {
            "participants": float(len(record.participants)),
            "change_norm": record.change_norm,
            "mib_sent": record.bytes_sent / 2**20,
            "mib_received": record.bytes_received / 2**20,
            "round_seconds": record.seconds,
        }
        for name, by_partner in (
            ("epsilon_spent", record.epsilon_spent),
            ("epsilon_left", record.epsilon_left),
            ("partner_change_norm", record.partner_change_norms),
        ):
            values |= {f"{name}/{partner}": value for partner, value in by_partner.items()}
        if "pooled" in record.noised_auc_roc:
            values["noised_auc_roc"] = record.noised_auc_roc["pooled"]["value"]
        now = int(1000 * time.time())
        assert self._client is not None
        metrics = [Metric(key, value, now, record.round) for key, value in values.items()]
        self._client.log_batch(self._run, metrics=metrics)

    def close(self, end: RunEnd) -> None:
        assert self._client is not None
        self._client.set_tag(self._run, "pharma_fl.end", end.reason or end.status)
        latest = self._folder / "checkpoints" / (self._folder / "checkpoints" / "latest").read_text("utf-8").strip()
        self._client.log_artifacts(self._run, str(latest), "checkpoint")
        self._client.set_terminated(self._run, "FINISHED" if end.status == "completed" else "KILLED")

    def _params(self) -> dict[str, Any]:
        return {
            "federation": self._federation.name,
            "partners": ",".join(self._federation.partners),
            "model": self._federation.model.model_dump(),
            "training": self._federation.training.model_dump(),
            "plan": self._plan.model_dump(),
            "plan.epsilon": round(self._plan.epsilon(), 6),
            "version": versions(),
        }


def tracking_uri(settings: TrackingSettings, folder: Path) -> str:
    """Return where the run goes: MLFLOW_TRACKING_URI, else federation.toml, else SQLite in `folder`."""
    return os.environ.get("MLFLOW_TRACKING_URI") or settings.uri or f"sqlite:///{(folder / 'mlflow.db').resolve()}"


def attach_artifacts(folder: Path, artifacts: Sequence[Path]) -> bool:
    """Add files to the MLflow run of a coordinator's folder; False when there is none or MLflow fails."""
    try:
        run = json.loads((folder / _RUN_FILE).read_text("utf-8"))
        client = _client(run["uri"])
        for artifact in artifacts:
            client.log_artifact(run["run"], str(artifact))
    except Exception as error:  # noqa: BLE001 - tracking never fails a run
        _LOG.warning("MLflow did not take the artifacts (%s).", type(error).__name__)
        return False
    return True


def _client(uri: str) -> MlflowClient:
    # A server that is down must be noticed in seconds, not in MLflow's default of many minutes.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow import MlflowClient  # noqa: PLC0415 - MLflow takes seconds to import

    # MLflow greets a new database with lines that mean nothing to a user of ours.
    for name in ("alembic", "mlflow.store.db.utils"):
        logging.getLogger(name).setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        client = MlflowClient(tracking_uri=uri)
        client.search_experiments(max_results=1)
    return client


def _experiment(client: MlflowClient, name: str, uri: str) -> str:
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    # Beside a SQLite file MLflow would put artifacts into the current folder.
    beside = Path(uri.removeprefix("sqlite:///")).parent if uri.startswith("sqlite:///") else None
    location = None if beside is None else (beside / "mlartifacts").resolve().as_uri()
    # Without this tag MLflow 3 opens the experiment in its view for language models.
    tags = {"mlflow.experimentKind": "custom_model_development"}
    return str(client.create_experiment(name, artifact_location=location, tags=tags))


def _guarantee(plan: PrivacyPlan) -> str:
    if not plan.protected:
        return "No epsilon: this run is not differentially private."
    return (
        f"Each partner's whole run costs epsilon {plan.epsilon():.3f} at delta {plan.delta:g} "
        f"(unit: {plan.unit}, relation: {plan.relation})."
    )


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
