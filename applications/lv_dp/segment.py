"""Segment one image around a given centre, and show the result."""

from __future__ import annotations

import math
import os
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import tyro
from PIL import Image
from torch import Tensor

from applications.lv_dp import checkpoint
from applications.lv_dp.data import Slice
from applications.lv_dp.data.preprocess import paste, prepare
from applications.lv_dp.data.resample import (
    Grid,
    covering,
    mask_from_grid,
    point_on_grid,
    resample_slice,
)
from applications.lv_dp.data.slices import same_spacing
from applications.lv_dp.errors import UsageError
from applications.lv_dp.image_file import Picture, read_picture
from applications.lv_dp.model import METHODS
from applications.lv_dp.overlay import grey, overlay
from applications.lv_dp.release import open_model
from applications.lv_dp.runs import Run


@dataclass(frozen=True)
class SegmentConfig:
    """Segment the left ventricle in one image.

    It is resampled to the size of the pixels that the model was trained on, where both are known, and the mask brought
    back; else its pixels should be about as large as those.

    Attributes:
        image: .png, .dcm, .nii or .nii.gz.
        run: run folder, or folder of released weights.
        out: PNG for the mask, 0 and 255, of the image's size.
        center: row and column in pixels inside the ventricle, from 0 at the top left: ROW,COL. Without it, on a
            terminal with a display, the image opens and waits for a click.
        overlay: PNG for the image with the contour drawn on it.
        slice: which slice of a volume, from 0.
        threads: of torch.
    """

    image: tyro.conf.Positional[Path]
    run: Path
    out: Path
    center: Annotated[str | None, tyro.conf.arg(metavar="ROW,COL")] = None
    overlay: Path | None = None
    slice: int | None = None
    threads: int = 1


@dataclass(frozen=True)
class Segmentation:
    """What came out: the mask (H, W) bool, its area in pixels, and in mm2 where the spacing is known."""

    mask: Tensor
    pixels: int
    area: float | None


def main(config: SegmentConfig) -> Segmentation:
    """Segment, write the PNG files, and return the mask with its area.

    Raises:
        UsageError: in one line, what about the image, the centre, the run or the file names cannot be used.
    """
    for path in (config.out, config.overlay):
        if path is not None and path.suffix.lower() != ".png":
            raise UsageError(f"{path}: the name of an image to write must end in .png")
    run = open_model(config.run)
    picture = read_picture(config.image, config.slice)
    center = parse_center(config.center) if config.center else click_center(picture.image)
    check_center(center, picture.image, config.image)
    mask = segment(run, picture, center)
    save_png(config.out, Image.fromarray(mask.to(torch.uint8).mul(255).numpy()))
    if config.overlay:
        save_png(config.overlay, overlay(picture.image, mask, center))
    pixels = int(mask.sum())
    return Segmentation(mask, pixels, pixels * math.prod(picture.spacing) if picture.spacing else None)


def parse_center(text: str) -> tuple[float, float]:
    """Read ``ROW,COL``.

    Raises:
        UsageError: not two finite numbers.

    Example:
        >>> parse_center("120,131.5")
        (120.0, 131.5)
    """
    try:
        row, column = (float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--center must be ROW,COL in pixels, such as 120,131; got {text!r}") from None
    if not (math.isfinite(row) and math.isfinite(column)):
        raise UsageError(f"--center must be ROW,COL in pixels, such as 120,131; got {text!r}")
    return row, column


def check_center(center: tuple[float, float], image: Tensor, path: Path) -> None:
    """Refuse a centre outside the image.

    Raises:
        UsageError: with the range of rows and columns.
    """
    H, W = image.shape
    row, column = center
    if not (-0.5 <= row <= H - 0.5 and -0.5 <= column <= W - 0.5):
        raise UsageError(
            f"{path}: the centre, row {row:g} and column {column:g}, lies outside the image; "
            f"type --center ROW,COL with ROW in 0 .. {H - 1} and COL in 0 .. {W - 1}"
        )


def segment(run: Run, picture: Picture, center: tuple[float, float]) -> Tensor:
    """Return the mask (H, W) that the run's own method draws around ``center`` (row, column)."""
    unknown = torch.zeros(picture.image.shape, dtype=torch.bool)
    item = Slice("image", "", picture.image, unknown, spacing=picture.spacing)
    point = torch.tensor([center[1], center[0]])  # (x, y)
    grid = training_grid(run, picture)
    if grid is None or picture.spacing is None:
        return _draw(run, item, point)
    H, W = picture.image.shape
    point = point_on_grid(point, (H, W), picture.spacing, grid)
    return mask_from_grid(_draw(run, resample_slice(item, grid), point), grid, (H, W), picture.spacing)


def training_grid(run: Run, picture: Picture) -> Grid | None:
    """Return pixels like the training data's that hold the picture; None where it has such, or a size is unknown."""
    if picture.spacing is None or run.spacing is None:
        return None
    if all(same_spacing(step, run.spacing) for step in picture.spacing):
        return None
    return covering(run.spacing, [(picture.spacing, picture.image.shape)])


def _draw(run: Run, item: Slice, point: Tensor) -> Tensor:
    settings = run.model.settings
    batch = prepare([item], settings.crop, [point], settings.crop_at)
    predict = next(iter(METHODS[run.config["method"]].predictions.values()))
    H, W = item.image.shape
    with torch.no_grad():
        return paste(predict(run.model, batch), batch.corners, [(H, W)])[0]


def save_png(path: Path, picture: Image.Image) -> None:
    """Write a PNG as a whole."""
    checkpoint.replace(path, partial(picture.save, format="PNG"))


def has_display() -> bool:
    """Return whether a person sits at a terminal that can open windows."""
    windows = sys.platform in ("win32", "darwin") or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))
    return windows and sys.stdin.isatty()


def click_center(image: Tensor) -> tuple[float, float]:
    """Show an image (H, W) and return the (row, column) that the person clicks on.

    Raises:
        UsageError: there is no display, or the window was closed without a click.
    """
    if not has_display():
        raise UsageError("without a display to click on, segment needs the centre: type --center ROW,COL")
    import matplotlib.pyplot as plt  # takes a second

    figure, axes = plt.subplots()
    axes.imshow(grey(image), cmap="gray")
    axes.set_title("click on the middle of the left ventricle")
    points = plt.ginput(1, timeout=0)
    plt.close(figure)
    if not points:
        raise UsageError("the window was closed without a click; click, or type --center ROW,COL")
    column, row = points[0]
    return float(row), float(column)
