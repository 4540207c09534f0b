"""Timing: every method's training step and prediction, in turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from applications.lv_dp import train
from applications.lv_dp.config import EstimatorName, MethodName, TrainConfig
from applications.lv_dp.experiments.cells import Cell, Result, Store, Watch
from applications.lv_dp.model import METHODS
from applications.lv_dp.provenance import provenance

MONAI = "MONAI BasicUNet"
PARTS = ("training iteration", "inference, one image")

WAYS: dict[str, tuple[MethodName, EstimatorName]] = {
    "U-Net": ("unet", "diff_bypass"),
    MONAI: ("unet", "diff_bypass"),
    "EDPCNN": ("edpcnn", "diff_bypass"),
    "EDPCNN, ES": ("edpcnn", "evolution_strategy"),
    "EDPCNN, score function": ("edpcnn", "score_function"),
    "per-ray cross-entropy": ("ray_ce", "diff_bypass"),
    "soft-min DP": ("soft_dp", "diff_bypass"),
}


class Basic(nn.Module):
    """MONAI's BasicUNet as an independent network of about the same shape; it always has five levels."""

    def __init__(self, base_channels: int) -> None:
        super().__init__()
        from monai.networks.nets.basic_unet import BasicUNet

        c = base_channels
        self.network = BasicUNet(2, 1, 1, features=(c, 2 * c, 4 * c, 8 * c, 16 * c, c))

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, H, W) to output maps (B, H, W)."""
        return self.network(images[:, None])[:, 0]


@dataclass(frozen=True)
class TimingCell(Cell):
    """All methods timed in turn, round after round, so that a busy machine slows all alike.

    Attributes:
        config: the training whose method and estimator are replaced.
        warmup: rounds that do not count.
        rounds: rounds whose median counts.
        device: where it was measured; a result of another machine is another cell's.
    """

    config: TrainConfig
    warmup: int
    rounds: int
    device: str

    @property
    def name(self) -> str:
        """Profile and size."""
        return f"timing-{self.config.profile}-n{self.config.num_train}"

    def identity(self) -> dict[str, Any]:
        """Return the settings, the rounds and the device."""
        config = {key: value for key, value in self.config.to_json().items() if key != "out"}
        return {"config": config, "rounds": [self.warmup, self.rounds], "device": self.device}

    def run(self, folder: Path, store: Store, watch: Watch) -> Result:
        """Return the seconds of every round, by part and method; a missing package is said under ``missing``."""
        trainings, missing = {}, {}
        for label in WAYS:
            try:
                trainings[label] = begin(label, self.config, folder)
            except ImportError as error:
                missing[label] = f"{error.name} is not installed"
        steps = {label: partial(take_step, training) for label, training in trainings.items()}
        images = {label: partial(predict_one, training) for label, training in trainings.items()}
        seconds = {}
        for part, calls in zip(PARTS, (steps, images), strict=True):
            seconds[part] = interleaved(calls, self.warmup, self.rounds, watch)
        return provenance(self.config.device) | {
            "seconds": seconds,
            "missing": missing,
            "batch_size": self._batch_size(),
        }

    def _batch_size(self) -> int:
        return min(self.config.settings.batch_size, self.config.num_train)


def begin(label: str, config: TrainConfig, folder: Path) -> train.Training:
    """Return the training of one way, which writes into a folder of its own.

    Raises:
        ImportError: MONAI is not installed, and it was MONAI's turn.
    """
    method, estimator = WAYS[label]
    place = folder / label.lower().replace(" ", "-").replace(",", "")
    training = train.start(replace(config, method=method, estimator=estimator, out=place))
    if label == MONAI:
        basic = Basic(config.settings.base_channels).to(training.batch.images.device)
        training.model.unet = basic  # type: ignore[assignment]
        training.optimizer = torch.optim.Adam(training.model.unet.parameters(), config.settings.learning_rate)
    return training


def take_step(training: train.Training) -> None:
    """Take a training step."""
    training.model.train()
    train.step(training, 1)


def predict_one(training: train.Training) -> None:
    """Segment one held-out image, to the mask."""
    predict = next(iter(METHODS[training.config.method].predictions.values()))
    with torch.no_grad():
        predict(training.model.eval(), training.held_out_batch.select(torch.tensor([0])))


def interleaved(
    calls: Mapping[str, Callable[[], None]], warmup: int, rounds: int, watch: Watch
) -> dict[str, list[float]]:
    """Return the seconds of every call in each of the rounds after the warm-up."""
    seconds: dict[str, list[float]] = {label: [] for label in calls}
    for number in range(warmup + rounds):
        for label, call in calls.items():
            elapsed = measure(call)
            if number >= warmup:
                seconds[label].append(elapsed)
        watch(number + 1, warmup + rounds)
    return seconds


def measure(call: Callable[[], None]) -> float:
    """Return the seconds of a call, work that it left to a GPU included."""
    began = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began
