"""Volumes of the ventricle at end-diastole and end-systole, ejection fraction, and how well two masks agree."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any

from applications.lv_dp.data.volumes import ejection_fraction

Record = dict[str, Any]
PARTS = ("edv", "esv", "ef")


def volumes(images: Sequence[Record], method: str) -> dict[str, Any] | None:
    """Compare volumes by ``method`` with the true ones, patient by patient; None where nothing is known.

    A volume is the sum over a phase's slices of area times slice spacing.  A patient counts when both phases
    are there and all slices have a spacing and a slice spacing.  Slices without a ventricle were dropped before
    the method saw them and add nothing, to the true and to the predicted volume.

    Returns:
        ``patients``: per patient ``edv`` and ``esv`` in ml and ``ef`` in percent, each ``{"true", "predicted"}``;
        and for each of the three `agreement` over the patients.  ``ef`` is None for a predicted ``edv`` of 0.
    """
    measurable = {image["patient"] for image in images if _phase(image)} - {
        image["patient"] for image in images if image["phase"] and not _phase(image)
    }
    patients = {
        name: _patient([image for image in images if image["patient"] == name and _phase(image)], method)
        for name in sorted(measurable)
        if {image["phase"] for image in images if image["patient"] == name} >= {"ED", "ES"}
    }
    if not patients:
        return None
    return {"patients": patients} | {part: _agreement_of(part, patients) for part in PARTS}


def _phase(image: Record) -> bool:
    """Return whether the image's share of its phase's volume can be told."""
    return None not in (image["phase"], image["spacing"], image["slice_spacing"])


def _patient(images: Sequence[Record], method: str) -> dict[str, dict[str, float | None]]:
    true = {phase: _volume([i for i in images if i["phase"] == phase], None) for phase in ("ED", "ES")}
    drawn = {phase: _volume([i for i in images if i["phase"] == phase], method) for phase in ("ED", "ES")}
    return {
        "edv": {"true": true["ED"], "predicted": drawn["ED"]},
        "esv": {"true": true["ES"], "predicted": drawn["ES"]},
        "ef": {"true": ejection_fraction(**true), "predicted": ejection_fraction(**drawn)},
    }


def _volume(images: Sequence[Record], method: str | None) -> float:
    """Sum the volume in ml of the true masks, or of a method's."""
    areas = [(image[method] if method else image)["area_px"] for image in images]
    pixels = [math.prod(image["spacing"]) * image["slice_spacing"] for image in images]  # mm3
    return sum(area * pixel for area, pixel in zip(areas, pixels, strict=True)) / 1000


def _agreement_of(part: str, patients: dict[str, dict[str, dict[str, float | None]]]) -> dict[str, Any]:
    pairs = [(values[part]["predicted"], values[part]["true"]) for values in patients.values()]
    return agreement([(a, b) for a, b in pairs if a is not None and b is not None])


def agreement(pairs: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Return the numbers of a Bland-Altman plot for pairs (predicted, true).

    ``bias`` is the mean of predicted - true, ``std`` its sample deviation, and ``lower`` and ``upper`` the limits
    of agreement bias -+ 1.96 std (Bland and Altman, Lancet 327, 1986); None with fewer pairs than they need.

    Example:
        >>> agreement([(11.0, 10.0), (23.0, 20.0)])["bias"]
        2.0
    """
    differences = [predicted - true for predicted, true in pairs]
    mae = fmean(map(abs, differences)) if differences else None
    bias = fmean(differences) if differences else None
    std = stdev(differences) if len(differences) > 1 else None
    limits = (None, None) if bias is None or std is None else (bias - 1.96 * std, bias + 1.96 * std)
    return {"n": len(pairs), "mae": mae, "bias": bias, "std": std, "lower": limits[0], "upper": limits[1]}
