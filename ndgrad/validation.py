"""Checks of constructor arguments that several estimators share."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from ndgrad.estimator import VJPEstimator


def positive_int(name: str, value: Any, least: int = 1) -> int:
    """Return ``value`` if it is an integer of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be an integer >= {least}, got {value!r}")
    return value


def positive_float(name: str, value: Any) -> float:
    """Return ``value`` as a float if it is positive and finite."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(f"{name} must be a positive finite number, got {value!r}")
    return float(value)


def one_of(name: str, value: Any, choices: Iterable[Any]) -> Any:
    """Return ``value`` if it is among ``choices``."""
    choices = tuple(choices)
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")
    return value


def fraction(name: str, value: Any) -> float:
    """Return ``value`` as a float if it is at least 0 and less than 1."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise ValueError(f"{name} must be a number of at least 0 and less than 1, got {value!r}")
    return float(value)


def vjp_estimator(name: str, value: Any) -> VJPEstimator:
    """Return ``value`` if it is an estimator whose value is that of the function."""
    if not isinstance(value, VJPEstimator):
        hint = ": create it, with parentheses" if isinstance(value, type) else ""
        raise TypeError(
            f"{name} must be an ndgrad.VJPEstimator, such as EvolutionStrategy, got {value!r}{hint}"
        )
    if not _exact_in_training(value):
        raise ValueError(
            f"{name} gives its gradient only, so its value must be that of the function, but {value!r} has one of its "
            "own; type DiffBypass(forward='straight_through')"
        )
    return value


def _exact_in_training(estimator: VJPEstimator) -> bool:
    """Whether the value is ``f(x)`` in train mode too, which an estimator in eval mode does not say."""
    training = estimator.training
    estimator.training = True
    try:
        return estimator.exact_value
    finally:
        estimator.training = training
