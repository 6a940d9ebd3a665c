"""The opened sum is the sum of what was masked, whoever is lost, and nothing less can be opened."""

import dataclasses
import itertools
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.secagg.randomness import findings
from tests.secagg.runs import Run, terms_of

from pharma_fl.errors import FederationError
from pharma_fl.secagg.bundles import open_bundles, seal_bundles
from pharma_fl.secagg.keys import Secrets, round_key
from pharma_fl.secagg.masks import Round, add_streams
from pharma_fl.secagg.opening import Opening
from pharma_fl.secagg.session import Unmasking
from pharma_fl.secagg.shamir import PRIME, joined

ALL = [f"partner {place}" for place in range(8)]


@pytest.fixture(scope="module")
def run():
    """Eight partners, of whom two may be lost: six answers open."""
    return Run(terms_of(8, 1, 2)).set_up()


@pytest.fixture(scope="module")
def vectors(run):
    return run.vectors(np.random.default_rng(3))


def refused(code, call, *arguments, match=None):
    with pytest.raises(FederationError, match=match) as refusal:
        call(*arguments)
    assert refusal.value.code == code


def exact_sum(vectors, bits):
    """The sum by Python's unbounded whole numbers, in two's complement."""
    half = 2 ** (bits - 1)
    return [(sum(map(int, column)) + half) % 2**bits - half for column in zip(*vectors, strict=True)]


@given(st.data())
@settings(max_examples=120, deadline=None)
def test_the_sum_is_that_of_the_inputs_bit_for_bit(data):
    colluders = data.draw(st.integers(0, 3))
    losses = data.draw(st.integers(0, 2))
    least = max(2, colluders + losses * (losses + 1) + 1)
    contributors = data.draw(st.integers(least, least + 2))
    values, bits = data.draw(st.integers(1, 60)), data.draw(st.sampled_from([32, 64]))
    names = data.draw(
        st.lists(st.text("az09-é½ ", min_size=1), min_size=contributors, max_size=contributors, unique=True)
    )
    terms = terms_of(contributors, colluders, losses, values=values, ring_bits=bits, rounds=1)
    run = Run(terms, names).set_up()
    vectors = run.vectors(np.random.default_rng(data.draw(st.integers(0, 2**32))))
    order = data.draw(st.permutations(names))
    lost = data.draw(st.integers(0, losses))
    survivors = order[lost:]
    answering = survivors[data.draw(st.integers(0, losses - lost)) :]
    sent = run.masked({name: vectors[name] for name in survivors})
    total = run.opened(sent, run.answers(survivors, answering))
    assert total.dtype == terms.dtype
    assert total.tolist() == exact_sum([vectors[name] for name in survivors], bits)


@pytest.mark.parametrize("bits", [32, 64])
def test_a_vector_of_many_chunks(bits):
    run = Run(terms_of(values=300_001, ring_bits=bits)).set_up()
    vectors = run.vectors(np.random.default_rng(1))
    sent = run.masked(vectors, 2)
    before = {name: vector.copy() for name, vector in sent.items()}
    total = run.opened(sent, run.answers(run.names, round_number=2), 2)
    with np.errstate(over="ignore"):
        assert np.array_equal(total, sum(vectors.values()))
    assert all(np.array_equal(sent[name], before[name]) for name in sent)


def test_beyond_the_range_the_sum_is_right_modulo_two_to_the_bits():
    """What occurs where a plan's range was too narrow: the sum is off by a multiple of 2^32, and tells nothing more."""
    run = Run(terms_of(values=3)).set_up()
    largest = np.array([2**31 - 1, -(2**31), 2**30], np.int32)
    total = run.opened(run.masked(dict.fromkeys(run.names, largest)), run.answers(run.names))
    exact = [4 * int(value) for value in largest]
    assert [(found - wanted) % 2**32 for found, wanted in zip(total.tolist(), exact, strict=True)] == [0, 0, 0]
    assert total.tolist() == [-4, 0, 0]
    inside = np.array([2**29 - 1, -(2**29), 0], np.int32)
    total = run.opened(run.masked(dict.fromkeys(run.names, inside)), run.answers(run.names))
    assert total.tolist() == [4 * int(value) for value in inside]


