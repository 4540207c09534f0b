"""The mean of independent repetitions of another estimator."""

from __future__ import annotations

from ndgrad.estimator import Pullback, RowFunction, Rows, VJPEstimator
from ndgrad.validation import positive_int, vjp_estimator


class Averaged(VJPEstimator):
    r"""Mean of independent repetitions of an estimator, all around the same value.

    .. math:: \bar g(x) = \frac{1}{N} \sum_{k=1}^N g_k(x)

    Shapes: as of the estimator, inputs (B, ...) to outputs (B, ...).

    Cost: N times that of the estimator, beside the one value. The bias stays; the variance is divided by N,
    which is no better than N times as many samples, and worse where these would repel each other
    (orthogonal directions). Take it for an estimator whose number of samples is fixed or bounded, and for
    fitted ones: a `DiffBypass` goes on fitting from one repetition to the next. Failed evaluations are up to
    the estimator; its repetitions weigh alike, however many samples each has left.

    Args:
        estimator: the `VJPEstimator` to repeat; it belongs to this one from now on.
        repeats: N >= 1.

    Raises:
        TypeError: for something that is no `VJPEstimator`.
        ValueError: for ``repeats`` out of range, or an estimator whose value is not that of the function, such as
            ``DiffBypass(forward="bypass")``.

    Example:
        >>> import torch, ndgrad
        >>> _ = torch.manual_seed(0)
        >>> single = ndgrad.EvolutionStrategy(num_samples=1, sigma=0.1)
        >>> estimator = ndgrad.Averaged(single, repeats=4000)
        >>> x = torch.tensor([[1.0, 2.0]], requires_grad=True)
        >>> estimator(lambda x: x @ torch.tensor([[2.0], [-1.0]]), x).sum().backward()
        >>> x.grad.round(decimals=1)
        tensor([[ 2., -1.]])

    Source: elementary.

    """

    def __init__(self, estimator: VJPEstimator, repeats: int) -> None:
        super().__init__()
        self.estimator = vjp_estimator("estimator", estimator)
        self.repeats = positive_int("repeats", repeats)

    @property
    def wants_constant_inputs(self) -> bool:  # type: ignore[override]
        """What the repeated estimator wants."""
        return self.estimator.wants_constant_inputs

    @property
    def consistent(self) -> bool:  # type: ignore[override]
        """Whether the repeated estimator is."""
        return self.estimator.consistent

    @property
    def skips_failures(self) -> bool:  # type: ignore[override]
        """Whether the repeated estimator does."""
        return self.estimator.skips_failures

    def linearize(self, f: RowFunction, inputs: Rows, outputs: Rows) -> Pullback:
        """Probe N times; see `VJPEstimator.linearize`."""
        pulls = [self.estimator.linearize(f, inputs, outputs) for _ in range(self.repeats)]

        def pullback(cotangents: Rows) -> Rows:
            grads = zip(*(pull(cotangents) for pull in pulls), strict=True)
            return tuple(sum(parts) / self.repeats for parts in grads)

        return pullback

    def observe(self, inputs: Rows, probes: Rows, values: Rows) -> None:
        """Hand on; see `Estimator.observe`."""
        self.estimator.observe(inputs, probes, values)

    def extra_repr(self) -> str:
        """Show the settings."""
        return f"repeats={self.repeats}"
