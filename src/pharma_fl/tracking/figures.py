"""Figures of the report: drawn without a display, readable in black and white and to colour-blind people."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from pharma_fl.tracking.comparison import Cell, alone, change, federated, spread
from pharma_fl.tracking.run_folders import RunFolder
from pharma_fl.tracking.summary import Setting, epsilon_words

Panel = Callable[[Axes], None]
Found = Mapping[Setting, Cell]

DPI = 150
# Okabe and Ito's palette without its yellow, which is too faint on white; each colour has its marker and line.
STYLES = (
    ("#0072B2", "o", "-"),
    ("#D55E00", "s", "--"),
    ("#009E73", "^", "-."),
    ("#CC79A7", "D", ":"),
    ("#56B4E9", "v", (0, (5, 1))),
    ("#E69F00", "P", (0, (1, 1))),
    ("#000000", "X", (0, (3, 1, 1, 1))),
)


def png(panels: Sequence[Panel], *, height: float = 4.4) -> bytes:
    """Draw panels side by side, each 5.6 inches wide, and return the picture."""
    with mpl.rc_context(
        {"font.size": 11, "axes.spines.top": False, "axes.spines.right": False, "axes.titlelocation": "left"}
    ):
        figure = Figure(figsize=(5.6 * len(panels), height), dpi=DPI, layout="constrained")
        for draw, axes in zip(panels, figure.subplots(1, len(panels), squeeze=False)[0], strict=True):
            draw(axes)
        stream = io.BytesIO()
        figure.savefig(stream, format="png")
    return stream.getvalue()


def utility(found: Found) -> Panel:
    """Return the panel of the mean over partners against epsilon; bars reach from the lowest to the highest seed."""
    place = _positions(found)
    end = max(place.values())

    def draw(axes: Axes) -> None:
        labels: list[tuple[float, float, str, str]] = []
        lines = [
            ("personalised", federated(found, personalised=True)),
            ("direct", federated(found, personalised=False)),
            ("placebo", [one for one in found if one.kind == "placebo"]),
        ]
        for (colour, marker, dashes), (name, settings) in zip(STYLES, lines, strict=False):
            settings = [one for one in settings if one.epsilon in place]  # noqa: PLW2901
            if not settings:
                continue
            levels = [spread(found[one]) for one in settings]
            if name == "placebo" and len(settings) == 1:
                axes.axhline(levels[0].mean, color=colour, linestyle=dashes)
                labels.append((end, levels[0].mean, name, colour))
                continue
            means = [level.mean for level in levels]
            xs = [place[one.epsilon] for one in settings]
            errors = [
                [mean - min(mean, level.low) for mean, level in zip(means, levels, strict=True)],
                [max(mean, level.high) - mean for mean, level in zip(means, levels, strict=True)],
            ]
            axes.errorbar(xs, means, errors, color=colour, marker=marker, linestyle=dashes, capsize=4, markersize=7)
            labels.append((xs[0], means[0], name, colour))
        if base := alone(found):
            level = spread(base).mean
            axes.axhline(level, color="#000000", linewidth=1.2, linestyle=(0, (6, 3)))
            labels.append((end, level, "alone", "#000000"))
        _epsilon_axis(axes, place)
        axes.set_title("Mean over partners")
        axes.set_ylabel("AUC-ROC on the test fold")
        _label_lines(axes, labels)

    return draw


def partner_changes(found: Found, partners: Sequence[str]) -> Panel:
    """Return the panel of each partner's change against training alone; lines reach over the seeds."""
    settings = federated(found, personalised=True) or federated(found, personalised=False)

    def draw(axes: Axes) -> None:
        rows = {partner: -place for place, partner in enumerate(partners)}
        axes.axvline(0, color="#000000", linewidth=1)
        for place, setting in enumerate(settings):
            colour, marker, _ = STYLES[place % len(STYLES)]
            lift = 0.5 * (len(settings) - 1) / max(len(settings), 1) * 0.8 - 0.8 * place / max(len(settings), 1)
            moved = change(found[setting], alone(found))
            ys = [rows[partner] + lift for partner in moved]
            for y, seeds in zip(ys, moved.values(), strict=True):
                axes.hlines(y, min(seeds.values()), max(seeds.values()), color=colour, linewidth=1.2)
            means = list(spread(moved).by_partner.values())
            name = "no privacy" if setting.epsilon is None else epsilon_words(setting.epsilon)
            axes.plot(means, ys, color=colour, marker=marker, linestyle="none", markersize=7, label=name)
        for edge in range(1, len(rows)):
            axes.axhline(0.5 - edge, color="#c8ccd0", linewidth=0.6)
        axes.set_yticks(list(rows.values()), [_short(partner) for partner in rows])
        axes.set_ylim(0.5 - max(len(rows), 1), 0.5)
        axes.tick_params(axis="y", length=0)
        axes.set_title("Each partner: change against alone", pad=30)
        axes.set_xlabel("worse   ←   change in AUC-ROC   →   better")
        axes.xaxis.set_major_locator(MaxNLocator(5))
        if settings:
            legend = axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 0.99), ncols=4, frameon=False, fontsize=9.5)
            legend.set_in_layout(False)

    return draw


