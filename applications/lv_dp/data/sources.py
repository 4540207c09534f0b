"""``--data``: from a source's name to its slices."""

from __future__ import annotations

import csv
from pathlib import Path

import torch
from torch import Tensor

from applications.lv_dp.data.phantom import load_phantom
from applications.lv_dp.data.png import load_png
from applications.lv_dp.data.slices import DataError, SliceSet


def load(source: str) -> SliceSet:
    """Load ``phantom`` or ``png:DIR``.

    Raises:
        DataError: another word, or what the loader finds wrong.
    """
    kind, _, location = source.partition(":")
    if kind == "phantom" and not location:
        return load_phantom()
    if kind == "png" and location:
        return load_png(location)
    raise DataError(f"--data must be phantom or png:DIR, got {source!r}")


def load_centers(path: Path, data: SliceSet) -> list[Tensor]:
    """Read the centre (x, y) in pixels of every slice from a CSV with the columns name,x,y.

    Raises:
        DataError: no such file, missing columns, a value that is no number, or a slice without a row.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = {row["name"]: (float(row["x"]), float(row["y"])) for row in csv.DictReader(file)}
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({type(error).__name__})") from error
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: needs the columns name,x,y with numbers in x and y") from error
    missing = [item.name for item in data.slices if item.name not in rows]
    if missing:
        raise DataError(f"{path}: has no row for {missing[0]} ({len(missing)} slices without a centre)")
    return [torch.tensor(rows[item.name]) for item in data.slices]
