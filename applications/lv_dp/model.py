"""The pipeline: image -> U-Net output map -> star pattern -> dynamic program -> mask; training losses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ndgrad
from applications.lv_dp.config import MethodName, Settings, TrainConfig
from applications.lv_dp.data.preprocess import Batch
from applications.lv_dp.gradients import Gradient, build_gradient, contour
from applications.lv_dp.jitter import draw_rotation, jitter_centers
from applications.lv_dp.star_pattern import rasterise, true_radii, warp
from applications.lv_dp.unet import UNet


class Segmenter(nn.Module):
    """A U-Net, and for the contour method the dynamic program with its gradient estimator.

    The estimator's own network and generator belong to the module's state, so that a checkpoint holds them.
    """

    def __init__(self, settings: Settings, gradient: Gradient | None = None) -> None:
        super().__init__()
        self.settings = settings
        self.unet = UNet(settings.levels, settings.base_channels, settings.norm)
        self.gradient = gradient
        if gradient is not None:
            self.box = gradient.box

    @property
    def num_evaluations(self) -> int:
        """Rows handed to the dynamic program while training."""
        return self.gradient.box.num_evaluations if self.gradient else 0

    @property
    def gradient_error(self) -> float | None:
        """Relative error of the bypass network's differences on the last call's probes; None without one."""
        estimator = self.gradient.box.estimator if self.gradient else None
        if not isinstance(estimator, ndgrad.DiffBypass) or estimator.quality is None:
            return None
        return estimator.quality.gradient_error

    def warped(self, images: Tensor, centers: Tensor, rotation: Tensor) -> Tensor:
        """Return the warped maps g (B, N, M+1) of images (B, H, W)."""
        settings = self.settings
        return warp(settings.star, self.unet(images), centers, rotation, settings.interpolation)


def pixel_loss(model: Segmenter, batch: Batch, generator: torch.Generator) -> Tensor:
    """Binary cross-entropy of the output map against the mask, pixel by pixel."""
    return F.binary_cross_entropy_with_logits(model.unet(batch.images), batch.masks.float())


def contour_loss(model: Segmenter, batch: Batch, generator: torch.Generator) -> Tensor:
    """Loss of the contour through the dynamic program, the star placed at random."""
    assert model.gradient is not None
    star = model.settings.star
    centers = jitter_centers(star, batch.masks, batch.centers, generator)
    rotation = draw_rotation(len(batch), model.settings.rotation, generator)
    target = star.index(true_radii(star, batch.masks, centers, rotation))  # (B, N)
    warped = model.warped(batch.images, centers, rotation)  # (B, N, M+1)
    return model.gradient.loss(model.box, warped, target)


def pixel_masks(model: Segmenter, batch: Batch) -> Tensor:
    """Return masks (B, H, W) where the output map is positive."""
    positive: Tensor = model.unet(batch.images) > 0
    return positive


def contour_masks(model: Segmenter, batch: Batch) -> Tensor:
    """Return masks (B, H, W) inside the best closed contour around the given centres."""
    rotation = torch.zeros(len(batch))
    radii = model.settings.star.radius(
        contour(model.settings, model.warped(batch.images, batch.centers, rotation))
    )
    return rasterise(model.settings.star, radii, batch.centers, rotation, _size(batch))


def circle_masks(radius: float, model: Segmenter, batch: Batch) -> Tensor:
    """Return the same circle (B, H, W) around every given centre."""
    H, W = _size(batch)
    y, x = torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij")
    offset = torch.stack([x, y], dim=-1) - batch.centers[:, None, None]  # (B, H, W, 2)
    inside: Tensor = offset.norm(dim=-1) <= radius
    return inside


def _size(batch: Batch) -> tuple[int, int]:
    return batch.images.shape[1], batch.images.shape[2]


def mean_radius(masks: Tensor) -> float:
    """Return the mean over masks (B, H, W) of the radius of the circle of equal area."""
    return float((masks.sum(dim=(1, 2)) / torch.pi).sqrt().mean())


Loss = Callable[[Segmenter, Batch, torch.Generator], Tensor]
Predict = Callable[[Segmenter, Batch], Tensor]


@dataclass(frozen=True)
class Method:
    """One way to train, and the ways to read the trained model; the first is the method's own."""

    loss: Loss
    predictions: dict[str, Predict]


METHODS: dict[MethodName, Method] = {
    "unet": Method(pixel_loss, {"unet": pixel_masks, "unet_dp": contour_masks}),
    "edpcnn": Method(contour_loss, {"edpcnn": contour_masks}),
}


def build(config: TrainConfig, generator: torch.Generator) -> Segmenter:
    """Build the untrained model; weights come from the seed and leave the global generator as it was."""
    settings = config.settings
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        if config.method == "unet":
            return Segmenter(settings)
        gradient = build_gradient(config.estimator, config.gradient_form, settings, generator)
        return Segmenter(settings, gradient)
