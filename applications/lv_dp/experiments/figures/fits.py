"""Fitted functions of one variable."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from applications.lv_dp.experiments.figures.style import COLOURS, SMALL, label, panels, say_empty

COLUMNS = 4


def draw_fits(
    x: list[float], y: list[float], fits: Mapping[int, Mapping[str, Any] | None], steps: int
) -> Figure:
    """Draw a panel for each number of hidden units: the function in black, the fit in colour."""
    columns = min(COLUMNS, len(fits))
    rows = math.ceil(len(fits) / columns)
    title = f"x sin 4x - cos √(15|x|), and networks of one hidden layer after {steps} steps"
    figure, axes = panels(rows, columns, (2.9 * columns, 0.9 + 2.4 * rows), title, sharey=True)
    for axis, (hidden, fit) in zip(axes, fits.items(), strict=False):
        axis.plot(x, y, color="black", linewidth=2.5, alpha=0.35, label="function")
        label(axis, "x", "y", f"{hidden} units" + (f", RMSE {fit['rmse']:.3f}" if fit else ""))
        if fit:
            axis.plot(fit["x"], fit["fitted"], color=COLOURS[1], linewidth=1.2, label="network")
        else:
            say_empty(axis)
    for axis in axes[len(fits) :]:
        axis.set_visible(False)
    axes[0].legend(fontsize=SMALL, frameon=False)
    return figure
