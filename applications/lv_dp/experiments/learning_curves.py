"""Dice against the number of training slices: table 5.1 (figure 5.3), figures 5.8 and 5.9."""

from __future__ import annotations

from dataclasses import dataclass

from applications.lv_dp.config import EstimatorName, MethodName
from applications.lv_dp.experiments import published
from applications.lv_dp.experiments.experiment import Experiment
from applications.lv_dp.experiments.figures.lines import Axis, draw_lines
from applications.lv_dp.experiments.options import ReproduceConfig
from applications.lv_dp.experiments.points import Point, scored
from applications.lv_dp.experiments.training import TrainCell


@dataclass(frozen=True)
class Series:
    """One line: how its models are trained, and how they are read."""

    label: str
    prediction: str
    method: MethodName
    estimator: EstimatorName = "diff_bypass"
    change: tuple[str, ...] = ()


LOW, FULL = ("borders=low",), ()

TABLE_5_1 = (
    Series("EDPCNN", "edpcnn", "edpcnn"),
    Series("U-Net + DP", "unet_dp", "unet"),
    Series("U-Net", "unet", "unet"),
    Series("per-ray cross-entropy", "ray_ce", "ray_ce"),
    Series("soft-min DP", "soft_dp", "soft_dp"),
    Series("mean circle", "mean_circle", "unet"),
    Series("ceiling of the star", "ceiling", "unet"),
)
FIGURE_5_8 = (
    Series("EDPCNN, DiffBypass", "edpcnn", "edpcnn", "diff_bypass", LOW),
    Series("EDPCNN, ES", "edpcnn", "edpcnn", "evolution_strategy", LOW),
    Series("U-Net", "unet", "unet", change=LOW),
)
FIGURE_5_9 = (
    Series("EDPCNN, ES, low", "edpcnn", "edpcnn", "evolution_strategy", LOW),
    Series("EDPCNN, ES, full", "edpcnn", "edpcnn", "evolution_strategy", FULL),
    Series("EDPCNN, DiffBypass, full", "edpcnn", "edpcnn", "diff_bypass", FULL),
)


def points(options: ReproduceConfig, series: tuple[Series, ...]) -> list[Point]:
    """Return every series at every size."""
    return [
        Point(one.label, size, one.prediction, trainings(options, one, size), _published(one, size))
        for size in options.all_sizes()
        for one in series
    ]


def trainings(options: ReproduceConfig, one: Series, size: int) -> tuple[TrainCell, ...]:
    """Return the trainings of a series at a size, one for each seed."""
    return tuple(
        options.training(size, seed, one.method, one.estimator, one.change) for seed in options.all_seeds
    )


def _published(one: Series, size: int) -> float | None:
    plain = one.estimator == "diff_bypass" and not one.change
    return published.TABLE_5_1.get(one.prediction, {}).get(size) if plain else None


def _experiment(
    name: str, summary: str, series: tuple[Series, ...], title: str, aliases: tuple[str, ...] = ()
) -> Experiment:
    is_table = name == "table-5-1"
    axis = Axis("training slices", title, scale="log")
    thesis = {s.label: published.TABLE_5_1.get(s.prediction, {}) for s in series} if is_table else {}
    return scored(
        name,
        summary,
        lambda options: points(options, series),
        lambda options, entries: draw_lines(entries, axis, thesis),
        published=published.table_5_1() if is_table else published.CLAIMS[name],
        reference=series[0].label,
        aliases=aliases,
    )


EXPERIMENTS = (
    _experiment(
        "table-5-1",
        "Dice against training slices: EDPCNN, U-Net + DP, U-Net, and four baselines that the thesis lacks",
        TABLE_5_1,
        "Held-out Dice against the number of training slices",
        aliases=("figure-5-3",),
    ),
    _experiment(
        "figure-5-8",
        "the evolution strategy against DiffBypass on the low-dimensional U-Net, over training slices",
        FIGURE_5_8,
        "Low-dimensional U-Net: evolution strategy (ES) against DiffBypass",
    ),
    _experiment(
        "figure-5-9",
        "the evolution strategy on the low-dimensional and on the full U-Net, over training slices",
        FIGURE_5_9,
        "Evolution strategy (ES) on the low-dimensional and the full U-Net",
    ),
)
