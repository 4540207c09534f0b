"""The left-ventricle pipeline: indices of the best closed contour, by dynamic programming, from a warped map.

The gradient is measured with respect to the map (rays x radii) at noisy maps of round hearts. The objective is
whole-image Dice on held-out phantom hearts after a short training of a small U-Net through the dynamic program.
"""

from __future__ import annotations

import dataclasses
import math
from functools import cache
from statistics import mean

import numpy as np
import torch
from torch import Tensor

import ndgrad
from applications.lv_dp.data.phantom import PhantomConfig, load_phantom
from applications.lv_dp.data.preprocess import Batch, prepare
from applications.lv_dp.gradients import Gradient, contour, index_loss
from applications.lv_dp.metrics import dice
from applications.lv_dp.model import Segmenter, contour_loss, contour_masks
from applications.lv_dp.settings import PROFILES
from benchmarks.networks import MapScores
from benchmarks.tasks.task import Objective, Task

_SETTINGS = dataclasses.replace(PROFILES["smoke"], levels=3, base_channels=8)
_BATCH = 2
_TRAINING_PATIENTS, _HELD_OUT_PATIENTS = 4, 3


def smoothed_indices(warped: Tensor) -> Tensor:
    """(R, N, M+1) -> (R, N)."""
    return contour(_SETTINGS, warped)


def left_ventricle_task() -> Task:
    start, target = _noisy_hearts()
    return Task(
        name="left_ventricle",
        summary="contour of a heart on 12 rays of 14 radii, by closed dynamic programming on a map in logits",
        function=smoothed_indices,
        interface="torch",
        start=start,
        sigma=1.0,
        loss=lambda indices: index_loss(indices, target),
        surrogate=MapScores,
        objective=Objective(name="held-out Dice", higher_is_better=True, seeds=1, train=_train),
    )


def _noisy_hearts() -> tuple[Tensor, Tensor]:
    """Draw maps (B, N, M+1), high inside an oval and noisy, and the oval's true indices (B, N)."""
    rng = np.random.default_rng(12)
    N, M = _SETTINGS.num_rays, _SETTINGS.num_radii
    angle = 2 * math.pi * np.arange(N) / N
    tilt, size = rng.uniform(0, math.pi, (_BATCH, 1)), rng.uniform(5, 9, (_BATCH, 1))
    true = size + np.cos(2 * (angle - tilt))  # (B, N)
    clean = 2 * np.tanh((true[:, :, None] - np.arange(M + 1)) / 2)  # (B, N, M+1)
    noisy = clean + 0.8 * rng.standard_normal(clean.shape)
    return torch.from_numpy(noisy).float(), torch.from_numpy(true).float()


def _train(estimator: ndgrad.Estimator, steps: int) -> tuple[float, float]:
    """Train a small segmenter through the dynamic program; Dice before and after.

    Weights, batches and jitter come from the seed alone: the same for every estimator.
    """
    torch.manual_seed(torch.initial_seed())
    generator = torch.Generator().manual_seed(torch.initial_seed())
    box = ndgrad.wrap(smoothed_indices, estimator=estimator)
    model = Segmenter(
        _SETTINGS, Gradient(box, lambda box, warped, target: index_loss(box(warped), target).mean())
    )
    optimiser = torch.optim.Adam(model.unet.parameters(), lr=3e-3)
    training, held_out = _hearts()
    before = _dice(model, held_out)
    for _ in range(steps):
        rows = torch.randperm(len(training), generator=generator)[: _SETTINGS.batch_size]
        optimiser.zero_grad()
        contour_loss(model, training.select(rows), generator).backward()
        optimiser.step()
    return before, _dice(model, held_out)


@cache
def _hearts() -> tuple[Batch, Batch]:
    """Phantom hearts to train on, and others to score on."""
    data = load_phantom(PhantomConfig(patients=_TRAINING_PATIENTS + _HELD_OUT_PATIENTS, levels=3))
    training, held_out = data.patients[:_TRAINING_PATIENTS], data.patients[_TRAINING_PATIENTS:]
    first, second = (
        prepare(data.of_patients(names).slices, _SETTINGS.crop) for names in (training, held_out)
    )
    return first, second


def _dice(model: Segmenter, hearts: Batch) -> float:
    with torch.no_grad():
        masks = contour_masks(model.eval(), hearts)
    model.train()
    return mean(dice(mask, truth) for mask, truth in zip(masks, hearts.masks, strict=True))