def test_rounds_and_runs_do_not_mix(run, vectors):
    """Answers of another round, or of the same partners in another run, open nothing."""
    sent = run.masked(vectors, 1)
    refused("PFL-F35", run.opened, sent, run.answers(ALL, round_number=2))
    other = Run(run.terms).set_up()
    refused("PFL-F35", run.opened, sent, other.answers(ALL))


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_one_answer_fewer_than_the_threshold_opens_nothing(run, vectors, lost):
    survivors = ALL[lost:]
    sent = run.masked({name: vectors[name] for name in survivors})
    refused("PFL-F35", run.opened, sent, run.answers(survivors, survivors[:5]), match="5 answers came")
    assert run.opened(sent, run.answers(survivors, survivors[:6])).tolist() == exact_sum(
        [vectors[name] for name in survivors], 32
    )


def test_fewer_vectors_than_the_threshold_open_nothing(run, vectors):
    sent = run.masked({name: vectors[name] for name in ALL[:5]})
    refused("PFL-F35", run.opened, sent, {}, match="5 vectors came, and 6 are needed")


@pytest.mark.parametrize(
    ("round_number", "survivors", "match"),
    [
        (1, ALL[:5], "names 5 survivors, and the plan demands 6"),
        (1, [], "names 0 survivors"),
        (1, ALL[1:], "declares this partner lost"),
        (1, [*ALL[:6], "stranger"], "not in the run"),
        (1, ["stranger", *(f"stranger {place}" for place in range(7))], "not in the run"),
        (1, [*ALL[:5], ALL[0]], "names partners twice"),
        (0, ALL, "Round 0 is none of the 2"),
        (3, ALL, "Round 3 is none of the 2"),
        (-1, ALL, "Round -1 is none of the 2"),
    ],
)
def test_a_partner_refuses_what_would_open_too_little(run, round_number, survivors, match):
    refused("PFL-F33", run.sessions[ALL[0]].unmask, round_number, survivors, match=match)


def test_an_answer_holds_one_secrets_share_of_each_partner(run):
    answer = run.sessions[ALL[0]].unmask(1, ALL[:6])
    assert set(answer.self_seeds) == set(ALL[:6])
    assert set(answer.round_keys) == set(ALL[6:])
    assert "b'" not in repr(answer)
    assert run.secrets[ALL[0]].root.hex() not in repr(run.sessions[ALL[0]])
    assert "bundles" not in repr(run.sessions[ALL[0]])


@pytest.mark.parametrize("number", [0, 3])
def test_there_are_no_masks_for_rounds_without_keys(run, number):
    vector = np.zeros(5, np.int32)
    refused("PFL-F33", run.sessions[ALL[0]].add_masks, vector, number)
    assert not vector.any()


@pytest.mark.parametrize("vector", [np.zeros(5, np.int64), np.zeros(4, np.int32), np.zeros((5, 1), np.int32)])
def test_only_the_terms_vector_is_masked_or_added(run, vector):
    with pytest.raises(ValueError, match="Expected int32"):
        run.sessions[ALL[0]].add_masks(vector, 1)
    assert not vector.any()
    opening = Opening(adverts=run.adverts.values(), digest=run.digest, terms=run.terms, round_number=1)
    refused("PFL-F35", opening.add, ALL[0], vector, match="Expected int32")


def test_a_second_vector_or_a_strangers_is_refused(run, vectors):
    opening = Opening(adverts=run.adverts.values(), digest=run.digest, terms=run.terms, round_number=1)
    opening.add(ALL[0], vectors[ALL[0]])
    refused("PFL-F35", opening.add, ALL[0], vectors[ALL[0]], match="A second vector")
    refused("PFL-F35", opening.add, "stranger", vectors[ALL[0]], match="not in the run")
    assert opening.survivors == {ALL[0]}


