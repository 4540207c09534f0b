"""Random placement of the star in training (thesis, section 5.4; the later publication draws uniformly)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from applications.lv_dp.star_pattern import StarPattern, true_radii

Place = Callable[[StarPattern, Tensor, Tensor, torch.Generator], Tensor]

CANDIDATES = 32  # draws per slice; all of them fail with probability 0.61^32


def jitter_centers(star: StarPattern, masks: Tensor, centers: Tensor, generator: torch.Generator) -> Tensor:
    """Move centres (B, 2) by a normal truncated at the object radius, kept inside the mask.

    The object radius is the distance from the centre to the nearest border, and the deviation of the normal.
    """
    B, H, W = masks.shape
    radius = true_radii(star, masks, centers, centers.new_zeros(B)).amin(dim=1)  # (B,)
    draws = torch.randn(B, CANDIDATES, 2, generator=generator, device=generator.device)
    points = centers[:, None] + radius[:, None, None] * draws  # (B, C, 2)
    x, y = points.round().long().unbind(-1)
    rows = torch.arange(B, device=masks.device)
    inside = masks[rows[:, None], y.clamp(0, H - 1), x.clamp(0, W - 1)]
    valid = inside & (draws.norm(dim=-1) <= 1) & (radius > 0)[:, None]
    first = valid.int().argmax(dim=1)
    chosen = points[rows, first]
    return torch.where(valid.any(dim=1, keepdim=True), chosen, centers)


def uniform_centers(star: StarPattern, masks: Tensor, centers: Tensor, generator: torch.Generator) -> Tensor:
    """Draw centres (B, 2) uniformly from the pixels of masks (B, H, W), each somewhere within its pixel."""
    B, H, W = masks.shape
    weights = masks.reshape(B, H * W).float()
    weights += ~masks.reshape(B, -1).any(1, keepdim=True)  # an empty mask has no say; its centre stays
    pixel = torch.multinomial(weights, 1, generator=generator)[:, 0]  # (B,)
    within = torch.rand(B, 2, generator=generator, device=generator.device) - 0.5
    points = torch.stack([pixel % W, pixel // W], dim=1) + within
    return torch.where(masks.reshape(B, -1).any(1, keepdim=True), points, centers)


def fixed_centers(star: StarPattern, masks: Tensor, centers: Tensor, generator: torch.Generator) -> Tensor:
    """Keep the given centres."""
    return centers


PLACEMENTS: dict[str, Place] = {
    "normal": jitter_centers,
    "uniform": uniform_centers,
    "fixed": fixed_centers,
}


def draw_rotation(B: int, limit: float, generator: torch.Generator) -> Tensor:
    """Return angles (B,) uniform in -limit .. limit."""
    return (2 * torch.rand(B, generator=generator, device=generator.device) - 1) * limit
