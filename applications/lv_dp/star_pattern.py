"""The star pattern: rays around a centre on which maps are sampled and contours are drawn.

Coordinates are ``(x, y)`` in pixels, the centre of the first pixel at (0, 0); angles grow from x to y.
Ray n points at ``rotation + 2 pi n / N`` and holds M + 1 points at the radii ``r_0 + i step``, i = 0 .. M.
Contour index v in 0 .. M-1 stands for the drop between points v and v + 1, at ``r_0 + (v + 1/2) step``.
Source: N. M. Nguyen, University of Alberta 2019, sections 4.3 and 5.4; one point more per ray, so that
``h(n, i) = g(n, i) - g(n, i-1)`` has M values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Interpolation = Literal["bilinear", "nearest"]
FINE_STEP = 0.25  # pixels between the points at which a ray looks for the border of a mask


@dataclass(frozen=True)
class StarPattern:
    """Geometry of the star: N rays of M intervals.

    Args:
        num_rays: N >= 3.
        num_radii: M >= 1, the number of contour positions per ray.
        r_0: radius of the innermost point in pixels, >= 0.
        step: distance between neighbouring points of a ray in pixels, > 0.

    Raises:
        ValueError: a value is out of range.

    Example:
        >>> star = StarPattern(num_rays=32, num_radii=48, r_0=1.0, step=0.5)
        >>> star.reach, star.radius(torch.tensor([3]))
        (25.0, tensor([2.7500]))
    """

    num_rays: int
    num_radii: int
    r_0: float = 0.0
    step: float = 1.0

    def __post_init__(self) -> None:
        if self.num_rays < 3 or self.num_radii < 1:
            raise ValueError(
                f"a star needs num_rays >= 3 and num_radii >= 1, got {self.num_rays} and {self.num_radii}"
            )
        if self.r_0 < 0 or self.step <= 0:
            raise ValueError(f"a star needs r_0 >= 0 and step > 0 (pixels), got {self.r_0} and {self.step}")

    @property
    def reach(self) -> float:
        """Radius of the outermost point, in pixels."""
        return self.r_0 + self.num_radii * self.step

    def radius(self, index: Tensor) -> Tensor:
        """Radius in pixels at a (fractional) contour index."""
        return self.r_0 + (index + 0.5) * self.step

    def index(self, radius: Tensor) -> Tensor:
        """Fractional contour index at a radius in pixels, confined to 0 .. M-1."""
        return ((radius - self.r_0) / self.step - 0.5).clamp(0, self.num_radii - 1)

    def rays(self, rotation: Tensor) -> Tensor:
        """Return the unit vectors of the rays (B, N, 2) for rotations (B,) in radians."""
        fan = torch.arange(self.num_rays, dtype=rotation.dtype, device=rotation.device)
        angle = rotation[:, None] + fan * (2 * math.pi / self.num_rays)  # (B, N)
        return torch.stack([angle.cos(), angle.sin()], dim=-1)

    def points(self, centers: Tensor, rotation: Tensor) -> Tensor:
        """Points (B, N, M+1, 2) of the stars around ``centers`` (B, 2)."""
        radii = self.r_0 + self.step * torch.arange(
            self.num_radii + 1, dtype=centers.dtype, device=centers.device
        )
        return centers[:, None, None] + radii[:, None] * self.rays(rotation)[:, :, None]

    def polygon(self, radii: Tensor, centers: Tensor, rotation: Tensor) -> Tensor:
        """Vertices (B, N, 2) of the contours with the given radii (B, N) in pixels."""
        return centers[:, None] + radii[..., None] * self.rays(rotation)


def sample_at(
    maps: Tensor,
    points: Tensor,
    mode: Interpolation = "bilinear",
    padding: Literal["border", "zeros"] = "border",
) -> Tensor:
    """Values of maps (B, H, W) at points (B, N, R, 2) in pixels: (B, N, R), differentiable in the maps."""
    size = points.new_tensor([maps.shape[2], maps.shape[1]])  # W, H as points are (x, y)
    grid = (
        2 * points + 1
    ) / size - 1  # pixel centres of the first and last pixel lie half a pixel inside -1, 1
    values = F.grid_sample(maps[:, None], grid, mode=mode, padding_mode=padding, align_corners=False)
    return values[:, 0]


def warp(star: StarPattern, maps: Tensor, centers: Tensor, rotation: Tensor, mode: Interpolation) -> Tensor:
    """Sample maps (B, H, W) on the star: the warped map g (B, N, M+1).  Outside, the border value holds.

    Example:
        >>> flat = torch.full((1, 8, 8), 3.0)
        >>> warp(StarPattern(3, 2), flat, torch.tensor([[4.0, 4.0]]), torch.zeros(1), "bilinear")[0, 0]
        tensor([3., 3., 3.])
    """
    return sample_at(maps, star.points(centers, rotation), mode)


def directional_derivative(warped: Tensor) -> Tensor:
    """Unary cost ``h(n, i) = g(n, i) - g(n, i-1)``: (B, N, M+1) -> (B, N, M), least where g drops most."""
    return warped.diff(dim=2)


def moving_average(indices: Tensor, window: int) -> Tensor:
    """Circular moving average of indices (B, N) over an odd window of rays; floating-point result.

    Raises:
        ValueError: the window is even, below 1, or wider than N.

    Example:
        >>> moving_average(torch.tensor([[0, 3, 0, 9]]), 3)
        tensor([[4., 1., 4., 3.]])
    """
    N = indices.shape[1]
    if window % 2 == 0 or not 1 <= window <= N:
        raise ValueError(
            f"the smoothing window must be odd and in 1 .. {N} (the number of rays), got {window}"
        )
    values = indices if indices.is_floating_point() else indices.float()
    shifts = range(-(window // 2), window // 2 + 1)
    return torch.stack([values.roll(shift, dims=1) for shift in shifts]).mean(dim=0)


def true_radii(star: StarPattern, masks: Tensor, centers: Tensor, rotation: Tensor) -> Tensor:
    """Radius (B, N) in pixels at which each ray leaves the part of the mask that is seen from the centre.

    The border is the 1/2 level of the bilinear mask, found between points ``FINE_STEP`` apart, interpolated.
    What lies behind a gap is not star-shaped about the centre and does not count.  A ray that meets no mask
    has radius 0; one that is still inside at the star's reach has that radius.

    Args:
        star: the pattern.
        masks: (B, H, W), bool or 0/1.
        centers: (B, 2) in pixels.
        rotation: (B,) in radians.
    """
    radii = torch.arange(
        0, star.reach + FINE_STEP, FINE_STEP, dtype=centers.dtype, device=centers.device
    )  # (R,)
    points = centers[:, None, None] + radii[:, None] * star.rays(rotation)[:, :, None]  # (B, N, R, 2)
    cover = sample_at(masks.to(centers.dtype), points, padding="zeros")  # (B, N, R)
    inside = cover >= 0.5
    entered = inside.cummax(dim=2).values
    left = entered & ~inside
    leaving = torch.where(left.any(2), left.int().argmax(2), radii.numel() - 1)[..., None]  # (B, N, 1)
    after = cover.gather(2, leaving)[..., 0]
    before = cover.gather(2, (leaving - 1).clamp_min(0))[..., 0]
    fraction = ((before - 0.5) / (before - after).clamp_min(1e-6)).clamp(0, 1)
    border = (radii[leaving[..., 0]] - FINE_STEP + fraction * FINE_STEP).clamp(0, star.reach)
    border = torch.where(left.any(2), border, star.reach)
    return torch.where(entered[..., -1], border, 0.0)


def rasterise(
    star: StarPattern, radii: Tensor, centers: Tensor, rotation: Tensor, size: tuple[int, int]
) -> Tensor:
    """Masks (B, H, W) of the pixels whose centre lies in the star polygons with radii (B, N).

    Each pixel belongs to the sector between two rays and is inside if it lies on the centre's side of the
    edge that joins them; equal to filling the polygon, without a loop over samples or edges.
    """
    B, N = radii.shape
    y, x = torch.meshgrid(
        *(torch.arange(s, dtype=torch.float64, device=radii.device) for s in size), indexing="ij"
    )
    pixel = torch.stack([x, y], dim=-1).reshape(1, -1, 2) - centers.double()[:, None]  # (B, HW, 2)
    angle = torch.atan2(pixel[..., 1], pixel[..., 0]) - rotation.double()[:, None]  # (B, HW)
    sector = (angle * (N / (2 * math.pi))).floor().long() % N
    vertices = radii.double()[..., None] * star.rays(rotation.double())  # (B, N, 2)
    rows = torch.arange(B, device=radii.device)[:, None]
    start, end = vertices[rows, sector], vertices[rows, (sector + 1) % N]  # (B, HW, 2)
    edge, arm = end - start, pixel - start
    inside = edge[..., 0] * arm[..., 1] >= edge[..., 1] * arm[..., 0]
    return inside.reshape(B, *size)