def test_a_sum_is_given_once_and_takes_nothing_late(run, vectors):
    survivors = ALL[1:]
    sent, answers = run.masked(vectors), run.answers(survivors)
    opening = opening_of(run, {name: sent[name] for name in survivors})
    opening.opened(answers)
    refused("PFL-F35", opening.add, ALL[0], sent[ALL[0]], match="late")
    refused("PFL-F35", opening.opened, answers, match="given already")


def tampered(answer, kind, name):
    """One answer, changed in one share."""
    shares = getattr(answer, kind)
    changed = ((int.from_bytes(shares[name], "little") + 1) % PRIME).to_bytes(32, "little")
    return dataclasses.replace(answer, **{kind: shares | {name: changed}})


def opening_of(run, sent):
    opening = Opening(adverts=run.adverts.values(), digest=run.digest, terms=run.terms, round_number=1)
    for name, vector in sent.items():
        opening.add(name, vector)
    return opening


@pytest.mark.parametrize("liar", ALL[1:])
@pytest.mark.parametrize(("kind", "about"), [("self_seeds", ALL[4]), ("round_keys", ALL[0])])
def test_one_wrong_answer_among_more_than_needed_is_left_out_and_named(run, vectors, liar, kind, about):
    survivors = ALL[1:]
    sent = run.masked({name: vectors[name] for name in survivors})
    answers = run.answers(survivors)
    answers[liar] = tampered(answers[liar], kind, about)
    opening = opening_of(run, sent)
    assert opening.opened(answers).tolist() == exact_sum([vectors[name] for name in survivors], 32)
    assert opening.wrong == {liar}
    del answers[next(name for name in survivors if name != liar)]
    opening = opening_of(run, sent)
    refused("PFL-F35", opening.opened, answers, match=f"give what '{about}' said of itself")
    # Another answer may still come.
    assert opening.opened(run.answers(survivors)).tolist() == exact_sum([vectors[name] for name in survivors], 32)


def test_two_wrong_answers_of_eight_are_left_out(run, vectors):
    sent = run.masked(vectors)
    for liars in itertools.combinations(ALL, 2):
        answers = run.answers(ALL)
        answers[liars[0]] = tampered(answers[liars[0]], "self_seeds", ALL[3])
        answers[liars[1]] = tampered(answers[liars[1]], "self_seeds", ALL[5])
        opening = opening_of(run, sent)
        assert opening.opened(answers).tolist() == exact_sum(vectors.values(), 32)
        assert opening.wrong == set(liars)


@pytest.mark.parametrize(
    "answer",
    [
        lambda right: Unmasking(self_seeds={}, round_keys={}),
        lambda right: dataclasses.replace(right, self_seeds=right.self_seeds | {ALL[2]: b"short"}),
        lambda right: dataclasses.replace(right, round_keys={ALL[2]: bytes(32)}),
        lambda right: dataclasses.replace(right, self_seeds=right.self_seeds | {"stranger": bytes(32)}),
    ],
)
def test_an_answer_of_another_form_is_left_out_and_named(run, vectors, answer):
    sent, answers = run.masked(vectors), run.answers(ALL)
    answers[ALL[2]] = answer(answers[ALL[2]])
    opening = opening_of(run, sent)
    assert opening.opened(answers).tolist() == exact_sum(vectors.values(), 32)
    assert opening.wrong == {ALL[2]}


def test_an_answer_of_somebody_without_a_vector_is_left_out(run, vectors):
    survivors = ALL[2:]
    sent, answers = run.masked({name: vectors[name] for name in survivors}), run.answers(survivors)
    del answers[ALL[7]]
    refused("PFL-F35", run.opened, sent, answers | {ALL[0]: answers[ALL[3]]}, match="5 answers came")


