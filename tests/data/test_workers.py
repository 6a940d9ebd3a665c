"""Molecules on other processes: the same answers, a limit that holds, and processes that die."""

import os
import signal
import time

import pytest

from pharma_fl.config import FingerprintSettings, StructureSettings
from pharma_fl.data import workers as module
from pharma_fl.data.molecules import Molecule, Recipe, molecules
from pharma_fl.data.workers import in_batches, work
from pharma_fl.errors import DataError

SMALL = Recipe(fingerprint=FingerprintSettings(bits=512))
# A chain of ketones whose enols RDKit goes through for seconds where hardly any limit stops it.
ENDLESS = "CC(=O)" + "CC(=O)" * 30 + "C"


def answers(texts, recipe=SMALL, *, task=molecules, workers=1, size=8):
    pairs = list(work(task, in_batches(texts, size), recipe, workers=workers))
    assert [text for batch, _ in pairs for text in batch] == list(texts)
    return [one for _, results in pairs for one in results]


def facts(found):
    return [(one.smiles, one.bits.tolist(), one.counts.tolist(), one.family, one.reason) for one in found]


def test_processes_give_what_this_one_gives():
    texts = ["C" * length + "O" for length in range(1, 40)] + ["garbled", "c1ccccc1"]
    alone = molecules(texts, SMALL)
    assert facts(answers(texts, workers=2)) == facts(answers(texts, size=1)) == facts(alone)
    assert alone[-2].reason == "unparsable"


def test_batches_are_read_a_little_ahead_and_no_more():
    taken = []
    batches = ([taken.append(number) or "C"] for number in range(200))
    stream = work(molecules, batches, SMALL, workers=1)
    next(stream)
    assert len(taken) < 40
    stream.close()


def test_nothing_to_do_is_done():
    assert answers([]) == []


def test_a_search_without_end_is_stopped_and_the_others_are_not_touched():
    recipe = Recipe(structures=StructureSettings(max_tautomers=1_000_000, time_limit_s=1.0))
    texts = ["CCO", ENDLESS, "c1ccccc1O", "CC(=O)O"]
    begun = time.monotonic()
    found = answers(texts, recipe)
    assert [one.reason for one in found] == [None, "timed_out", None, None]
    assert facts([found[0], *found[2:]]) == facts(molecules([texts[0], *texts[2:]], recipe))
    # Twice the limit, the start of processes, and a busy machine.
    assert time.monotonic() - begun < 60


def dies_at_bad(texts, recipe):
    if "bad" in texts:
        os.kill(os.getpid(), signal.SIGKILL)
    return [Molecule(smiles=text) for text in texts]


def test_a_molecule_that_kills_its_process_is_named_and_the_others_are_not_lost():
    found = answers(["a", "bad", "c", "d"], task=dies_at_bad)
    assert [(one.smiles, one.reason) for one in found] == [("a", None), ("", "crashed"), ("c", None), ("d", None)]


def test_processes_that_die_over_and_over_are_an_error(monkeypatch):
    monkeypatch.setattr(module, "_MOST_CRASHES", 3)
    with pytest.raises(DataError, match="fewer workers") as caught:
        answers(["bad"] * 4, task=dies_at_bad)
    assert caught.value.code == "PFL-D07"


def sick(texts, recipe):
    raise ZeroDivisionError("a defect")


def test_a_defect_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        answers(["C"], task=sick)


def test_no_workers_are_refused():
    with pytest.raises(ValueError, match="workers >= 1"):
        answers(["C"], workers=0)
