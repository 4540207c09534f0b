"""Figure 5.4: centres moved at test time, by up to half of the object radius."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from applications.lv_dp import train
from applications.lv_dp.data.preprocess import prepare
from applications.lv_dp.evaluate import mean_scores, predictions, score_images
from applications.lv_dp.experiments import published
from applications.lv_dp.experiments.cells import Cell, Result, Store, Watch
from applications.lv_dp.experiments.data import shared_data
from applications.lv_dp.experiments.figures.lines import Axis, draw_lines
from applications.lv_dp.experiments.options import ReproduceConfig
from applications.lv_dp.experiments.points import Point, scored
from applications.lv_dp.experiments.training import TrainCell
from applications.lv_dp.jitter import jitter_centers
from applications.lv_dp.runs import open_run

RADII = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)  # in object radii


@dataclass(frozen=True)
class JitterCell(Cell):
    """A trained model scored with every held-out centre moved at random.

    A centre moves by a truncated normal, as in training, scaled to ``radius`` object radii: the object radius is
    the distance from the centre to the nearest border, so that the centre stays inside.
    """

    trained: TrainCell
    radius: float

    @property
    def name(self) -> str:
        """The training's name and the radius."""
        return f"jitter{self.radius:g}-{self.trained.name}"

    def identity(self) -> dict[str, Any]:
        """Return the training's identity and the radius."""
        return {"trained": self.trained.full_identity, "radius": self.radius}

    def run(self, folder: Path, store: Store, watch: Watch) -> Result:
        """Score the trained model; the moves follow from the training's seed."""
        store.obtain(self.trained, watch)
        run, config = open_run(store.folder(self.trained)), self.trained.config
        _, held_out = train.split(shared_data(config.data), config)
        settings = run.model.settings
        batch = prepare(held_out.slices, settings.crop, at=settings.crop_at)
        generator = torch.Generator().manual_seed(config.seed)
        moved = jitter_centers(settings.star, batch.masks, batch.centers, generator)
        centers = batch.corners + batch.centers + self.radius * (moved - batch.centers)
        jittered = prepare(held_out.slices, settings.crop, list(centers), settings.crop_at)
        images = score_images(run.model, held_out, jittered, predictions(run))
        return {"held_out": mean_scores(images), "images": images}


def points(options: ReproduceConfig) -> list[Point]:
    """Return EDPCNN at every size and jitter radius."""
    radii = (RADII[0], RADII[-1]) if options.is_small else RADII
    return [
        Point(f"{size} training slices", radius, "edpcnn", _cells(options, size, radius))
        for size in options.all_sizes()
        for radius in radii
    ]


def _cells(options: ReproduceConfig, size: int, radius: float) -> tuple[JitterCell, ...]:
    return tuple(JitterCell(options.training(size, seed), radius) for seed in options.all_seeds)


AXIS = Axis(
    "jitter radius at test time (object radii)", "EDPCNN with every given centre moved at random", "linear"
)
EXPERIMENTS = (
    scored(
        "figure-5-4",
        "robustness: the given centre moved at test time by up to half of the object radius",
        points,
        lambda options, entries: draw_lines(entries, AXIS),
        published=published.CLAIMS["figure-5-4"],
    ),
)
