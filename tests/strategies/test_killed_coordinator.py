"""A coordinator that is killed at any moment of a round and resumed ends with the bits of one that was not."""

import shutil
import signal

import pytest
import torch
from tests.partners import METRICS_ALLOWED
from tests.partners import NAMES as FOUR
from tests.strategies.dying_coordinator import ROUNDS, Coordinators
from tests.strategies.federations import four, ledger_of

from pharma_fl.model.weights import load_weights
from pharma_fl.strategies.checkpoints import Checkpoints

NAMES = {"local": ("east", "north"), "shared": FOUR}


@pytest.fixture(scope="module")
def coordinators():
    made = Coordinators()
    yield made
    made.close()


def the_end(folder):
    """What is left of a run that must not depend on when it was interrupted."""
    checkpoints = Checkpoints(folder / "coordinator")
    trunk, of = load_weights(checkpoints.latest() / "trunk.safetensors")
    optimizer, _ = load_weights(checkpoints.latest() / "optimizer.safetensors")
    records = [
        (record.round, record.participants, record.refused, record.change_norm, record.void, record.noised_auc_roc)
        for record in checkpoints.rounds()
    ]
    return trunk, of, optimizer, records, checkpoints.end()


def charges(folder, name):
    return [(entry.kind, entry.round) for entry in ledger_of(folder, name).entries() if entry.kind == "reserved"]


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("kind", ["local", "shared"])
def test_killed_at_any_moment_and_resumed_it_is_as_if_it_had_not_been(tmp_path, coordinators, kind):
    names, fresh = NAMES[kind], tmp_path / "fresh"
    four(fresh, names, n=30, **(METRICS_ALLOWED if kind == "local" else {}))
    whole = tmp_path / "whole"
    shutil.copytree(fresh, whole)
    assert coordinators.run(whole, kind) == 0
    moments, wanted = int((whole / "moments").read_text()), the_end(whole)
    assert wanted[-1].status == "completed"
    assert [record[0] for record in wanted[3]] == list(range(1, ROUNDS + 1))
    for fatal in range(1, moments + 1):
        # Each round has the same moments: of the many of a secure sum, one round's are gone through one by one.
        if kind == "shared" and ROUNDS * (fatal - 1) // moments != 1 and fatal % 4:
            continue
        folder = tmp_path / f"at-{fatal}"
        shutil.copytree(fresh, folder)
        assert coordinators.run(folder, kind, fatal) == signal.SIGKILL, fatal
        assert coordinators.run(folder, kind) == 0
        found = the_end(folder)
        for before, after in ((wanted[0], found[0]), (wanted[2], found[2])):
            assert before.keys() == after.keys()
            assert all(torch.equal(before[key], value) for key, value in after.items()), fatal
        assert found[1] == wanted[1]
        assert found[3:] == wanted[3:], fatal
        for name in names:
            assert charges(folder, name) == charges(whole, name), fatal
        shutil.rmtree(folder)
