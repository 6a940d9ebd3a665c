"""HTML that escapes by construction: a plain string becomes text, and only `tag` makes markup."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

_VOID = {"img", "meta", "br"}


class Html(str):
    """Markup that is already escaped."""

    __slots__ = ()


NOTHING = Html("\N{EN DASH}")
"""Stands where a table has no number."""


Child = str | Html


def tag(name: str, /, *children: Child, **attributes: str) -> Html:
    """Return an element; ``class_`` writes ``class``, and ``_`` inside a name writes ``-``.

    >>> tag("p", "a < b", class_="note")
    '<p class="note">a &lt; b</p>'
    """
    written = "".join(
        f' {key.removesuffix("_").replace("_", "-")}="{escape(value)}"' for key, value in attributes.items()
    )
    return Html(f"<{name}{written}>" if name in _VOID else f"<{name}{written}>{join(children)}</{name}>")


def join(children: Iterable[Child]) -> Html:
    """Concatenate, escaping what is not markup."""
    return Html("".join(child if isinstance(child, Html) else escape(child) for child in children))


def number(value: float | None, digits: int = 3, *, signed: bool = False) -> Html:
    r"""Return a rounded number that carries its full value; a dash where there is none.

    >>> print(ascii(number(-0.01234, signed=True)))
    '<data value="-0.01234">\u22120.012</data>'
    """
    if value is None or not math.isfinite(value):
        return NOTHING
    shown = f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"
    if float(shown) == 0:
        shown = ("±" if signed else "") + shown.lstrip("+-")
    return tag("data", shown.replace("-", "\N{MINUS SIGN}"), value=repr(value))


def table(caption: str, header: Sequence[Child], rows: Sequence[Sequence[Child]], *, heads: int = 1) -> Html:
    """Return a table in a box of its own that scrolls sideways; the first `heads` cells of a row are its headings."""
    top = tag("tr", *(tag("th", cell, scope="col") for cell in header))
    body = [
        tag(
            "tr",
            *(tag("th", cell, scope="row") for cell in row[:heads]),
            *(tag("td", cell) for cell in row[heads:]),
        )
        for row in rows
    ]
    whole = tag("table", tag("caption", tag("span", caption)), tag("thead", top), tag("tbody", *body))
    # A box that scrolls must be reachable by keyboard.
    return tag("div", whole, class_="scroll", tabindex="0", role="region", aria_label=caption)


def bar(share: float, words: str) -> Html:
    """Return a bar filled to `share`, drawn so that it also prints."""
    width = f"{100 * min(max(share, 0.0), 1.0):.2f}"
    return tag(
        "svg",
        tag("rect", x="0.5", y="0.5", width="99", height="9", class_="whole"),
        tag("rect", x="0.5", y="0.5", width=f"{0.99 * float(width):.2f}", height="9", class_="part"),
        viewBox="0 0 100 10",
        preserveAspectRatio="none",
        role="img",
        aria_label=words,
        class_="bar",
    )


def bullets(items: Iterable[Child]) -> Html:
    """Return an unordered list."""
    return tag("ul", *(tag("li", item) for item in items))
