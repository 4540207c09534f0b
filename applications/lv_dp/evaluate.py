"""Score a trained model on every image of a data set, each with its centre given."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import torch
from torch import Tensor

from applications.lv_dp import checkpoint
from applications.lv_dp.config import EvaluateConfig
from applications.lv_dp.data import DataError, Slice, SliceSet
from applications.lv_dp.data.cache import load_even
from applications.lv_dp.data.preprocess import Batch, paste, prepare
from applications.lv_dp.data.resample import Grid, point_on_grid
from applications.lv_dp.data.sources import load, load_centers
from applications.lv_dp.metrics import scores
from applications.lv_dp.model import METHODS, Predict, Segmenter, circle_masks
from applications.lv_dp.provenance import provenance, usable_device
from applications.lv_dp.release import open_model
from applications.lv_dp.runs import Run
from applications.lv_dp.summary import method_names, summaries
from applications.lv_dp.surface import surface_distances
from applications.lv_dp.volumes import Record

GROUP = 16  # images that go through the network together

Unit = Literal["mm", "px"]
Score = Callable[[Tensor, Slice, Tensor, float], dict[str, Any]]  # of a mask, given slice, centre and reach


def main(config: EvaluateConfig) -> dict[str, Any]:
    """Evaluate, write ``config.json`` and return the same.

    Raises:
        DataError: the run, the data or the centres cannot be used.
    """
    device = usable_device(config.device)
    run = open_model(config.run)
    data = load_even(config.data, run.spacing)
    if config.subset == "held_out":
        data = _held_out(data, run)
    centers = _given_centers(config.centers, config.data, data) if config.centers else None
    settings = run.model.settings
    batch = prepare(data.slices, settings.crop, centers, settings.crop_at).to(device)
    unit = distance_unit(data.slices)
    images = score_images(run.model.to(device), data, batch, predictions(run), partial(all_scores, unit))
    images = [describe(item, unit) | image for item, image in zip(data.slices, images, strict=True)]
    results = {
        **provenance(config.device),
        "config": run.config,
        "data": config.data,
        "subset": config.subset,
        "iteration": run.iteration,
        "count": len(data),
        "count_trained_on": count_trained_on(data, run),
        "dropped": data.dropped,
        "drop_reasons": data.drop_reasons,
        "patients": data.patients,
        "methods": summaries(images),
        "images": images,
    }
    checkpoint.write_json(config.json, results)
    return results


def _given_centers(path: Path, source: str, data: SliceSet) -> list[Tensor]:
    """Read the centres, in pixels of the files, and follow the slices where they were resampled."""
    points = load_centers(path, data)
    originals = {item.name: item for item in load(source).slices}
    pairs = zip(points, data.slices, strict=True)
    centers = [_follow(point, originals[item.name], item) for point, item in pairs]
    warn_of_centers_outside(path, centers, data)
    return centers


def _follow(point: Tensor, original: Slice, item: Slice) -> Tensor:
    shape, new = original.image.shape, item.image.shape
    if item.spacing is None or original.spacing is None or (original.spacing, shape) == (item.spacing, new):
        return point
    return point_on_grid(point, (shape[0], shape[1]), original.spacing, Grid(item.spacing[0], new[0]))


def warn_of_centers_outside(path: Path, centers: Sequence[Tensor], data: SliceSet) -> None:
    """Warn where most centres lie outside the masks they belong to: rows and columns may be exchanged."""
    outside = sum(not _holds(item.mask, center) for item, center in zip(data.slices, centers, strict=True))
    if 2 * outside > len(data):
        warnings.warn(
            f"{path}: {outside} of the {len(data)} centres lie outside their true masks; the columns x,y are in "
            "pixels, x counts columns and y rows, from 0 at the top left",
            stacklevel=3,
        )


def _holds(mask: Tensor, center: Tensor) -> bool:
    (H, W), (x, y) = mask.shape, center.round().long().tolist()
    return 0 <= y < H and 0 <= x < W and bool(mask[y, x])


def count_trained_on(data: SliceSet, run: Run) -> int | None:
    """Return how many slices have the names of training slices; None for weights that do not name these."""
    names = run.config.get("training_slices")
    return sum(item.name in names for item in data.slices) if isinstance(names, list) else None


def predictions(run: Run) -> dict[str, Predict]:
    """Return every way to predict with a run, the mean circle included."""
    return METHODS[run.config["method"]].predictions | {"mean_circle": partial(circle_masks, run.mean_radius)}


def _held_out(data: SliceSet, run: Run) -> SliceSet:
    if not run.held_out:
        raise DataError(
            f"{run.path}: does not name the patients it held out; --subset must be all, or export with --name-patients"
        )
    kept = data.of_patients(run.held_out)
    if not len(kept):
        raise DataError(
            f"{data.source}: holds none of the {len(run.held_out)} patients that {run.path} held out"
        )
    return kept


def distance_unit(slices: Sequence[Slice]) -> Unit:
    """Return mm when every slice has a spacing, else px for all: one mean holds one unit."""
    return "mm" if all(item.spacing for item in slices) else "px"


def describe(item: Slice, unit: Unit) -> Record:
    """Return what a summary must know of an image beside its scores."""
    return {
        "name": item.name,
        "patient": item.patient,
        "phase": item.phase,
        "size": list(item.mask.shape),
        "spacing": list(item.spacing) if item.spacing else None,
        "slice_spacing": item.slice_spacing,
        "unit": unit,
        "area_px": int(item.mask.sum()),
        "mask_sha256": hashlib.sha256(item.mask.contiguous().numpy().tobytes()).hexdigest()[:16],
    }


def dice_scores(prediction: Tensor, item: Slice, center: Tensor, reach: float) -> dict[str, Any]:
    """Return the two Dice scores: what training can afford."""
    return scores(prediction, item.mask, center, reach)


def all_scores(unit: Unit, prediction: Tensor, item: Slice, center: Tensor, reach: float) -> dict[str, Any]:
    """Return Dice, area in pixels, and surface distances in the unit given."""
    spacing = item.spacing if unit == "mm" else None
    overlap = dice_scores(prediction, item, center, reach) | {"area_px": int(prediction.sum())}
    return overlap | surface_distances(prediction, item.mask, spacing)


def score_images(
    model: Segmenter,
    data: SliceSet,
    batch: Batch,
    predict: dict[str, Predict],
    score: Score = dice_scores,
) -> list[Record]:
    """Score every slice by every prediction; ``batch`` holds the prepared slices in the same order."""
    was_training = model.training
    model.eval()
    records: list[Record] = []
    with torch.no_grad():
        for begin in range(0, len(data), GROUP):
            rows = torch.arange(begin, min(begin + GROUP, len(data)))
            group = data.slices[begin : begin + GROUP]
            records += _score_group(model, group, batch.select(rows), predict, score)
    model.train(was_training)
    return records


def _score_group(
    model: Segmenter, slices: tuple[Slice, ...], batch: Batch, predict: dict[str, Predict], score: Score
) -> list[Record]:
    sizes = [(item.mask.shape[0], item.mask.shape[1]) for item in slices]
    records: list[Record] = [{"name": item.name, "patient": item.patient} for item in slices]
    corners = batch.corners.cpu()
    for name, function in predict.items():
        masks = paste(function(model, batch).cpu(), corners, sizes)
        for record, mask, item, center in zip(
            records, masks, slices, batch.centers.cpu() + corners, strict=True
        ):
            record[name] = score(mask, item, center, model.settings.star.reach)
    return records


def mean_scores(images: list[Record]) -> dict[str, dict[str, float]]:
    """Average each method's Dice scores over the images."""
    return {
        method: {score: fmean(image[method][score] for image in images) for score in images[0][method]}
        for method in method_names(images)
    }
