"""Every estimator, in every variant with a law of its own; the contract tests are parametrised from here.

``variance(n, S, c)`` is the exact trace of the covariance of one row's estimate, relative to the squared gradient, for
an affine function whose value at x is c times ``sigma |gradient|``. Derivations, g the gradient, e_s the directions:

- independent Gaussians: E |(g.e) e|^2 = (n + 2) |g|^2, so (n + 1)/S; leave-one-out adds products of different draws,
  which makes it (n + 1)/(S - 1); without a baseline the value adds E |c e|^2 = n c^2 per sample.
- fixed norm sqrt(n): E |(g.e) e|^2 = n |g|^2, so (n - 1)/S.
- orthogonal: full blocks are exact; r = S mod n left-over directions project on a random r-dimensional space, which
  leaves (n/S)^2 (r/n) (1 - r/n). Leave-one-out removes the mean direction from the projection: n/(S - 1) - 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import ndgrad
from ndgrad import (
    Averaged,
    ControlVariate,
    DiffBypass,
    Estimator,
    EvolutionStrategy,
    FiniteDifference,
    Mixture,
    ScoreFunction,
)


@dataclass(frozen=True)
class Variant:
    """One way to build an estimator and what is known of it in closed form."""

    make: Callable[..., Estimator]  # takes num_samples and sigma (or eps)
    probes: Callable[[int, int], int]  # (n, S) -> evaluations per row and backward pass, without the value's
    variance: Callable[[int, int, float], float] | None = None
    fourth_moment: Callable[[int], float] | None = None  # E e_i^4 in n dimensions


def _step(method: str, num_samples: int, sigma: float) -> Estimator:
    return FiniteDifference(method, eps=sigma)


def _averaged(num_samples: int, sigma: float, **options: Any) -> Estimator:
    return Averaged(EvolutionStrategy(num_samples, sigma, directions="gaussian", **options), repeats=2)


def _mixture(num_samples: int, sigma: float) -> Estimator:
    return Mixture(EvolutionStrategy(num_samples, sigma), DiffBypass(sigma=sigma, num_samples=0, fit_steps=2))


def _partial_block(n: int, S: int, c: float) -> float:
    r = S % n
    return (n / S) ** 2 * (r / n) * (1 - r / n)


_gaussian = {"fourth_moment": lambda n: 3.0}
_fixed_norm = {"fourth_moment": lambda n: 3.0 * n / (n + 2)}
_es = EvolutionStrategy
_control = partial(ControlVariate, fit_steps=1, surrogate_samples=2)
_single = partial(EvolutionStrategy, antithetic=False)

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
    "mixture": Variant(_mixture, lambda n, S: 4 * S),
}

SAMPLING = {name: variant for name, variant in VARIANTS.items() if variant.fourth_moment is not None}


def unregistered() -> set[type[Estimator]]:
    """Return the public estimators that no variant builds."""
    built = {type(variant.make(num_samples=3, sigma=0.3)) for variant in VARIANTS.values()}
    return {*ndgrad.ESTIMATORS.values(), *ndgrad.WRAPPERS} - built
