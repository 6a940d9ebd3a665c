"""Who may take part in a run: partners that are who they say they are, read the same plan, and prepared alike."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

from pharma_fl import __version__
from pharma_fl.config import RosterKeys
from pharma_fl.messages.join import JoinAnswer, JoinRequest

_LOG = logging.getLogger("flwr")  # beside Flower's own strategies
NOT_ALIKE = "PFL-F15"
NOT_IT = "PFL-F16"


def check_answer(answer: JoinAnswer, request: JoinRequest, keys: RosterKeys | None) -> str:
    """Return why an answer is not believed, or nothing.

    Parameters
    ----------
    answer : JoinAnswer
        What a node says.
    request : JoinRequest
        What it was asked.
    keys : RosterKeys or None
        The partners' public keys; without them, as in simulations, a node is believed who it says it is.

    Returns
    -------
    str
        ``PFL-F16`` the answer is not signed by that partner; ``PFL-F15`` it read another plan, so the two sides run
        versions that do not understand each other; empty where it is believed.
    """
    if keys is not None:
        entry = keys.partners.get(answer.partner)
        if entry is None or not answer.is_of(entry.identity, request):
            return NOT_IT
    if answer.plan != request.plan.digest:
        return NOT_ALIKE
    if answer.version != __version__:
        _LOG.warning(
            "Partner %s runs pharma-fl %s, and the coordinator %s.", answer.partner, shown(answer.version), __version__
        )
    return ""


def not_alike(agreements: Mapping[str, str]) -> dict[str, str]:
    """Compare how partners prepared; return, for those that are left out, in what they differ.

    The largest group of partners that agree takes part; of groups of one size, the one with the partner that comes
    first by name. The rule is that of ``pharma-fl agree``, and so are the words.

    Parameters
    ----------
    agreements : mapping
        By partner, its agreement as JSON; empty where it has none, as with imported matrices. Partners without one
        agree among themselves.

    Returns
    -------
    dict
        Differences, in words, by partner that is left out. Empty: all agree.
    """
    if len(set(agreements.values())) < 2:
        return {}
    # RDKit comes along, and is needed only where bytes differ.
    from pharma_fl.data.agreement import understood  # noqa: PLC0415 - as said above
    from pharma_fl.data.differences import check  # noqa: PLC0415 - as said above

    bare = sorted(name for name, text in agreements.items() if not text)
    parsed = {name: _parsed(agreements[name]) for name in sorted(agreements) if agreements[name]}
    # What is no agreement must not keep others out because its partner comes first by name.
    said = {name: f"agreement: {read}" for name in parsed if isinstance(read := understood(parsed[name]), str)}
    readable = {name: content for name, content in parsed.items() if name not in said}
    if not readable:
        return said
    verdict = check(readable)
    groups = [*(list(group) for group in verdict.groups), *([bare] if bare else [])]
    groups.sort(key=lambda group: (-len(group), group[0]))
    taken = set(groups[0])
    for name in sorted(agreements.keys() - taken - said.keys()):
        found = verdict.differences.get(name, ())
        serious = [f"{one.where}: {one.what}" for one in found if one.serious]
        if name in bare or taken == set(bare):
            serious = ["agreement: one has an agreement.json, and the other imported matrices, which have none."]
        said[name] = " ".join(serious) or f"It agrees with none of {sorted(taken)}."
    return said


def shown(text: str) -> str:
    """Return a partner's word as it may stand in a log."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:64])


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
