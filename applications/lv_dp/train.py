"""Train a model: one loop for every method."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from applications.lv_dp import checkpoint
from applications.lv_dp.augment import augment
from applications.lv_dp.config import TrainConfig
from applications.lv_dp.data import SliceSet
from applications.lv_dp.data.cache import load_even
from applications.lv_dp.data.preprocess import Batch, prepare
from applications.lv_dp.data.splits import held_out_fifth, held_out_patients, held_out_third, training_subset
from applications.lv_dp.errors import UsageError
from applications.lv_dp.evaluate import mean_scores, score_images
from applications.lv_dp.metrics import dice
from applications.lv_dp.model import METHODS, Segmenter, build, circle_masks, mean_radius
from applications.lv_dp.provenance import provenance, usable_device
from applications.lv_dp.reach import warn_beyond_reach
from applications.lv_dp.runs import Row, check_config, checkpoint_path, read_row, write_config, write_metrics
from applications.lv_dp.settings import Settings
from applications.lv_dp.settings_check import checked_settings

TRAINING_SCORED = 32  # training slices whose Dice is measured with the held-out one
Report = Callable[[Row, int], None]


def quiet(row: Row, iterations: int) -> None:
    """Report nothing."""


@dataclass
class Training:
    """A training under way: everything that a checkpoint must hold, and the data."""

    config: TrainConfig
    model: Segmenter
    optimizer: torch.optim.Optimizer
    generator: torch.Generator  # batches, jitter and probes
    batch: Batch
    held_out: SliceSet
    held_out_batch: Batch
    rows: list[Row] = field(default_factory=list)

    def state(self) -> dict[str, Any]:
        """Return the checkpoint."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "global_generator": torch.get_rng_state(),
            "rows": [asdict(row) for row in self.rows],
            "iteration": len(self.rows),
            "mean_radius": mean_radius(self.batch.masks),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a checkpoint; any exception where it is another training's."""
        self.model.load_state_dict(state["model"])
        check_adam(state["optimizer"], self.optimizer)
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        torch.set_rng_state(state["global_generator"])
        self.rows = [read_row(row, number) for number, row in enumerate(state["rows"], start=1)]


def main(config: TrainConfig, report: Report = quiet) -> dict[str, Any]:
    """Train, or go on with a stopped training, and write the run folder; return what results.json holds.

    Raises:
        UsageError: the data or the run folder cannot be used.
    """
    training = start(config)
    settings, scores = config.settings, None
    while len(training.rows) < settings.iterations:
        iteration = len(training.rows) + 1
        row = step(training, iteration)
        last = iteration == settings.iterations
        if last or iteration % settings.evaluate_every == 0:
            scores = held_out_scores(training)
            held_out = scores[_own_name(config)]["dice_whole"]
            row = Row(**asdict(row) | {"held_out_dice": held_out, "train_dice": training_dice(training)})
        training.rows.append(row)
        if last or iteration % settings.checkpoint_every == 0:
            checkpoint.save(checkpoint_path(config.out), training.state())
            write_metrics(config.out, training.rows)
        report(row, settings.iterations)
    return finish(training, scores or held_out_scores(training))


def start(config: TrainConfig) -> Training:
    """Load the data, build the model, and restore the last checkpoint if there is one."""
    _check(config)
    data = load_even(config.data)
    data, held_out = split(data, config)
    subset = training_subset(data, held_out.patients, config.num_train, config.seed)
    warn_beyond_reach((*subset.slices, *held_out.slices), config.settings, config.data)
    device = usable_device(config.device)
    generator = torch.Generator(device).manual_seed(config.seed)
    model = build(config, generator).to(device)
    described = config.to_json() | _described(data, held_out, subset)
    check_config(config.out, described)
    optimizer = torch.optim.Adam(model.unet.parameters(), lr=config.settings.learning_rate)
    crop, at = config.settings.crop, config.settings.crop_at
    batch, held_out_batch = (prepare(part.slices, crop, at=at).to(device) for part in (subset, held_out))
    training = Training(config, model.train(), optimizer, generator, batch, held_out, held_out_batch)
    resume(training, checkpoint_path(config.out))
    write_config(config.out, described)
    return training


def resume(training: Training, path: Path) -> None:
    """Go back to the last checkpoint, if there is one, and clear away what was not finished.

    Raises:
        UsageError: it is damaged, or another training's.
    """
    checkpoint.remove_partial(path)
    if not path.exists():
        return
    state = checkpoint.load(path)
    try:
        training.restore(copy.deepcopy(state))
        step(training, len(training.rows) + 1)  # much that loads does not train
        training.restore(state)
    except Exception as error:  # load_state_dict of a dozen classes raises anything
        raise UsageError(
            f"{path}: does not fit this training ({type(error).__name__}); remove it to begin anew"
        ) from error
    done, wanted = len(training.rows), training.config.settings.iterations
    if done > wanted:
        raise UsageError(
            f"{path}: has {done} iterations behind it, more than the {wanted} asked for; choose another --out, or "
            f"--iterations {done} or more"
        )


