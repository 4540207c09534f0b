"""``--data``: from a source's name to its slices."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import torch
from torch import Tensor

from applications.lv_dp.data.acdc import load_acdc
from applications.lv_dp.data.pack import load_packed
from applications.lv_dp.data.phantom import load_phantom
from applications.lv_dp.data.png import load_png
from applications.lv_dp.data.slices import DataError, SliceSet
from applications.lv_dp.data.sunnybrook import load_sunnybrook
from applications.lv_dp.files import read_number, read_text

SOURCES = "phantom, png:DIR, png:DIR@MILLIMETRES, acdc:DIR, sunnybrook:DIR or packed:FILE"


def load(source: str) -> SliceSet:
    """Load ``phantom``, ``png:DIR``, ``png:DIR@MM``, ``acdc:DIR``, ``sunnybrook:DIR`` or ``packed:FILE``.

    Raises:
        DataError: another word, or what the loader finds wrong.
    """
    kind, location = parse(source)
    return load_phantom() if location is None else LOADERS[kind](location)


def parse(source: str) -> tuple[str, str | None]:
    """Return the kind of a source and its location, which the phantom does not have; ~ is the home folder.

    Shells expand it at the beginning of a word only.

    Example:
        >>> parse("acdc:data/training"), parse("phantom")
        (('acdc', 'data/training'), ('phantom', None))
    """
    kind, _, location = source.partition(":")
    if source == "phantom":
        return kind, None
    if kind in LOADERS and location:
        return kind, os.path.expanduser(location)
    raise DataError(f"--data must be {SOURCES}, got {source!r}")


def _load_png(location: str) -> SliceSet:
    folder, spacing = png_location(location)
    return load_png(folder, spacing)


def png_location(location: str) -> tuple[Path, tuple[float, float] | None]:
    """Part ``DIR@MM`` into the folder and the spacing of its pixels; a folder of that very name comes first.

    Raises:
        DataError: what follows the last @ is no number, and there is no such folder.

    Example:
        >>> png_location("slices@1.3672")[1]
        (1.3672, 1.3672)
    """
    folder, at, number = location.rpartition("@")
    if not at or Path(location).is_dir():
        return Path(location), None
    try:
        return Path(folder), (float(number), float(number))
    except ValueError as error:
        raise DataError(
            f"png:{location}: after @ stands the size of a pixel in mm, got {number!r}"
        ) from error


LOADERS: dict[str, Callable[[str], SliceSet]] = {
    "png": _load_png,
    "acdc": load_acdc,
    "sunnybrook": load_sunnybrook,
    "packed": load_packed,
}


def load_centers(path: Path, data: SliceSet) -> list[Tensor]:
    """Read the centre (x, y) in pixels of every slice from a CSV with the columns name,x,y.

    Raises:
        DataError: no such file, missing columns, a value that is no finite number, or a slice without a row or
            with two.
    """
    try:
        file = StringIO(read_text(path, encoding="utf-8-sig"), newline="")
        rows = [(row["name"], read_number(row["x"]), read_number(row["y"])) for row in csv.DictReader(file)]
    except (OSError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read ({type(error).__name__})") from error
    except (KeyError, TypeError, AttributeError, ValueError) as error:  # a short row has None there
        raise DataError(f"{path}: needs the columns name,x,y with numbers in x and y") from error
    points = {name: (x, y) for name, x, y in rows}
    if len(points) < len(rows):
        raise DataError(f"{path}: has two rows for one name")
    missing = [item.name for item in data.slices if item.name not in points]
    if missing:
        raise DataError(f"{path}: has no row for {missing[0]} ({len(missing)} slices without a centre)")
    return [torch.tensor(points[item.name]) for item in data.slices]
