"""A picture to look at: the image with the contour of a mask and the centre that was given."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw
from skimage.measure import find_contours
from torch import Tensor

CONTOUR, CENTER = (255, 196, 0), (0, 220, 255)
LEAST_SIDE = 512  # pixels; small images are enlarged by a whole number


def overlay(image: Tensor, mask: Tensor, center: tuple[float, float]) -> Image.Image:
    """Draw the border of a mask (H, W) and a cross at ``center`` (row, column) on an image (H, W)."""
    H, W = image.shape
    factor = max(1, -(-LEAST_SIDE // min(H, W)))
    picture = Image.fromarray(grey(image)).resize((W * factor, H * factor), Image.Resampling.BICUBIC)
    picture = picture.convert("RGB")
    draw = ImageDraw.Draw(picture)
    for line in find_contours(
        np.pad(mask.numpy().astype(float), 1), 0.5
    ):  # padded: closed at the image's edge
        draw.line([_point(row - 1, column - 1, factor) for row, column in line], CONTOUR, 2)
    x, y = _point(*center, factor)
    draw.line([(x - 6, y), (x + 6, y)], CENTER, 2)
    draw.line([(x, y - 6), (x, y + 6)], CENTER, 2)
    return picture


def _point(row: float, column: float, factor: int) -> tuple[float, float]:
    """Return (x, y) in the enlarged picture of a point whose first pixel's centre is (0, 0)."""
    return (column + 0.5) * factor - 0.5, (row + 0.5) * factor - 0.5


def grey(image: Tensor) -> np.ndarray:
    """Return an image as 8-bit grey values, from its 1st percentile (black) to its 99th (white)."""
    low, high = np.percentile(image.numpy(), (1, 99))
    scaled = (image - float(low)) / max(float(high - low), 1e-6)
    return (scaled.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
