"""Where the masks of a data set lie beside what they outline, and what that does to the tables.

    python -m benchmarks.misplaced_contours --data png:DIR --tables runs/tuned/table-5-1.json --out benchmarks/results

The blood of the left ventricle is brighter than the muscle around it. Every mask is moved over its image, and the
place of most contrast, mean inside minus mean of a ring around it, should be the place where it was drawn. A patient
whose median over the slices is further away than --limit is *misplaced*. The tables, as ``reproduce table-5-1``
leaves them, are then printed with and without the misplaced patients.
"""

from __future__ import annotations

import json
import math
import sys
from collections import defaultdict
from collections.abc import Container, Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

import torch.nn.functional as F
import tyro
from torch import Tensor

from applications.lv_dp.data.cache import load_even
from applications.lv_dp.data.slices import Slice
from applications.lv_dp.errors import UsageError
from benchmarks.provenance import provenance, write_json

Scores = dict[
    tuple[str, int, int], dict[str, list[float]]
]  # (method, size, seed) to the Dice of each patient's slices


@dataclass(frozen=True)
class Config:
    """Which data, and which tables of it."""

    data: str
    """As --data of applications.lv_dp; pixels count, not mm."""
    tables: tuple[Path, ...] = ()
    """Files table-5-1.json with their cells."""
    reach: int = 16
    """Masks are moved by up to this many pixels, in x and in y."""
    ring: int = 6
    """Width of the ring around a mask, pixels."""
    limit: float = 5.0
    """A patient whose median distance is greater is misplaced, pixels."""
    out: Path | None = None
    """Folder for misplaced_contours.json; nothing is written without it."""


def main(config: Config) -> dict[str, Any]:
    """Measure all patients, and summarise the tables; prints and returns both.

    Raises:
        ValueError: in one line, when a table cannot be used, or the masks cannot be moved so.
    """
    if config.reach < 1 or config.ring < 1:
        raise ValueError(f"--reach and --ring are 1 pixel or more, got {config.reach} and {config.ring}")
    shifts = patient_shifts(load_even(config.data).slices, config.reach, config.ring)
    misplaced = [name for name, shift in shifts.items() if math.hypot(*shift) > config.limit]
    print(
        f"median shift (x, y) of {len(shifts)} patients, px; beyond {config.limit:g}: {misplaced or 'none'}"
    )
    for name, (x, y) in shifts.items():
        print(f"  {name}: {x:+.0f} {y:+.0f}")
    tables = {}
    for path in config.tables:
        scores = read_scores(path)
        tables[path.parent.name] = {
            "with": summarise(scores, shifts),
            "without": summarise(scores, shifts.keys() - misplaced),
            "misplaced": summarise(scores, misplaced),
        }
        print(f"\n{path.parent.name}\n{markdown(tables[path.parent.name])}")
    results = {"shifts": shifts, "misplaced": misplaced, "tables": tables, **provenance(config)}
    results["configuration"] |= {"data": config.data.partition(":")[0] + ":DIR", "tables": list(tables)}
    write_json(config.out, "misplaced_contours", results)
    return results


def patient_shifts(slices: Iterable[Slice], reach: int, ring: int) -> dict[str, tuple[float, float]]:
    """Return the median shift (x, y) of each patient's slices, in pixels."""
    found: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
    for item in slices:
        found[item.patient].append(best_shift(item.image, item.mask, reach, ring))
    return {
        patient: (median(x for x, _ in shifts), median(y for _, y in shifts))
        for patient, shifts in sorted(found.items())
    }


def best_shift(image: Tensor, mask: Tensor, reach: int, ring: int) -> tuple[int, int]:
    """Return the shift (x, y) in pixels that gives a mask (H, W) most contrast to the ring around it.

    Example:
        >>> import torch
        >>> mask = torch.zeros(40, 40, dtype=torch.bool)
        >>> mask[15:25, 10:20] = True
        >>> best_shift(mask.roll((2, -3), (0, 1)).float(), mask, reach=5, ring=2)
        (-3, 2)
    """
    inside = mask.float()[None, None]
    around = F.max_pool2d(inside, 2 * ring + 1, stride=1, padding=ring) - inside
    weights = inside / inside.sum() - around / around.sum()  # (1, 1, H, W)
    padded = F.pad(image.float()[None, None], [reach] * 4, mode="replicate")
    contrast = F.conv2d(padded, weights)[0, 0]  # (2 reach + 1, 2 reach + 1), over y and x
    row, column = divmod(int(contrast.argmax()), contrast.shape[1])
    return column - reach, row - reach


def read_scores(path: Path) -> Scores:
    """Read the Dice of every held-out slice from the cells of a table.

    Raises:
        ValueError: the file holds no cells.
    """
    cells = json.loads(path.read_text()).get("cells")
    if not cells:
        raise ValueError(f"{path}: holds no cells; give table-5-1.json as `reproduce table-5-1` wrote it")
    scores: Scores = {}
    for cell in cells:
        config, result = cell["identity"]["config"], cell["result"]
        for method in result["held_out"]:
            key = (method, config["num_train"], config["seed"])
            patients = scores[key] = defaultdict(list)
            for image in result["images"]:
                patients[image["patient"]].append(image[method]["dice_whole"])
    return scores


def summarise(scores: Scores, patients: Container[str]) -> dict[str, dict[str, Any]]:
    """Return mean and deviation over the seeds of each method and size, over all slices of these patients."""
    seeds: defaultdict[tuple[str, int], list[float]] = defaultdict(list)
    for (method, size, _), found in scores.items():
        if kept := [value for name, values in found.items() if name in patients for value in values]:
            seeds[method, size].append(fmean(kept))
    return {
        f"{method}, {size} slices": {
            "mean": fmean(v),
            "deviation": stdev(v) if len(v) > 1 else None,
            "seeds": len(v),
        }
        for (method, size), v in seeds.items()
    }


def markdown(table: dict[str, dict[str, dict[str, Any]]]) -> str:
    """Write one table's three summaries side by side."""
    lines = ["| method | all patients | without the misplaced | the misplaced alone |", "|---|---|---|---|"]
    for row in table["with"]:
        cells = " | ".join(_spread(table[part].get(row)) for part in ("with", "without", "misplaced"))
        lines.append(f"| {row} | {cells} |")
    return "\n".join(lines)


def _spread(entry: dict[str, Any] | None) -> str:
    if entry is None:
        return ""
    return f"{entry['mean']:.3f}" + (f" ± {entry['deviation']:.3f}" if entry["deviation"] is not None else "")


def cli() -> None:
    """Read the command line; what cannot be used is one line and exit status 2."""
    try:
        main(tyro.cli(Config, description=__doc__))
    except (ValueError, UsageError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    cli()
