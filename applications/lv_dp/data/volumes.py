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


def ejection_fraction(ED: float, ES: float) -> float | None:
    """Return the share in percent of the end-diastolic volume that is pumped out; None for a volume of 0.

    Example:
        >>> round(ejection_fraction(ED=295.5, ES=225.6), 1)
        23.7
    """
    return 100 * (ED - ES) / ED if ED else None
