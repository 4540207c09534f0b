"""A grid of means as a heat map with its numbers written in."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from applications.lv_dp.experiments.figures.style import MEDIUM, SMALL, panels
from applications.lv_dp.experiments.summaries import NOT_MEASURED, Entry


def draw_heat(entries: Sequence[Entry], label: str, title: str) -> Figure:
    """Draw rows downwards and columns to the right; grey is not measured."""
    rows = list(dict.fromkeys(entry.row for entry in entries))
    columns = list(dict.fromkeys(entry.column for entry in entries))
    figure, (panel,) = panels(1, 1, (2.8 + 1.0 * len(columns), 1.6 + 0.7 * len(rows)), title)
    values = np.full((len(rows), len(columns)), np.nan)
    for entry in entries:
        place = rows.index(entry.row), columns.index(entry.column)
        values[place] = np.nan if entry.mean is None else entry.mean
        text = _text(entry)
        panel.text(place[1], place[0], text, ha="center", va="center", fontsize=SMALL, backgroundcolor="w")
    panel.set_facecolor("0.85")
    if np.isfinite(values).any():
        image = panel.imshow(np.ma.masked_invalid(values), cmap="cividis", aspect="auto")
        figure.colorbar(image, label="Dice").ax.tick_params(labelsize=SMALL)
    panel.set_xticks(range(len(columns)), [str(column) for column in columns], fontsize=SMALL)
    panel.set_yticks(range(len(rows)), rows, fontsize=SMALL)
    panel.set_xlim(-0.5, len(columns) - 0.5)
    panel.set_ylim(len(rows) - 0.5, -0.5)
    panel.set_xlabel(label, fontsize=MEDIUM)
    return figure


def _text(entry: Entry) -> str:
    if entry.mean is None:
        return NOT_MEASURED.replace(" ", "\n")
    return f"{entry.mean:.3f}" + (f"\n±{entry.deviation:.3f}" if entry.deviation is not None else "")
