"""Pictures of a privacy budget: epsilon over a ledger's life, and what rounds and noise trade."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.dates import ConciseDateFormatter
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from pharma_fl.atomic import write_atomic
from pharma_fl.tracking.figures import STYLES, png

MOST_MARKS = 100
"""Charges that are drawn each by itself; of longer histories so many places are drawn."""


def draw_spending(path: Path, partner: str, course: Sequence[tuple[str, float]], budget: float) -> None:
    """Draw epsilon spent by charge and by time, under the line of the budget, into a PNG file.

    Parameters
    ----------
    path : Path
    partner : str
        Named in the title.
    course : sequence of (str, float)
        Time and epsilon after each charge, ascending; infinite epsilon is left out, and said.
    budget : float
    """
    shown = [(datetime.fromisoformat(time), value) for time, value in course if math.isfinite(value)]
    unprotected = len(shown) < len(course)

    def draw(axes: Axes, *, by_time: bool) -> None:
        begun = shown[0][0] if shown else datetime.fromtimestamp(0, UTC)
        xs: Sequence[Any] = [begun, *(time for time, _ in shown)] if by_time else range(len(shown) + 1)
        colour, marker, _ = STYLES[0]
        ys = [0.0, *(value for _, value in shown)]
        axes.plot(xs, ys, color=colour, drawstyle="steps-post", linewidth=2, marker=marker, markersize=4)
        axes.axhline(budget, color="#000000", linestyle=(0, (6, 3)), linewidth=1.2)
        axes.annotate(
            f"budget {budget:g}",
            (1, budget),
            xycoords=("axes fraction", "data"),
            ha="right",
            va="bottom",
            xytext=(0, 3),
            textcoords="offset points",
        )
        axes.set_ylim(0, 1.12 * max([budget, *(value for _, value in shown)]))
        axes.set_ylabel("epsilon spent")
        axes.set_xlabel(
            "time (UTC)" if by_time else "charges" if len(course) <= MOST_MARKS else "share of the charges, %"
        )
        if by_time:
            marks = axes.xaxis.get_major_locator()
            axes.xaxis.set_major_formatter(ConciseDateFormatter(marks))  # type: ignore[no-untyped-call]
        else:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_title(f"{partner}{', and a round without protection' if unprotected else ''}" if not by_time else "")

    write_atomic(path, png([lambda axes: draw(axes, by_time=False), lambda axes: draw(axes, by_time=True)]))


def draw_trade(path: Path, trade: Sequence[Mapping[str, Any]], epsilon: float, rounds: int) -> None:
    """Draw epsilon against rounds, one line for each noise, with the chosen plan marked, into a PNG file."""
    noises = list(dict.fromkeys(float(one["noise_multiplier"]) for one in trade))

    def draw(axes: Axes) -> None:
        axes.set_xscale("log")
        axes.set_yscale("log")
        for noise, (colour, marker, dashes) in zip(noises, STYLES, strict=False):
            part = [one for one in trade if one["noise_multiplier"] == noise and math.isfinite(one["epsilon"])]
            xs, ys = [one["rounds"] for one in part], [one["epsilon"] for one in part]
            axes.plot(xs, ys, color=colour, marker=marker, linestyle=dashes)
            end = (xs[-1], ys[-1])
            axes.annotate(f"noise {noise:.3g}", end, (8, 0), textcoords="offset points", va="center", color=colour)
        axes.plot([rounds], [epsilon], marker="o", markersize=15, markerfacecolor="none", color="#000000")
        axes.annotate("the plan", (rounds, epsilon), xytext=(12, -16), textcoords="offset points")
        axes.set_xticks(sorted({one["rounds"] for one in trade}))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("rounds")
        axes.set_ylabel("epsilon")

    write_atomic(path, png([draw]))