def test_a_partner_who_gave_out_wrong_shares_is_named(run, vectors):
    """It loses the round for all, as it would with a wrong vector."""
    adverts = tuple(run.adverts.values())
    cheat = Secrets.fresh()
    cheat.sealing_key = run.secrets[ALL[3]].sealing_key
    sealed, _ = seal_bundles(cheat, ALL[3], adverts, run.terms, run.digest)
    fooled = dict(run.sessions)
    for name in set(ALL) - {ALL[3]}:
        right = {o: seal_bundles(run.secrets[o], o, adverts, run.terms, run.digest)[0][name] for o in ALL if o != name}
        opened = open_bundles(right | {ALL[3]: sealed[name]}, run.secrets[name], name, adverts, run.terms, run.digest)
        bundles = opened | {name: run.sessions[name].bundles[name]}
        fooled[name] = dataclasses.replace(run.sessions[name], bundles=bundles)
    sent = run.masked(vectors)
    answers = {name: fooled[name].unmask(1, ALL) for name in ALL}
    refused("PFL-F35", run.opened, sent, answers, match="'partner 3' said of itself")
    # Wrong shares for two do no harm.
    answers = {name: (fooled if name in ALL[:2] else run.sessions)[name].unmask(1, ALL) for name in ALL}
    opening = opening_of(run, sent)
    assert opening.opened(answers).tolist() == exact_sum(vectors.values(), 32)
    assert opening.wrong == set(ALL[:2])


def test_a_late_vector_stays_closed_with_all_that_the_coordinator_has():
    """Its pair masks are known by then. Its self mask is not, and hides it; with that, it would be read."""
    run = Run(terms_of(values=200_000)).set_up()
    late, colluder = "partner 2", "partner 3"
    survivors = [name for name in run.names if name != late]
    zeros = np.zeros(200_000, np.int32)
    residues = []
    for number in (1, 2):
        sent = run.masked(dict.fromkeys(run.names, zeros), number)
        answers = run.answers(survivors, round_number=number)
        run.opened({name: sent[name] for name in survivors}, answers, number)
        points = {name: point for point, name in enumerate(sorted(run.names), start=1)}
        shares = {points[n]: int.from_bytes(answer.round_keys[late], "little") for n, answer in answers.items()}
        seed = joined(shares)
        assert seed == run.secrets[late].round_seed(run.terms, number)
        bound, private = Round(run.terms, run.digest, number), round_key(seed, run.terms, number)
        pairs = [bound.pair_stream(private, run.adverts[o].key_of(number), late, o) for o in survivors]
        residue = sent[late].copy()
        add_streams(residue, [pair.negated() for pair in pairs])
        residues.append(residue)
        assert all(late not in answer.self_seeds for answer in answers.values())
        assert run.terms.tolerated_colluders < run.terms.threshold
        held = {points[colluder]: int.from_bytes(run.sessions[colluder].bundles[late][32:64], "little")}
        assert joined(held) != run.secrets[late].self_seed(run.terms, number)
        opened = residue.copy()
        add_streams(opened, [bound.self_stream(run.secrets[late].self_seed(run.terms, number), late).negated()])
        assert not opened.any()
    assert findings(*residues) == set()


def test_the_sum_of_partners_with_another_list_does_not_open():
    """Two halves with two lists: their pair masks do not cancel, so that what opens is random."""
    run = Run(terms_of(values=200_000)).set_up()
    zeros = np.zeros(200_000, np.int32)
    totals = []
    for number in (1, 2):
        sent = run.masked(dict.fromkeys(run.names, zeros), number)
        other = zeros.copy()
        dataclasses.replace(run.sessions["partner 0"], digest="00" * 32).add_masks(other, number)
        answers = run.answers(run.names, round_number=number)
        assert not run.opened(sent, answers, number).any()
        totals.append(run.opened(sent | {"partner 0": other}, answers, number))
    assert findings(*totals) == set()


def test_opening_takes_the_memory_of_one_vector():
    run = Run(terms_of(values=1_000_000)).set_up()
    sent = run.masked({name: np.zeros(1_000_000, np.int32) for name in run.names[1:]})
    answers = run.answers(run.names[1:])
    tracemalloc.start()
    run.opened(sent, answers)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.25 * 4_000_000
