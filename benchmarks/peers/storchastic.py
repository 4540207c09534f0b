"""Storchastic's score function (van Krieken et al. 2021) for a normal distribution around the input."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.peers.peer import Conversion, Estimate, Peer, Problem, RowValue

_SHARE = 0.05  # of the newest costs in the moving average, the library's default


def make_batch_average() -> Estimate:
    """Take all rows at once, as a plate of independent ones."""
    import storch
    from storch.method import ScoreFunction

    def estimate(problem: Problem) -> Tensor:
        x = problem.x.clone().requires_grad_()
        method = ScoreFunction("z", n_samples=problem.num_samples, baseline_factory="batch_average")
        _backward(storch, method, storch.denote_independent(x, 0, "rows"), problem.sigma, problem.values)
        return _grad(x) * len(x)  # the cost of a plate is its mean, that of the rows their sum

    return estimate


def make_moving_average() -> Estimate:
    """Take one method per row, whose baseline follows that row's values from call to call."""
    import storch
    from storch.method import ScoreFunction

    methods: list[Any] = []

    def estimate(problem: Problem) -> Tensor:
        while len(methods) < len(problem.x):
            methods.append(
                ScoreFunction("z", n_samples=problem.num_samples, baseline_factory="moving_average")
            )
        rows = iter(methods)

        def row(value: RowValue, x: Tensor) -> Tensor:
            x.requires_grad_()
            _backward(storch, next(rows), x, problem.sigma, value)
            return _grad(x)

        return problem.by_row(row)

    return estimate


def _backward(storch: Any, method: Any, mean: Any, sigma: float, value: RowValue) -> None:
    z = method(torch.distributions.Normal(mean, sigma))
    storch.add_cost(storch.deterministic(value)(z), "cost")
    storch.backward()


def _grad(x: Tensor) -> Tensor:
    assert x.grad is not None
    return x.grad


MOVING_AVERAGE = Conversion(
    f"raw / (1 - {_SHARE} / S): the newest S costs enter the baseline that is subtracted from them",
    lambda _, num_samples: 1 / (1 - _SHARE / num_samples),
)
_peer = partial(Peer, "storchastic", "storch", kind="sampling")
PEERS = {
    "storchastic_batch_average": _peer(
        make=make_batch_average, note="all rows in one plate", minimum_samples=2
    ),
    "storchastic_moving_average": _peer(
        make=make_moving_average,
        note="one method per row, whose baseline saw the earlier calls that learning estimators see, too",
        learns=True,
        conversion=MOVING_AVERAGE,
    ),
}
