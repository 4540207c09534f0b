"""Overlap of masks, on the whole image and inside the star's square."""

from __future__ import annotations

import torch
from torch import Tensor


def dice(prediction: Tensor, truth: Tensor) -> float:
    """Return ``2 |A and B| / (|A| + |B|)`` of two masks; 1 when both are empty.

    Example:
        >>> dice(torch.tensor([True, True, False]), torch.tensor([True, False, False])) == 2 / 3
        True
    """
    total = int(prediction.sum()) + int(truth.sum())
    return 2 * int((prediction & truth).sum()) / total if total else 1.0


def square(mask: Tensor, center: Tensor, reach: float) -> Tensor:
    """Return what of a mask (H, W) lies in the square of half side ``reach`` around ``center`` (x, y)."""
    x, y = center.tolist()
    rows, columns = (torch.arange(size) for size in mask.shape)
    inside: Tensor = ((rows - y).abs() <= reach)[:, None] & ((columns - x).abs() <= reach)
    return mask & inside


def scores(prediction: Tensor, truth: Tensor, center: Tensor, reach: float) -> dict[str, float]:
    """Return Dice on the whole image and inside the square that just holds the star (thesis, section 5.3)."""
    cut = (square(mask, center, reach) for mask in (prediction, truth))
    return {"dice_whole": dice(prediction, truth), "dice_square": dice(*cut)}
