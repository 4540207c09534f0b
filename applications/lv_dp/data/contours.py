"""Hand-drawn contours: text files with ``x y`` in pixels per line, and the masks inside them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from applications.lv_dp.data.slices import DataError
from applications.lv_dp.files import read_number, read_text

MAX_POINTS = 10_000
Points = list[tuple[float, float]]


def read_contour(path: Path) -> Points:
    """Read the corners (x, y) of a closed contour, in pixels from the corner of the image.

    Raises:
        DataError: no such file, a line that is not two finite numbers, or fewer than three or more than 10 000 corners.
    """
    try:
        lines = read_text(path).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({type(error).__name__})") from error
    points = [_point(path, number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if len(points) < 3:
        raise DataError(f"{path}: a contour needs at least 3 lines 'x y', got {len(points)}")
    if len(points) > MAX_POINTS:
        raise DataError(f"{path}: a contour has at most {MAX_POINTS} corners, got {len(points)}")
    return points


def _point(path: Path, number: int, line: str) -> tuple[float, float]:
    try:
        x, y = map(read_number, line.split())
    except ValueError:
        raise DataError(f"{path}: line {number} must be two numbers 'x y', got {line[:40]!r}") from None
    return x, y


def fill(points: Points, size: tuple[int, int], path: Path) -> Tensor:
    """Return the mask (H, W) bool of a contour: its inside *and* the pixels that its outline touches.

    The masks that circulate for the Sunnybrook data were filled this way.  They are about 2 % larger than the
    polygon.  A pixel is met by the numbers that round down to it, so that its centre is
    at (x + 0.5, y + 0.5).

    Raises:
        DataError: a corner lies outside the image; ``path`` names the contour.

    Example:
        >>> fill([(1, 1), (3, 1), (3, 3), (1, 3)], (5, 5), Path("square.txt")).sum()
        tensor(9)
    """
    H, W = size
    if not all(0 <= x <= W and 0 <= y <= H for x, y in points):
        raise DataError(f"{path}: the contour leaves its image ({W} x {H} pixels)")
    canvas = Image.new("L", (W, H))
    ImageDraw.Draw(canvas).polygon(points, outline=1, fill=1)
    return torch.from_numpy(np.asarray(canvas).astype(np.bool_))
