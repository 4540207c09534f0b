"""Two black boxes with parameters of their own, and inputs for them: a thresholding chain and a dynamic program."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

Array = NDArray[np.float32]

_NEIGHBOURS = np.zeros((3, 3, 3), dtype=int)  # within an image, not across the batch
_NEIGHBOURS[1] = [[0, 1, 0], [1, 1, 1], [0, 1, 0]]


def large_bright_regions(image: Array, threshold: Array, area: Array) -> Array:
    """Mask (R, H, W) of the connected regions above ``threshold`` (R,) of at least ``area`` (R,) hundred pixels."""
    bright = image > threshold[:, None, None]
    labels, count = ndimage.label(bright, _NEIGHBOURS)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)  # of each region; 0 is the background
    return (bright & (sizes[labels] >= 100 * area[:, None, None])).astype(np.float32)


def smooth_path(cost: Array, smoothness: Array) -> NDArray[np.int64]:
    """Return the rows (R, W) of the path through ``cost`` (R, H, W) that minimises cost plus climb.

    ``sum_w cost[i_w, w] + smoothness sum_w |i_w - i_(w-1)|``, solved column by column (Viterbi).
    """
    R, H, W = cost.shape
    i, r = np.arange(H), np.arange(R)
    climb = smoothness[:, None, None] * np.abs(i[:, None] - i)  # (R, H to, H from)
    total, origins = cost[:, :, 0], []
    for w in range(1, W):
        ways = total[:, None, :] + climb  # (R, H to, H from)
        origins.append(ways.argmin(2))
        total = np.take_along_axis(ways, origins[-1][..., None], 2)[..., 0] + cost[:, :, w]
    path = [total.argmin(1)]
    for origin in reversed(origins):
        path.append(origin[r, path[-1]])
    return np.stack(path[::-1], axis=1)


def blobs(count: int, generator: torch.Generator, size: int = 24) -> Tensor:
    """Noisy images (count, H, W) of five bright blobs each, some of them small or dim."""
    y = torch.arange(float(size)).view(1, -1, 1)
    image = torch.zeros(count, size, size)
    for _ in range(5):
        center = size * torch.rand(count, 2, 1, 1, generator=generator)
        radius = 1 + 3 * torch.rand(count, 1, 1, generator=generator)
        height = 0.4 + 0.6 * torch.rand(count, 1, 1, generator=generator)
        squared = (y - center[:, 0]) ** 2 + (y.mT - center[:, 1]) ** 2  # (count, H, W)
        image = image.maximum(height * torch.exp(-((squared / (2 * radius**2)) ** 2)))
    return image + 0.1 * torch.randn(count, size, size, generator=generator)


def valleys(count: int, generator: torch.Generator, size: int = 16) -> Tensor:
    """Noisy costs (count, H, W) with a valley that wanders from column to column."""
    walk = torch.randn(count, 1, size, generator=generator).cumsum(2)
    start = size / 2 + 2 * torch.randn(count, 1, 1, generator=generator)
    row = torch.arange(float(size)).view(1, -1, 1)
    valley = -torch.exp(-((row - (start + walk).clamp(1, size - 2)) ** 2) / 2)  # (count, H, W)
    return valley + 0.6 * torch.randn(count, size, size, generator=generator)
