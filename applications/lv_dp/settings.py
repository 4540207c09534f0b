"""The settings behind a profile: everything numeric that a training depends on."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_type_hints

from applications.lv_dp.errors import UsageError
from applications.lv_dp.star_pattern import Interpolation, StarPattern
from applications.lv_dp.unet import Borders, Norm, Upsampling

ProfileName = Literal["smoke", "cpu", "thesis", "paper"]
CropAt = Literal["center", "image"]
Placement = Literal["normal", "uniform", "fixed"]
Schedule = Literal["constant", "cosine"]
Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Settings:
    """Everything numeric that all methods of one profile share; lengths in pixels, angles in radians."""

    # data: a square crop, the same for every method
    crop: int = 128
    crop_at: CropAt = "center"  # around the given centre, or around the middle of the image
    augment: bool = False  # turn, flip, scale, shift, and change intensities at random
    # star pattern and dynamic program
    num_rays: int = 32
    num_radii: int = 48
    r_0: float = 0.0
    step: float = 1.0
    delta: int = 2
    smoothing: int = 5  # rays in the circular moving average, odd
    interpolation: Interpolation = "bilinear"
    # networks
    levels: int = 4
    base_channels: int = 16
    norm: Norm = "batch"
    borders: Borders = "padded"  # convolutions of the U-Net; "unpadded" pads once, in front; "low" not at all
    upsampling: Upsampling = "bilinear"
    precision: Precision = (
        "float32"  # of the U-Net's layers; bfloat16 takes half the time on recent CPUs and GPUs
    )
    bypass_levels: int = 4
    bypass_channels: int = 8
    # training
    iterations: int = 200
    batch_size: int = 10
    learning_rate: float = 1e-3
    schedule: Schedule = "constant"
    warmup: int = 0  # iterations over which the learning rate rises to its value
    placement: Placement = "normal"  # of the star: truncated normal, uniform in the mask, or the given centre
    rotation: float = 0.5  # stars are turned by a uniform angle in +- this
    temperature: float = 1.0  # of the smoothed dynamic program, in units of the unary cost
    # estimators
    sigma: float = 1.0  # deviation of the probes of the warped map, in logits
    bypass_samples: int = 6
    fit_steps: int = 5
    direct_samples: int = 10  # draws of the evolution strategy (pairs, two probes each) ...
    score_samples: int = 20  # ... and of the score function (one probe each)
    # bookkeeping, in iterations
    checkpoint_every: int = 25
    evaluate_every: int = 100

    @property
    def star(self) -> StarPattern:
        """The star pattern."""
        return StarPattern(self.num_rays, self.num_radii, self.r_0, self.step)


_AS_IN_THE_THESIS = Settings(
    crop=212,
    crop_at="image",
    num_rays=25,
    num_radii=65,
    delta=1,
    smoothing=7,
    interpolation="nearest",
    levels=5,
    base_channels=64,
    borders="unpadded",
    iterations=20_000,
    learning_rate=1e-4,
    bypass_samples=10,
    fit_steps=10,
    checkpoint_every=500,
    evaluate_every=50,
)

PROFILES: dict[ProfileName, Settings] = {
    "smoke": Settings(
        crop=64,
        num_rays=12,
        num_radii=14,
        step=2.0,
        delta=1,
        smoothing=3,
        levels=2,
        base_channels=4,
        bypass_levels=2,
        bypass_channels=2,
        iterations=8,
        batch_size=4,
        bypass_samples=3,
        fit_steps=2,
        direct_samples=2,
        score_samples=4,
        checkpoint_every=4,
        evaluate_every=4,
    ),
    "cpu": Settings(),
    "thesis": _AS_IN_THE_THESIS,
    # the later publication, arXiv 1812.00328 (MIDL 2020)
    "paper": dataclasses.replace(
        _AS_IN_THE_THESIS,
        num_rays=50,
        delta=2,
        smoothing=5,
        upsampling="transposed",
        learning_rate=1e-3,
        warmup=50,
        placement="uniform",
        rotation=math.pi,
    ),
}

TUNED_FOR_ALL: dict[str, Any] = {"augment": True, "precision": "bfloat16"}
TUNED: dict[str, dict[str, Any]] = {
    "unet": {"iterations": 1100, "schedule": "cosine"},
    "ray_ce": {"iterations": 1100, "schedule": "cosine", "learning_rate": 3e-3},
    "soft_dp": {"iterations": 700, "schedule": "cosine"},
    "diff_bypass": {"iterations": 700, "schedule": "cosine", "bypass_samples": 3, "fit_steps": 2},
    "evolution_strategy": {"iterations": 800},
    "score_function": {"iterations": 800},
    "finite_difference": {"iterations": 100},
}
"""What the tuned regime changes for each way to train: as many iterations as take the same time, and what `search`
found best on patients within the training patients (the last three were not searched)."""


def read_change(text: str) -> tuple[str, Any]:
    """Read NAME=VALUE as a field of `Settings` with a value of its type.

    Raises:
        UsageError: there is no such field, or the value is not of its type.

    Example:
        >>> read_change("sigma=0.5"), read_change("delta=3"), read_change("augment=true")
        (('sigma', 0.5), ('delta', 3), ('augment', True))
    """
    name, equals, value = text.partition("=")
    kinds = get_type_hints(Settings)
    if not equals or name not in kinds:
        raise UsageError(f"--change takes NAME=VALUE with NAME one of {', '.join(kinds)}; got {text!r}")
    if choices := get_args(kinds[name]):
        readers = {choice: choice for choice in choices}
    elif kinds[name] is bool:
        readers = {"true": True, "false": False}
    else:
        return name, _read_number(name, value, kinds[name])
    if value not in readers:
        raise UsageError(f"--change {name}: must be one of {', '.join(readers)}, got {value!r}")
    return name, readers[value]


def _read_number(name: str, value: str, kind: Callable[[str], float]) -> float:
    try:
        return kind(value)
    except ValueError as error:
        raise UsageError(
            f"--change {name}: must be a number of type {kind.__name__}, got {value!r}"
        ) from error
