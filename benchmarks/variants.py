"""The estimators under comparison, and how each spends a budget of evaluations.

A row of the batch gets ``evaluations`` calls of the black box, one of which is the value's own; the rest
are *probes*. Adding an estimator to the comparison is one line of ``VARIANTS``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch

import ndgrad
from benchmarks.tasks import Task

FIT_STEPS = 10  # joint Adam steps of the bypass per call
FIT_LEARNING_RATE = 3e-3  # of that Adam; one choice for all tasks
REPLAYED_CALLS = 2  # earlier calls whose evaluations stay in its fit


class BudgetTooSmallError(ValueError):
    """The estimator cannot work with so few evaluations; the message is the reason to print."""


@dataclass(frozen=True)
class Variant:
    """One estimator with its settings.

    ``build(task, num_samples)`` makes it. A sampling estimator takes as many samples as the budget allows,
    each costing ``probes_per_sample``; finite differences need ``probes_per_input`` for every input, no
    more and no less. ``value`` counts what is evaluated beside the probes. ``learns`` marks estimators that
    carry something from one call to the next, ``solver`` those for functions from costs to a solution.
    """

    build: Callable[[Task, int], ndgrad.Estimator]
    probes_per_sample: int = 1
    probes_per_input: int = 0
    minimum_samples: int = 1
    learns: bool = False
    value: int = 1
    solver: bool = False

    def num_samples(self, evaluations: int, num_inputs: int) -> int:
        """Count the noise draws that fit into ``evaluations`` per row; 0 for finite differences.

        Raises:
            BudgetTooSmallError: with the least number of evaluations that would do.
        """
        least = self.value + (
            self.probes_per_input * num_inputs or self.minimum_samples * self.probes_per_sample
        )
        if evaluations < least:
            raise BudgetTooSmallError(f"needs {least} evaluations for {num_inputs} inputs, has {evaluations}")
        fixed = self.probes_per_input or not self.probes_per_sample
        return 0 if fixed else (evaluations - self.value) // self.probes_per_sample


def _central(task: Task, _: int) -> ndgrad.Estimator:
    return ndgrad.FiniteDifference(method="central")


def _central_at_sigma(task: Task, _: int) -> ndgrad.Estimator:
    return ndgrad.FiniteDifference(method="central", eps=task.sigma)


def _central_for_smoothing(task: Task, _: int) -> ndgrad.Estimator:
    # with t the third derivative, smoothing adds sigma^2 t / 2 to the first, a central difference h^2 t / 6
    return ndgrad.FiniteDifference(method="central", eps=math.sqrt(3) * task.sigma)


def _forward(task: Task, _: int) -> ndgrad.Estimator:
    return ndgrad.FiniteDifference(method="forward")


def _forward_at_sigma(task: Task, _: int) -> ndgrad.Estimator:
    return ndgrad.FiniteDifference(method="forward", eps=task.sigma)


def _orthogonal_pairs(task: Task, S: int) -> ndgrad.Estimator:
    return ndgrad.EvolutionStrategy(num_samples=S, sigma=task.sigma, antithetic=True, directions="orthogonal")


def _gaussian_pairs(task: Task, S: int) -> ndgrad.Estimator:
    return ndgrad.EvolutionStrategy(num_samples=S, sigma=task.sigma, antithetic=True, directions="gaussian")


def _gaussian_loo(task: Task, S: int) -> ndgrad.Estimator:
    return ndgrad.EvolutionStrategy(
        num_samples=S, sigma=task.sigma, antithetic=False, directions="gaussian", baseline="loo"
    )


def _orthogonal_loo(task: Task, S: int) -> ndgrad.Estimator:
    return ndgrad.EvolutionStrategy(
        num_samples=S, sigma=task.sigma, antithetic=False, directions="orthogonal", baseline="loo"
    )


def _orthogonal_fx(task: Task, S: int) -> ndgrad.Estimator:
    return ndgrad.EvolutionStrategy(
        num_samples=S, sigma=task.sigma, antithetic=False, directions="orthogonal", baseline="fx"
    )


def _score_function(task: Task, S: int) -> ndgrad.Estimator:
    return ndgrad.ScoreFunction(num_samples=S, sigma=task.sigma, baseline="loo")


def _sobol_pairs(task: Task, S: int) -> ndgrad.Estimator:
    return ndgrad.EvolutionStrategy(num_samples=S, sigma=task.sigma, antithetic=True, directions="sobol")


def _least_squares(task: Task, S: int) -> ndgrad.Estimator:
    return ndgrad.LeastSquares(num_samples=S, sigma=task.sigma)


def _interpolation(task: Task, _: int) -> ndgrad.Estimator:
    return ndgrad.BlackboxInterpolation(_sense(task), lambd=2 * _shift(task))


def _implicit(task: Task, S: int) -> ndgrad.Estimator:
    deviation = math.pi / math.sqrt(6)  # of standard Gumbel noise
    return ndgrad.ImplicitMLE(_sense(task), lambd=_shift(task), num_samples=S, sigma=task.sigma / deviation)


def _sense(task: Task) -> str:
    return "max" if task.sense == "maximize" else "min"


def _shift(task: Task) -> float:
    """Lambda that shifts the costs by as much as noise of deviation sigma does: ``lambda |v| = sigma sqrt(n)``."""
    return task.sigma * math.sqrt(task.num_inputs) / float(task.cotangent.flatten(1).norm(dim=1).mean())


def _control_variate(task: Task, S: int) -> ndgrad.Estimator:
    return ndgrad.ControlVariate(
        task.make_surrogate(),
        sigma=task.sigma,
        num_samples=S,
        fit_steps=FIT_STEPS,
        optimizer=partial(torch.optim.Adam, lr=FIT_LEARNING_RATE),
    )


def _guided(task: Task, S: int) -> ndgrad.Estimator:
    return ndgrad.GuidedEvolutionStrategy(
        task.make_surrogate(),
        sigma=task.sigma,
        num_samples=S,
        num_guides=max(1, S // 2),
        fit_steps=FIT_STEPS,
        optimizer=partial(torch.optim.Adam, lr=FIT_LEARNING_RATE),
    )


def _bypass(replay: int) -> Callable[[Task, int], ndgrad.Estimator]:
    def build(task: Task, S: int) -> ndgrad.Estimator:
        return ndgrad.DiffBypass(
            task.make_surrogate(),
            sigma=task.sigma,
            num_samples=S,
            fit_steps=FIT_STEPS,
            replay=replay,
            optimizer=partial(torch.optim.Adam, lr=FIT_LEARNING_RATE),
        )

    return build


VARIANTS: Mapping[str, Variant] = {
    "finite_difference_central": Variant(_central, probes_per_input=2),
    "finite_difference_central_sigma": Variant(_central_at_sigma, probes_per_input=2),
    "finite_difference_central_sqrt3_sigma": Variant(_central_for_smoothing, probes_per_input=2),
    "finite_difference_forward": Variant(_forward, probes_per_input=1),
    "finite_difference_forward_sigma": Variant(_forward_at_sigma, probes_per_input=1),
    "evolution_strategy_orthogonal_pairs": Variant(_orthogonal_pairs, probes_per_sample=2),
    "evolution_strategy_orthogonal_loo": Variant(_orthogonal_loo, minimum_samples=2),
    "evolution_strategy_orthogonal_fx": Variant(_orthogonal_fx),
    "evolution_strategy_gaussian_pairs": Variant(_gaussian_pairs, probes_per_sample=2),
    "evolution_strategy_gaussian_loo": Variant(_gaussian_loo, minimum_samples=2),
    "evolution_strategy_sobol_pairs": Variant(_sobol_pairs, probes_per_sample=2),
    "least_squares": Variant(_least_squares, probes_per_sample=2),
    "score_function_loo": Variant(_score_function, minimum_samples=2),
    "blackbox_interpolation": Variant(_interpolation, probes_per_sample=0, value=2, solver=True),
    "implicit_mle": Variant(_implicit, probes_per_sample=2, value=0, solver=True),
    "control_variate": Variant(_control_variate, probes_per_sample=2, learns=True),
    "guided_evolution_strategy": Variant(_guided, probes_per_sample=2, minimum_samples=2, learns=True),
    "diff_bypass": Variant(_bypass(replay=0), learns=True),
    "diff_bypass_replay": Variant(_bypass(replay=REPLAYED_CALLS), learns=True),
}
