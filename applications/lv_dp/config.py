"""What a command line chooses."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from applications.lv_dp.settings import PROFILES, TUNED, TUNED_FOR_ALL, ProfileName, Settings, read_change

MethodName = Literal["unet", "ray_ce", "soft_dp", "edpcnn"]
EstimatorName = Literal["diff_bypass", "evolution_strategy", "score_function", "finite_difference"]
Regime = Literal["published", "tuned"]
GradientForm = Literal["vjp", "composed"]
HoldOut = Literal["random", "fifth", "thirds"]


@dataclass(frozen=True)
class TrainConfig:
    """Train one model and leave a run folder.

    Attributes:
        out: run folder; a run that was stopped there goes on from its last checkpoint.
        method: unet (pixel loss), ray_ce (each ray by itself), soft_dp (through the dynamic program, smoothed) or
            edpcnn (through the dynamic program).
        estimator: gradient of the dynamic program; only edpcnn uses it.
        data: ``phantom``, ``png:DIR``, ``png:DIR@MM``, ``acdc:DIR``, ``sunnybrook:DIR`` or ``packed:FILE``.
        num_train: training slices, the first of the shuffled training patients' slices.
        profile: settings: smoke (seconds), cpu (minutes on two cores), thesis or paper (hours on a GPU).
        regime: published (as in the thesis: no image augmentation, one length for all) or tuned (augmentation, and
            each method with the length and learning rate chosen for it).
        seed: weights, batches, jitter, probes, and the shuffle of the training slices.
        hold_out: random patients, every fifth of the sorted names (for ACDC a fifth of each pathology), or the third
            number ``seed`` modulo 3, so that seeds 0 1 2 hold out every patient once.
        split_seed: which patients are held out at random.
        held_out: fraction of the patients that are held out at random; training never sees them.
        inner_seed: choose settings on other patients: those of the split above are put aside, and this seed draws the
            held-out fraction from the rest.
        gradient_form: for the estimators but diff_bypass: vjp multiplies the estimated Jacobian of the
            indices with the loss's gradient; composed estimates the gradient of the loss as one function.
        iterations: instead of the profile's number.
        change: other settings than the profile's, NAME=VALUE for fields of Settings.
        device: where torch computes: cpu, cuda, cuda:1.
        threads: of torch; one repeats on any machine and suffers no neighbours, two are faster when idle.
    """

    out: Path
    method: MethodName = "edpcnn"
    estimator: EstimatorName = "diff_bypass"
    data: str = "phantom"
    num_train: int = 10
    profile: ProfileName = "cpu"
    regime: Regime = "published"
    seed: int = 0
    hold_out: HoldOut = "random"
    split_seed: int = 0
    held_out: float = 1 / 3
    inner_seed: int | None = None
    gradient_form: GradientForm = "vjp"
    iterations: int | None = None
    change: tuple[str, ...] = ()
    device: str = "cpu"
    threads: int = 1

    @property
    def trained_as(self) -> str:
        """Name of the way to train: the method, or for edpcnn the estimator."""
        return self.estimator if self.method == "edpcnn" else self.method

    @property
    def settings(self) -> Settings:
        """The profile's settings with this configuration's changes.

        Raises:
            UsageError: a change names no setting, or its value has another type.
        """
        settings = PROFILES[self.profile]
        if self.regime == "tuned":
            settings = dataclasses.replace(settings, **TUNED_FOR_ALL, **TUNED[self.trained_as])
        settings = dataclasses.replace(settings, **dict(map(read_change, self.change)))
        return (
            settings if self.iterations is None else dataclasses.replace(settings, iterations=self.iterations)
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain values, the settings included."""
        plain = dataclasses.asdict(self) | {"out": str(self.out), "change": list(self.change)}
        return plain | {"settings": dataclasses.asdict(self.settings)}


@dataclass(frozen=True)
class EvaluateConfig:
    """Score a run's last checkpoint on every image of a data set, each with its centre given.

    Attributes:
        run: run folder, or folder of released weights.
        data: as in train.
        json: file for the results.
        subset: all images, or only those of the patients that the run held out.
        centers: CSV with the columns name,x,y (pixels); by default the centre of mass of each mask.
        device: where torch computes.
        threads: of torch.
    """

    run: Path
    data: str
    json: Path
    subset: Literal["all", "held_out"] = "all"
    centers: Path | None = None
    device: str = "cpu"
    threads: int = 1
