"""Slices with what the pipeline makes of them."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.patheffects as effects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from applications.lv_dp.experiments.figures.style import COLOURS, MEDIUM, SMALL, label, panels
from applications.lv_dp.experiments.views import View

TRUTH, RAW, FOUND = COLOURS[2], COLOURS[5], COLOURS[1]
OUTLINE = [effects.withStroke(linewidth=2.5, foreground="white")]  # lines stay visible on any grey


def draw_stages(view: View, title: str) -> Figure:
    """Draw the stages of the pipeline, (a) to (f) as in figures 4.3 and 4.4 of the thesis."""
    figure, axes = panels(2, 3, (9.6, 6.8), title)
    show(axes[0], view.image, "(a) input image")
    show(axes[1], view.output, "(b) output map (logits) with the star", figure)
    _star(axes[1], view)
    show_warped(axes[2], view, "(c) warped map")
    show_warped(axes[3], view, "(d) indices: squares original, line smoothed")
    _indices(axes[3], view)
    show(axes[4], view.image, f"(e) contour found, Dice {view.dice:.3f}")
    _contour(axes[4], view, view.smoothed, FOUND)
    show(axes[5], view.image, "(f) ground truth")
    _border(axes[5], view.truth, TRUTH)
    return figure


def draw_smoothing(view: View, title: str) -> Figure:
    """Draw the contour before and after the moving average, and the indices of both."""
    figure, axes = panels(1, 3, (11.4, 4.0), title)
    for axis, name, indices, colour in (
        (axes[0], "original", view.raw, RAW),
        (axes[1], "smoothed", view.smoothed, FOUND),
    ):
        show(axis, view.image, f"{name} indices")
        _border(axis, view.truth, TRUTH)
        _contour(axis, view, indices, colour)
    show_warped(axes[2], view, "both on the warped map")
    _indices(axes[2], view)
    names = {TRUTH: "truth", RAW: "original", FOUND: "smoothed"}
    handles = [Line2D([], [], color=colour, label=name) for colour, name in names.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=SMALL, frameon=False)
    return figure


def draw_rows(seen: Sequence[View], title: str) -> Figure:
    """Draw truth, prediction and output map of one slice in each row."""
    figure, axes = panels(len(seen), 3, (7.6, 0.8 + 2.5 * len(seen)), title)
    for i, view in enumerate(seen):
        _row(figure, axes[3 * i : 3 * i + 3], view)
    return figure


def draw_failure(view: View, areas: Sequence[tuple[float, float]], title: str) -> Figure:
    """Draw one slice as `draw_rows` does, and the Dice of all slices against their area in pixels."""
    figure, axes = panels(1, 4, (12.6, 3.6), title)
    _row(figure, axes[:3], view)
    x, y = zip(*areas, strict=True)
    axes[3].scatter(x, y, s=12, color=COLOURS[0])
    axes[3].scatter(*min(areas, key=lambda point: point[1]), s=60, facecolors="none", edgecolors=FOUND)
    axes[3].set_xscale("log")
    label(axes[3], "area of the ventricle (pixels)", "Dice", "all held-out slices")
    return figure


def _row(figure: Figure, axes: Sequence[Axes], view: View) -> None:
    show(axes[0], view.image, f"truth, {int(view.truth.sum())} pixels")
    _border(axes[0], view.truth, TRUTH)
    show(axes[1], view.image, f"prediction, Dice {view.dice:.3f}")
    _contour(axes[1], view, view.smoothed, FOUND)
    show(axes[2], view.output, "output map (logits)", figure)
    axes[0].set_ylabel(view.name, fontsize=SMALL)


def show(axis: Axes, picture: Tensor, title: str, scale: Figure | None = None) -> None:
    """Draw a picture (H, W) without ticks, in grey, or with a colour bar."""
    drawn = axis.imshow(picture.numpy(), cmap="cividis" if scale else "gray")
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_title(title, fontsize=MEDIUM)
    if scale:
        scale.colorbar(drawn, ax=axis, shrink=0.8).ax.tick_params(labelsize=SMALL)


def show_warped(axis: Axes, view: View, title: str) -> None:
    """Draw the warped map, rays to the right and radii upwards."""
    axis.imshow(view.warped.T.numpy(), cmap="cividis", origin="lower", aspect="auto")
    label(axis, "ray", "index on the ray", title)
    axis.grid(visible=False)


def _star(axis: Axes, view: View) -> None:
    for ray in view.rays:
        axis.plot(ray[:, 0], ray[:, 1], "-", color=FOUND, linewidth=0.6)
    axis.set_xlim(-0.5, view.image.shape[1] - 0.5)
    axis.set_ylim(view.image.shape[0] - 0.5, -0.5)


def _indices(axis: Axes, view: View) -> None:
    rays = range(len(view.raw))
    axis.plot(rays, view.raw + 0.5, "s", color=RAW, markersize=4, path_effects=OUTLINE)
    axis.plot(rays, view.smoothed + 0.5, "-", color=FOUND, path_effects=OUTLINE)


def _contour(axis: Axes, view: View, indices: Tensor, colour: str) -> None:
    polygon = view.polygon(indices)
    axis.plot(polygon[:, 0], polygon[:, 1], color=colour, linewidth=1.5, path_effects=OUTLINE)


def _border(axis: Axes, mask: Tensor, colour: str) -> None:
    axis.contour(mask.float().numpy(), [0.5], colors=[colour], linewidths=1.5).set(path_effects=OUTLINE)
