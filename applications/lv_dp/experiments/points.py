"""Experiments whose numbers are held-out scores of trained models: points of a curve or a grid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from applications.lv_dp.experiments.cells import Cell
from applications.lv_dp.experiments.experiment import Experiment, Results
from applications.lv_dp.experiments.options import ReproduceConfig
from applications.lv_dp.experiments.summaries import Entry, paired, patient_means

SCORE = "dice_square"  # Dice inside the star's square (thesis, section 5.3)
COMPARED = (SCORE, "dice_whole")


@dataclass(frozen=True)
class Point:
    """One place of a table: a way to predict, and the cells, one for each seed, whose held-out scores count."""

    row: str
    column: int | float | str
    prediction: str
    cells: tuple[Cell, ...]
    published: float | None = None


Points = Callable[[ReproduceConfig], list[Point]]


def scored(
    name: str,
    summary: str,
    points: Points,
    draw: Callable[[ReproduceConfig, list[Entry]], Figure],
    published: dict[str, Any] | str | None = None,
    reference: str | None = None,
    aliases: tuple[str, ...] = (),
) -> Experiment:
    """Return the experiment that measures points; ``reference`` is the row that all others are compared with."""

    def figure(results: Results) -> Figure:
        return draw(results.options, entries(results, points))

    def more(results: Results) -> dict[str, Any]:
        scores = {"scores": all_scores(results, points)}
        return scores | ({"paired": comparisons(results, points, reference)} if reference else {})

    return Experiment(
        name,
        summary,
        cells=lambda options: by_seed(points(options)),
        entries=lambda results: entries(results, points),
        figure=figure,
        published=published,
        more=more,
        aliases=aliases,
    )


def by_seed(points: list[Point]) -> list[Cell]:
    """Return the cells of all points, those of the first seed first."""
    seeds = max((len(point.cells) for point in points), default=0)
    return [point.cells[i] for i in range(seeds) for point in points if i < len(point.cells)]


def entries(results: Results, points: Points) -> list[Entry]:
    """Return the Dice of every point over its seeds."""
    return [
        Entry(point.row, point.column, values(results, point, SCORE), len(point.cells), point.published)
        for point in points(results.options)
    ]


def values(results: Results, point: Point, score: str) -> tuple[float, ...]:
    """Return one score of a point for each seed that was measured, where it is defined."""
    measured = (results.of(cell) for cell in point.cells)
    scores = (found["held_out"][point.prediction][score] for found in measured if found)
    return tuple(score for score in scores if score is not None)


def all_scores(results: Results, points: Points) -> list[dict[str, Any]]:
    """Return every score of every point, mean and deviation over the seeds."""
    return [
        {"row": point.row, "column": point.column, "score": score}
        | _moments(Entry(point.row, point.column, values(results, point, score), len(point.cells)))
        for point in points(results.options)
        for score in _score_names(results, point)
    ]


def _score_names(results: Results, point: Point) -> list[str]:
    found = next(filter(None, map(results.of, point.cells)), None)
    return list(found["held_out"][point.prediction]) if found else []


def _moments(entry: Entry) -> dict[str, Any]:
    return {"mean": entry.mean, "deviation": entry.deviation, "seeds": len(entry.values)}


def comparisons(results: Results, points: Points, reference: str) -> list[dict[str, Any]]:
    """Compare the reference with every other row of its column, over patients, on the seeds both have."""
    everything = points(results.options)
    base = {point.column: point for point in everything if point.row == reference}
    pairs = [(base[point.column], point) for point in everything if point.row != reference]
    return [
        {"reference": reference, "row": point.row, "column": point.column, "score": score}
        | compare(results, mine, point, score)
        for score in COMPARED
        for mine, point in pairs
        if any(_both(results, mine, point))
    ]


def compare(results: Results, a: Point, b: Point, score: str) -> dict[str, Any]:
    """Test a score of two points, patient by patient."""
    both = _both(results, a, b)
    means = (
        patient_means([pair[i]["images"] for pair in both], point.prediction, score)
        for i, point in enumerate((a, b))
    )
    return {"seeds": len(both)} | paired(*means)


def _both(results: Results, a: Point, b: Point) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    pairs = ((results.of(x), results.of(y)) for x, y in zip(a.cells, b.cells, strict=True))
    return [(x, y) for x, y in pairs if x and y]
