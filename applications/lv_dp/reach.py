"""Ventricles that are too large for the star pattern, which no contour can then follow."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

from applications.lv_dp.data import Slice
from applications.lv_dp.data.resample import Grid
from applications.lv_dp.data.slices import centroid
from applications.lv_dp.settings import Settings


def warn_beyond_reach(slices: Sequence[Slice], settings: Settings, source: str) -> None:
    """Warn of masks that go on beyond the star's reach, and say what brings them inside."""
    radii = [furthest(item) for item in slices]
    beyond = sum(radius > settings.star.reach for radius in radii)
    if beyond:
        warnings.warn(
            f"{source}: {beyond} of the {len(radii)} training and held-out masks reach beyond the star's "
            f"{settings.star.reach:g} pixels from their centre (the furthest {max(radii):.0f}), and are cut off there; "
            f"{_larger_pixels(slices)}type --change {' '.join(larger_star(settings, max(radii)))}",
            stacklevel=2,
        )


def furthest(item: Slice) -> float:
    """Return the distance in pixels of the mask's furthest pixel from its centre of mass."""
    return float((item.mask.nonzero().flip(1) - centroid(item.mask)).norm(dim=1).max())


def larger_star(settings: Settings, radius: float) -> list[str]:
    """Return the changes of settings with which the star reaches a radius in pixels and the crop holds the star.

    Example:
        >>> larger_star(Settings(), 75.0)
        ['step=1.6', 'crop=160']
    """
    step = math.ceil(10 * (radius - settings.r_0) / settings.num_radii) / 10
    across = 2 * (settings.r_0 + settings.num_radii * step)
    crop = math.ceil(across / 32) * 32
    return [f"step={step:g}", *([f"crop={crop}"] if crop > settings.crop else [])]


def _larger_pixels(slices: Sequence[Slice]) -> str:
    """Say how to resample pixels that are smaller than those of the thesis, or of unknown size."""
    known = [step for item in slices for step in item.spacing or ()]
    if known and min(known) > 0.99 * Grid().spacing:
        return ""
    return f"bring them to pixels of {Grid().spacing:g} mm (data png:DIR@MM --pack FILE, then --data packed:FILE), or "