def epsilon_by_round(runs: Sequence[RunFolder]) -> Panel:
    """Return the panel of what had been spent after each round."""
    return _by_round(runs, [run.epsilon_by_round for run in runs], "Epsilon spent", "epsilon (highest partner)")


def norm_by_round(runs: Sequence[RunFolder]) -> Panel:
    """Return the panel of the mean noised change's norm."""
    return _by_round(runs, [run.norm_by_round for run in runs], "Size of the update", "norm of the mean noised change")


def spread_labels(heights: Sequence[float], gap: float) -> list[float]:
    """Move heights apart until neighbours are at least `gap` apart, keeping their order and their mean.

    >>> spread_labels([1.0, 1.0, 5.0], 1.0)
    [0.5, 1.5, 5.0]
    """
    groups: list[list[int]] = []
    order = sorted(range(len(heights)), key=lambda one: heights[one])

    def centre(group: list[int]) -> float:
        return sum(heights[one] for one in group) / len(group)

    for one in order:
        groups.append([one])
        while len(groups) > 1:
            below, above = groups[-2], groups[-1]
            reach = gap * (len(below) + len(above)) / 2
            if centre(above) - centre(below) >= reach:
                break
            groups[-2:] = [below + above]
    moved = list(heights)
    for group in groups:
        for place, one in enumerate(group):
            moved[one] = centre(group) + gap * (place - (len(group) - 1) / 2)
    return moved


def _by_round(runs: Sequence[RunFolder], series: Sequence[Mapping[int, float]], title: str, unit: str) -> Panel:
    families = list(dict.fromkeys(run.family for run in runs))

    def draw(axes: Axes) -> None:
        labels: dict[str, tuple[float, float, str, str]] = {}
        for run, points in zip(runs, series, strict=True):
            colour, marker, dashes = STYLES[families.index(run.family) % len(STYLES)]
            if points:
                step = max(1, len(points) // 5)
                axes.plot(
                    list(points), list(points.values()), color=colour, marker=marker, linestyle=dashes, markevery=step
                )
                labels[run.family] = (max(points), points[max(points)], _short(run.family), colour)
        axes.set_title(title)
        axes.set_xlabel("round")
        axes.set_ylabel(unit)
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        _label_lines(axes, list(labels.values()))

    return draw


def _positions(found: Found) -> dict[float | None, float]:
    """Return where each epsilon stands on the axis; no privacy, None, is a place of its own at the right end."""
    epsilons = sorted({one.epsilon for one in found if one.epsilon is not None and one.epsilon > 0})
    ratio = (epsilons[-1] / epsilons[0]) ** (1 / (len(epsilons) - 1)) if len(epsilons) > 1 else 3.0
    return {one: one for one in epsilons} | {None: (epsilons[-1] if epsilons else 1.0) * ratio}


def _epsilon_axis(axes: Axes, place: Mapping[float | None, float]) -> None:
    axes.set_xscale("log")
    axes.set_xticks(list(place.values()), ["no\nprivacy" if one is None else f"{one:g}" for one in place])
    axes.xaxis.set_minor_locator(NullLocator())
    low, high = min(place.values()), max(place.values())
    axes.set_xlim(low / 1.3, high * 1.2)
    axes.set_xlabel("epsilon (smaller protects more)")
    if len(place) > 1:
        last = max(value for one, value in place.items() if one is not None)
        axes.axvline(math.sqrt(last * high), color="#8a9097", linewidth=0.8, linestyle=(0, (2, 4)))


def _label_lines(axes: Axes, labels: Sequence[tuple[float, float, str, str]]) -> None:
    """Write each line's name beside its last point, outside the axes, with a thin leader."""
    low, high = axes.get_ylim()
    heights = spread_labels([y for _, y, _, _ in labels], 0.075 * (high - low))
    for (x, y, name, colour), height in zip(labels, heights, strict=True):
        axes.annotate(
            name,
            xy=(x, y),
            xytext=(1.03, (height - low) / (high - low)),
            textcoords="axes fraction",
            va="center",
            color=colour,
            arrowprops={"arrowstyle": "-", "color": "#8a9097", "linewidth": 0.6, "shrinkB": 4},
            annotation_clip=False,
        )


def _short(name: str, most: int = 22) -> str:
    # matplotlib reads $ as mathematics.
    return (name if len(name) <= most else f"{name[: most - 1]}…").replace("$", r"\$")
