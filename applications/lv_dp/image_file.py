"""One image from a PNG, DICOM or NIfTI file, rows and columns as displayed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from applications.lv_dp.data.dicom import read_dicom
from applications.lv_dp.data.nifti import read_nifti
from applications.lv_dp.data.png import read_grey
from applications.lv_dp.data.slices import UNUSABLE, DataError, usable


@dataclass(frozen=True)
class Picture:
    """An image (H, W) float32; ``spacing`` in millimetres from row to row and column to column, if known."""

    image: Tensor
    spacing: tuple[float, float] | None = None


def read_picture(path: Path, index: int | None = None) -> Picture:
    """Read ``.png``, ``.dcm``, ``.nii`` or ``.nii.gz``; ``index`` picks the slice of a volume, from 0.

    Raises:
        DataError: no such file, another suffix, not readable as what the suffix says, no single grey image, an
            index that is missing, out of range or not asked for, or values that are not finite.
    """
    reader = next((READERS[suffix] for suffix in READERS if path.name.lower().endswith(suffix)), None)
    if reader is None:
        raise DataError(f"{path}: the name must end in one of {', '.join(READERS)}")
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    picture = reader(path, index)
    if not usable(picture.image):
        raise DataError(f"{path}: {UNUSABLE}")
    return picture


def _read_png(path: Path, index: int | None) -> Picture:
    _refuse_index(path, index)
    return Picture(read_grey(path))


def _read_dicom(path: Path, index: int | None) -> Picture:
    _refuse_index(path, index)
    found = read_dicom(path)
    return Picture(found.image, found.spacing)


def _read_nifti(path: Path, index: int | None) -> Picture:
    volume = read_nifti(path)
    x, y = volume.zooms[:2]
    plane = _plane(path, volume.voxels, index).T  # (x, y) -> (H, W)
    return Picture(torch.from_numpy(np.ascontiguousarray(plane, dtype=np.float32)), (y, x))


def _plane(path: Path, values: Any, index: int | None) -> Any:
    """Return the plane (x, y) that was asked for."""
    while values.ndim > 3 and values.shape[-1] == 1:
        values = values[..., 0]
    if values.ndim == 2:
        _refuse_index(path, index)
        return values
    if values.ndim != 3:
        raise DataError(
            f"{path}: must be one image or one volume, got {values.ndim} dimensions {values.shape}"
        )
    count = values.shape[2]
    if index is None or not 0 <= index < count:
        got = "none" if index is None else index
        raise DataError(f"{path}: holds {count} slices; type --slice 0 .. {count - 1}, got {got}")
    return values[:, :, index]


def _refuse_index(path: Path, index: int | None) -> None:
    if index is not None:
        raise DataError(f"{path}: holds one image; leave out --slice {index}")


READERS = {".png": _read_png, ".dcm": _read_dicom, ".nii": _read_nifti, ".nii.gz": _read_nifti}
