"""The commands of a page: its fenced `sh` blocks, in order; those marked `background` go on running."""

import re
from dataclasses import dataclass

_FENCE = re.compile(r"^```(\S*)[ ]?(.*)$")


@dataclass(frozen=True)
class Block:
    """One fenced block: where it begins, its language, whether it goes on running, its lines."""

    line: int
    language: str
    background: bool
    text: str


def blocks(page):
    """Return the fenced blocks of a Markdown text."""
    found, begun = [], None
    for number, line in enumerate(page.splitlines(), start=1):
        fence = _FENCE.match(line)
        if fence and begun is None:
            begun, language, mark, lines = number, fence[1], fence[2], []
        elif fence:
            found.append(Block(begun, language, mark == "background", "\n".join(lines) + "\n"))
            begun = None
        elif begun is not None:
            lines.append(line)
    assert begun is None, f"the block of line {begun} does not end"
    return found
