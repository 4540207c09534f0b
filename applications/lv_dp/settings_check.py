"""Settings from a file that anyone may have written: right names, right types, sizes that fit a machine."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from applications.lv_dp.errors import UsageError
from applications.lv_dp.settings import Settings

MAX_ITERATIONS = 100_000  # whose rows a checkpoint holds
# What the time and memory of a prediction grow with, and what a training cannot do without.
LIMITS = {
    "crop": (8, 2048),
    "num_rays": (3, 2048),
    "num_radii": (1, 2048),
    "delta": (0, 2048),
    "smoothing": (1, 2047),
    "levels": (1, 8),
    "base_channels": (1, 512),
    "r_0": (0, 2048),
    "step": (1e-3, 2048),
    "bypass_levels": (1, 8),
    "bypass_channels": (1, 512),
    "iterations": (1, MAX_ITERATIONS),
    "batch_size": (1, 4096),
    "learning_rate": (1e-12, 1e3),
    "warmup": (0, MAX_ITERATIONS),
    "rotation": (0, math.pi),
    "temperature": (1e-6, 1e6),
    "sigma": (1e-9, 1e6),
    "bypass_samples": (1, 4096),
    "fit_steps": (1, 4096),
    "direct_samples": (1, 4096),
    "score_samples": (2, 4096),
    "checkpoint_every": (1, MAX_ITERATIONS),
    "evaluate_every": (1, MAX_ITERATIONS),
}


MAX_ACTIVATIONS = 2**26  # numbers in the first layer's output
MAX_STAR = 2**20  # points of a star


def checked_settings(values: object, where: Path | str) -> Settings:
    """Return the settings that a decoded JSON object describes; what it leaves out has its default.

    Raises:
        UsageError: a name is unknown, or a value has the wrong type or is out of range.

    Example:
        >>> checked_settings({"crop": "large"}, Path("model.json"))
        Traceback (most recent call last):
        applications.lv_dp.errors.UsageError: model.json: crop must be of type int, got 'large'
    """
    if not isinstance(values, dict):
        raise UsageError(f"{where}: settings must be an object, got {values!r:.60}")
    hints = get_type_hints(Settings)
    for name, value in values.items():
        if name not in hints:
            raise UsageError(f"{where}: settings hold {name!r:.60}, which this version does not know")
        _check(name, value, hints[name], where)
    settings = Settings(**values)
    if settings.smoothing % 2 == 0 or settings.smoothing > settings.num_rays:
        raise UsageError(f"{where}: smoothing must be odd and at most num_rays, got {settings.smoothing}")
    if settings.crop < 2 ** (settings.levels - 1):
        raise UsageError(f"{where}: crop must be at least 2^(levels - 1), got {settings.crop}")
    if settings.crop**2 * settings.base_channels > MAX_ACTIVATIONS:
        raise UsageError(f"{where}: crop² base_channels must be at most {MAX_ACTIVATIONS}")
    if settings.num_rays * settings.num_radii > MAX_STAR:
        raise UsageError(f"{where}: num_rays num_radii must be at most {MAX_STAR}")
    return settings


def _check(name: str, value: object, hint: Any, where: Path | str) -> None:
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise UsageError(f"{where}: {name} must be one of {get_args(hint)}, got {value!r:.60}")
        return
    allowed = (int, float) if hint is float else (hint,)
    if type(value) not in allowed:
        raise UsageError(f"{where}: {name} must be of type {hint.__name__}, got {value!r:.60}")
    low, high = LIMITS.get(name, (-math.inf, math.inf))
    if isinstance(value, (int, float)) and not low <= value <= high:
        raise UsageError(f"{where}: {name} must be in {low} .. {high}, got {value!r:.60}")
