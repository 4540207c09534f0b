"""Figure 5.5: Dice on training and held-out slices while training, smallest and largest training set."""

from __future__ import annotations

from matplotlib.figure import Figure

from applications.lv_dp.config import MethodName
from applications.lv_dp.experiments import published
from applications.lv_dp.experiments.cells import Cell
from applications.lv_dp.experiments.experiment import Experiment, Results
from applications.lv_dp.experiments.figures.curves import Curve, draw_curves
from applications.lv_dp.experiments.options import ReproduceConfig
from applications.lv_dp.experiments.summaries import Entry
from applications.lv_dp.experiments.training import TrainCell

METHODS: dict[MethodName, str] = {"edpcnn": "EDPCNN", "unet": "U-Net"}
BOTH = {"train_dice": "training", "held_out_dice": "held-out"}


def ends(options: ReproduceConfig) -> list[int]:
    """Return the smallest and the largest number of training slices."""
    sizes = options.all_sizes()
    return [sizes[0], sizes[-1]] if len(sizes) > 1 else sizes


def trainings(options: ReproduceConfig, method: MethodName, size: int) -> list[TrainCell]:
    """Return the trainings of a method at a size, one for each seed."""
    return [options.training(size, seed, method) for seed in options.all_seeds]


def cells(options: ReproduceConfig) -> list[Cell]:
    """Return the trainings, those of the first seed first."""
    every = [trainings(options, method, size) for size in ends(options) for method in METHODS]
    return [cell for of_seed in zip(*every, strict=True) for cell in of_seed]


def entries(results: Results) -> list[Entry]:
    """Return the last point of every curve."""
    return [
        Entry(f"{METHODS[method]}, {size} slices", BOTH[which], _last(results, method, size, which), planned)
        for planned in [len(results.options.all_seeds)]
        for size in ends(results.options)
        for method in METHODS
        for which in BOTH
    ]


def _last(results: Results, method: MethodName, size: int, which: str) -> tuple[float, ...]:
    found = (results.of(cell) for cell in trainings(results.options, method, size))
    return tuple(result["curve"][-1][which] for result in found if result)


def figure(results: Results) -> Figure:
    """Draw one panel for each size, one line for each seed."""
    curves = {f"{size} training slices": _curves(results, size) for size in ends(results.options)}
    return draw_curves(curves, list(METHODS.values()), list(BOTH.values()))


def _curves(results: Results, size: int) -> list[Curve]:
    return [
        Curve(METHODS[method], BOTH[which], *_points(result["curve"], which))
        for method in METHODS
        for cell in trainings(results.options, method, size)
        if (result := results.of(cell))
        for which in BOTH
    ]


def _points(curve: list[dict[str, float]], which: str) -> tuple[list[float], list[float]]:
    return [point["iteration"] for point in curve], [point[which] for point in curve]


EXPERIMENTS = (
    Experiment(
        "figure-5-5",
        "Dice on training and held-out slices while training, smallest and largest training set",
        cells,
        entries,
        figure,
        published.CLAIMS["figure-5-5"],
    ),
)
