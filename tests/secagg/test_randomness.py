"""What one partner sends is not told from random numbers by tests that tell faulty masks."""

import numpy as np
import pytest
from tests.secagg.randomness import findings
from tests.secagg.runs import Run, terms_of

from pharma_fl.secagg import masks, session
from pharma_fl.secagg.masks import Round, Stream, add_streams

VALUES = 200_000
ALL = {"monobit", "bytes", "agreement", "difference"}
INPUTS = {
    "zeros": lambda: np.zeros(VALUES),
    "ones": lambda: np.ones(VALUES),
    "small": lambda: np.random.default_rng(7).integers(-500, 500, VALUES),
}


@pytest.fixture(scope="module", params=[32, 64])
def run(request):
    return Run(terms_of(values=VALUES, ring_bits=request.param)).set_up()


def messages(run, make):
    """What the same partner sends for the same vector in two rounds."""
    sent = []
    for number in (1, 2):
        vector = make().astype(run.terms.dtype)
        run.sessions["partner 1"].add_masks(vector, number)
        sent.append(vector)
    return sent


@pytest.mark.parametrize("make", INPUTS.values(), ids=INPUTS.keys())
def test_right_masks_pass(run, make):
    first, second = messages(run, make)
    assert findings(first, second) == set()
    assert np.mean(first == second) < 1e-3


def test_two_partners_with_the_same_vector_send_what_looks_independent(run):
    sent = run.masked({name: np.zeros(VALUES, run.terms.dtype) for name in run.names})
    assert findings(sent["partner 0"], sent["partner 1"]) == set()
    assert findings(sent["partner 2"], sent["partner 3"]) == set()


def test_a_constant_mask_is_told(run, monkeypatch):
    def constant(vector, streams):
        number = np.frombuffer(b"".join(one.key for one in streams)[: vector.itemsize], vector.dtype)
        with np.errstate(over="ignore"):
            vector += number

    monkeypatch.setattr(session, "add_streams", constant)
    for make in INPUTS.values():
        assert {"bytes", "difference"} <= findings(*messages(run, make))


def test_a_mask_used_in_two_rounds_is_told(run, monkeypatch):
    """Each message alone passes."""
    of_number = Round._key

    def reused(bound, secret, purpose, *names):
        return of_number(Round(bound.terms, bound.digest, 1), b"whatever the round", purpose, *names)

    monkeypatch.setattr(Round, "_key", reused)
    for make in INPUTS.values():
        assert findings(*messages(run, make)) == {"agreement", "difference"}


def test_a_small_shift_of_a_reused_mask_is_told(run):
    """Other vectors do not hide it: their difference is what is sent."""
    first, second = INPUTS["zeros"]().astype(run.terms.dtype), INPUTS["small"]().astype(run.terms.dtype)
    run.sessions["partner 1"].add_masks(first, 1)
    run.sessions["partner 1"].add_masks(second, 1)
    assert {"agreement", "difference"} <= findings(first, second)


def test_masks_with_fewer_bits_are_told(run, monkeypatch):
    """The pattern of Flower's SecAgg+ seeds: bit 7 of each byte is zero."""
    sevens = np.array(0x7F7F7F7F7F7F7F7F, np.uint64)

    def weak(vector, streams):
        mask = np.zeros_like(vector)
        add_streams(mask, streams)
        unsigned = vector.view(f"u{vector.itemsize}")
        unsigned += mask.view(unsigned.dtype) & sevens.astype(unsigned.dtype)

    monkeypatch.setattr(session, "add_streams", weak)
    found = findings(*messages(run, INPUTS["zeros"]))
    assert found == ALL
    assert "bytes" in findings(*messages(run, INPUTS["small"]))


@pytest.mark.parametrize("left", ["self mask", "pair mask"])
def test_each_kind_of_mask_is_enough(run, left, monkeypatch):
    """A vector whose pair masks are all known is still hidden, and one whose self mask is known."""
    of_streams = masks.add_streams

    def some(vector, streams):
        of_streams(vector, streams[:1] if left == "self mask" else streams[1:])

    monkeypatch.setattr(session, "add_streams", some)
    assert findings(*messages(run, INPUTS["zeros"])) == set()


def test_no_two_masks_of_a_run_have_one_key(run):
    """Over partners, rounds and pairs; the two of a pair share one, and it has opposite signs."""
    seen: dict[bytes, list[Stream]] = {}
    for held in run.sessions.values():
        for number in (1, 2):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(
                    session, "add_streams", lambda _, streams: [seen.setdefault(s.key, []).append(s) for s in streams]
                )
                held.add_masks(np.zeros(VALUES, run.terms.dtype), number)
    partners = len(run.names)
    alone = [one for one in seen.values() if len(one) == 1]
    pairs = [one for one in seen.values() if len(one) == 2]
    assert len(alone) == 2 * partners
    assert len(pairs) == partners * (partners - 1)
    assert len(seen) == len(alone) + len(pairs)
    assert all({stream.adds for stream in pair} == {True, False} for pair in pairs)
