"""Folders ``images/NAME.png`` and ``masks/NAME.png``; masks hold two values, the brighter one in the LV cavity.

A mask may have grey values at its edge, as drawing programs leave them: a pixel is inside from half the brightest value
on. Two kinds of files would load as other masks than they are, and are refused:

- labels, such as 1, 2, 3 of the RV cavity, the myocardium and the LV cavity: three or more values of which the largest
  is below 16; or three to eight of which one in between fills a block of 3 x 3 pixels, which no edge does;
- inverted masks: more than half of the pixels at the image's border are inside.
"""

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
SMALL = 16  # labels are numbered from 1, masks are bright
FEW = 8  # values; blurred edges have more, and may be flat where they fade out


def load_png(folder: str | Path, spacing: tuple[float, float] | None = None) -> SliceSet:
    """Load every image with its mask; the patient is NAME before ``-IM-``, else NAME.

    ``spacing`` (of rows, of columns) in mm holds for all images: the files do not tell.

    Images are read as grey values (8 or 16 bit) into float32; a mask pixel counts from half its brightest
    value on, so that 0/1 and 0/255 files both work.

    Raises:
        DataError: the folder, ``images`` or ``masks`` is missing, there are no images, a mask has no image or
            an image no mask, a file is not a picture, the sizes of a pair differ, or a mask holds labels or is
            inverted.
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
    item = Slice(image.stem, patient, read_grey(image), inside, image, spacing)
    _check_mask(mask, values, inside)
    return item


def _check_mask(path: Path, values: Tensor, inside: Tensor) -> None:
    if holds_labels(values):
        raise DataError(
            f"{path}: holds labels ({_listed(values)}), not one mask; write 255 where the LV cavity is (label 3 in "
            "ACDC) and 0 elsewhere"
        )
    share = _border(inside).float().mean()
    if share > 0.5:
        raise DataError(
            f"{path}: {share:.0%} of the image's border is inside the mask, which seems inverted; write 255 where the "
            "LV cavity is and 0 elsewhere"
        )


def holds_labels(values: Tensor) -> bool:
    """Whether grey values (H, W) are labels of several regions rather than one mask, by the rule above.

    Example:
        >>> holds_labels(torch.tensor([[0, 1, 2, 3]])), holds_labels(torch.tensor([[0, 128, 255, 255]]))
        (True, False)
    """
    found = values.unique()
    if len(found) < 3 or found[-1] < SMALL:
        return len(found) >= 3
    return len(found) <= FEW and any(_fills_a_block(values == value) for value in found[1:-1])


def _fills_a_block(region: Tensor) -> bool:
    """Whether a block of 3 x 3 pixels lies in the region (H, W)."""
    if min(region.shape) < 3:
        return False
    return bool(region.unfold(0, 3, 1).unfold(1, 3, 1).all(-1).all(-1).any())


def _border(mask: Tensor) -> Tensor:
    """Return the pixels at the border of an image, the corners twice."""
    return torch.cat([mask[0], mask[-1], mask[:, 0], mask[:, -1]])


def _listed(values: Tensor) -> str:
    return ", ".join(f"{value:g}" for value in values.unique().tolist())


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
