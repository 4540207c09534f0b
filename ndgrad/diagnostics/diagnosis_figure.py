"""The figure of a `Diagnosis`: four panels, fewer where something was not measured."""

from __future__ import annotations

import math
from collections.abc import Callable

from matplotlib.axes import Axes
from matplotlib.container import BarContainer
from matplotlib.figure import Figure

from ndgrad.diagnostics.diagnosis import Diagnosis
from ndgrad.diagnostics.style import BLUE, GREEN, GREY, ORANGE

Panel = Callable[[Axes, Diagnosis], None]


def draw_diagnosis(d: Diagnosis) -> Figure:
    """Draw the panels that the diagnosis has numbers for."""
    chosen: list[Panel] = [_errors]
    if d.reference is not None:
        chosen = [*([_profile] if d.profile else []), _against_reference, _errors]
    if d.comparisons:
        chosen.append(_comparison)
    columns = min(len(chosen), 2)
    lines = math.ceil(len(chosen) / columns)
    figure = Figure(figsize=(5.6 * columns, 3.9 * lines), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).flatten()
    for axis, panel in zip(axes, chosen, strict=False):
        panel(axis, d)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[len(chosen) :]:
        axis.set_axis_off()
    figure.suptitle(d.estimator, fontsize=10)
    return figure


def _profile(axis: Axes, d: Diagnosis) -> None:
    """Show the function along the mean gradient of its steepest row, with the slopes that are claimed for it."""
    p, landscape = d.profile, d.landscape
    assert p is not None
    assert landscape is not None
    sigma = landscape.sigma
    axis.axvspan(-sigma, sigma, color="0.93", label=f"± sigma = {sigma:.3g}")
    axis.plot(p.distance, p.value, color="black", linewidth=1.4, label="function")
    low, high = float(p.value.min()), float(p.value.max())
    near = p.distance.abs() <= 1.5 * sigma
    axis.plot(p.distance[near], p.slope * p.distance[near], color=BLUE, label="slope of the mean estimate")
    axis.plot(
        p.distance[near],
        p.reference_slope * p.distance[near],
        color=ORANGE,
        linestyle="--",
        label="reference",
    )
    room = 0.15 * (high - low) or 1.0
    axis.set_ylim(low - room, high + room)
    axis.set(title=f"along the gradient of row {p.row}", xlabel="distance from x", ylabel="change of <v, f>")
    axis.legend(fontsize=7, frameon=False)


def _against_reference(axis: Axes, d: Diagnosis) -> None:
    """Show each entry of the mean estimate, with its standard error, against the reference's."""
    assert d.reference is not None
    truth, mean = d.reference.gradient.flatten(), d.gradient.flatten()
    error = (d.estimates.samples.var(0) / d.repeats).sqrt().flatten()
    if len(truth) > 500:  # more points than can be told apart
        keep = slice(None, None, math.ceil(len(truth) / 500))
        truth, mean, error = truth[keep], mean[keep], error[keep]
    axis.errorbar(
        truth, mean, error, linestyle="none", marker="o", markersize=3, color=BLUE, ecolor=GREY, linewidth=0.8
    )
    low, high = float(truth.min().minimum(mean.min())), float(truth.max().maximum(mean.max()))
    axis.plot([low, high], [low, high], color=ORANGE, linestyle="--", label="equal")
    axis.set(
        title=f"mean of {d.repeats} estimates, ± standard error",
        xlabel=f"gradient of {d.reference.name}",
        ylabel="mean estimate",
    )
    axis.legend(fontsize=7, frameon=False)


def _errors(axis: Axes, d: Diagnosis) -> None:
    """Show noise and bias beside the size of the gradient."""
    bars = {
        "one estimate: noise": 1 / d.snr if d.snr else math.inf,
        f"mean of {d.repeats}: noise": d.standard_error,
    }
    if d.bias is not None:
        bars["bias"] = d.bias.relative if d.bias.significant else math.nan
    if d.smoothing is not None:
        bars["change at sigma / 2"] = d.smoothing.relative if d.smoothing.significant else math.nan
    if d.gradient_error is not None:
        bars["surrogate's differences"] = d.gradient_error
    shown = [value if math.isfinite(value) else 0.0 for value in bars.values()]
    words = [_bar_label(value) for value in bars.values()]
    drawn = axis.barh(list(bars), shown, color=BLUE, height=0.6)
    _label_bars(axis, drawn, words)
    axis.axvline(1, color=ORANGE, linestyle="--", linewidth=1, zorder=0)
    axis.set_xlim(0, 1.25 * max(1.0, *shown))
    axis.invert_yaxis()
    axis.set(title="noise and bias", xlabel="relative to the size of the gradient (dashed)")


def _bar_label(value: float) -> str:
    if math.isnan(value):
        return "none seen"
    return "no signal" if math.isinf(value) else f"{value:.2g}"


def _comparison(axis: Axes, d: Diagnosis) -> None:
    """Show the error of one estimate of each estimator at equal evaluations."""
    names = [c.name for c in d.comparisons]
    errors = [max(c.relative_error, 1e-4) for c in d.comparisons]
    colours = [GREEN if c.name == "yours" else GREY for c in d.comparisons]
    drawn = axis.barh(names, errors, color=colours, height=0.6)
    _label_bars(axis, drawn, [f"cosine {c.cosine:.2f}" for c in d.comparisons])
    axis.set_xscale("log")
    axis.axvline(1, color=ORANGE, linestyle="--", linewidth=1, zorder=0)
    axis.set_xlim(min(errors) / 2, 12 * max(1.0, *errors))
    axis.invert_yaxis()
    axis.set(
        title=f"one estimate, {d.evaluations} evaluations per row",
        xlabel="relative error against the reference (dashed: of answering 0)",
    )


def _label_bars(axis: Axes, bars: BarContainer, words: list[str]) -> None:
    """Write beside the bars, on white where a line passes."""
    back = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
    axis.bar_label(bars, words, padding=4, fontsize=8, bbox=back)
