"""The smoke profile of the left-ventricle application on drawn hearts, in the folder ``run``."""

from __future__ import annotations

from pathlib import Path

import torch

from applications.lv_dp import checkpoint, train
from applications.lv_dp.config import TrainConfig
from benchmarks.killed import announced

CONFIG = TrainConfig(
    Path("run"),
    profile="smoke",
    num_train=6,
    iterations=12,
    change=("checkpoint_every=3", "evaluate_every=4"),
)


def main() -> None:
    """Train, or go on."""
    torch.set_num_threads(1)
    train.step = announced("training", train.step)
    train.held_out_scores = announced("evaluation", train.held_out_scores)
    checkpoint.save = announced("writing a checkpoint", checkpoint.save)
    train.finish = announced("writing the results", train.finish)
    train.main(CONFIG)


if __name__ == "__main__":
    main()
