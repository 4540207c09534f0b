"""NIfTI files: voxels and their size, from the header alone.

The affine may hold no spacing at all (ACDC), so the zooms are taken; a header that nibabel would repair is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from applications.lv_dp.data.slices import DataError
from applications.lv_dp.errors import UsageError

MAX_VOXELS = 2**25  # a volume of ACDC has below 2**22; a broken header may claim anything
REFUSED = 30  # nibabel's level of header faults such as a spacing of 0, which it would take for 1 mm


@dataclass(frozen=True)
class Volume:
    """Voxels (x, y, ...) and their size in mm along x, y and, where there is a third axis, z."""

    voxels: NDArray[Any]
    zooms: tuple[float, ...]


def read_nifti(path: Path) -> Volume:
    """Read a NIfTI file of at least two dimensions.

    Raises:
        DataError: no such file, unreadable, truncated, too large, or with values that are not finite; nibabel is
            not installed.
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
            image = nibabel.Nifti1Image.from_filename(path)
        shape, zooms = image.shape, tuple(float(value) for value in image.header.get_zooms())
        if len(shape) < 2 or not 0 < np.prod(shape, dtype=float) <= MAX_VOXELS:
            raise DataError(
                f"{path}: needs two dimensions or more and at most {MAX_VOXELS} voxels, got {shape}"
            )
        voxels = np.asarray(image.dataobj)
    except UsageError:
        raise
    except (
        Exception
    ) as error:  # a parser of foreign bytes raises anything, zlib.error and struct.error included
        raise DataError(f"{path}: is not a readable NIfTI file ({type(error).__name__})") from error
    if not np.isfinite(voxels).all():
        raise DataError(f"{path}: holds values that are not finite")
    return Volume(voxels, zooms)


@contextmanager
def _strict(imageglobals: ModuleType) -> Iterator[None]:
    """Let nibabel raise where it would repair a header, and log, with a value of its own."""
    was_disabled, imageglobals.logger.disabled = imageglobals.logger.disabled, True
    try:
        with imageglobals.ErrorLevel(REFUSED):
            yield
    finally:
        imageglobals.logger.disabled = was_disabled
