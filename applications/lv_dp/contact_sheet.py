"""Some slices of a data set in one picture, with the contour of each mask."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from applications.lv_dp.data import Slice, SliceSet

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS, ROWS = 6, 4


def save_contact_sheet(path: Path, data: SliceSet) -> None:
    """Write a PNG of up to 24 slices, evenly spaced in the set; rows run down, pixels have their true shape."""
    from matplotlib.figure import Figure

    shown = chosen(data, COLUMNS * ROWS)
    rows = math.ceil(len(shown) / COLUMNS)
    figure = Figure(figsize=(2.2 * COLUMNS, 2.4 * rows), layout="constrained")
    axes = figure.subplots(rows, COLUMNS, squeeze=False)
    for place in axes.flat:
        place.set_axis_off()
    for place, item in zip(axes.flat, shown, strict=False):
        draw(place, item)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", dpi=110)


def chosen(data: SliceSet, count: int) -> list[Slice]:
    """Return at most ``count`` slices, from the first to the last at even distances."""
    places = torch.linspace(0, len(data) - 1, min(count, len(data))).round().long()
    return [data.slices[place] for place in places.tolist()]


def draw(axes: Axes, item: Slice) -> None:
    """Draw one slice, and its contour halfway between the pixels inside and outside."""
    low, high = torch.quantile(item.image.flatten(), torch.tensor([0.01, 0.99])).tolist()
    row, column = item.spacing or (1.0, 1.0)
    axes.imshow(item.image.numpy(), cmap="gray", vmin=low, vmax=high, aspect=row / column)
    axes.contour(item.mask.float().numpy(), levels=[0.5], colors="tab:red", linewidths=0.8)
    axes.set_title(f"{item.name} {item.phase or ''}", fontsize=6, parse_math=False)
