"""Whatever an active coordinator tells each partner about who is lost, at most one sum opens, and of enough vectors.

The coordinator knows all that the colluders know, asks each honest partner once, and may show each another set of
survivors, or ask nothing. What it can learn is decided here by the partners' own answers, and joined shares.
"""

import itertools
import random

import pytest
from tests.secagg.runs import Lax, Run, terms_of

from pharma_fl.errors import FederationError
from pharma_fl.secagg.shamir import joined


def learnt(run, honest, stories):
    """Return whose self mask and whose round key the coordinator gets to know, among the honest.

    Parameters
    ----------
    stories : mapping of str to frozenset or None
        Who is lost, as told to each honest partner; None: it was not asked.
    """
    points = {name: point for point, name in enumerate(sorted(run.names), start=1)}
    answers = {}
    for name, lost in stories.items():
        if lost is not None:
            answers[name] = run.sessions[name].unmask(1, set(run.names) - lost)
    known = {}
    for kind, place, secret in (("self_seeds", 32, "self_seed"), ("round_keys", 0, "round_seed")):
        known[kind] = set()
        for about in honest:
            shares = {
                points[name]: getattr(answer, kind)[about]
                for name, answer in answers.items()
                if about in getattr(answer, kind)
            }
            for colluder in set(run.names) - set(honest):
                shares[points[colluder]] = run.sessions[colluder].bundles[about][place : place + 32]
            if len(shares) < run.terms.threshold:
                continue
            taken = list(shares.items())[: run.terms.threshold]
            seed = joined({point: int.from_bytes(share, "little") for point, share in taken})
            assert seed == getattr(run.secrets[about], secret)(run.terms, 1)
            known[kind].add(about)
    return known["self_seeds"], known["round_keys"]


def faults(run, honest, stories):
    """Return what went wrong for the partners: a vector that can be read, or a sum of too few."""
    without_self_mask, without_pair_masks = learnt(run, honest, stories)
    found = set()
    if without_self_mask & without_pair_masks:
        found.add("both secrets")
    # Vectors whose pair masks with each other are unknown open only together, and with all their self masks known.
    summed = set(honest) - without_pair_masks
    if summed <= without_self_mask and len(summed) < len(honest) - run.terms.tolerated_losses:
        found.add("too few")
    return found


def lies(names, me, losses):
    """Return all that one partner can be told without its refusing."""
    others = [name for name in names if name != me]
    return [None] + [frozenset(lost) for count in range(losses + 1) for lost in itertools.combinations(others, count)]


def set_up(contributors, colluders, losses, kind=None):
    run = Run(terms_of(contributors, colluders, losses, rounds=1, values=1, **({"kind": kind} if kind else {})))
    run.set_up()
    return run, run.names[: contributors - colluders]


@pytest.mark.parametrize(
    ("contributors", "colluders", "losses"),
    [(2, 1, 0), (3, 0, 1), (3, 1, 0), (4, 1, 1), (4, 0, 1), (5, 2, 1), (6, 3, 1)],
)
def test_no_story_of_all_there_are_opens_more(contributors, colluders, losses):
    run, honest = set_up(contributors, colluders, losses)
    # Losing a colluder harms nobody: it uses up what a partner grants.
    told = [lies(honest, name, losses) for name in honest]
    opened = 0
    for chosen in itertools.product(*told):
        stories = dict(zip(honest, chosen, strict=True))
        assert not faults(run, honest, stories)
        without_self_mask, without_pair_masks = learnt(run, honest, stories)
        opened += set(honest) - without_pair_masks <= without_self_mask
    assert opened > 0


def concentrated(rng, run, honest, losses):
    """Return stories that drop the same few partners as often as anybody allows, with some of chance."""
    targets = rng.sample(honest, min(len(honest) - 1, losses + 1))
    granted = dict.fromkeys(targets, 0)
    stories = {}
    for name in rng.sample(honest, len(honest)):
        possible = sorted((one for one in targets if one != name), key=lambda one: (granted[one], rng.random()))
        lost = possible[: losses if rng.random() < 0.95 else rng.randint(0, losses)]
        for one in lost:
            granted[one] += 1
        stories[name] = frozenset(lost)
    return stories


def both_kinds(rng, run, honest, losses):
    """Return stories of chance, half of them concentrated."""
    if rng.random() < 0.5:
        return concentrated(rng, run, honest, losses)
    return {name: rng.choice(lies(honest, name, losses)) for name in honest}


@pytest.mark.parametrize(("contributors", "colluders", "losses"), [(7, 0, 2), (8, 1, 2), (10, 3, 2), (13, 0, 3)])
def test_no_story_that_a_search_finds_opens_more(contributors, colluders, losses):
    run, honest = set_up(contributors, colluders, losses)
    rng = random.Random(contributors)
    for _ in range(300):
        assert not faults(run, honest, both_kinds(rng, run, honest, losses))


@pytest.mark.parametrize(
    ("contributors", "colluders", "losses", "fault"),
    [
        (2, 0, 1, "too few"),
        (6, 0, 2, "too few"),
        (7, 1, 2, "too few"),
        (4, 2, 1, "both secrets"),
        (5, 1, 2, "both secrets"),
    ],
)
def test_the_search_finds_the_story_where_terms_allow_too_much(contributors, colluders, losses, fault):
    with pytest.raises(ValueError, match="Expected L"):
        terms_of(contributors, colluders, losses)
    run, honest = set_up(contributors, colluders, losses, kind=Lax)
    rng = random.Random(1)
    found = set().union(*(faults(run, honest, both_kinds(rng, run, honest, losses)) for _ in range(300)))
    assert fault in found


def test_answering_twice_would_give_a_partner_away():
    """Why whoever holds a session answers once a round: with two stories each, both secrets are learnt."""
    run, honest = set_up(4, 1, 1)
    target, *others = honest
    first = {name: frozenset() for name in honest}
    second = {name: frozenset({target}) for name in others}
    assert target in learnt(run, honest, first)[0]
    assert target in learnt(run, honest, second)[1]
    with pytest.raises(FederationError, match="declares this partner lost"):
        run.sessions[target].unmask(1, set(run.names) - {target})
