"""How the dynamic program gets its gradient: one entry per estimator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

import ndgrad
from applications.lv_dp.config import EstimatorName, GradientForm
from applications.lv_dp.dynamic_programming import solve
from applications.lv_dp.errors import UsageError
from applications.lv_dp.settings import Settings
from applications.lv_dp.star_pattern import directional_derivative, moving_average
from applications.lv_dp.unet import BypassNetwork

Loss = Callable[[ndgrad.BlackBox, Tensor, Tensor], Tensor]


def contour(settings: Settings, warped: Tensor) -> Tensor:
    """Return the smoothed indices (B, N) of the best closed contour on warped maps (B, N, M+1)."""
    return moving_average(solve(directional_derivative(warped), settings.delta), settings.smoothing)


def index_loss(indices: Tensor, target: Tensor) -> Tensor:
    """Mean squared index error of each row: (B, N), (B, N) -> (B,)."""
    return (indices - target).square().mean(dim=1)


@dataclass(frozen=True)
class Gradient:
    """The bypassed function with its estimator (``box``), and the training loss on top of it.

    ``loss(box, warped, target)`` takes warped maps (B, N, M+1) and true fractional indices (B, N).
    """

    box: ndgrad.BlackBox
    loss: Loss


def build_gradient(
    name: EstimatorName, form: GradientForm, settings: Settings, generator: torch.Generator
) -> Gradient:
    """Wrap ``warped map -> smoothed indices`` (``vjp``), or its composition with the loss (``composed``).

    Raises:
        UsageError: the composed form was asked of the bypass, whose loss is on the logits of F.
    """
    if name == "diff_bypass":
        if form != "vjp":
            raise UsageError(f"--gradient-form composed needs --estimator {' or '.join(DIRECT)}")
        return Gradient(ndgrad.wrap(_indices(settings), estimator=_bypass(settings, generator)), _logit_loss)
    estimator = DIRECT[name](settings, generator)
    if form == "vjp":
        return Gradient(ndgrad.wrap(_indices(settings), estimator=estimator), _vjp_loss)
    box = ndgrad.wrap(_losses(settings), estimator=estimator, in_dims=(0, 0), argnums=0)
    return Gradient(box, _composed_loss)


def _indices(settings: Settings) -> Callable[[Tensor], Tensor]:
    def smoothed_indices(warped: Tensor) -> Tensor:
        return contour(settings, warped)

    return smoothed_indices


def _losses(settings: Settings) -> Callable[[Tensor, Tensor], Tensor]:
    def losses(warped: Tensor, target: Tensor) -> Tensor:
        return index_loss(contour(settings, warped), target)

    return losses


def _logit_loss(box: ndgrad.BlackBox, warped: Tensor, target: Tensor) -> Tensor:
    """Algorithm 3: cross-entropy of F's logits against the true index, as a class."""
    return F.cross_entropy(box(warped), target.round().long())


def _vjp_loss(box: ndgrad.BlackBox, warped: Tensor, target: Tensor) -> Tensor:
    return index_loss(box(warped), target).mean()


def _composed_loss(box: ndgrad.BlackBox, warped: Tensor, target: Tensor) -> Tensor:
    losses: Tensor = box(warped, target)
    return losses.mean()


def _bypass(settings: Settings, generator: torch.Generator) -> ndgrad.DiffBypass:
    return ndgrad.DiffBypass(
        BypassNetwork(settings.bypass_levels, settings.bypass_channels, settings.norm),
        sigma=settings.sigma,
        num_samples=settings.bypass_samples,
        fit_steps=settings.fit_steps,
        forward="bypass",
        generator=generator,
    )


def _evolution(settings: Settings, generator: torch.Generator) -> ndgrad.Estimator:
    return ndgrad.EvolutionStrategy(settings.direct_samples, settings.sigma, generator=generator)


def _score(settings: Settings, generator: torch.Generator) -> ndgrad.Estimator:
    return ndgrad.ScoreFunction(
        num_samples=settings.score_samples, sigma=settings.sigma, baseline="loo", generator=generator
    )


def _differences(settings: Settings, generator: torch.Generator) -> ndgrad.Estimator:
    return ndgrad.FiniteDifference(eps=settings.sigma)  # a step as wide as the others' probes


DIRECT: dict[str, Callable[[Settings, torch.Generator], ndgrad.Estimator]] = {
    "evolution_strategy": _evolution,
    "score_function": _score,
    "finite_difference": _differences,
}
