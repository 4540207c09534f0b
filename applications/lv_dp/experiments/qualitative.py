"""Pictures of EDPCNN on held-out slices: figures 4.3 (with 4.4), 5.1, 5.6 and 5.7."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from matplotlib.figure import Figure

from applications.lv_dp.experiments import published
from applications.lv_dp.experiments.experiment import Experiment, Results
from applications.lv_dp.experiments.figures import pictures
from applications.lv_dp.experiments.figures.style import panels, say_empty
from applications.lv_dp.experiments.options import ReproduceConfig
from applications.lv_dp.experiments.points import SCORE
from applications.lv_dp.experiments.summaries import Entry
from applications.lv_dp.experiments.training import TrainCell
from applications.lv_dp.experiments.views import View, held_out_slices, look, views
from applications.lv_dp.runs import open_run

SHARES = (0.05, 0.35, 0.65, 0.95)  # of the held-out slices that have a smaller ventricle
Choose = Callable[[Results, TrainCell], list[str]]
Draw = Callable[[Results, TrainCell, list[View]], Figure]


def training(options: ReproduceConfig) -> TrainCell:
    """Return EDPCNN on the largest training set, with the first seed."""
    return options.training(options.all_sizes()[-1], options.first_seed)


def images(results: Results, cell: TrainCell) -> list[dict[str, Any]]:
    """Return the held-out slices' scores, worst first."""
    found = results.of(cell)
    return sorted(found["images"], key=_dice) if found else []


def _dice(image: dict[str, Any]) -> float:
    return float(image["edpcnn"][SCORE])


def typical(results: Results, cell: TrainCell) -> list[str]:
    """Choose the slice of the median Dice."""
    ordered = images(results, cell)
    return [ordered[len(ordered) // 2]["name"]]


def worst(results: Results, cell: TrainCell) -> list[str]:
    """Choose the slice of the least Dice."""
    return [images(results, cell)[0]["name"]]


def small_to_large(results: Results, cell: TrainCell) -> list[str]:
    """Choose by the size of the ventricle alone, not by how well it is found."""
    ordered = held_out_slices(results, cell)
    return [ordered[round(share * (len(ordered) - 1))].name for share in SHARES]


def roughest(results: Results, cell: TrainCell) -> list[str]:
    """Choose the slice whose indices the moving average changes most."""
    seen = look(open_run(results.store.folder(cell)), held_out_slices(results, cell))
    return [max(seen, key=lambda view: float((view.raw - view.smoothed).abs().mean())).name]


def _stages(results: Results, cell: TrainCell, seen: list[View]) -> Figure:
    return pictures.draw_stages(seen[0], f"From image to contour: {seen[0].name}\n{_trained(cell)}")


def _smoothing(results: Results, cell: TrainCell, seen: list[View]) -> Figure:
    window = cell.config.settings.smoothing
    title = (
        f"Indices before and after the moving average over {window} rays: {seen[0].name}\n{_trained(cell)}"
    )
    return pictures.draw_smoothing(seen[0], title)


def _sizes(results: Results, cell: TrainCell, seen: list[View]) -> Figure:
    return pictures.draw_rows(seen, f"Held-out slices, from a small to a large ventricle\n{_trained(cell)}")


def _failure(results: Results, cell: TrainCell, seen: list[View]) -> Figure:
    dice = {image["name"]: _dice(image) for image in images(results, cell)}
    areas = [(float(item.mask.sum()), dice[item.name]) for item in held_out_slices(results, cell)]
    return pictures.draw_failure(seen[0], areas, f"The worst held-out slice\n{_trained(cell)}")


def _trained(cell: TrainCell) -> str:
    """Say how the model was trained."""
    return f"EDPCNN, {cell.config.num_train} training slices, {cell.config.settings.iterations} iterations"


def _experiment(
    name: str, summary: str, choose: Choose, draw: Draw, aliases: tuple[str, ...] = ()
) -> Experiment:
    def entries(results: Results) -> list[Entry]:
        cell = training(results.options)
        dice = {image["name"]: _dice(image) for image in images(results, cell)}
        if not dice:
            return [Entry("EDPCNN", "Dice", ())]
        return [Entry(name, "Dice", (dice[name],)) for name in choose(results, cell)]

    def figure(results: Results) -> Figure:
        cell = training(results.options)
        if results.of(cell) is None:
            empty, (axis,) = panels(1, 1, (4, 3), summary)
            say_empty(axis)
            return empty
        return draw(results, cell, views(results, cell, choose(results, cell)))

    return Experiment(
        name,
        summary,
        lambda options: [training(options)],
        entries,
        figure,
        published.CLAIMS.get(name),
        aliases=aliases,
    )


EXPERIMENTS = (
    _experiment(
        "figure-4-3",
        "the stages of the pipeline on the held-out slice of median Dice",
        typical,
        _stages,
        ("figure-4-4",),
    ),
    _experiment(
        "figure-5-1",
        "the indices before and after smoothing, on the held-out slice that it changes most",
        roughest,
        _smoothing,
    ),
    _experiment(
        "figure-5-6",
        "truth, prediction and output map from small to large ventricles",
        small_to_large,
        _sizes,
    ),
    _experiment(
        "figure-5-7",
        "the worst held-out slice, and Dice against the size of the ventricle",
        worst,
        _failure,
    ),
)
