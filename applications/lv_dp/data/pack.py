"""A whole data set in one small file, to carry it to another machine: ``packed:FILE`` reads it back.

Intensities are rounded to ``bits`` bits between the smallest and the largest of each slice, so the error is at
most half a step, 1 / (2 (2^bits - 1)) of that range.  The rounded image is stored as its mixed difference
along rows and columns, modulo 2^bits, which is small where the image is smooth and so compresses; masks,
labels, names and spacings are exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from applications.lv_dp.data import store
from applications.lv_dp.data.slices import DataError, SliceSet
from applications.lv_dp.errors import UsageError

BITS = 10
VERSION = 1
Codes = NDArray[np.int64]


@dataclass(frozen=True)
class PackReport:
    """Size of the file, and the largest error in intensities and as a fraction of its slice's range."""

    bytes: int
    worst_error: float
    worst_relative_error: float


def write_pack(path: Path, data: SliceSet, bits: int = BITS) -> PackReport:
    """Write the file, and read it back to measure the error.

    Raises:
        DataError: bits are not in 1 .. 16.
    """
    if not 1 <= bits <= 16:
        raise DataError(f"the bits of a packed intensity must be in 1 .. 16, got {bits}")
    scales = [scale(item.image, bits) for item in data.slices]
    pairs = zip(data.slices, scales, strict=True)
    residuals = np.concatenate([_encode(item.image, *values, bits).ravel() for item, values in pairs])
    extra = [{"low": low, "step": step} for low, step in scales]
    arrays = store.describe(data, extra, keep_paths=False) | {
        "version": np.array([VERSION, bits]),
        "low_byte": (residuals & 255).astype(np.uint8),
        "high_byte": (residuals >> 8).astype(np.uint8),
    }
    store.write(path, arrays, compress=True)
    return _report(path, data)


def _report(path: Path, data: SliceSet) -> PackReport:
    pairs = zip(data.slices, load_packed(path).slices, strict=True)
    errors = [
        (float((a.image - b.image).abs().max()), float(a.image.max() - a.image.min())) for a, b in pairs
    ]
    relative = max(error / span if span else 0.0 for error, span in errors)
    return PackReport(path.stat().st_size, max(error for error, _ in errors), relative)


def load_packed(path: str | Path) -> SliceSet:
    """Read a packed file.

    Raises:
        DataError: no such file, torn, altered, or not of this kind.
    """
    path = Path(path)
    arrays = store.read(path)
    try:
        version, bits = map(int, arrays["version"].tolist())
        if version != VERSION or not 1 <= bits <= 16:
            raise DataError(
                f"{path}: is of version {version}; this program reads {VERSION}: pack the data again"
            )
        meta = store.read_meta(arrays)
        if not arrays["low_byte"].dtype == arrays["high_byte"].dtype == np.uint8:
            raise ValueError("residuals must be bytes")
        residuals = arrays["low_byte"].astype(np.uint16) | arrays["high_byte"].astype(np.uint16) << 8
        folded = store.split(residuals, store.sizes_of(meta))
        images = [_decode(part, record, bits) for part, record in zip(folded, meta["slices"], strict=True)]
        return store.assemble(meta | {"source": f"packed:{path}"}, arrays, images)
    except UsageError:
        raise
    except Exception as error:  # whatever a foreign file's JSON and arrays lead to
        raise DataError(f"{path}: is no packed data set ({type(error).__name__})") from error


def scale(image: Tensor, bits: int) -> tuple[float, float]:
    """Return low and step, so that low + step * code spans the image's values with codes 0 .. 2^bits - 1.

    Example:
        >>> scale(torch.tensor([2.0, 2.4, 3.0, 5.0]), bits=2)
        (2.0, 1.0)
    """
    low, high = float(image.min()), float(image.max())
    return low, (high - low) / (2**bits - 1)


def _encode(image: Tensor, low: float, step: float, bits: int) -> NDArray[np.uint16]:
    values = image.double().numpy()
    codes = np.rint((values - low) / step) if step else np.zeros(values.shape)
    return _fold(difference(codes.astype(np.int64)), bits).astype(np.uint16)


def _decode(folded: Tensor, record: dict[str, Any], bits: int) -> Tensor:
    low, step = float(record["low"]), float(record["step"])
    if not (math.isfinite(low) and math.isfinite(step)):
        raise ValueError("low and step must be finite")
    codes = integrate(_unfold(folded.numpy().astype(np.int64)), bits)
    with np.errstate(over="ignore"):  # what leaves float32 is refused with the slice
        return torch.from_numpy((low + codes * step).astype(np.float32))


def difference(codes: Codes) -> Codes:
    """Return the mixed difference along rows and columns; the first row and column keep what they need."""
    return np.diff(np.diff(codes, axis=0, prepend=0), axis=1, prepend=0)


def integrate(residuals: Codes, bits: int) -> Codes:
    """Undo `difference`, up to multiples of 2^bits."""
    return np.cumsum(np.cumsum(residuals, axis=0), axis=1) % 2**bits


def _fold(residuals: Codes, bits: int) -> Codes:
    """Bring residuals into -2^(bits-1) .. and those to 0, -1, 1, -2, ... -> 0, 1, 2, 3, ..."""
    half = 2 ** (bits - 1)
    centred = (residuals + half) % (2 * half) - half
    return np.where(centred >= 0, 2 * centred, -2 * centred - 1)


def _unfold(folded: Codes) -> Codes:
    return np.where(folded % 2 == 0, folded // 2, -(folded + 1) // 2)