def check_adam(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> None:
    """Refuse a state that Adam would load and fail on later: ValueError or KeyError."""
    groups, own = state["param_groups"], optimizer.state_dict()["param_groups"]
    free = {"lr": 0.0}  # depends on the iteration
    if [group | free for group in groups] != [group | free for group in own]:
        raise ValueError("other options of Adam")
    if not all(isinstance(group["lr"], float) and math.isfinite(group["lr"]) for group in groups):
        raise ValueError("a learning rate is a number")
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, moments in state["state"].items():
        shapes = {
            "step": torch.Size(),
            "exp_avg": parameters[index].shape,
            "exp_avg_sq": parameters[index].shape,
        }
        if {name: moment.shape for name, moment in moments.items()} != shapes:
            raise ValueError("moments of other parameters")


def _described(data: SliceSet, held_out: SliceSet, subset: SliceSet) -> dict[str, Any]:
    """Return what a run folder says about its data."""
    return {
        "held_out_patients": held_out.patients,
        "training_slices": [item.name for item in subset.slices],
        "spacing": data.spacing,
    }


def split(data: SliceSet, config: TrainConfig) -> tuple[SliceSet, SliceSet]:
    """Return the data that a training may know of, and the held-out part of it."""
    if config.hold_out == "thirds" and config.inner_seed is not None:
        raise UsageError(
            "--hold-out thirds holds out every patient once, by another seed, and leaves none to choose settings on; "
            "take --hold-out random or fifth"
        )
    if config.hold_out == "fifth":
        held_out = held_out_fifth(data)
    elif config.hold_out == "thirds":
        held_out = held_out_third(data, config.seed)
    else:
        held_out = held_out_patients(data, config.held_out, config.split_seed)
    if config.inner_seed is not None:
        data = data.of_patients(set(data.patients) - set(held_out))
        held_out = held_out_patients(data, config.held_out, config.inner_seed)
    return data, data.of_patients(held_out)


def _check(config: TrainConfig) -> None:
    if config.settings.iterations < 1:
        raise UsageError(f"--iterations must be at least 1, got {config.settings.iterations}")
    if not 0 < config.held_out < 1:
        raise UsageError(f"--held-out is a fraction between 0 and 1, got {config.held_out:g}")
    checked_settings(asdict(config.settings), "--change")


def step(training: Training, iteration: int) -> Row:
    """Take one optimiser step on a batch drawn without replacement."""
    began, evaluated = time.perf_counter(), training.model.num_evaluations
    config = training.config
    generator = training.generator
    order = torch.randperm(len(training.batch), generator=generator, device=generator.device)
    rows = order[: config.settings.batch_size]
    batch = training.batch.select(rows)
    if config.settings.augment:
        batch = augment(batch, training.generator)
    loss = METHODS[config.method].loss(training.model, batch, training.generator)
    set_learning_rate(training.optimizer, config.settings, iteration)
    training.optimizer.zero_grad()
    loss.backward()
    training.optimizer.step()
    seconds, evaluations = time.perf_counter() - began, training.model.num_evaluations - evaluated
    return Row(iteration, float(loss.detach()), seconds, evaluations, training.model.gradient_error)


def set_learning_rate(optimizer: torch.optim.Optimizer, settings: Settings, iteration: int) -> None:
    """Set the rate of an iteration, counted from 1: a linear rise, then constant or half a cosine to zero."""
    factor = min(1.0, iteration / settings.warmup) if settings.warmup else 1.0
    if settings.schedule == "cosine":
        factor *= (1 + math.cos(math.pi * (iteration - 1) / settings.iterations)) / 2
    for group in optimizer.param_groups:
        group["lr"] = settings.learning_rate * factor


def _own_name(config: TrainConfig) -> str:
    """Return the method's own way to predict, the first of its list."""
    return next(iter(METHODS[config.method].predictions))


def held_out_scores(training: Training) -> dict[str, dict[str, float]]:
    """Score the model as it stands, and the mean circle, on the held-out patients."""
    circle = partial(circle_masks, mean_radius(training.batch.masks))
    predict = METHODS[training.config.method].predictions | {"mean_circle": circle}
    return mean_scores(score_images(training.model, training.held_out, training.held_out_batch, predict))


def training_dice(training: Training) -> float:
    """Return the mean Dice of the model as it stands on the first of its own training crops."""
    batch = training.batch.select(torch.arange(min(len(training.batch), TRAINING_SCORED)))
    predict = METHODS[training.config.method].predictions[_own_name(training.config)]
    training.model.eval()
    with torch.no_grad():
        masks = predict(training.model, batch)
    training.model.train()
    return fmean(dice(mask, truth) for mask, truth in zip(masks, batch.masks, strict=True))


def finish(training: Training, scores: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Write and return results.json: the scores given, the cost, and where they came from."""
    config = training.config
    results = {
        **provenance(config.device),
        "config": config.to_json(),
        "held_out": scores,
        "held_out_count": len(training.held_out),
        "held_out_dropped": training.held_out.dropped,
        "seconds": sum(row.seconds for row in training.rows),
        "evaluations": sum(row.evaluations for row in training.rows),
    }
    checkpoint.write_json(config.out / "results.json", results)
    return results
