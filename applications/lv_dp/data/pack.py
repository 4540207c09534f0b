"""A whole data set in one small file, to carry it to another machine: ``packed:FILE`` reads it back.

Intensities are rounded to ``bits`` bits between the smallest and the largest of each slice, so the error is at
most half a step, 1 / (2 (2^bits - 1)) of that range.  The rounded image is stored as its mixed difference
along rows and columns, modulo 2^bits, which is small where the image is smooth and so compresses; masks,
labels, names and spacings are exact.
"""

from __future__ import annotations

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
    coded = [quantise(item.image, bits) for item in data.slices]
    extra = [{"low": low, "step": step} for _, low, step in coded]
    residuals = np.concatenate([_fold(difference(codes), bits).ravel() for codes, _, _ in coded])
    arrays = store.describe(data, extra, keep_paths=False) | {
        "version": np.array([VERSION, bits]),
        "low_byte": (residuals & 255).astype(np.uint8),
        "high_byte": (residuals >> 8).astype(np.uint8),
    }
    store.write(path, arrays, compress=True)
    return _report(path, data)


def _report(path: Path, data: SliceSet) -> PackReport:
    pairs = zip(data.slices, load_packed(path).slices, strict=True)
    errors = [(float((a.image - b.image).abs().max()), float(a.image.max() - a.image.min())) for a, b in pairs]
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
        version, bits = arrays["version"].tolist()
        if version != VERSION or not 1 <= bits <= 16:
            raise DataError(f"{path}: is of version {version}; this program reads {VERSION}: pack the data again")
        meta = store.read_meta(arrays)
        residuals = arrays["low_byte"].astype(np.int64) | arrays["high_byte"].astype(np.int64) << 8
        folded = store.split(residuals, store.sizes_of(meta))
        images = [_restore(part, record, bits) for part, record in zip(folded, meta["slices"], strict=True)]
        return store.assemble(meta | {"source": f"packed:{path}"}, arrays, images)
    except UsageError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path}: is no packed data set ({type(error).__name__})") from error


def _restore(folded: Tensor, record: dict[str, Any], bits: int) -> Tensor:
    codes = integrate(_unfold(folded.numpy()), bits)
    return torch.from_numpy((record["low"] + codes * record["step"]).astype(np.float32))


def quantise(image: Tensor, bits: int) -> tuple[Codes, float, float]:
    """Return codes (H, W) in 0 .. 2^bits - 1, and low and step: image = low + codes * step, rounded.

    Example:
        >>> codes, low, step = quantise(torch.tensor([[2.0, 2.4, 3.0, 5.0]]), bits=2)
        >>> codes.tolist(), low, step
        ([[0, 0, 1, 3]], 2.0, 1.0)
    """
    values = image.double().numpy()
    low, high = float(values.min()), float(values.max())
    step = (high - low) / (2**bits - 1)
    codes: Codes = np.rint((values - low) / step).astype(np.int64) if step else np.zeros(values.shape, np.int64)
    return codes, low, step


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
