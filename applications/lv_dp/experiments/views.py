"""Everything that a trained contour model makes of one slice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from applications.lv_dp import train
from applications.lv_dp.data import Slice
from applications.lv_dp.data.preprocess import prepare
from applications.lv_dp.dynamic_programming import solve
from applications.lv_dp.experiments.experiment import Results
from applications.lv_dp.experiments.training import TrainCell
from applications.lv_dp.metrics import dice
from applications.lv_dp.runs import Run, open_run
from applications.lv_dp.star_pattern import StarPattern, directional_derivative, moving_average, rasterise


@dataclass(frozen=True)
class View:
    """One slice on its way through the pipeline; coordinates in pixels of the crop.

    Attributes:
        name: of the slice.
        image: (H, W), scaled.
        truth: mask (H, W).
        center: (2,), as given.
        output: output map (H, W), logits.
        warped: warped map (N, M+1).
        raw: indices (N,) of the dynamic program.
        smoothed: the same after the moving average.
        star: the pattern.
    """

    name: str
    image: Tensor
    truth: Tensor
    center: Tensor
    output: Tensor
    warped: Tensor
    raw: Tensor
    smoothed: Tensor
    star: StarPattern

    def polygon(self, indices: Tensor) -> Tensor:
        """Return the closed contour (N + 1, 2) through the first vertex again."""
        radii = self.star.radius(indices.float())[None]
        vertices = self.star.polygon(radii, self.center[None], torch.zeros(1))[0]
        return torch.cat([vertices, vertices[:1]])

    def mask(self, indices: Tensor) -> Tensor:
        """Return the mask (H, W) inside a contour."""
        radii, size = self.star.radius(indices.float())[None], (self.image.shape[0], self.image.shape[1])
        return rasterise(self.star, radii, self.center[None], torch.zeros(1), size)[0]

    @property
    def dice(self) -> float:
        """Dice of the smoothed contour on the crop."""
        return dice(self.mask(self.smoothed), self.truth)

    @property
    def rays(self) -> Tensor:
        """Points (N, M+1, 2) of the star."""
        return self.star.points(self.center[None], torch.zeros(1))[0]


def look(run: Run, slices: Sequence[Slice]) -> list[View]:
    """Send slices through a trained model, each with its centre of mass as the centre."""
    settings = run.model.settings
    batch = prepare(slices, settings.crop, at=settings.crop_at)
    with torch.no_grad():
        maps = run.model.unet(batch.images)  # (B, H, W)
        warped = run.model.warped(
            batch.images, batch.centers, batch.centers.new_zeros(len(batch))
        )  # (B, N, M+1)
    raw = solve(directional_derivative(warped), settings.delta)  # (B, N)
    smoothed = moving_average(raw, settings.smoothing)
    return [
        View(
            item.name,
            batch.images[i],
            batch.masks[i],
            batch.centers[i],
            maps[i],
            warped[i],
            raw[i],
            smoothed[i],
            settings.star,
        )
        for i, item in enumerate(slices)
    ]


def held_out_slices(results: Results, cell: TrainCell) -> list[Slice]:
    """Return the slices that a training held out, smallest ventricle first."""
    _, held_out = train.split(results.options.slices, cell.config)
    return sorted(held_out.slices, key=lambda item: (int(item.mask.sum()), item.name))


def views(results: Results, cell: TrainCell, names: Sequence[str]) -> list[View]:
    """Show named held-out slices to a trained model."""
    by_name = {item.name: item for item in held_out_slices(results, cell)}
    return look(open_run(results.store.folder(cell)), [by_name[name] for name in names])
