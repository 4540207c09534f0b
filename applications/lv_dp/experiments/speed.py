"""Table 5.2: seconds per training iteration and per image at inference, every method side by side."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any

from matplotlib.figure import Figure

from applications.lv_dp.experiments import published
from applications.lv_dp.experiments.experiment import Experiment, Results
from applications.lv_dp.experiments.figures.bars import draw_bars
from applications.lv_dp.experiments.options import ReproduceConfig
from applications.lv_dp.experiments.summaries import Entry
from applications.lv_dp.experiments.timing import PARTS, WAYS, TimingCell
from applications.lv_dp.provenance import provenance
from applications.lv_dp.settings import ProfileName

ROUNDS: dict[ProfileName, tuple[int, int]] = {"smoke": (1, 3), "cpu": (2, 21)}
DEFAULT_ROUNDS = (3, 25)  # rounds to warm up, and rounds that count
PUBLISHED = {"U-Net": published.TABLE_5_2["unet"], "EDPCNN": published.TABLE_5_2["edpcnn"]}


def cell(options: ReproduceConfig) -> TimingCell:
    """Return the one cell."""
    config = options.training(options.all_sizes()[-1], options.first_seed).config
    warmup, rounds = ROUNDS.get(options.profile, DEFAULT_ROUNDS)
    return TimingCell(config, warmup, rounds, provenance(config.device)["device"])


def entries(results: Results) -> list[Entry]:
    """Return the median seconds of every way and part."""
    found = results.of(cell(results.options))
    seconds = found["seconds"] if found else {}
    return [
        Entry(label, part, _median(seconds, part, label), published=PUBLISHED.get(label, {}).get(part))
        for label in WAYS
        for part in PARTS
    ]


def _median(seconds: Mapping[str, Mapping[str, list[float]]], part: str, label: str) -> tuple[float, ...]:
    measured = seconds.get(part, {}).get(label)
    return (median(measured),) if measured else ()


def least(results: Results) -> dict[str, Any]:
    """Return the least seconds beside the medians: what a busy machine disturbs least."""
    found = results.of(cell(results.options))
    seconds = found["seconds"] if found else {}
    return {
        "least_seconds": {part: {way: min(s) for way, s in ways.items()} for part, ways in seconds.items()}
    }


def figure(results: Results) -> Figure:
    """Draw both parts."""
    found = results.of(cell(results.options))
    where = found["device"] if found else "not measured"
    return draw_bars(entries(results), PARTS, f"Median seconds; this machine: {where}")


EXPERIMENTS = (
    Experiment(
        "table-5-2",
        "seconds per training iteration and per image of every method, beside MONAI's BasicUNet",
        lambda options: [cell(options)],
        entries,
        figure,
        {"thesis, NVIDIA GTX 1080 Ti": published.TABLE_5_2},
        least,
    ),
)
