"""A peer's estimate as an `ndgrad.Estimator`, so that it is measured and used exactly as ours are."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

import ndgrad
from benchmarks.peers.peer import Estimate, Peer, Problem
from benchmarks.tasks.task import Sense, Task
from benchmarks.variants import Variant


class OverspentError(RuntimeError):
    """A peer asked for more evaluations than it was given; its result is refused."""


class PeerEstimator(ndgrad.FlatEstimator):
    """The gradient of another library, converted, in the backward pass.

    The value that the forward pass evaluates is not charged: a peer that needs it evaluates it again, and pays.

    Args:
        estimate: the library's own number.
        factor: what it is multiplied by.
        sigma: width of the smoothing.
        num_samples: what ``estimate`` is asked for.
        evaluations: the most evaluations per row; one more raises `OverspentError`.
        sense: of a solver.

    """

    consistent = False  # nothing is promised of other libraries

    def __init__(
        self,
        estimate: Estimate,
        factor: float,
        sigma: float,
        num_samples: int,
        evaluations: int,
        sense: Sense | None = None,
    ) -> None:
        super().__init__()
        self.estimate = estimate
        self.factor = factor
        self.sigma = sigma
        self.num_samples = num_samples
        self.evaluations = evaluations
        self.sense = sense

    def linearize_flat(
        self, f: Callable[[Tensor], Tensor], x: Tensor, y: Tensor
    ) -> Callable[[Tensor], Tensor]:
        """Ask the library once the cotangent is known: it differentiates scalars."""
        box = _Limited(f, self.evaluations * len(x))

        def pullback(v: Tensor) -> Tensor:
            seed = int(torch.randint(2**31, ()))
            problem = Problem(box, x, v, self.sigma, self.num_samples, seed, self.sense)
            with torch.enable_grad():
                raw = self.estimate(problem)
            return self.factor * raw.detach().to(x.dtype)

        return pullback


class _Limited:
    """``f`` on flat rows (R, n), refused after ``limit`` of them."""

    def __init__(self, f: Callable[[Tensor], Tensor], limit: int) -> None:
        self._f, self._limit, self._used = f, limit, 0

    def __call__(self, rows: Tensor) -> Tensor:
        """Evaluate, (R, n) -> (R, m)."""
        self._used += len(rows)
        if self._used > self._limit:
            raise OverspentError(f"refused: asked for {self._used} evaluations, the batch has {self._limit}")
        return self._f(rows.detach())


def as_variant(peer: Peer, evaluations: int) -> Variant:
    """Give a peer the place of one of our estimators, with a budget of ``evaluations`` per row."""

    def build(task: Task, num_samples: int) -> ndgrad.Estimator:
        factor = peer.factor(task.sigma, num_samples)
        return PeerEstimator(peer.make(), factor, task.sigma, num_samples, evaluations, task.sense)

    return Variant(
        build, peer.probes_per_sample, peer.probes_per_input, peer.minimum_samples, peer.learns, peer.value
    )
