"""Every estimator, in every variant with a law of its own; the contract tests are parametrised from here.

``variance(n, S, c)`` is the exact trace of the covariance of one row's estimate, relative to the squared gradient, for
an affine function whose value at x is c times ``sigma |gradient|``. Derivations, g the gradient, e_s the directions:

- independent Gaussians: E |(g.e) e|^2 = (n + 2) |g|^2, so (n + 1)/S; leave-one-out adds products of different draws,
  which makes it (n + 1)/(S - 1); without a baseline the value adds E |c e|^2 = n c^2 per sample.
- fixed norm sqrt(n): E |(g.e) e|^2 = n |g|^2, so (n - 1)/S.
- fits with at least as many samples as inputs are exact; with fewer they see the projection on a random S-dimensional
  space, rescaled by n/S, which leaves n/S - 1.
- orthogonal: full blocks are exact; r = S mod n left-over directions project on a random r-dimensional space, which
  leaves (n/S)^2 (r/n) (1 - r/n). Leave-one-out removes the mean direction from the projection: n/(S - 1) - 1.
- centred Gumbel noise Z, with score p = 1 - exp(-Z - 0.577): Var Z = pi^2/6, E p^2 = 1, E Z p = 1 and
  E Z^2 p^2 = pi^2/6 + 2, so E |(g.Z) p|^2 = (n pi^2/6 + 2) |g|^2, and the Gaussian's n + 1 becomes n pi^2/6 + 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

import ndgrad
from ndgrad import (
    AdaptiveSigma,
    Averaged,
    BlackboxInterpolation,
    ControlVariate,
    DiffBypass,
    Estimator,
    EvolutionStrategy,
    FiniteDifference,
    GuidedEvolutionStrategy,
    ImplicitMLE,
    LeastSquares,
    Mixture,
    PerturbedOptimizer,
    ScoreFunction,
    StraightThrough,
)


@dataclass(frozen=True)
class Variant:
    """One way to build an estimator and what is known of it in closed form."""

    make: Callable[..., Estimator]  # takes num_samples and sigma (or eps, lambd, nothing)
    probes: Callable[[int, int], int]  # (n, S) -> evaluations per row and backward pass, without the value's
    variance: Callable[[int, int, float], float] | None = None
    fourth_moment: Callable[[int], float] | None = None  # E e_i^4 in n dimensions
    per_value: Callable[[int], int] = lambda S: 1  # evaluations per row of a value


def _step(method: str, num_samples: int, sigma: float, **settings: Any) -> Estimator:
    return FiniteDifference(method, **{"eps": sigma} | settings)


def _adaptive(build: Callable[..., Estimator], num_samples: int, sigma: float, **settings: Any) -> Estimator:
    return build(num_samples, AdaptiveSigma(sigma), **settings)


def _tensor_sigma(
    build: Callable[..., Estimator], num_samples: int, sigma: float, **settings: Any
) -> Estimator:
    return build(num_samples=num_samples, sigma=torch.tensor(sigma, dtype=torch.float64), **settings)


def _projection(n: int, S: int, c: float) -> float:
    return max(n / S - 1, 0.0)


def _interpolation(num_samples: int, sigma: float) -> Estimator:
    return BlackboxInterpolation("min", lambd=sigma)


def _implicit(num_samples: int, sigma: float, **settings: Any) -> Estimator:
    return ImplicitMLE("max", num_samples=num_samples, sigma=sigma, **settings)


def _straight_through(num_samples: int, sigma: float, **settings: Any) -> Estimator:
    return StraightThrough(**settings)


def _averaged(num_samples: int, sigma: float, **options: Any) -> Estimator:
    return Averaged(EvolutionStrategy(num_samples, sigma, directions="gaussian", **options), repeats=2)


def _mixture(num_samples: int, sigma: float) -> Estimator:
    return Mixture(EvolutionStrategy(num_samples, sigma), DiffBypass(sigma=sigma, num_samples=0, fit_steps=2))


def _partial_block(n: int, S: int, c: float) -> float:
    r = S % n
    return (n / S) ** 2 * (r / n) * (1 - r / n)


def _gumbel_variance(n: int, S: int, c: float) -> float:
    return (n * math.pi**2 / 6 + 1) / (S - 1)


_mean = {"per_value": lambda S: S}
_gaussian = {"fourth_moment": lambda n: 3.0}
_fixed_norm = {"fourth_moment": lambda n: 3.0 * n / (n + 2)}
_es = EvolutionStrategy
_control = partial(ControlVariate, fit_steps=1, surrogate_samples=2)
_guided = partial(GuidedEvolutionStrategy, fit_steps=1)
_single = partial(EvolutionStrategy, antithetic=False)
_far = (-200.0, 300.0)  # bounds that no probe of the tests reaches: everything is as without them

VARIANTS: dict[str, Variant] = {
    "es-orthogonal": Variant(_es, lambda n, S: 2 * S, _partial_block, **_fixed_norm),
    "es-gaussian": Variant(
        partial(_es, directions="gaussian"), lambda n, S: 2 * S, lambda n, S, c: (n + 1) / S, **_gaussian
    ),
    "es-rademacher": Variant(
        partial(_es, directions="rademacher"), lambda n, S: 2 * S, lambda n, S, c: (n - 1) / S, lambda n: 1.0
    ),
    "es-sphere": Variant(
        partial(_es, directions="sphere"), lambda n, S: 2 * S, lambda n, S, c: (n - 1) / S, **_fixed_norm
    ),
    # the variance of Sobol points depends on the gradient's direction; test_evolution_strategy has it
    "es-sobol": Variant(partial(_es, directions="sobol"), lambda n, S: 2 * S, **_gaussian),
    "es-sobol-fx": Variant(partial(_single, directions="sobol"), lambda n, S: S, **_gaussian),
    "es-tensor-sigma": Variant(
        partial(_tensor_sigma, _es), lambda n, S: 2 * S, _partial_block, **_fixed_norm
    ),
    "es-adaptive": Variant(partial(_adaptive, _es), lambda n, S: 2 * S, _partial_block, **_fixed_norm),
    "es-bounds": Variant(partial(_es, bounds=_far), lambda n, S: 2 * S, _partial_block, **_fixed_norm),
    "es-orthogonal-loo-bounds": Variant(
        partial(_single, bounds=_far), lambda n, S: S, lambda n, S, c: n / (S - 1) - 1, **_fixed_norm
    ),
    "es-gaussian-loo-tensor-sigma": Variant(
        partial(_tensor_sigma, _single, directions="gaussian"),
        lambda n, S: S,
        lambda n, S, c: (n + 1) / (S - 1),
        **_gaussian,
    ),
    "es-orthogonal-loo": Variant(_single, lambda n, S: S, lambda n, S, c: n / (S - 1) - 1, **_fixed_norm),
    "es-gaussian-loo": Variant(
        partial(_single, directions="gaussian"),
        lambda n, S: S,
        lambda n, S, c: (n + 1) / (S - 1),
        **_gaussian,
    ),
    "es-gaussian-fx": Variant(
        partial(_single, directions="gaussian", baseline="fx"),
        lambda n, S: S,
        lambda n, S, c: (n + 1) / S,
        **_gaussian,
    ),
    "es-gaussian-none": Variant(
        partial(_single, directions="gaussian", baseline=None),
        lambda n, S: S,
        lambda n, S, c: (n + 1 + n * c**2) / S,
        **_gaussian,
    ),
    "score-loo": Variant(ScoreFunction, lambda n, S: S, lambda n, S, c: (n + 1) / (S - 1), **_gaussian),
    "score-fx": Variant(
        partial(ScoreFunction, baseline="fx"), lambda n, S: S, lambda n, S, c: (n + 1) / S, **_gaussian
    ),
    "score-none": Variant(
        partial(ScoreFunction, baseline=None),
        lambda n, S: S,
        lambda n, S, c: (n + 1 + n * c**2) / S,
        **_gaussian,
    ),
    "fd-central": Variant(partial(_step, "central"), lambda n, S: 2 * n, lambda n, S, c: 0.0),
    "fd-forward": Variant(partial(_step, "forward"), lambda n, S: n, lambda n, S, c: 0.0),
    "fd-central-4": Variant(partial(_step, "central", order=4), lambda n, S: 4 * n, lambda n, S, c: 0.0),
    "fd-central-6": Variant(partial(_step, "central", order=6), lambda n, S: 6 * n, lambda n, S, c: 0.0),
    "fd-forward-3": Variant(partial(_step, "forward", order=3), lambda n, S: 3 * n, lambda n, S, c: 0.0),
    "fd-bounds": Variant(partial(_step, "central", bounds=_far), lambda n, S: 2 * n, lambda n, S, c: 0.0),
    "fd-auto": Variant(partial(_step, "central", eps="auto"), lambda n, S: 12 * n, lambda n, S, c: 0.0),
    "fd-auto-forward-2": Variant(
        partial(_step, "forward", eps="auto", order=2), lambda n, S: 12 * n, lambda n, S, c: 0.0
    ),
    # for S <= n and multiples of n the fit is that of orthogonal pairs, and so is its smoothing
    "ls-orthogonal": Variant(LeastSquares, lambda n, S: 2 * S, _projection, **_fixed_norm),
    "ls-gaussian": Variant(partial(LeastSquares, directions="gaussian"), lambda n, S: 2 * S, _projection),
    "ls-adaptive": Variant(partial(_adaptive, LeastSquares), lambda n, S: 2 * S, _projection, **_fixed_norm),
    "bypass": Variant(DiffBypass, lambda n, S: S),
    "bypass-difference": Variant(
        partial(DiffBypass, replay=2, trust_region=1.0, match="difference"), lambda n, S: S
    ),
    "averaged-gaussian": Variant(
        _averaged, lambda n, S: 4 * S, lambda n, S, c: (n + 1) / (2 * S), **_gaussian
    ),
    # closed forms of later calls, in which there is a control variate, are in test_control_variate.py
    "control-variate": Variant(_control, lambda n, S: 2 * S),
    "control-variate-loo": Variant(partial(_control, antithetic=False), lambda n, S: S),
    # unguided in their first call; with guides: test_guided_evolution_strategy.py
    "guided": Variant(_guided, lambda n, S: 2 * S),
    "guided-tensor-sigma": Variant(partial(_tensor_sigma, _guided, match="value"), lambda n, S: 2 * S),
    "mixture": Variant(_mixture, lambda n, S: 4 * S),
    "perturbed-gaussian-loo": Variant(
        PerturbedOptimizer, lambda n, S: 0, lambda n, S, c: (n + 1) / (S - 1), **_gaussian, **_mean
    ),
    "perturbed-gaussian-fx": Variant(
        partial(PerturbedOptimizer, baseline="fx"),
        lambda n, S: 0,
        lambda n, S, c: (n + 1) / S,
        **_gaussian,
        per_value=lambda S: S + 1,
    ),
    "perturbed-gaussian-none": Variant(
        partial(PerturbedOptimizer, baseline=None),
        lambda n, S: 0,
        lambda n, S, c: (n + 1 + n * c**2) / S,
        **_gaussian,
        **_mean,
    ),
    "perturbed-gumbel-max": Variant(
        partial(PerturbedOptimizer, noise="gumbel", sense="max"), lambda n, S: 0, _gumbel_variance, **_mean
    ),
    "perturbed-gumbel-min": Variant(
        partial(PerturbedOptimizer, noise="gumbel", sense="min"), lambda n, S: 0, _gumbel_variance, **_mean
    ),
    "perturbed-lognormal": Variant(partial(PerturbedOptimizer, noise="lognormal"), lambda n, S: 0, **_mean),
    "interpolation": Variant(_interpolation, lambda n, S: 1),
    "implicit-gumbel": Variant(partial(_implicit, lambd=0.7), lambda n, S: S, **_mean),
    "implicit-sum-of-gamma": Variant(partial(_implicit, lambd=0.7, kappa=3), lambda n, S: S, **_mean),
    "implicit-adaptive": Variant(partial(_implicit, lambd="adaptive"), lambda n, S: S, **_mean),
    "straight-through": Variant(_straight_through, lambda n, S: 0),
    "straight-through-tanh": Variant(partial(_straight_through, backward=torch.tanh), lambda n, S: 0),
}

SAMPLING = {name: variant for name, variant in VARIANTS.items() if variant.fourth_moment is not None}


def unregistered() -> set[type[Estimator]]:
    """Return the public estimators that no variant builds."""
    built = {type(variant.make(num_samples=3, sigma=0.3)) for variant in VARIANTS.values()}
    return {*ndgrad.ESTIMATORS.values(), *ndgrad.WRAPPERS} - built
