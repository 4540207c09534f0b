"""The pipeline: image -> U-Net output map -> star pattern -> dynamic program -> mask; training losses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ndgrad
from applications.lv_dp.config import MethodName, TrainConfig
from applications.lv_dp.data.preprocess import Batch
from applications.lv_dp.gradients import Gradient, build_gradient, contour
from applications.lv_dp.jitter import PLACEMENTS, draw_rotation
from applications.lv_dp.settings import Settings
from applications.lv_dp.soft_contour import log_marginals
from applications.lv_dp.star_pattern import directional_derivative, rasterise, true_radii, warp
from applications.lv_dp.unet import UNet


class Segmenter(nn.Module):
    """A U-Net, and for the contour method the dynamic program with its gradient estimator.

    The estimator's own network and generator belong to the module's state, so that a checkpoint holds them.
    """

    def __init__(self, settings: Settings, gradient: Gradient | None = None) -> None:
        super().__init__()
        self.settings = settings
        self.unet = UNet(
            settings.levels, settings.base_channels, settings.norm, settings.borders, settings.upsampling
        )
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

    def output_map(self, images: Tensor) -> Tensor:
        """Return the U-Net's output maps (B, H, W) of images (B, H, W), float32 whatever its layers compute in."""
        lower = self.settings.precision == "bfloat16"
        with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=lower):
            output: Tensor = self.unet(images)
        return output.float()

    def warped(self, images: Tensor, centers: Tensor, rotation: Tensor) -> Tensor:
        """Return the warped maps g (B, N, M+1) of images (B, H, W)."""
        settings = self.settings
        return warp(settings.star, self.output_map(images), centers, rotation, settings.interpolation)


def pixel_loss(model: Segmenter, batch: Batch, generator: torch.Generator) -> Tensor:
    """Binary cross-entropy of the output map against the mask, pixel by pixel."""
    return F.binary_cross_entropy_with_logits(model.output_map(batch.images), batch.masks.float())


def place_star(model: Segmenter, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return the warped maps (B, N, M+1) on stars placed at random, and the true indices (B, N) there."""
    star = model.settings.star
    centers = PLACEMENTS[model.settings.placement](star, batch.masks, batch.centers, generator)
    rotation = draw_rotation(len(batch), model.settings.rotation, generator)
    target = star.index(true_radii(star, batch.masks, centers, rotation))  # (B, N)
    return model.warped(batch.images, centers, rotation), target


def contour_loss(model: Segmenter, batch: Batch, generator: torch.Generator) -> Tensor:
    """Loss of the contour through the dynamic program."""
    assert model.gradient is not None
    warped, target = place_star(model, batch, generator)
    return model.gradient.loss(model.box, warped, target)


def ray_loss(model: Segmenter, batch: Batch, generator: torch.Generator) -> Tensor:
    """Cross-entropy of every ray by itself: the drops of the warped map are logits of its index."""
    warped, target = place_star(model, batch, generator)
    logits = -directional_derivative(warped).transpose(1, 2)  # (B, M, N)
    return F.cross_entropy(logits, target.round().long())


def soft_contour_loss(model: Segmenter, batch: Batch, generator: torch.Generator) -> Tensor:
    """Cross-entropy of the true indices under the smoothed dynamic program."""
    warped, target = place_star(model, batch, generator)
    unary = directional_derivative(warped)  # (B, N, M)
    log_p = log_marginals(unary, model.settings.delta, model.settings.temperature)
    return F.nll_loss(log_p.transpose(1, 2), target.round().long())


def pixel_masks(model: Segmenter, batch: Batch) -> Tensor:
    """Return masks (B, H, W) where the output map is positive."""
    return model.output_map(batch.images) > 0


def contour_masks(model: Segmenter, batch: Batch) -> Tensor:
    """Return masks (B, H, W) inside the best closed contour around the given centres."""
    rotation = batch.centers.new_zeros(len(batch))
    radii = model.settings.star.radius(
        contour(model.settings, model.warped(batch.images, batch.centers, rotation))
    )
    return rasterise(model.settings.star, radii, batch.centers, rotation, _size(batch))


def ceiling_masks(model: Segmenter, batch: Batch) -> Tensor:
    """Return masks (B, H, W) inside the star polygon through the true border: what no contour can exceed."""
    rotation = batch.centers.new_zeros(len(batch))
    star = model.settings.star
    radii = star.radius(star.index(true_radii(star, batch.masks, batch.centers, rotation)))
    return rasterise(star, radii, batch.centers, rotation, _size(batch))


def circle_masks(radius: float, model: Segmenter, batch: Batch) -> Tensor:
    """Return the same circle (B, H, W) around every given centre."""
    H, W = _size(batch)
    sides = (torch.arange(side, device=batch.images.device) for side in (H, W))
    y, x = torch.meshgrid(*sides, indexing="ij")
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
    "ray_ce": Method(ray_loss, {"ray_ce": contour_masks}),
    "soft_dp": Method(soft_contour_loss, {"soft_dp": contour_masks}),
    "edpcnn": Method(contour_loss, {"edpcnn": contour_masks}),
}


def build(config: TrainConfig, generator: torch.Generator) -> Segmenter:
    """Build the untrained model; weights come from the seed and leave the global generator as it was."""
    settings = config.settings
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        if config.method != "edpcnn":
            return Segmenter(settings)
        gradient = build_gradient(config.estimator, config.gradient_form, settings, generator)
        return Segmenter(settings, gradient)
