"""Colours, markers and the empty figure that all drawings start from."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito, told apart by colour-blind readers; yellow is left out, it is invisible on white
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
MARKERS = "osD^vP*"
SMALL, MEDIUM, LARGE = 8, 9, 11


def panels(
    rows: int, columns: int, size: tuple[float, float], title: str, **options: Any
) -> tuple[Figure, list[Axes]]:
    """Return a figure of ``size`` inches with a title, and its panels row by row."""
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(title, fontsize=LARGE)
    return figure, list(figure.subplots(rows, columns, squeeze=False, **options).flat)


def label(axis: Axes, x: str, y: str, title: str = "") -> None:
    """Name the axes of a panel, and draw its grid."""
    axis.set_xlabel(x, fontsize=MEDIUM)
    axis.set_ylabel(y, fontsize=MEDIUM)
    axis.set_title(title, fontsize=MEDIUM)
    axis.tick_params(axis="both", which="both", labelsize=SMALL)
    axis.grid(alpha=0.3)


def say_empty(axis: Axes, text: str = "not measured") -> None:
    """Say in a panel that there is nothing to show."""
    axis.text(0.5, 0.5, text, transform=axis.transAxes, ha="center", va="center", color="0.4")
