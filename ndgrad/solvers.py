"""What the estimators for solvers share: the sense of the optimisation, and solutions of the input's shape."""

from __future__ import annotations

from typing import Any

from ndgrad.estimator import Rows
from ndgrad.validation import one_of


def sign_of(sense: Any) -> float:
    """Return +1 for a solver that maximises a score, -1 for one that minimises a cost."""
    return 1.0 if one_of("sense", sense, ("max", "min")) == "max" else -1.0


def require_pairs(inputs: Rows, outputs: Rows) -> None:
    """Require one output for each input, with rows of its shape."""
    expected, arrived = ([tuple(t.shape[1:]) for t in tensors] for tensors in (inputs, outputs))
    if expected != arrived:
        raise ValueError(
            f"this estimator needs one output for each differentiated input, with rows of its shape, {expected}; the "
            f"wrapped function returned rows of shapes {arrived}. Let the solver return its solution as an indicator "
            "of the input's shape (1 where an edge, pair or item is chosen, else 0) and decode it outside"
        )


def require_backward(evaluate_in: str) -> None:
    """Refuse probes before the cotangent is known."""
    if evaluate_in == "forward":
        raise ValueError(
            "this estimator evaluates the function where the cotangent leads, which only the backward pass knows; type "
            "evaluate_in='backward'"
        )
