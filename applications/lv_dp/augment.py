"""Random changes of training images: turned, flipped, scaled, shifted, and in intensity.

One affine map for image, mask and centre of each slice, so that the three still belong together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from applications.lv_dp.data.preprocess import Batch


@dataclass(frozen=True)
class Ranges:
    """How far each change may go; images have unit deviation.

    Attributes:
        rotation: angle uniform in +- this, radians.
        scale: factor log-uniform in 1/this .. this.
        shift: of the centre from where it was, uniform in +- this in x and y, pixels.
        contrast: factor log-uniform in 1/this .. this.
        brightness: added, uniform in +- this.
        gamma: exponent on the grey values between the slice's darkest and brightest, log-uniform in 1/this .. this.
        noise: deviation of the added normal noise, uniform in 0 .. this.
    """

    rotation: float = math.pi
    scale: float = 1.6  # makes small ventricles, the hard ones, out of large ones
    shift: float = 4.0
    contrast: float = 1.3
    brightness: float = 0.3
    gamma: float = 1.5
    noise: float = 0.15


def augment(batch: Batch, generator: torch.Generator, ranges: Ranges | None = None) -> Batch:
    """Return a batch of the same size, every slice changed on its own; what comes from outside is border.

    Corners keep their meaning for nobody: masks of an augmented batch are never put back into the image.
    """
    ranges = ranges or Ranges()
    B = len(batch)
    turn = _turns(B, ranges, generator)  # (B, 2, 2): offsets from the new centre to offsets from the old one
    shift = ranges.shift * (2 * torch.rand(B, 2, generator=generator, device=generator.device) - 1)
    centers = batch.centers + shift
    grid = _sampling_grid(batch, turn, centers)
    masks = _sample(batch.masks.float(), grid, "zeros") >= 0.5
    # a thin LV may vanish between pixels: then the slice stays as it was
    kept = masks.flatten(1).any(1)
    images = _intensities(_sample(batch.images, grid, "border"), ranges, generator)
    return Batch(
        torch.where(kept[:, None, None], images, batch.images),
        torch.where(kept[:, None, None], masks, batch.masks),
        torch.where(kept[:, None], centers, batch.centers),
        batch.corners,
    )


def _turns(B: int, ranges: Ranges, generator: torch.Generator) -> Tensor:
    angle = ranges.rotation * (2 * torch.rand(B, generator=generator, device=generator.device) - 1)
    zoom = _log_uniform(ranges.scale, B, generator)
    flip = torch.randint(2, (B,), generator=generator, device=generator.device) * 2.0 - 1
    rows = [
        torch.stack([angle.cos() * flip, -angle.sin()], 1),
        torch.stack([angle.sin() * flip, angle.cos()], 1),
    ]
    return torch.stack(rows, dim=1) / zoom[:, None, None]


def _sampling_grid(batch: Batch, turn: Tensor, centers: Tensor) -> Tensor:
    """Where in the old image each new pixel comes from, (B, H, W, 2) in grid_sample's coordinates."""
    H, W = batch.images.shape[1:]
    sides = (torch.arange(side, device=centers.device) for side in (H, W))
    y, x = torch.meshgrid(*sides, indexing="ij")
    offset = torch.stack([x, y], dim=-1) - centers[:, None, None]  # (B, H, W, 2)
    source = torch.einsum("bij,bhwj->bhwi", turn, offset) + batch.centers[:, None, None]
    return (2 * source + 1) / source.new_tensor([W, H]) - 1


def _sample(images: Tensor, grid: Tensor, padding: str) -> Tensor:
    return F.grid_sample(images[:, None], grid, mode="bilinear", padding_mode=padding, align_corners=False)[
        :, 0
    ]


def _intensities(images: Tensor, ranges: Ranges, generator: torch.Generator) -> Tensor:
    B = images.shape[0]
    low, high = images.amin((1, 2), keepdim=True), images.amax((1, 2), keepdim=True)
    unit = (images - low) / (high - low).clamp_min(1e-6)
    bent = low + (high - low) * unit ** _log_uniform(ranges.gamma, B, generator)[:, None, None]
    brightness = ranges.brightness * (
        2 * torch.rand(B, 1, 1, generator=generator, device=generator.device) - 1
    )
    noise = ranges.noise * torch.rand(B, 1, 1, generator=generator, device=generator.device)
    changed = bent * _log_uniform(ranges.contrast, B, generator)[:, None, None] + brightness
    return changed + noise * torch.randn(images.shape, generator=generator, device=generator.device)


def _log_uniform(limit: float, B: int, generator: torch.Generator) -> Tensor:
    return torch.exp(math.log(limit) * (2 * torch.rand(B, generator=generator, device=generator.device) - 1))
