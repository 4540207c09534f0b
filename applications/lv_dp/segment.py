"""Segment one image around a given centre, and show the result."""

from __future__ import annotations

import math
import os
import sys
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
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
from applications.lv_dp.data.slices import SPACINGS, plausible, same_spacing
from applications.lv_dp.errors import UsageError
from applications.lv_dp.image_file import Picture, read_picture
from applications.lv_dp.model import METHODS
from applications.lv_dp.overlay import grey, overlay
from applications.lv_dp.release import open_model
from applications.lv_dp.runs import Run

SUFFIXES = {"--out": "mask", "--overlay": "overlay"}  # of the names that are proposed


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
        spacing: size of the image's pixels in mm, for a file that does not tell, such as a PNG.
        threads: of torch.
    """

    image: tyro.conf.Positional[Path]
    run: Path
    out: Path
    center: Annotated[str | None, tyro.conf.arg(metavar="ROW,COL")] = None
    overlay: Path | None = None
    slice: int | None = None
    spacing: Annotated[float | None, tyro.conf.arg(metavar="MM")] = None
    threads: int = 1


@dataclass(frozen=True)
class Segmentation:
    """What came out.

    Attributes:
        mask: (H, W) bool.
        pixels: its area in pixels.
        area: in mm2, None where the image's spacing is unknown.
        assumed: the spacing in mm of the model's training data, where the image's is unknown and was taken to be that.
    """

    mask: Tensor
    pixels: int
    area: float | None
    assumed: float | None = None


def main(config: SegmentConfig) -> Segmentation:
    """Segment, write the PNG files, and return the mask with its area.

    Raises:
        UsageError: in one line, what about the image, the centre, the run or the file names cannot be used.
    """
    check_names(config)
    run = open_model(config.run)
    picture = with_spacing(read_picture(config.image, config.slice), config.spacing, config.image)
    center = parse_center(config.center) if config.center else click_center(picture.image)
    check_center(center, picture.image, config.image)
    mask = segment(run, picture, center)
    save_png(config.out, Image.fromarray(mask.to(torch.uint8).mul(255).numpy()))
    if config.overlay:
        save_png(config.overlay, overlay(picture.image, mask, center))
    pixels = int(mask.sum())
    if picture.spacing is None:
        return Segmentation(mask, pixels, None, run.spacing)
    return Segmentation(mask, pixels, pixels * math.prod(picture.spacing))


def check_names(config: SegmentConfig) -> None:
    """Refuse to write another thing than PNG files, or one file over another of the command.

    Raises:
        UsageError: naming the option to type anew.
    """
    for path in (config.out, config.overlay):
        if path is not None and path.suffix.lower() != ".png":
            raise UsageError(f"{path}: the name of an image to write must end in .png")
    files = {"the image": config.image, "--out": config.out, "--overlay": config.overlay}
    given = [(name, path) for name, path in files.items() if path is not None]
    for (first, one), (second, other) in combinations(given, 2):
        if same_file(one, other):
            raise UsageError(
                f"{other}: {second} would overwrite {first}; type another name, such as {second} "
                f"{other.with_stem(other.stem + '-' + SUFFIXES[second])}"
            )


def same_file(one: Path, other: Path) -> bool:
    """Whether two names are of one file, whether it exists yet or not."""
    return one.resolve() == other.resolve() or (one.exists() and other.exists() and one.samefile(other))


def with_spacing(picture: Picture, given: float | None, path: Path) -> Picture:
    """Return the picture with the size of its pixels in mm that was given for a file that does not tell.

    Raises:
        UsageError: no such size, or the file tells another.
    """
    if given is None:
        return picture
    if not plausible(given):
        low, high = SPACINGS
        raise UsageError(f"--spacing is the size of a pixel in mm, in {low:g} .. {high:g}; got {given:g}")
    if picture.spacing is None:
        return replace(picture, spacing=(given, given))
    if not all(same_spacing(step, given) for step in picture.spacing):
        told = " x ".join(f"{step:g}" for step in picture.spacing)
        raise UsageError(
            f"{path}: the file says that its pixels are {told} mm; leave out --spacing {given:g}"
        )
    return picture


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
