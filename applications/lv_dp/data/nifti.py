"""NIfTI files: voxels and their size, from the header alone.

The affine may hold no spacing at all (ACDC), so the zooms are taken; a header that nibabel would repair is refused.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from applications.lv_dp.data.slices import MAX_INTENSITY, SPACINGS, UNUSABLE, DataError, plausible
from applications.lv_dp.errors import UsageError
from applications.lv_dp.files import TooLargeError, read_bytes

MAX_VOXELS = 2**25  # a volume of ACDC has below 2**22; a broken header may claim anything
MAX_BYTES = 8 * MAX_VOXELS + 2**20
FIRST_VOXEL = 352  # the header ends there; nibabel would take its bytes for voxels
REFUSED = 30  # nibabel's level of header faults such as a spacing of 0, which it would take for 1 mm


@dataclass(frozen=True)
class Volume:
    """Voxels (x, y, ...) and their size in mm along x, y and, where there is a third axis, z."""

    voxels: NDArray[Any]
    zooms: tuple[float, ...]


def read_nifti(path: Path) -> Volume:
    """Read a NIfTI file of at least two dimensions.

    Raises:
        DataError: no such file, unreadable, truncated, too large, with voxels that are not real numbers or not
            finite, or of a size that no voxel has; nibabel is not installed.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        import nibabel
        from nibabel import imageglobals
    except ImportError as error:
        raise DataError(f"{path}: NIfTI needs nibabel; type: pip install 'ndgrad[lv]'") from error
    try:
        with _strict(imageglobals):
            image = nibabel.Nifti1Image.from_bytes(_content(path))
        shape, zooms = image.shape, tuple(float(value) for value in image.header.get_zooms())
        if len(shape) < 2 or not 0 < np.prod(shape, dtype=float) <= MAX_VOXELS:
            raise DataError(
                f"{path}: needs two dimensions or more and at most {MAX_VOXELS} voxels, got {shape}"
            )
        proxy: Any = image.dataobj
        if proxy.offset < FIRST_VOXEL:
            raise DataError(f"{path}: voxels must begin at byte {FIRST_VOXEL} or later, got {proxy.offset}")
        kind = image.get_data_dtype()
        if kind.kind not in "iuf" or kind.itemsize > 8:
            raise DataError(f"{path}: voxels must be real numbers of at most 64 bits, got {kind}")
        voxels = np.asarray(proxy)
    except UsageError:
        raise
    except (
        Exception
    ) as error:  # a parser of foreign bytes raises anything, zlib.error and struct.error included
        raise DataError(f"{path}: is not a readable NIfTI file ({type(error).__name__})") from error
    if not -MAX_INTENSITY <= voxels.min() <= voxels.max() <= MAX_INTENSITY:  # NaN fails as well
        raise DataError(f"{path}: {UNUSABLE}")
    if not all(map(plausible, zooms[:3])):
        raise DataError(f"{path}: a voxel must measure {SPACINGS[0]} .. {SPACINGS[1]:g} mm, got {zooms[:3]}")
    return Volume(voxels, zooms)


def _content(path: Path) -> bytes:
    """Return the file's bytes, unpacked to the end, where the checksum stands, but no further than an image goes."""
    data = read_bytes(path, MAX_BYTES)
    if not path.name.lower().endswith(".gz"):
        return data
    content = bytearray()
    with gzip.GzipFile(fileobj=BytesIO(data)) as file:
        while part := file.read(2**20):
            content += part
            if len(content) > MAX_BYTES:
                raise TooLargeError(f"{path}: unpacks to more than {MAX_BYTES} bytes")
    return bytes(content)


@contextmanager
def _strict(imageglobals: ModuleType) -> Iterator[None]:
    """Let nibabel raise where it would repair a header, and log, with a value of its own."""
    was_disabled, imageglobals.logger.disabled = imageglobals.logger.disabled, True
    try:
        with imageglobals.ErrorLevel(REFUSED):
            yield
    finally:
        imageglobals.logger.disabled = was_disabled
