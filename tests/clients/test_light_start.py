"""What each question may import: Flower starts a process a message, and importing is most of what a small one costs."""

import json
import subprocess
import sys

import pytest
from flwr.common.serde import recorddict_to_proto
from tests.clients import one_question
from tests.clients.consortium import RUN, Consortium, said
from tests.partners import METRICS_ALLOWED, NAMES, a_join, a_metrics_request, a_partner, a_plan, a_request

from pharma_fl.clients import app
from pharma_fl.messages.secure_sum import keep_request, keys_request, shares_request, unmask_request
from pharma_fl.messages.wire import metrics_request, round_request

# Nothing of a partner's answers needs these.
NEVER = {"mlflow", "matplotlib", "rdkit", "pandas", "pyarrow", "pebble", "ray", "sqlalchemy", "alembic", "uvicorn"}
# Where no array is trained or counted on; the accountant comes in where budget is looked at.
NETWORK = {"torch", "opacus", "sympy"}
ACCOUNTANT = {"dp_accounting", "scipy.stats"}


def answer(folder, question, content, name="north"):
    """Answer a message in a process of its own, and return what that says."""
    (folder / "content").write_bytes(recorddict_to_proto(content).SerializeToString())
    command = [sys.executable, "-I", one_question.__file__, question, str(folder / "content")]
    ended = subprocess.run([*command, str(folder / name / "partner.toml")], capture_output=True, text=True, check=True)
    told = json.loads(ended.stdout.splitlines()[-1])
    assert told["status"] in ("done", "joined"), told["code"]
    return told


def heavy(told, of):
    return of & set(told["modules"])


@pytest.mark.slow
def test_what_trains_nothing_imports_no_network(tmp_path):
    """Partners of a run with secure sums after its first round are asked again what they were asked."""
    four = Consortium(tmp_path)
    four.all_keys()
    sealed = four.all_shares()
    for name in NAMES:
        assert said(four.keep(name, sealed)) == "done"
    four.vectors()
    asked = {
        "query.join": a_join("trial", four.plan),
        "query.keys": keys_request("trial", RUN, four.plan),
        "query.shares": shares_request(RUN, list(four.adverts.values())),
        "query.keep": keep_request(RUN, {name: sealed[name]["north"] for name in NAMES if name != "north"}),
        "query.unmask": unmask_request(RUN, 1, NAMES),
    }
    assert set(asked) == set(app.QUESTIONS) - {"train", "evaluate"}
    for question, content in asked.items():
        told = answer(four.folder, question, content)
        assert not heavy(told, NEVER | NETWORK), question
        # To join is to look at the budget; the rest of a setup was looked at when the keys were made.
        assert question == "query.join" or not heavy(told, ACCOUNTANT), question


@pytest.mark.slow
def test_training_and_counting_import_nothing_that_only_prepares_or_shows(tmp_path):
    a_partner(tmp_path, **METRICS_ALLOWED)
    told = answer(tmp_path, "train", round_request(a_request(plan=a_plan())))
    assert not heavy(told, NEVER | {"sklearn"})
    told = answer(tmp_path, "evaluate", metrics_request(a_metrics_request()))
    assert not heavy(told, NEVER | {"sklearn", "opacus"})


def test_an_unknown_question_or_a_bundle_that_is_refused_imports_next_to_nothing():
    code = "import sys; import pharma_fl.clients.guard; print(*sys.modules)"
    ended = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert not (NEVER | NETWORK | ACCOUNTANT | {"scipy", "safetensors", "sqlite3"}) & set(ended.stdout.split())
