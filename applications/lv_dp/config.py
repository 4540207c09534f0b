"""Configuration: what a command line chooses, and the settings behind a profile."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from applications.lv_dp.star_pattern import Interpolation, StarPattern
from applications.lv_dp.unet import Norm

MethodName = Literal["unet", "edpcnn"]
EstimatorName = Literal["diff_bypass", "evolution_strategy", "score_function"]
ProfileName = Literal["smoke", "cpu"]
GradientForm = Literal["vjp", "composed"]


@dataclass(frozen=True)
class Settings:
    """Everything numeric that all methods of one profile share; lengths in pixels, angles in radians."""

    # data: a square crop around the given centre, the same for every method
    crop: int = 128
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
    bypass_levels: int = 4
    bypass_channels: int = 8
    # training
    iterations: int = 200
    batch_size: int = 10
    learning_rate: float = 1e-3
    rotation: float = 0.5  # stars are turned by a uniform angle in +- this
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
}


@dataclass(frozen=True)
class TrainConfig:
    """Train one model and leave a run folder.

    Attributes:
        out: run folder; a run that was stopped there goes on from its last checkpoint.
        method: unet (pixel loss) or edpcnn (through the dynamic program).
        estimator: gradient of the dynamic program; only edpcnn uses it.
        data: ``phantom``, ``png:DIR``, ``png:DIR@MM``, ``acdc:DIR``, ``sunnybrook:DIR`` or ``packed:FILE``.
        num_train: training slices, the first of the shuffled training patients' slices.
        profile: settings: smoke (seconds) or cpu (minutes on two cores).
        seed: weights, batches, jitter, probes, and the shuffle of the training slices.
        split_seed: which patients are held out.
        held_out: fraction of the patients that training never sees.
        gradient_form: for evolution_strategy and score_function: vjp multiplies the estimated Jacobian of the
            indices with the loss's gradient; composed estimates the gradient of the loss as one function.
        iterations: instead of the profile's number.
        threads: of torch; one repeats on any machine and suffers no neighbours, two are faster when idle.
    """

    out: Path
    method: MethodName = "edpcnn"
    estimator: EstimatorName = "diff_bypass"
    data: str = "phantom"
    num_train: int = 10
    profile: ProfileName = "cpu"
    seed: int = 0
    split_seed: int = 0
    held_out: float = 1 / 3
    gradient_form: GradientForm = "vjp"
    iterations: int | None = None
    threads: int = 1

    @property
    def settings(self) -> Settings:
        """The profile's settings with this configuration's changes."""
        settings = PROFILES[self.profile]
        return (
            settings if self.iterations is None else dataclasses.replace(settings, iterations=self.iterations)
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain values, the settings included."""
        plain = dataclasses.asdict(self) | {"out": str(self.out)}
        return plain | {"settings": dataclasses.asdict(self.settings)}


@dataclass(frozen=True)
class EvaluateConfig:
    """Score a run's last checkpoint on every image of a data set, each with its centre given.

    Attributes:
        run: run folder.
        data: as in train.
        json: file for the results.
        subset: all images, or only those of the patients that the run held out.
        centers: CSV with the columns name,x,y (pixels); by default the centre of mass of each mask.
        threads: of torch.
    """

    run: Path
    data: str
    json: Path
    subset: Literal["all", "held_out"] = "all"
    centers: Path | None = None
    threads: int = 1
