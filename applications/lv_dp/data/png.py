"""Folders ``images/NAME.png`` and ``masks/NAME.png``; masks are 0 / non-zero, of the LV cavity."""

from __future__ import annotations

import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from applications.lv_dp.data.slices import MAX_SIDE, DataError, Slice, SliceSet
from applications.lv_dp.errors import UsageError
from applications.lv_dp.files import read_bytes

MAX_BYTES = 2**28


def load_png(folder: str | Path, spacing: tuple[float, float] | None = None) -> SliceSet:
    """Load every image with its mask; the patient is NAME before ``-IM-``, else NAME.

    ``spacing`` (of rows, of columns) in mm holds for all images: the files do not tell.

    Images are read as grey values (8 or 16 bit) into float32; a mask pixel counts from half its brightest
    value on, so that 0/1 and 0/255 files both work.

    Raises:
        DataError: the folder, ``images`` or ``masks`` is missing, there are no images, a mask has no image or
            an image no mask, a file is not a picture, or the sizes of a pair differ.
    """
    root = Path(folder)
    for directory in (root, root / "images", root / "masks"):
        if not directory.is_dir():
            raise DataError(f"{directory}: no such folder (need DIR/images/NAME.png and DIR/masks/NAME.png)")
    images, masks = _pictures(root / "images"), _pictures(root / "masks")
    if not images and not masks:
        raise DataError(f"{root / 'images'}: holds no .png file")
    for name in sorted(images.keys() ^ masks.keys()):
        missing, present = ("mask", images[name]) if name in images else ("image", masks[name])
        raise DataError(f"{present}: has no {missing} of the same name")
    slices = [_load_pair(images[name], masks[name], spacing) for name in images]
    if len(slices) > 1 and not any("-IM-" in name for name in images):
        warnings.warn(
            f"{root}: no name holds -IM-, so each of the {len(slices)} images counts as a patient of its own, and "
            "images of one patient may be trained on and held out; name them PATIENT-IM-NUMBER.png",
            stacklevel=2,
        )
    return SliceSet.keep_with_ventricle(slices, f"png:{root}")


def _pictures(folder: Path) -> dict[str, Path]:
    """Return the PNG files of a folder by their names without the suffix."""
    found: dict[str, Path] = {}
    for path in sorted(path for path in folder.iterdir() if path.suffix.lower() == ".png"):
        if path.stem in found:
            raise DataError(f"{path}: has the name of {found[path.stem].name}")
        found[path.stem] = path
    return found


def _load_pair(image: Path, mask: Path, spacing: tuple[float, float] | None) -> Slice:
    values = read_grey(mask)
    inside = values * 2 >= values.max() if bool(values.any()) else values > 0
    patient = image.stem.split("-IM-")[0]
    if not patient:
        raise DataError(f"{image}: names no patient; before -IM- stands whose image it is")
    return Slice(image.stem, patient, read_grey(image), inside, image, spacing)


def read_grey(path: Path) -> Tensor:
    """Read a picture's grey values (H, W) as float32.

    No other format is looked for: some are programs that Pillow would hand to an interpreter (PostScript).

    Raises:
        DataError: the file is not a PNG, or has more than 4096 rows or columns.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large pictures, and of palettes with transparency
            with Image.open(BytesIO(read_bytes(path, MAX_BYTES)), formats=("PNG",)) as picture:
                if max(picture.size) > MAX_SIDE:
                    raise DataError(f"{path}: at most {MAX_SIDE} rows and columns, got {picture.size[::-1]}")
                grey = picture if picture.mode.startswith("I") else picture.convert("L")
                return torch.from_numpy(np.asarray(grey, dtype=np.float32).copy())
    except UsageError:
        raise
    except Exception as error:  # a parser of foreign bytes raises anything
        raise DataError(f"{path}: is not a readable picture ({type(error).__name__})") from error
