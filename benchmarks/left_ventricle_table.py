"""Held-out Dice of trained left-ventricle runs: one row per method, mean and deviation over the seeds.

    python -m benchmarks.left_ventricle_table --runs runs/table --out benchmarks/results

Reads the ``results.json`` of every run folder below --runs, as ``python -m applications.lv_dp train`` leaves
them, and prints a Markdown table. Runs of one table differ in method, estimator and seed only.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import tyro

from benchmarks.provenance import write_json

_COMPARED = ("method", "estimator", "gradient_form", "seed", "out", "threads")  # may differ between runs
_TUNED = ("iterations", "learning_rate", "schedule", "warmup")  # settings that may, too, in the tuned regime
_NAMES = {
    "mean_circle": "mean circle, no training",
    "unet": "U-Net, pixel loss",
    "unet_dp": "U-Net, pixel loss; read out by the dynamic program",
    "ray_ce": "each ray by itself, cross-entropy; read out by the dynamic program",
    "soft_dp": "through the smoothed dynamic program",
    "finite_difference": "through the dynamic program, `finite_difference`",
    "evolution_strategy": "through the dynamic program, `evolution_strategy`",
    "score_function": "through the dynamic program, `score_function`",
    "diff_bypass": "through the dynamic program, `diff_bypass` (EDPCNN)",
}  # in the order of the table


@dataclass(frozen=True)
class Config:
    """Which runs to summarise."""

    runs: Path
    """Folder whose subfolders are finished runs."""
    out: Path | None = None
    """Folder for left_ventricle_table.json; nothing is written without it."""


@dataclass(frozen=True)
class Score:
    """One way to predict, of one run."""

    name: str  # a key of _NAMES
    seed: int
    dice_whole: float
    dice_square: float
    seconds: float  # of training
    evaluations: float  # of the dynamic program in one iteration


def main(config: Config) -> dict[str, Any]:
    """Summarise the runs; prints and returns the table.

    Raises:
        ValueError: in one line, when there are no runs, or runs that cannot stand in one table.
    """
    runs = [json.loads(path.read_text()) for path in sorted(config.runs.glob("*/results.json"))]
    if not runs:
        raise ValueError(f"{config.runs}: no run folder with a results.json below it")
    shared = _shared(runs, config.runs)
    scores = [score for run in runs for score in _scores(run)]
    results = {
        "rows": {name: _row([s for s in scores if s.name == name]) for name in _NAMES},
        "held_out_count": runs[0]["held_out_count"],
        "configuration": shared,
        "versions": runs[0]["versions"],
        "device": runs[0]["device"],
    }
    print(markdown(results))
    write_json(config.out, "left_ventricle_table", results)
    return results


def markdown(results: dict[str, Any]) -> str:
    """Write the rows that have scores as a Markdown table."""
    lines = [
        "| method | Dice, whole image | Dice, star's square | evaluations per iteration | training, s |",
        "|---|---|---|---|---|",
    ]
    for name, row in results["rows"].items():
        if row["seeds"]:
            cost = f"{row['evaluations']:.0f} | {row['seconds']:.0f}"
            cells = f"{_spread(row['dice_whole'])} | {_spread(row['dice_square'])}"
            lines.append(f"| {_NAMES[name]} | {cells} | {cost} |")
    return "\n".join(lines)


def _shared(runs: list[dict[str, Any]], folder: Path) -> dict[str, Any]:
    """Return what all configurations agree on, and insist that it is everything but ``_COMPARED``."""
    first, *others = (_comparable(run["config"]) for run in runs)
    for other in others:
        changed = sorted(key for key in first if first[key] != other.get(key))
        if changed:
            raise ValueError(
                f"{folder}: holds runs with different {', '.join(changed)}; one table needs the same"
            )
    return first | {"data": Path(first["data"]).name}  # where the data lay does not matter


def _comparable(config: dict[str, Any]) -> dict[str, Any]:
    own = _TUNED if config.get("regime") == "tuned" else ()
    settings = {key: value for key, value in config["settings"].items() if key not in own}
    return {key: value for key, value in config.items() if key not in _COMPARED} | {"settings": settings}


def _scores(run: dict[str, Any]) -> Iterator[Score]:
    config = run["config"]
    for name, dice in run["held_out"].items():
        if name == "mean_circle" and config["method"] != "unet":
            continue  # the same training slices give the same circle in every run of a seed
        name = config["estimator"] if name == "edpcnn" else name
        trained = name != "mean_circle"
        seconds = run["seconds"] if trained else 0.0
        evaluations = run["evaluations"] / config["settings"]["iterations"] if trained else 0.0
        yield Score(name, config["seed"], dice["dice_whole"], dice["dice_square"], seconds, evaluations)


def _row(scores: list[Score]) -> dict[str, Any]:
    scores = sorted(scores, key=lambda score: score.seed)
    return {
        "seeds": [score.seed for score in scores],
        "dice_whole": [score.dice_whole for score in scores],
        "dice_square": [score.dice_square for score in scores],
        "seconds": mean(score.seconds for score in scores) if scores else 0.0,
        "evaluations": mean(score.evaluations for score in scores) if scores else 0.0,
    }


def _spread(values: list[float]) -> str:
    deviation = f" ± {stdev(values):.3f}" if len(values) > 1 else ""
    return f"{mean(values):.3f}{deviation}"


def cli() -> None:
    """Read the command line; runs that cannot be used are one line and exit status 2."""
    try:
        main(tyro.cli(Config, description=__doc__))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    cli()
