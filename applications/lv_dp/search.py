"""Choose a method's learning rate and schedule for the tuned regime: the same small grid for every method.

Every candidate trains as in the regime, for the method's own number of iterations there, on patients that exclude
both the held-out ones and an inner part, and is scored on that inner part at its last checkpoint. The held-out
patients are not looked at. Finished candidates are not run again.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

from applications.lv_dp import checkpoint, train
from applications.lv_dp.config import EstimatorName, HoldOut, MethodName, TrainConfig
from applications.lv_dp.provenance import provenance
from applications.lv_dp.settings import ProfileName

GRID: dict[str, tuple[str, ...]] = {
    "learning_rate": ("0.001", "0.003"),
    "schedule": ("constant", "cosine"),
}


@dataclass(frozen=True)
class SearchConfig:
    """Try a small grid of settings for one method, on patients held out within the training patients.

    Attributes:
        out: folder of the candidates' runs and of search.json.
        data: as for train.
        method: as for train.
        estimator: as for train.
        profile: as for train.
        num_train: training slices.
        seeds: runs of every candidate.
        hold_out: as for train, but for thirds.
        split_seed: as for train.
        held_out: as for train.
        inner_seed: draws the inner held-out patients.
        change: settings that all candidates share, NAME=VALUE.
        device: where torch computes.
        threads: of torch.
    """

    out: Path
    data: str
    method: MethodName = "edpcnn"
    estimator: EstimatorName = "diff_bypass"
    profile: ProfileName = "cpu"
    num_train: int = 10
    seeds: tuple[int, ...] = (0,)
    hold_out: HoldOut = "random"
    split_seed: int = 0
    held_out: float = 1 / 3
    inner_seed: int = 1
    change: tuple[str, ...] = ()
    device: str = "cpu"
    threads: int = 1


def main(config: SearchConfig, report: train.Report = train.quiet) -> dict[str, Any]:
    """Train all candidates and return them, the best first; also written to search.json."""
    candidates = [_candidate(config, change, report) for change in _changes()]
    results = {
        **provenance(config.device),
        "config": dataclasses.asdict(config) | {"out": str(config.out)},
        "candidates": sorted(candidates, key=lambda candidate: -candidate["dice_whole"]),
    }
    checkpoint.write_json(config.out / "search.json", results)
    return results


def _changes() -> list[tuple[str, ...]]:
    return [
        tuple(f"{k}={v}" for k, v in zip(GRID, values, strict=True)) for values in product(*GRID.values())
    ]


def _candidate(config: SearchConfig, change: tuple[str, ...], report: train.Report) -> dict[str, Any]:
    runs = [train.main(_training(config, change, seed), report) for seed in config.seeds]
    scores = [run["held_out"][config.method]["dice_whole"] for run in runs]
    seconds = fmean(run["seconds"] for run in runs)
    return {"change": list(change), "dice_whole": fmean(scores), "scores": scores, "seconds": seconds}


def _training(config: SearchConfig, change: tuple[str, ...], seed: int) -> TrainConfig:
    shared = dataclasses.asdict(config)
    del shared["seeds"]
    name = "-".join((*change, f"seed={seed}"))
    own = {"out": config.out / name, "seed": seed, "change": config.change + change, "regime": "tuned"}
    return TrainConfig(**shared | own)
