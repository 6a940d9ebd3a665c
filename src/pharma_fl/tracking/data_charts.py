"""Bar charts as inline SVG: drawn by the browser, in the page's colours, with every number to be read beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

from pharma_fl.tracking.markup import NOTHING, Html, bar, join, table, tag

Unit = Literal["whole", "real", "share"]

# What fits under a chart as wide as a telephone.
_NAMES, _EDGES, _CHARACTERS, _SHORT = 8, 5, 40, 8
_THOUSAND, _MILLION = 1e3, 1e6
# A bar of one among thousands is still a bar.
_LEAST_HEIGHT = 1.5


def histogram(title: str, of: Mapping[str, Any] | None, unit: Unit, *, counted: str) -> Html:
    """Return a figure of columns with the quartiles and, folded away, a table of its numbers.

    Parameters
    ----------
    title : str
    of : mapping or None
        ``lowest``, ``quartile_1``, ``median``, ``quartile_3``, ``highest``, ``mean``, and ``histogram`` with
        ``edges`` and ``counts``; None draws nothing but says so.
    unit : str
        What stands on the axis: whole numbers, real numbers or shares.
    counted : str
        What the columns count, such as "compounds".
    """
    caption = tag("figcaption", tag("strong", title))
    if of is None:
        return tag("figure", caption, tag("p", "There is nothing to draw."), class_="chart")
    counts: Sequence[int] = of["histogram"]["counts"]
    names = bin_names(of["histogram"]["edges"], unit)
    words = f"{title}: {quartiles(of, unit)}. Most {counted}, {max(counts):,}, at {names[counts.index(max(counts))]}."
    rows = [[name, f"{count:,}"] for name, count in zip(names, counts, strict=True)]
    return tag(
        "figure",
        caption,
        tag(
            "div",
            tag("div", f"{max(counts):,} {counted}", class_="most"),
            _columns(counts, names, counted, words),
            tag("div", *_ticks(of["histogram"], names, unit), class_="ticks", aria_hidden="true"),
            class_="plot",
        ),
        tag("p", f"{quartiles(of, unit)}; mean {written(of['mean'], unit)}"),
        tag("details", tag("summary", "The numbers"), table(title, [_HEADS[unit], counted.capitalize()], rows)),
        class_="chart",
    )


_HEADS: dict[Unit, str] = {"whole": "Number", "real": "Value", "share": "Share"}


def sparkline(of: Mapping[str, Any] | None, words: str) -> Html:
    """Return a histogram without axes, for a line of a table."""
    if of is None:
        return Html("")
    counts: Sequence[int] = of["histogram"]["counts"]
    drawn = _svg(_rectangles(counts), len(counts), words, "spark")
    return join([drawn, tag("small", "log scale")]) if of["histogram"]["scale"] == "log" else drawn


def counted_bar(part: int, whole: int, words: str) -> Html:
    """Return a number with a bar of its share under it."""
    return join([f"{part:,}", bar(part / whole, f"{words}: {part:,} of {whole:,}") if whole else Html("")])


def share_bar(share: float | None, words: str) -> Html:
    """Return a share with a bar under it."""
    return NOTHING if share is None else join([percent(share), bar(share, f"{words}: {percent(share)}")])


def percent(share: float | None) -> str:
    """Write a share; a small one that is not 0, or not quite 1, does not look as if it were.

    >>> percent(0.125), percent(0.00004), percent(0.99999), percent(1.0)
    ('12.5%', 'under 0.1%', 'over 99.9%', '100.0%')
    """
    if share is None:
        return "\N{EN DASH}"
    if 0 < share < 0.0005:
        return "under 0.1%"
    return "over 99.9%" if 0.9995 <= share < 1 else f"{share:.1%}"


def written(value: float, unit: Unit) -> str:
    """Write a number of a distribution.

    >>> written(1234.0, "whole"), written(12.5, "whole"), written(-0.00123456, "real"), written(0.25, "share")
    ('1,234', '12.5', '\u22120.001235', '25.0%')
    """
    if unit == "share":
        return percent(value)
    if unit == "whole":
        text = f"{value:,.1f}".removesuffix(".0")
    else:
        text = f"{value:,.0f}" if _THOUSAND <= abs(value) <= _MILLION else f"{value:.4g}"
    return text.replace("-", "\N{MINUS SIGN}")


def quartiles(of: Mapping[str, Any], unit: Unit) -> str:
    """Write lowest, quartiles and highest in a line."""
    names = {"lowest": "lowest", "quartile_1": "lower quartile", "median": "median", "quartile_3": "upper quartile"}
    return ", ".join(f"{name} {written(of[key], unit)}" for key, name in (names | {"highest": "highest"}).items())


def bin_names(edges: Sequence[float], unit: Unit) -> list[str]:
    """Say what each bin holds.

    >>> bin_names([0, 1, 2, 5], "whole")
    ['0', '1', '2 to 4']
    >>> bin_names([0.0, 0.05, 0.1], "share")
    ['0% to 5%', '5% to 10%']
    """
    pairs = list(pairwise(edges))
    if unit == "whole":
        return [f"{low:,}" if high - low == 1 else f"{low:,} to {high - 1:,}" for low, high in pairs]
    names = [_edge(edge, unit) for edge in edges]
    return [low if low == high else f"{low} to {high}" for low, high in pairwise(names)]


def _edge(edge: float, unit: Unit) -> str:
    return f"{edge:.0%}" if unit == "share" else written(edge, unit)


def _ticks(histogram: Mapping[str, Any], names: Sequence[str], unit: Unit) -> list[Html]:
    edges, bins = histogram["edges"], len(names)
    short = [name.replace(" to ", "\N{EN DASH}") for name in names]
    whole_bins = histogram["scale"] == "doubling" or edges[1] - edges[0] == 1
    if unit == "whole" and whole_bins and max(map(len, short)) <= _SHORT:
        texts, first, most = short, 0.5, _NAMES
    else:
        texts, first, most = [_edge(edge, unit) for edge in edges], 0.0, _EDGES
        if histogram["scale"] == "doubling":
            # Where the last bin ends says little, and is a long number.
            texts = texts[:-1]
    step = -(-bins // max(2, min(most, _CHARACTERS // max(map(len, texts)))))
    return [
        tag("span", texts[place], style=f"left: {100 * (place + first) / bins:.2f}%")
        for place in range(0, len(texts), step)
    ]


def _columns(counts: Sequence[int], names: Sequence[str], counted: str, words: str) -> Html:
    titles = [f"{name}: {count:,} {counted}" for name, count in zip(names, counts, strict=True)]
    return _svg(_rectangles(counts, titles), len(counts), words, "columns")


def _svg(shapes: Sequence[Html], width: int, words: str, name: str) -> Html:
    return tag(
        "svg",
        *shapes,
        viewBox=f"0 0 {width} 100",
        preserveAspectRatio="none",
        role="img",
        aria_label=words,
        class_=name,
    )


def _rectangles(counts: Sequence[int], titles: Sequence[str] = ()) -> list[Html]:
    most = max(*counts, 1)
    shapes = []
    for place, count in enumerate(counts):
        height = max(100 * count / most, _LEAST_HEIGHT) if count else 0
        box = {"x": f"{place + 0.06:.2f}", "width": "0.88", "y": f"{100 - height:.2f}", "height": f"{height:.2f}"}
        shapes.append(tag("rect", **box, class_="part"))
        if titles:
            # What is pointed at is the whole height, so that a short column has its words too.
            whole = {"x": str(place), "width": "1", "y": "0", "height": "100"}
            shapes.append(tag("rect", tag("title", titles[place]), **whole, class_="point"))
    return shapes
