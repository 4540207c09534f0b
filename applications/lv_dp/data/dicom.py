"""DICOM files with one grey image."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from applications.lv_dp.data.slices import DataError
from applications.lv_dp.errors import UsageError

MAX_SIDE = 4096  # pixels; a broken header may claim anything


@dataclass(frozen=True)
class DicomImage:
    """An image (H, W) float32, larger values brighter; spacings in mm where the file says them.

    ``spacing`` is that of rows and of columns, ``slice_spacing`` that of slices.
    """

    image: Tensor
    spacing: tuple[float, float] | None
    slice_spacing: float | None


def read_dicom(path: Path) -> DicomImage:
    """Read one grey image, rescaled as its header says.

    Raises:
        DataError: unreadable, truncated, too large, or not a single grey image; pydicom is not installed.
    """
    try:
        import pydicom
    except ImportError as error:
        raise DataError(f"{path}: DICOM needs pydicom; type: pip install 'ndgrad[lv]'") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of files that break the standard, as by too many bytes
            data = pydicom.dcmread(path)
            if max(data.Rows, data.Columns) > MAX_SIDE:
                raise DataError(
                    f"{path}: at most {MAX_SIDE} rows and columns, got {data.Rows} and {data.Columns}"
                )
            values = np.asarray(data.pixel_array, dtype=np.float32)
            values = values * float(data.get("RescaleSlope", 1)) + float(data.get("RescaleIntercept", 0))
            spacing = tuple(float(value) for value in data.get("PixelSpacing") or ())
            between = data.get("SpacingBetweenSlices")
            slice_spacing = None if between is None else float(between)
            inverted = data.get("PhotometricInterpretation") == "MONOCHROME1"  # the least value is white
    except UsageError:
        raise
    except Exception as error:  # a parser of foreign bytes raises anything
        raise DataError(f"{path}: is not a readable DICOM image ({type(error).__name__})") from error
    if values.ndim != 2 or values.size == 0:
        raise DataError(f"{path}: needs one grey image (H, W), got {values.shape}")
    known = len(spacing) == 2 and all(0 < value < float("inf") for value in spacing)
    image = torch.from_numpy(values.max() - values if inverted else values)
    return DicomImage(image, (spacing[0], spacing[1]) if known else None, slice_spacing)
