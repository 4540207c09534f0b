"""The same preparation for every method: scale the intensities, cut a square around the given centre."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from applications.lv_dp.data.slices import DataError, Slice, centroid


@dataclass(frozen=True)
class Batch:
    """Crops ready for a network.

    Attributes:
        images: (B, size, size) float32, zero mean and unit deviation over the crop, outliers clipped.
        masks: (B, size, size) bool.
        centers: (B, 2), the given centre (x, y) in pixels of the crop.
        corners: (B, 2) int64, (x, y) in the original image of the crop's first pixel.
    """

    images: Tensor
    masks: Tensor
    centers: Tensor
    corners: Tensor

    def __len__(self) -> int:
        return self.images.shape[0]

    def to(self, device: torch.device) -> Batch:
        """Return the same on another device."""
        return Batch(*(part.to(device) for part in (self.images, self.masks, self.centers, self.corners)))

    def select(self, rows: Tensor) -> Batch:
        """Return the given rows."""
        return Batch(self.images[rows], self.masks[rows], self.centers[rows], self.corners[rows])


def prepare(
    slices: Sequence[Slice],
    size: int,
    centers: Sequence[Tensor] | None = None,
    at: Literal["center", "image"] = "center",
) -> Batch:
    """Cut and scale slices; ``centers`` (x, y) in pixels default to the masks' centres of mass.

    The square is cut around the given centre, or with ``at="image"`` around the middle of the image.

    Raises:
        DataError: a centre lies outside its image.
    """
    given = [centroid(item.mask) for item in slices] if centers is None else list(centers)
    crops = [_crop(item, center, size, at) for item, center in zip(slices, given, strict=True)]
    images, masks, local, corners = (torch.stack(parts) for parts in zip(*crops, strict=True))
    return Batch(images, masks, local, corners)


def _crop(item: Slice, center: Tensor, size: int, at: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    H, W = item.image.shape
    x, y = center.tolist()
    if not (-0.5 <= x <= W - 0.5 and -0.5 <= y <= H - 0.5):
        where = item.path or item.name
        raise DataError(f"{where}: the centre ({x:g}, {y:g}) lies outside the image ({W} x {H} pixels)")
    middle = center if at == "center" else torch.tensor([W / 2, H / 2])
    corner = middle.round().long() - size // 2  # (x, y)
    image = crop(item.image, corner, size, mode="replicate")
    mask = crop(item.mask.float(), corner, size, mode="constant") > 0.5
    return scale_intensities(image), mask, center - corner, corner


def crop(image: Tensor, corner: Tensor, size: int, mode: str) -> Tensor:
    """Return the square of ``size`` pixels from ``corner`` (x, y), padded by ``mode`` beyond the image."""
    H, W = image.shape
    left, top = (int(value) for value in corner)
    pad = (max(-left, 0), max(left + size - W, 0), max(-top, 0), max(top + size - H, 0))
    padded = F.pad(image[None, None], pad, mode=mode)[0, 0]
    return padded[top + pad[2] :, left + pad[0] :][:size, :size]


def scale_intensities(image: Tensor) -> Tensor:
    """Clip to the 1st and 99th percentile, then bring to zero mean and unit deviation."""
    low, high = torch.quantile(image, image.new_tensor([0.01, 0.99]))
    clipped = image.clamp(low, high)
    return (clipped - clipped.mean()) / clipped.std().clamp_min(1e-6)


def paste(crops: Tensor, corners: Tensor, sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
    """Put masks (B, size, size) back into empty images of the original sizes (H, W)."""
    return [crop_back(mask, corner, size) for mask, corner, size in zip(crops, corners, sizes, strict=True)]


def crop_back(mask: Tensor, corner: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the image (H, W) of which ``crop(image, corner, ...)`` is ``mask``, False elsewhere."""
    H, W = size
    left, top = (int(value) for value in corner)
    side = mask.shape[0]
    pad = (max(left, 0), max(W - left - side, 0), max(top, 0), max(H - top - side, 0))
    padded = F.pad(mask, pad, value=False)
    return padded[max(-top, 0) :, max(-left, 0) :][:H, :W]
