"""Distances between the borders of two masks, computed by MONAI."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from torch import Tensor

DISTANCES = ("assd", "hd", "hd95")


def surface_distances(
    prediction: Tensor, truth: Tensor, spacing: tuple[float, float] | None = None
) -> dict[str, float | None]:
    """Return ``assd``, ``hd`` and ``hd95`` of two masks; each None when a mask is empty and has no border.

    The border of a mask is its pixels with a neighbour outside, beside or above or below; what lies beyond the
    image is outside.  With the distances from each border pixel of one mask to the nearest of the other:

    - ``assd``, average symmetric surface distance: the mean over the pixels of both borders together;
    - ``hd``, Hausdorff distance: the greatest of all;
    - ``hd95``: the greater of the two directions' 95th percentiles.

    Args:
        prediction: (H, W) bool.
        truth: (H, W) bool.
        spacing: distance from row to row and from column to column; 1 and 1, hence pixels, by default.

    Returns:
        Distances in the unit of ``spacing``.

    Raises:
        ValueError: masks of different sizes, or a spacing that is not positive.

    Example:
        >>> import torch
        >>> truth = torch.zeros(9, 9, dtype=torch.bool)
        >>> truth[2, 2] = True
        >>> surface_distances(truth.roll(3, dims=0), truth, spacing=(1.5, 1.0))
        {'assd': 4.5, 'hd': 4.5, 'hd95': 4.5}
    """
    if prediction.ndim != 2 or prediction.shape != truth.shape:
        raise ValueError(
            f"two masks of one size (H, W) are needed, got {tuple(prediction.shape)} and {tuple(truth.shape)}"
        )
    if spacing is not None and not all(value > 0 for value in spacing):
        raise ValueError(f"spacing must be positive (row to row, column to column), got {spacing}")
    if not (bool(prediction.any()) and bool(truth.any())):
        return dict.fromkeys(DISTANCES)
    with _own_deprecation():
        return _distances(prediction[None, None], truth[None, None], spacing)


def _distances(
    prediction: Tensor, truth: Tensor, spacing: tuple[float, float] | None
) -> dict[str, float | None]:
    """Ask MONAI about two masks (1, 1, H, W), whose one channel is the object and not the background."""
    # Here, as the import takes seconds.
    from monai.metrics.hausdorff_distance import compute_hausdorff_distance
    from monai.metrics.surface_distance import compute_average_surface_distance

    average = partial(compute_average_surface_distance, include_background=True, spacing=spacing)
    greatest = partial(compute_hausdorff_distance, include_background=True, spacing=spacing)
    return {
        "assd": float(average(prediction, truth, symmetric=True)),
        "hd": float(greatest(prediction, truth)),
        "hd95": float(greatest(prediction, truth, percentile=95)),
    }


@contextmanager
def _own_deprecation() -> Iterator[None]:
    """Silence what MONAI 1.5 and 1.6 say about an argument that they pass to themselves on every call."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*always_return_as_numpy.*", FutureWarning)
        yield
