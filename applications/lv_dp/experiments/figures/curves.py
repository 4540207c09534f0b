"""Curves over the iterations of a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from applications.lv_dp.experiments.figures.style import COLOURS, SMALL, label, panels, say_empty

STYLES: tuple[Literal["-", "--"], ...] = ("-", "--")


@dataclass(frozen=True)
class Curve:
    """One line: whose, of what, and where."""

    method: str
    which: str
    x: list[float]
    y: list[float]


def draw_curves(
    by_panel: Mapping[str, Sequence[Curve]], methods: Sequence[str], which: Sequence[str]
) -> Figure:
    """Draw methods in colours, and dashed the second of ``which``; lines of several seeds look alike."""
    title = "Dice while training, one line for each seed"
    figure, axes = panels(1, len(by_panel), (2.0 + 3.6 * len(by_panel), 3.9), title, sharey=True)
    for axis, (name, curves) in zip(axes, by_panel.items(), strict=True):
        for curve in curves:
            colour, style = COLOURS[methods.index(curve.method)], STYLES[which.index(curve.which)]
            axis.plot(curve.x, curve.y, style, color=colour, marker="o", markersize=3, linewidth=1.3)
        axis.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        label(axis, "iteration", "Dice, whole image", name)
        if not curves:
            say_empty(axis)
    handles = [
        Line2D([], [], color=COLOURS[i], linestyle=style, label=f"{method}, {part}")
        for i, method in enumerate(methods)
        for part, style in zip(which, STYLES, strict=True)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=SMALL, frameon=False)
    return figure
