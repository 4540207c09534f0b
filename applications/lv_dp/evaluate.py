"""Score a trained model on every image of a data set, each with its centre given."""

from __future__ import annotations

from functools import partial
from statistics import fmean
from typing import Any

import torch

from applications.lv_dp import checkpoint
from applications.lv_dp.config import EvaluateConfig
from applications.lv_dp.data import DataError, Slice, SliceSet
from applications.lv_dp.data.preprocess import Batch, paste, prepare
from applications.lv_dp.data.sources import load, load_centers
from applications.lv_dp.metrics import scores
from applications.lv_dp.model import METHODS, Predict, Segmenter, circle_masks
from applications.lv_dp.provenance import provenance
from applications.lv_dp.runs import Run, open_run

GROUP = 16  # images that go through the network together

Scores = dict[str, float]


def main(config: EvaluateConfig) -> dict[str, Any]:
    """Evaluate, write ``config.json`` and return the same.

    Raises:
        DataError: the run, the data or the centres cannot be used.
    """
    run = open_run(config.run)
    data = load(config.data)
    if config.subset == "held_out":
        data = _held_out(data, run)
    centers = load_centers(config.centers, data) if config.centers else None
    settings = run.model.settings
    batch = prepare(data.slices, settings.crop, centers, settings.crop_at)
    images = score_images(run.model, data, batch, predictions(run))
    results = {
        **provenance(),
        "config": run.config,
        "data": config.data,
        "subset": config.subset,
        "iteration": run.iteration,
        "count": len(data),
        "dropped": data.dropped,
        "patients": data.patients,
        "methods": mean_scores(images),
        "images": images,
    }
    checkpoint.write_json(config.json, results)
    return results


def predictions(run: Run) -> dict[str, Predict]:
    """Return every way to predict with a run, the mean circle included."""
    return METHODS[run.config["method"]].predictions | {"mean_circle": partial(circle_masks, run.mean_radius)}


def _held_out(data: SliceSet, run: Run) -> SliceSet:
    kept = data.of_patients(run.held_out)
    if not len(kept):
        raise DataError(
            f"{data.source}: holds none of the {len(run.held_out)} patients that {run.path} held out"
        )
    return kept


def score_images(
    model: Segmenter, data: SliceSet, batch: Batch, predict: dict[str, Predict]
) -> list[dict[str, Any]]:
    """Score every slice by every prediction; ``batch`` holds the prepared slices in the same order."""
    was_training = model.training
    model.eval()
    records: list[dict[str, Any]] = []
    with torch.no_grad():
        for begin in range(0, len(data), GROUP):
            rows = torch.arange(begin, min(begin + GROUP, len(data)))
            records += _score_group(model, data.slices[begin : begin + GROUP], batch.select(rows), predict)
    model.train(was_training)
    return records


def _score_group(
    model: Segmenter, slices: tuple[Slice, ...], batch: Batch, predict: dict[str, Predict]
) -> list[dict[str, Any]]:
    sizes = [(item.mask.shape[0], item.mask.shape[1]) for item in slices]
    records: list[dict[str, Any]] = [{"name": item.name, "patient": item.patient} for item in slices]
    for name, function in predict.items():
        masks = paste(function(model, batch), batch.corners, sizes)
        for record, mask, item, center in zip(
            records, masks, slices, batch.centers + batch.corners, strict=True
        ):
            record[name] = scores(mask, item.mask, center, model.settings.star.reach)
    return records


def mean_scores(images: list[dict[str, Any]]) -> dict[str, Scores]:
    """Average each method's scores over the images."""
    methods = [name for name, value in images[0].items() if isinstance(value, dict)]
    return {
        method: {score: fmean(image[method][score] for image in images) for score in images[0][method]}
        for method in methods
    }
