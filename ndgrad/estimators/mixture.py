"""A biased and an unbiased estimate, weighted by their measured errors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ndgrad.estimator import Pullback, RowFunction, Rows, VJPEstimator, as_tuple
from ndgrad.replay import concatenate
from ndgrad.validation import fraction, vjp_estimator


class Mixture(VJPEstimator):
    r"""A biased estimate b, moved towards an unbiased one u as far as their measured errors ask for.

    .. math:: g = b + \lambda (u - b), \qquad u = \tfrac{1}{2}(u_1 + u_2), \qquad
              \lambda = \left(1 - \frac{\overline{|u_1 - u_2|^2} / 4}{\overline{|u - b|^2}}\right)_+

    :math:`u_1` and :math:`u_2` are two runs of the unbiased estimator, so that the numerator is the variance of
    their mean; the denominator is that variance plus the squared error of b. The bars pool all rows, all
    outputs (through random cotangents, so that g is linear in the cotangent) and earlier calls, which fade
    by the factor ``decay`` per call. The weight is that of the earlier calls; only in the first call it is
    its own.

    Shapes: b, u and g are (B, n), of the inputs' shape; lambda is one number for the call.

    Cost: twice that of ``unbiased`` plus that of ``biased``, per row. What ``unbiased`` evaluates is offered to
    ``biased`` before this gives its estimate (`Estimator.observe`), so that a
    ``DiffBypass(num_samples=0)`` costs nothing of its own.

    Bias: :math:`1 - \lambda` times that of b. It is not known how large it is in any one row: the weight suits
    the average over rows. With the best weight and b independent of u, the squared error is
    :math:`b^2 V / (b^2 + V)`, below both the squared error :math:`b^2` of b and the variance V of u. Where b was
    fitted to the evaluations of u itself, the two errors are correlated, and :math:`\lambda` comes out too
    small, by their covariance over :math:`|u - b|^2`: nearer to b than is best.

    Failed evaluations are up to the two estimators, and their weight is measured on what these have made of the rest.

    Take it where a bypass is good in the mean but must not be trusted blindly; not where the estimate has to
    be unbiased.

    Args:
        unbiased: a `VJPEstimator`, run twice per call; give it half the samples that you can afford.
        biased: a `VJPEstimator`. Both belong to this one from now on.
        decay: what is left of the earlier calls' errors at each call, 0 <= decay < 1.
        generator: source of the random cotangents, on the output's device; None for torch's global one.

    ``weight`` holds the weight of u in the last call.

    Raises:
        TypeError: for something that is no `VJPEstimator`.
        ValueError: for ``decay`` out of range, or an estimator whose value is not that of the function, such as
            ``DiffBypass(forward="bypass")``.

    Example:
        >>> import torch, ndgrad
        >>> _ = torch.manual_seed(0)
        >>> estimator = ndgrad.Mixture(
        ...     ndgrad.EvolutionStrategy(num_samples=4, sigma=0.1),
        ...     ndgrad.DiffBypass(sigma=0.1, num_samples=0, fit_steps=200),
        ... )
        >>> x = torch.zeros(1, 8, requires_grad=True)
        >>> estimator(lambda x: x[:, :1] - x[:, 1:2], x).sum().backward()
        >>> 0 <= estimator.weight <= 1
        True

    Source: positive-part shrinkage of James & Stein 1961 towards a point that is estimated, too; Green &
    Strawderman 1991 combine biased and unbiased estimators in this form.

    """

    consistent = False

    def __init__(
        self,
        unbiased: VJPEstimator,
        biased: VJPEstimator,
        decay: float = 0.9,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.unbiased = vjp_estimator("unbiased", unbiased)
        self.biased = vjp_estimator("biased", biased)
        self.decay = fraction("decay", decay)
        self.generator = generator
        self.weight: float | None = None
        self._pool: tuple[float, float] | None = None  # |u_1 - u_2|^2 / 4 and |u - b|^2 of the calls so far

    @property
    def wants_constant_inputs(self) -> bool:  # type: ignore[override]
        """Whether one of the two wants them."""
        return self.unbiased.wants_constant_inputs or self.biased.wants_constant_inputs

    @property
    def skips_failures(self) -> bool:  # type: ignore[override]
        """Whether both do."""
        return self.unbiased.skips_failures and self.biased.skips_failures

    def linearize(self, f: RowFunction, inputs: Rows, outputs: Rows) -> Pullback:
        """Run both and weigh them; see `VJPEstimator.linearize`."""
        if inputs[0].shape[0] == 0:  # no errors to measure
            return lambda _: tuple(torch.zeros_like(x) for x in inputs)
        recorder = _Recorder(f)
        halves = [self.unbiased.linearize(recorder, inputs, outputs) for _ in range(2)]
        self.biased.observe(inputs, *recorder.rows_with(inputs, outputs))
        pull_biased = self.biased.linearize(f, inputs, outputs)
        weight = self._weigh(halves, pull_biased, outputs)

        def pullback(cotangents: Rows) -> Rows:
            first, second = (pull(cotangents) for pull in halves)
            parts = zip(first, second, pull_biased(cotangents), strict=True)
            return tuple(torch.lerp(b, (u1 + u2) / 2, weight) for u1, u2, b in parts)

        return pullback

    def _weigh(self, halves: list[Pullback], pull_biased: Pullback, outputs: Rows) -> float:
        """Return the weight of u, and take this call's errors into the pool."""
        cotangents = tuple(_normal(y, self.generator) for y in outputs)
        first, second, biased = (pull(cotangents) for pull in (*halves, pull_biased))
        variance = _squared([(u1 - u2) / 2 for u1, u2 in zip(first, second, strict=True)])
        distance = _squared([(u1 + u2) / 2 - b for u1, u2, b in zip(first, second, biased, strict=True)])
        pooled_variance, pooled_distance = self._pool or (variance, distance)
        self.weight = max(0.0, 1 - pooled_variance / pooled_distance) if pooled_distance > 0 else 0.0
        if self.training:
            keep, add = self.decay, 1 - self.decay
            self._pool = keep * pooled_variance + add * variance, keep * pooled_distance + add * distance
        return self.weight

    def get_extra_state(self) -> dict[str, Any]:
        """Return the pooled errors as plain numbers."""
        return {"pool": self._pool}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore `get_extra_state`."""
        self._pool = state["pool"]

    def extra_repr(self) -> str:
        """Show the settings."""
        return f"decay={self.decay}"


class _Recorder:
    """A function that remembers what it was asked and what it answered."""

    def __init__(self, f: RowFunction) -> None:
        self.f = f
        self._calls: list[tuple[Rows, Rows]] = []

    def __call__(self, *rows: Tensor) -> Any:
        values = self.f(*rows)
        self._calls.append((rows, as_tuple(values)))
        return values

    def rows_with(self, inputs: Rows, outputs: Rows) -> tuple[Rows, Rows]:
        """Return all rows and values, those of the inputs last."""
        probes, values = zip(*self._calls, (inputs, outputs), strict=True)
        return concatenate(probes), concatenate(values)


def _normal(like: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randn(like.shape, dtype=like.dtype, device=like.device, generator=generator)


def _squared(parts: list[Tensor]) -> float:
    return float(sum(part.square().sum() for part in parts))
