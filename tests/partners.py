"""Small prepared partners on disk, without chemistry, and requests to them."""

import numpy as np
import pandas as pd
import tomli_w
from scipy.sparse import csr_array

from pharma_fl.config import ModelSettings, Partner, TrainingSettings
from pharma_fl.config.federation import EvaluationSettings
from pharma_fl.data.tasks import Task
from pharma_fl.data.writing import write_prepared
from pharma_fl.messages.join import JoinRequest, join_request
from pharma_fl.messages.metrics import MetricsRequest
from pharma_fl.messages.rounds import RoundRequest
from pharma_fl.model.pretrained import initial_trunk
from pharma_fl.privacy.noise import SystemNoise
from pharma_fl.privacy.plan import PrivacyPlan
from pharma_fl.signing_key import SigningKey

MODEL = ModelSettings(input_bits=64, hidden=(8,))
TRAINING = TrainingSettings(rounds=6, local_steps=2)
METRICS_ALLOWED = {
    "budget": {"epsilon": 5.0, "delta": 1e-5, "epsilon_for_metrics": 2.0},
    "policy": {"actions": ["train", "metrics"]},
}
"""Settings of a partner that releases noised metrics."""
NAMES = ("east", "north", "south", "west")
"""Partners of a secure sum."""
ONE_STEP = TRAINING.model_copy(update={"local_steps": 1})
"""What shared noise allows."""


class Silence(SystemNoise):
    """Adds nothing; samples are drawn as ever."""

    def add_normal(self, tensor, std, scale=1.0):
        tensor.detach().mul_(scale)

    def add_discrete_gaussian(self, vector, std):
        pass


def a_task(column, kind, **changes):
    facts = {
        "task": f"{kind}-{column}",
        "kind": kind,
        "column": column,
        "assay": str(column + 1),
        "assay_type": "ADME",
        "direction": "high" if kind == "classification" else "",
        "threshold": 0.0 if kind == "classification" else None,
        "threshold_method": "expert" if kind == "classification" else "",
        "auxiliary": False,
        "data_derived": False,
        "catalog_task_id": None,
        "training_weight": 1.0,
        "quorum_type": "ADME",
        "training_quorum": True,
        "evaluate": True,
        "quorum_weight": 1.0,
        "censored_weight": 1.0 if kind == "regression" else None,
    }
    return Task(**(facts | changes))


def a_partner(
    folder,
    name="north",
    *,
    n=150,
    bits=96,
    seed=0,
    data_derived=(),
    classes=2,
    folds=None,
    catalogue=(None, None),
    series=None,
    days=None,
    **settings,
):
    """Write partner.toml and prepared data; the first class follows from bit 0, so there is something to learn.

    `data_derived` lists assays whose thresholds the data decides; `classes` is 2 or 0 classification tasks; `folds`
    gives each compound's fold; `catalogue` the classification tasks' catalogue ids; `series` and `days` each
    compound's series and date.
    """
    rng = np.random.default_rng(seed)
    dense = rng.random((n, bits)) < 0.15
    x = csr_array(dense.astype(np.int8))
    labels = np.where(dense[:, [0]] | (rng.random((n, 2)) < 0.1), 1, -1).astype(np.int8)
    mask = rng.random((n, 2)) < 0.8
    values = dense[:, [1]] + rng.normal(size=(n, 1)) / 10
    place = folder / name
    place.mkdir(parents=True)
    rows = np.repeat(np.arange(n), 2)[mask.ravel()]
    y_class = csr_array((labels[mask], (rows, np.tile([0, 1], n)[mask.ravel()])), shape=(n, 2))[:, :classes]
    every = np.arange(n + 1)
    y_regr = csr_array((values[:, 0].astype(np.float32), np.zeros(n, dtype=np.int32), every), shape=(n, 1))
    write_prepared(
        place / "data",
        x=x,
        y_class=y_class,
        y_regr=y_regr,
        y_censor=csr_array((np.zeros(n, dtype=np.int8), y_regr.indices, y_regr.indptr), shape=(n, 1)),
        folds=(np.arange(n) % 5 if folds is None else np.asarray(folds)).astype(np.int8),
        compounds=pd.DataFrame({"row": range(n)}),
        tasks=[
            *(a_task(column, "classification", catalog_task_id=catalogue[column]) for column in range(classes)),
            a_task(0, "regression"),
        ],
        manifest={"data_derived_assays": [str(one) for one in data_derived]},
        series=None if series is None else np.asarray(series, dtype=np.int32),
        days=None if days is None else np.asarray(days, dtype=np.int32),
    )
    content = {"name": name, "budget": {"epsilon": 5.0, "delta": 1e-5}} | settings
    content["policy"] = {"report_budget": True} | settings.get("policy", {})
    (place / "partner.toml").write_text(tomli_w.dumps(content))
    return Partner.load(place / "partner.toml")


def share_keys(folder, names=NAMES):
    """Make an identity for each partner, and let all of them know everybody's public key, which is returned by name."""
    keys = {name: SigningKey.make(folder / name / "identity.key").public for name in names}
    for name in names:
        (folder / name / "partner-keys.toml").write_text(tomli_w.dumps({"partners": keys}))
    return keys


def a_plan(**changes):
    fields = {
        "sample_rate": 0.5,
        "noise_multiplier": 4.0,
        "clipping_norm": 1.0,
        "expected_batch": 40.0,
        "delta": 1e-5,
        "rounds": TRAINING.rounds,
        "steps_per_round": TRAINING.local_steps,
    }
    return PrivacyPlan(**(fields | changes))


def a_shared_plan(**changes):
    """A plan of four partners, of whom one may collude and one be lost; they sum MODEL's trunk."""
    fields = {
        "noise_mode": "shared",
        "contributors": len(NAMES),
        "tolerated_colluders": 1,
        "tolerated_losses": 1,
        "steps_per_round": 1,
        "summed_values": (MODEL.input_bits + 1) * MODEL.hidden[0],
    }
    return a_plan(**(fields | changes))


def a_request(number=1, *, run="run-1", plan=None, trunk=None, **changes):
    fields = {
        "federation": "trial",
        "run": run,
        "round": number,
        "plan": plan or a_plan(),
        "model": MODEL,
        "training": TRAINING,
        "seed": 0,
        "trunk": trunk or initial_trunk(MODEL, 0),
    }
    return RoundRequest(**(fields | changes))


def a_join(federation="trial", plan=None, *, run="run-1", challenge=bytes(32)):
    """The question with which a run begins, packed."""
    return join_request(JoinRequest(federation=federation, run=run, plan=plan or a_plan(), challenge=challenge))


def a_metrics_request(number=1, *, run="run-1", trunk=None, model=MODEL, evaluation=None, **changes):
    fields = {
        "federation": "trial",
        "run": run,
        "round": number,
        "evaluation": EvaluationSettings(**(evaluation or {})),
        "model": model,
        "seed": 0,
        "trunk": trunk or initial_trunk(model, 0),
    }
    return MetricsRequest(**(fields | changes))
