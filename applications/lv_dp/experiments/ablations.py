"""One setting varied at a time: what the thesis' recommendations rest on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from applications.lv_dp.experiments import published
from applications.lv_dp.experiments.experiment import Experiment
from applications.lv_dp.experiments.figures.lines import Axis, draw_lines
from applications.lv_dp.experiments.options import ReproduceConfig
from applications.lv_dp.experiments.points import Point, scored
from applications.lv_dp.experiments.training import TrainCell

NO_EXPLORATION = 1e-6  # DiffBypass needs sigma > 0; in logits this is as good as 0
Value = float | int | str


@dataclass(frozen=True)
class Ablation:
    """EDPCNN on the smallest training set, with one setting at several values.

    Attributes:
        name: of the experiment, after ``ablation-``.
        setting: a field of `Settings`.
        values: what it is set to; for smoke the first two.
        label: of the horizontal axis.
        title: of the figure.
        shown: how a value is written in the table.
        scale: whether the values have an order.
    """

    name: str
    setting: str
    values: Callable[[ReproduceConfig], Sequence[Value]]
    label: str
    title: str
    shown: Callable[[Value], Value] = lambda value: value
    scale: Literal["steps", "choices"] = "steps"

    def points(self, options: ReproduceConfig) -> list[Point]:
        """Return one point for each value."""
        values = self.values(options)[: 2 if options.is_small else None]
        row = f"EDPCNN, {options.all_sizes()[0]} training slices"
        return [Point(row, self.shown(value), "edpcnn", self._cells(options, value)) for value in values]

    def _cells(self, options: ReproduceConfig, value: Value) -> tuple[TrainCell, ...]:
        change, size = (f"{self.setting}={value}",), options.all_sizes()[0]
        return tuple(options.training(size, seed, change=change) for seed in options.all_seeds)

    def experiment(self) -> Experiment:
        """Return the experiment."""
        name = f"ablation-{self.name}"
        axis = Axis(self.label, self.title, scale=self.scale)
        return scored(
            name,
            self.title,
            self.points,
            lambda options, entries: draw_lines(entries, axis),
            published=published.CLAIMS[name],
        )


def fixed(*values: Value) -> Callable[[ReproduceConfig], Sequence[Value]]:
    """Return the same values for every profile."""
    return lambda options: values


def quarter(num_rays: int) -> int:
    """Return the odd number nearest to a quarter of the rays, the larger of two.

    Example:
        >>> [quarter(N) for N in (12, 25, 32, 50, 100)]
        [3, 7, 9, 13, 25]
    """
    return 2 * (num_rays // 8) + 1


def smoothing_windows(options: ReproduceConfig) -> list[int]:
    """Return no smoothing, about a quarter of the profile's rays, and the profile's own window."""
    settings = options.training(1, 0).config.settings
    return sorted({1, quarter(settings.num_rays), settings.smoothing})


def _sigma_shown(value: Value) -> Value:
    return "0 (as 1e-6)" if value == NO_EXPLORATION else str(value)


ABLATIONS = (
    Ablation(
        "sigma",
        "sigma",
        fixed(NO_EXPLORATION, 0.1, 0.3, 1.0, 3.0),
        "exploration sigma (logits)",
        "Exploration sigma of DiffBypass; 0 stands for 1e-6, as DiffBypass needs sigma > 0",
        _sigma_shown,
    ),
    Ablation(
        "samples",
        "bypass_samples",
        fixed(1, 3, 6, 10, 20),
        "noisy warped maps S per slice and iteration",
        "Number of samples S of DiffBypass",
    ),
    Ablation(
        "fit-steps",
        "fit_steps",
        fixed(1, 2, 5, 10, 20),
        "fit steps K of F per iteration",
        "Number of fit steps K of the bypass network F",
    ),
    Ablation(
        "capacity",
        "bypass_channels",
        fixed(2, 4, 8, 16),
        "base channels of F",
        "Capacity of the bypass network F",
    ),
    Ablation(
        "smoothing",
        "smoothing",
        smoothing_windows,
        "window of the moving average (rays)",
        "Smoothing of the indices: none, and about N/4 rays",
    ),
    Ablation(
        "jitter",
        "placement",
        fixed("fixed", "normal", "uniform"),
        "centre of the star in training",
        "Placement of the star in training: given centre, truncated normal, uniform in the mask",
        scale="choices",
    ),
)

EXPERIMENTS = tuple(ablation.experiment() for ablation in ABLATIONS)
