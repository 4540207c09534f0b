"""One image from a PNG, DICOM or NIfTI file, rows and columns as displayed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from applications.lv_dp.data.png import read_grey
from applications.lv_dp.data.slices import DataError


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
    if not bool(picture.image.isfinite().all()):
        raise DataError(f"{path}: holds values that are not finite")
    return picture


def _read_png(path: Path, index: int | None) -> Picture:
    _refuse_index(path, index)
    return Picture(read_grey(path))


def _read_dicom(path: Path, index: int | None) -> Picture:
    _refuse_index(path, index)
    try:
        import pydicom  # an optional dependency
    except ImportError as error:
        raise DataError(f"{path}: DICOM needs pydicom; type: pip install pydicom") from error
    try:
        file = pydicom.dcmread(path)
        values = file.pixel_array.astype(np.float32)
        values = values * float(file.get("RescaleSlope", 1)) + float(file.get("RescaleIntercept", 0))
        spacing = tuple(float(value) for value in file.get("PixelSpacing") or ())
    except Exception as error:  # pydicom and its decoders raise whatever a damaged file leads them to
        raise DataError(f"{path}: is not a readable DICOM image ({type(error).__name__})") from error
    if file.get("PhotometricInterpretation") == "MONOCHROME1":  # the least value is white
        values = values.max() - values
    return _picture(path, values, spacing)


def _read_nifti(path: Path, index: int | None) -> Picture:
    try:
        import nibabel  # an optional dependency
    except ImportError as error:
        raise DataError(f"{path}: NIfTI needs nibabel; type: pip install nibabel") from error
    try:
        file: Any = nibabel.load(path)
        values = np.asarray(file.dataobj, dtype=np.float32)  # (x, y) or (x, y, z)
        x, y = (float(value) for value in file.header.get_zooms()[:2])  # some affines are without spacing
    except Exception as error:  # nibabel and gzip raise whatever a damaged file leads them to
        raise DataError(f"{path}: is not a readable NIfTI image ({type(error).__name__})") from error
    return _picture(path, _plane(path, values, index).T, (y, x))


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


def _picture(path: Path, values: Any, spacing: tuple[float, ...]) -> Picture:
    if values.ndim != 2 or values.size == 0:
        raise DataError(f"{path}: must be one grey image (rows, columns), got shape {values.shape}")
    known = len(spacing) == 2 and all(0 < value < float("inf") for value in spacing)
    image = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
    return Picture(image, (spacing[0], spacing[1]) if known else None)


READERS = {".png": _read_png, ".dcm": _read_dicom, ".nii": _read_nifti, ".nii.gz": _read_nifti}
