"""Preprocessing of the thesis, section 5.1: one spacing and one size for all slices.

The pixels of the result are sampled directly from the source: the centres of both images coincide, and
neighbouring pixels lie ``spacing`` apart, exactly.  Bilinear interpolation; beyond the source an image goes on
with its smallest value, which is 0 in most files.  Crop and pad follow from the size.  The unpadded U-Net's
pad (212 to 396) comes later, in front of the network.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from applications.lv_dp.data.slices import LV, MAX_SIDE, DataError, Slice, SliceSet


@dataclass(frozen=True)
class Grid:
    """The common pixels.

    Attributes:
        spacing: of rows and columns, in mm.
        size: rows and columns.
    """

    spacing: float = 1.36719
    size: int = 212


def covering(spacing: float, images: Iterable[tuple[tuple[float, float], Sequence[int]]]) -> Grid:
    """Return pixels ``spacing`` mm apart, at least 212 x 212 of them, that hold all images of given spacing and shape.

    An even number, as the thesis' 212: the pixels lie where those of the plain grid lie.

    Raises:
        DataError: it would have more than 4096 rows.

    Example:
        >>> covering(1.0, [((2.0, 2.0), (128, 100)), ((1.0, 1.5), (301, 200))])
        Grid(spacing=1.0, size=302)
    """
    side = max(step * count for steps, shape in images for step, count in zip(steps, shape, strict=True))
    pixels = math.ceil(side / spacing)
    if pixels > MAX_SIDE:
        raise DataError(
            f"an image is {side:g} mm long: with the model's pixels of {spacing:g} mm it would have {pixels} of them "
            f"from end to end, at most {MAX_SIDE} are drawn"
        )
    return Grid(spacing, max(Grid().size, pixels + pixels % 2))


def holds(grid: Grid, item: Slice) -> bool:
    """Whether the whole LV of a slice of known spacing lies on the grid, with a pixel to spare."""
    assert item.spacing is not None
    H, W = item.mask.shape
    steps = torch.tensor(item.spacing)
    furthest = (item.mask.nonzero() - torch.tensor([H - 1, W - 1]) / 2).abs() * steps  # (pixels, 2) mm
    return bool(furthest.max() <= (grid.size / 2 - 1) * grid.spacing)


def resample(data: SliceSet, grid: Grid | None = None) -> SliceSet:
    """Bring every slice to the grid; what loses its LV on the way is dropped and counted.

    Raises:
        DataError: a slice's spacing is unknown, or none keeps an LV.
    """
    grid = grid or Grid()
    slices = [resample_slice(item, grid) for item in data.slices]
    reason = f"no left ventricle on {grid.size} x {grid.size} pixels of {grid.spacing:g} mm"
    return SliceSet.keep_with_ventricle(slices, data.source, data.dropped_slices, reason)


def resample_slice(item: Slice, grid: Grid) -> Slice:
    """Bring one slice to the grid; a mask is True where the interpolated one is at least 1/2.

    Raises:
        DataError: the spacing is unknown.
    """
    if item.spacing is None:
        raise DataError(
            f"{item.path or item.name}: resampling needs the pixel spacing; declare it, for example png:DIR@1.3672"
        )
    if (item.spacing, *item.image.shape) == ((grid.spacing, grid.spacing), grid.size, grid.size):
        return item
    low = item.image.min()
    layers = [item.image - low, item.mask.float(), *_one_hot(item.labels)]
    image, mask, *labels = sample(torch.stack(layers), item.spacing, grid)
    inside = mask >= 0.5
    return dataclasses.replace(
        item,
        image=image + low,
        mask=inside,
        labels=_likeliest(torch.stack(labels), inside) if labels else None,
        spacing=(grid.spacing, grid.spacing),
    )


def _one_hot(labels: Tensor | None) -> list[Tensor]:
    """Return the soft masks of everything but the LV, which has its own."""
    return [] if labels is None else [(labels == value).float() for value in range(LV)]


def _likeliest(soft: Tensor, inside: Tensor) -> Tensor:
    """Return the label (H, W) uint8 with the most weight in soft (3, H, W); the LV is where its mask is."""
    return torch.where(inside, LV, soft.argmax(dim=0)).to(torch.uint8)


def sample(images: Tensor, spacing: tuple[float, float], grid: Grid) -> Tensor:
    """Interpolate images (C, H, W) with the given spacing at the grid's pixels: (C, size, size), 0 beyond them.

    Example:
        >>> sample(torch.tensor([[[0.0, 4.0, 8.0, 12.0]]]).expand(1, 4, 4), (1.0, 1.0), Grid(2.0, 2))[0]
        tensor([[ 2., 10.],
                [ 2., 10.]])
    """
    return _regrid(images, spacing, (grid.size, grid.size), (grid.spacing, grid.spacing))


def mask_from_grid(mask: Tensor, grid: Grid, shape: tuple[int, int], spacing: tuple[float, float]) -> Tensor:
    """Bring a mask (size, size) on the grid back to the image (H, W) that was resampled to it."""
    return _regrid(mask[None].float(), (grid.spacing, grid.spacing), shape, spacing)[0] >= 0.5


def point_on_grid(point: Tensor, shape: tuple[int, int], spacing: tuple[float, float], grid: Grid) -> Tensor:
    """Return where a point (x, y) in pixels of an image (H, W) lies in pixels of the grid.

    Example:
        >>> point_on_grid(torch.tensor([0.0, 1.0]), (2, 4), (1.0, 0.5), Grid(0.5, 10))
        tensor([3.0000, 5.5000])
    """
    sides, steps = point.new_tensor([shape[1], shape[0]]), point.new_tensor([spacing[1], spacing[0]])
    return (point - (sides - 1) / 2) * steps / grid.spacing + (grid.size - 1) / 2


def _regrid(
    images: Tensor, spacing: tuple[float, float], shape: tuple[int, int], new_spacing: tuple[float, float]
) -> Tensor:
    """Interpolate images (C, H, W) at the pixels of a concentric image of another shape and spacing."""
    H, W = images.shape[-2:]
    y, x = (
        2 * (torch.arange(count) - (count - 1) / 2) * step / (old_step * old_count)
        for count, step, old_step, old_count in zip(shape, new_spacing, spacing, (H, W), strict=True)
    )
    points = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)  # (H', W', 2), +-1 = outer edges
    return F.grid_sample(images[None], points[None], padding_mode="zeros", align_corners=False)[0]
