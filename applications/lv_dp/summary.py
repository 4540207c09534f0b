"""From the scores of every image to one summary for each method.

A record is one image: ``name``, ``patient``, ``phase``, ``size`` (H, W), ``spacing``, ``slice_spacing``,
``unit``, ``area_px`` of the true mask, and under each method's name that method's scores.  An empty prediction
has Dice 0 and no border: it counts in the mean Dice and under ``empty``, and its distances are None.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import fmean, stdev
from typing import Any

from applications.lv_dp.surface import DISTANCES
from applications.lv_dp.volumes import Record, volumes

SIZES = ("small", "medium", "large")


def spread(values: Sequence[float]) -> dict[str, float | None]:
    """Return mean and sample deviation; a mean of nothing is None, a deviation of one value 0.

    Example:
        >>> spread([1.0, 3.0]), spread([])
        ({'mean': 2.0, 'std': 1.4142135623730951}, {'mean': None, 'std': None})
    """
    if not values:
        return {"mean": None, "std": None}
    return {"mean": fmean(values), "std": stdev(values) if len(values) > 1 else 0.0}


def method_names(images: Sequence[Record]) -> list[str]:
    """Return the methods that the records hold scores of."""
    return [name for name, value in images[0].items() if isinstance(value, dict)]


def summaries(images: Sequence[Record]) -> dict[str, dict[str, Any]]:
    """Summarise every method; the README of the application describes the keys."""
    return {method: summary(images, method) for method in method_names(images)}


def summary(images: Sequence[Record], method: str) -> dict[str, Any]:
    """Summarise one method: Dice, distances, by size, by patient, and volumes where the phase is known."""
    distances = {f"{name}_mm": _distance(images, method, name) for name in DISTANCES}
    return {
        "method": method,
        "n": len(images),
        "dice": spread([image[method]["dice_whole"] for image in images]),
        "dice_square": spread([image[method]["dice_square"] for image in images]),
        **distances,
        "unit": images[0]["unit"],
        "empty": sum(image[method]["area_px"] == 0 for image in images),
        "by_size": by_size(images, method),
        "patients": by_patient(images, method),
        "volumes": volumes(images, method),
    }


def _distance(images: Sequence[Record], method: str, name: str) -> dict[str, Any]:
    """Average one distance over the images with a prediction, and once with a bound for the empty ones."""
    found = [image[method][name] for image in images if image[method][name] is not None]
    bounds = [_diagonal(image) for image in images if image[method][name] is None]
    return spread(found) | {
        "n": len(found),
        "mean_with_empty": fmean(found + bounds),
        "unit": images[0]["unit"],
    }


def _diagonal(image: Record) -> float:
    """Return the greatest distance between two pixels of an image, which none of its distances exceeds."""
    row, column = image["spacing"] if image["unit"] == "mm" else (1.0, 1.0)
    H, W = image["size"]
    return math.hypot((H - 1) * row, (W - 1) * column)


def by_size(images: Sequence[Record], method: str) -> dict[str, dict[str, Any]]:
    """Summarise Dice in thirds of the images, ordered by true area; earlier thirds take what is left over.

    ``area`` is the least and the greatest true area of a third, None when it holds no image.
    """
    ordered = sorted(images, key=lambda image: (_area(image), image["name"]))
    ends = [math.ceil(len(images) * third / 3) for third in range(4)]
    thirds = {size: ordered[ends[i] : ends[i + 1]] for i, size in enumerate(SIZES)}
    return {size: _third(third, method, images[0]["unit"]) for size, third in thirds.items()}


def _third(third: Sequence[Record], method: str, unit: str) -> dict[str, Any]:
    area = [_area(third[0]), _area(third[-1])] if third else None
    return {
        "n": len(third),
        "dice": _dice(third, method),
        "area": area,
        "unit": "mm2" if unit == "mm" else "px",
    }


def _area(image: Record) -> float:
    """Return the true area in square millimetres, or in pixels where the unit is the pixel."""
    return image["area_px"] * (math.prod(image["spacing"]) if image["unit"] == "mm" else 1.0)


def by_patient(images: Sequence[Record], method: str) -> dict[str, dict[str, Any]]:
    """Summarise Dice of each patient's images."""
    patients = sorted({image["patient"] for image in images})
    groups = {name: [image for image in images if image["patient"] == name] for name in patients}
    return {name: {"n": len(group), "dice": _dice(group, method)} for name, group in groups.items()}


def _dice(images: Iterable[Record], method: str) -> dict[str, float | None]:
    return spread([image[method]["dice_whole"] for image in images])
