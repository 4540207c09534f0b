"""A small chain of image processing with knobs: blur, threshold, morphological opening, overlap with a mask.

Twelve bright discs lie on an uneven, noisy ground; some small ones are dirt. The knobs are the blur's width, the
threshold, the slope of the ground that is subtracted, and the radius of the opening, rounded to whole pixels. The box
returns the overlap of the result with the true mask and the result's area, in shares of the true area; both are counts
of pixels, and the Dice coefficient is made of them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from benchmarks.tasks.task import Objective, Task

_SIDE = 32
_MAX_RADIUS = 3
_BATCH = 4
_SIGMA = 0.15
Images = npt.NDArray[np.float64]  # (R, H, W)


def _scene() -> tuple[Images, npt.NDArray[np.bool_]]:
    """Draw the picture and its true mask, (H, W) each."""
    rng = np.random.default_rng(32)
    height, width = np.mgrid[:_SIDE, :_SIDE]
    centres, radii = rng.uniform(3, _SIDE - 3, (12, 2)), np.repeat([4.0, 1.2], [5, 7])
    discs = [np.hypot(height - i, width - j) < r for (i, j), r in zip(centres, radii, strict=True)]
    mask = np.any(discs[:5], axis=0)
    picture = np.any(discs, axis=0) + 0.8 * width / _SIDE + 0.35 * rng.standard_normal((_SIDE, _SIDE))
    return picture, mask


_PICTURE, _MASK = _scene()
_SPECTRUM = np.fft.rfft2(_PICTURE)
_FREQUENCY = np.hypot(np.fft.fftfreq(_SIDE)[:, None], np.fft.rfftfreq(_SIDE))  # (H, W/2+1), cycles per pixel
_RAMP = np.linspace(0, 1, _SIDE)  # (W,)


def overlap_and_area(knobs: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """(R, 4) -> (R, 2): log-width of the blur, threshold, slope, radius of the opening."""
    found = opened(thresholded(knobs), np.rint(knobs[:, 3]).clip(0, _MAX_RADIUS))
    overlap = (found & _MASK).sum((1, 2))
    return np.stack([overlap, found.sum((1, 2))], axis=-1) / _MASK.sum()


def thresholded(knobs: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Blur in the Fourier domain, take the ramp off, compare: (R, 4) -> (R, H, W)."""
    width, threshold, slope = (knobs[:, i, None, None].astype(float) for i in range(3))
    gain = np.exp(-2 * (np.pi * np.exp(width) * _FREQUENCY) ** 2)  # of a Gaussian blur
    blurred = np.fft.irfft2(_SPECTRUM * gain, s=(_SIDE, _SIDE))  # (R, H, W)
    return blurred - slope * _RAMP > threshold


def opened(images: npt.NDArray[np.bool_], radius: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Erode ``radius`` (R,) times by a cross of five pixels, then dilate as often."""
    for turn in range(_MAX_RADIUS):
        images = np.where((radius > turn)[:, None, None], _cross(images, np.logical_and), images)
    for turn in range(_MAX_RADIUS):
        images = np.where((radius > turn)[:, None, None], _cross(images, np.logical_or), images)
    return images


def _cross(images: npt.NDArray[np.bool_], combine: np.ufunc) -> npt.NDArray[np.bool_]:
    """Combine every pixel with its four neighbours; outside of the picture there is nothing to add or take."""
    result = images.copy()
    for axis in (1, 2):
        before = [slice(None)] * 3
        after = [slice(None)] * 3
        before[axis], after[axis] = slice(None, -1), slice(1, None)
        b, a = tuple(before), tuple(after)
        result[b] = combine(result[b], images[a])
        result[a] = combine(result[a], images[b])
    return result


def one_minus_dice(y: Tensor) -> Tensor:
    """(B, 2) -> (B,)."""
    return 1 - 2 * y[:, 0] / (y[:, 1] + 1)


def image_chain_task() -> Task:
    rng = np.random.default_rng(4)
    middle = np.array([0.0, 0.7, 0.4, 1.0])
    start = middle + 0.3 * rng.standard_normal((_BATCH, 4))
    return Task(
        name="image_chain",
        summary="blur, threshold, ramp and opening of a picture (NumPy): 4 knobs to overlap and area of the mask",
        function=overlap_and_area,
        interface="numpy",
        start=torch.from_numpy(start).float(),
        sigma=_SIGMA,
        loss=one_minus_dice,
        objective=Objective(name="1 - Dice", learning_rate=0.03),
    )
