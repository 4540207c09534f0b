"""Volumes of the LV cavity from its slices."""

from __future__ import annotations

from collections import defaultdict

from applications.lv_dp.data.slices import Phase, SliceSet

Volumes = dict[str, dict[Phase, float]]


def volumes(data: SliceSet) -> Volumes:
    """Return each patient's volume in ml at ED and ES: area times slice spacing, summed over the slices.

    Slices of unknown phase, spacing or slice spacing do not count.

    Example:
        >>> from applications.lv_dp.data.phantom import load_phantom
        >>> volume = volumes(load_phantom())["phantom-000"]
        >>> volume["ED"] > volume["ES"] > 0
        True
    """
    totals: Volumes = defaultdict(dict)
    for item in data.slices:
        if item.phase is not None and item.area is not None and item.slice_spacing is not None:
            sofar = totals[item.patient].get(item.phase, 0.0)
            totals[item.patient][item.phase] = sofar + item.area * item.slice_spacing / 1000
    return dict(totals)


def ejection_fraction(volume: dict[Phase, float]) -> float | None:
    """Return (EDV - ESV) / EDV, None where a phase is missing.

    Example:
        >>> ejection_fraction({"ED": 120.0, "ES": 48.0})
        0.6
    """
    if not {"ED", "ES"} <= volume.keys():
        return None
    return (volume["ED"] - volume["ES"]) / volume["ED"]
