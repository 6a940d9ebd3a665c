"""Whether federating pays, in words and numbers computed from the results."""

from __future__ import annotations

import math
from collections.abc import Mapping

from pharma_fl.tracking.comparison import (
    Cell,
    Spread,
    alone,
    cells,
    change,
    enumerate_words,
    federated,
    placebo_for,
    spread,
)
from pharma_fl.tracking.markup import Html, bullets, join, number, tag
from pharma_fl.tracking.summary import Setting, Summary

Found = Mapping[Setting, Cell]


def answer(summary: Summary) -> Html:
    """Return section 1: whether federating beats staying alone, and down to which epsilon."""
    found = cells(summary.results, summary.metric)
    parts = [tag("h2", "Does federating beat staying alone?", id="answer")]
    settings = federated(found, personalised=True) or federated(found, personalised=False)
    if not alone(found) or not settings:
        parts.append(
            tag("p", "These results cannot say: they hold no pair of a federated setting and a partner alone.")
        )
        return tag("section", *parts, aria_labelledby="answer")
    parts.append(tag("p", verdict(found), class_="lead"))
    parts.append(bullets(_line(found, setting) for setting in settings))
    parts.extend(tag("p", text) for text in _reading(found))
    return tag("section", *parts, aria_labelledby="answer")


def verdict(found: Found) -> Html:
    """Return the answer in a sentence or three."""
    personalised = bool(federated(found, personalised=True))
    settings = federated(found, personalised=personalised)
    against = {one: spread(change(found[one], alone(found))) for one in settings}
    # Where partners' own noise and shared noise were both tried, the better one answers for its epsilon.
    ranked = sorted((one for one in settings if one.epsilon is not None), key=lambda one: against[one].mean)
    private = sorted({one.epsilon: one for one in ranked}.values(), key=lambda one: one.order)
    above = [one for one in private if against[one].gains]
    # What the placebo reaches as well was not learnt from anybody's data.
    gains = [one for one in above if (over := _over_placebo(found, one)) is None or over.gains]
    unearned = [one for one in above if one not in gains]
    rest = [one for one in private if one not in gains]
    once = ", in the one seed that was run" if len(_seeds(found)) == 1 else ""
    if not private:
        words = "No run with privacy is among these results."
    elif not rest:
        words = f"Yes, at every epsilon tried ({_epsilons(private)}){once}."
    elif gains:
        words = f"Yes at epsilon {_epsilons(gains)}; not shown at epsilon {_epsilons(rest)}{once}."
    else:
        words = f"Not shown at any epsilon tried ({_epsilons(private)}){once}."
    said: list[Html | str] = [tag("strong", words), " "]
    if gains:
        smallest = min(gains, key=lambda one: one.epsilon or math.inf)
        said += [
            (
                f"The smallest epsilon at which the mean over partners is still above training alone is "
                f"{smallest.epsilon:g}{', with shared noise' if smallest.kind == 'fed-dp-shared' else ''}, by "
            ),
            number(against[smallest].mean, signed=True),
            " AUC-ROC. ",
        ]
    for one in settings:
        if one.epsilon is None:
            said += ["Without privacy the change is ", number(against[one].mean, signed=True), ". "]
    if unearned:
        said.append(
            f"At epsilon {_epsilons(unearned)} the model is above training alone, but not above the placebo: that gain "
            "was not learnt from other partners' data."
        )
    return join(said)


def _line(found: Found, setting: Setting) -> Html:
    moved = spread(change(found[setting], alone(found)))
    count = len(moved.by_partner)
    same = count - moved.better - moved.worse
    said: list[Html | str] = [
        tag("strong", setting.label),
        ": mean AUC-ROC ",
        number(spread(found[setting]).mean),
        ", ",
        number(moved.mean, signed=True),
        f" against alone; {moved.better} of {count} partners better, {moved.worse} worse",
        f", {same} the same to three decimals" if same else "",
    ]
    if moved.deviation is not None:
        said += [
            f"; above alone in {moved.seeds_above} of {len(moved.by_seed)} seeds (from ",
            number(moved.low, signed=True),
            " to ",
            number(moved.high, signed=True),
            ", standard deviation ",
            number(moved.deviation, 4),
            ")",
        ]
    if (over := _over_placebo(found, setting)) is not None:
        said += ["; ", number(over.mean, signed=True), " against the placebo of the same epsilon"]
    return join([*said, "."])


def _reading(found: Found) -> list[str]:
    seeds = _seeds(found)
    said = [
        (
            f"{len(seeds)} seeds were run. A gain is called shown when the mean over partners is above training alone "
            "in every one of them; this is a description of these runs, not a statistical test."
            if len(seeds) > 1
            else "One seed was run. One seed cannot tell small differences from chance: another start, another draw of "
            "the noise or another split may move every number here, and may change the sign of a small difference."
        ),
        (
            "“Alone” is the best a partner reached by itself, without privacy, after a search over settings on its own "
            "validation fold. “Direct” is the federated model as it leaves the last round; “personalised” is the model "
            "after the partner refitted it on its own data, inside its own walls."
        ),
    ]
    if any(one.kind == "placebo" for one in found):
        said.append(
            "The placebo follows the plan of a run with privacy but has the data's part of every sum set to zero: it "
            "hands over noise alone and is then personalised in the same way. Only what lies above the placebo can "
            "come from other partners' data."
        )
    return said


def _seeds(found: Found) -> set[int]:
    return {seed for cell in found.values() for values in cell.values() for seed in values}


def _over_placebo(found: Found, setting: Setting) -> Spread | None:
    placebo = placebo_for(found, setting) if setting.protected else None
    return None if placebo is None else spread(change(found[setting], found[placebo]))


def _epsilons(settings: list[Setting]) -> str:
    return enumerate_words([f"{one:g}" for one in sorted({setting.epsilon or math.inf for setting in settings})])
