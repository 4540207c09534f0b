"""DICOM files with one grey image."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from applications.lv_dp.data.slices import MAX_SIDE, UNUSABLE, DataError, plausible, usable
from applications.lv_dp.errors import UsageError
from applications.lv_dp.files import read_bytes

MAX_BYTES = 2**28
DEFLATED = b"1.2.840.10008.1.2.1.99"  # the transfer syntax of a file that may unpack to any size


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
        DataError: unreadable, truncated, too large, deflated, not a single grey image, or with values that are not
            finite; pydicom is not installed.
    """
    try:
        import pydicom
    except ImportError as error:
        raise DataError(f"{path}: DICOM needs pydicom; type: pip install 'ndgrad[lv]'") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of files that break the standard, as by too many bytes
            content = read_bytes(path, MAX_BYTES)
            if DEFLATED in content:
                raise DataError(f"{path}: is deflated, which is not read; type: dcmconv +te IN OUT")
            data = pydicom.dcmread(BytesIO(content))
            _check_size(path, data)
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
    image = torch.from_numpy(values)
    if not usable(image):
        raise DataError(f"{path}: {UNUSABLE}")
    known = len(spacing) == 2 and all(map(plausible, spacing))
    image = image.max() - image if inverted else image
    return DicomImage(image, (spacing[0], spacing[1]) if known else None, slice_spacing)


def _check_size(path: Path, data: Any) -> None:
    """Look at what the header claims before anything is made of that size."""
    if max(data.Rows, data.Columns) > MAX_SIDE:
        raise DataError(f"{path}: at most {MAX_SIDE} rows and columns, got {data.Rows} and {data.Columns}")
    frames, colours = int(data.get("NumberOfFrames") or 1), int(data.get("SamplesPerPixel") or 1)
    if (frames, colours) != (1, 1):
        raise DataError(f"{path}: needs one grey image, got {frames} of {colours} colours")
