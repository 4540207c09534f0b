"""What the command line chooses, and the trainings that follow from it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from applications.lv_dp import train
from applications.lv_dp.config import EstimatorName, HoldOut, MethodName, Regime, TrainConfig
from applications.lv_dp.data import SliceSet
from applications.lv_dp.errors import UsageError
from applications.lv_dp.experiments.data import fingerprint, shared_data
from applications.lv_dp.experiments.training import TrainCell
from applications.lv_dp.settings import ProfileName

Size = int | Literal["all"]
SIZES: dict[ProfileName, tuple[Size, ...]] = {
    "smoke": (4, 8),
    "cpu": (10, 50, 200),
    "thesis": (10, 20, 50, 100, 200, 500, 1000, "all"),
    "paper": (10, 20, 50, 100, 200, 500, 1000, "all"),
}
CURVE_POINTS = 8  # evaluations of a training in the cpu profile


@dataclass(frozen=True)
class ReproduceConfig:
    """Compute a table or figure of the thesis and write NAME.json and NAME.png into a folder.

    Attributes:
        name: the experiment.
        out: folder for NAME.json and NAME.png; trainings are kept in its ``cells``, shared by all experiments.
        profile: settings: smoke (seconds), cpu (minutes a training), thesis or paper (hours a training on a GPU).
        regime: published (no image augmentation, one length for all) or tuned (each method as it does best).
        data: where the slices are, as for train.
        hold_out: which patients are held out, as for train.
        sizes: numbers of training slices, instead of the profile's.
        seeds: one training each; by default 0 1 2, and for smoke 0.
        minutes: begin no new training after this time; the rest is reported as not measured.
        jobs: processes that train side by side.
        iterations: instead of the profile's number.
        device: where torch computes.
        threads: of torch, in every process.
    """

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    out: Path
    profile: ProfileName = "cpu"
    regime: Regime = "published"
    data: str = "phantom"
    hold_out: HoldOut = "random"
    sizes: tuple[int, ...] = ()
    seeds: tuple[int, ...] = ()
    minutes: float | None = None
    jobs: int = 1
    iterations: int | None = None
    device: str = "cpu"
    threads: int = 1

    def check(self) -> None:
        """Refuse numbers that mean nothing.

        Raises:
            UsageError: in one line.
        """
        if self.iterations is not None and self.iterations < 1:
            raise UsageError(f"--iterations must be at least 1, got {self.iterations}")
        if self.jobs < 1:
            raise UsageError(f"--jobs must be at least 1, got {self.jobs}")
        if self.minutes is not None and self.minutes < 0:
            raise UsageError(f"--minutes must be at least 0, got {self.minutes:g}")
        for name, numbers in (("seeds", self.seeds), ("sizes", self.sizes)):
            if len(set(numbers)) < len(numbers):
                raise UsageError(f"--{name} must differ, got {' '.join(map(str, numbers))}")
        if any(size < 1 for size in self.sizes):
            raise UsageError(f"--sizes must be at least 1, got {' '.join(map(str, self.sizes))}")

    @property
    def all_seeds(self) -> tuple[int, ...]:
        """The seeds given, or the profile's."""
        return self.seeds or ((0,) if self.profile == "smoke" else (0, 1, 2))

    @property
    def first_seed(self) -> int:
        """The seed of experiments that show one training."""
        return self.all_seeds[0]

    @property
    def is_small(self) -> bool:
        """Whether this is the profile that only shows that everything works."""
        return self.profile == "smoke"

    @property
    def slices(self) -> SliceSet:
        """The data, loaded once."""
        return shared_data(self.data)

    def all_sizes(self) -> list[int]:
        """Return the numbers of training slices given, or those of the profile that the data can give."""
        if self.sizes:
            return sorted(self.sizes)
        wanted, pool = SIZES[self.profile], self._pool(self._config())
        sizes = [size for size in wanted if size != "all" and size < pool]
        return [*sizes, pool] if "all" in wanted or not sizes else sizes

    def at_most(self, size: int, inner_seed: int | None = None) -> int:
        """Return ``size`` training slices, or all of the split if there are fewer."""
        return min(size, self._pool(replace(self._config(), inner_seed=inner_seed)))

    def _pool(self, config: TrainConfig) -> int:
        """Count the slices that every seed has for training."""
        splits = [train.split(self.slices, replace(config, seed=seed)) for seed in self.all_seeds]
        return min(len(data) - len(held_out) for data, held_out in splits)

    def _config(self) -> TrainConfig:
        return TrainConfig(
            out=Path(),
            data=self.data,
            profile=self.profile,
            regime=self.regime,
            hold_out=self.hold_out,
            iterations=self.iterations,
            device=self.device,
            threads=self.threads,
        )

    def training(
        self,
        num_train: int,
        seed: int,
        method: MethodName = "edpcnn",
        estimator: EstimatorName = "diff_bypass",
        change: tuple[str, ...] = (),
        inner_seed: int | None = None,
    ) -> TrainCell:
        """Return one training; equal arguments give the same cell, whatever experiment asks."""
        config = replace(
            self._config(),
            method=method,
            estimator=estimator,
            num_train=num_train,
            seed=seed,
            change=change,
            inner_seed=inner_seed,
        )
        if self.profile == "cpu":
            every = max(config.settings.iterations // CURVE_POINTS, 1)
            config = replace(config, change=(*change, f"evaluate_every={every}"))
        return TrainCell.of(config, fingerprint(self.data))
