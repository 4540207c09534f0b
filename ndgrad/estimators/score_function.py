"""The score-function (likelihood-ratio, REINFORCE) estimator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Normal

from ndgrad.autograd import attach
from ndgrad.errors import UnsupportedTransformError
from ndgrad.estimator import Estimator, EvaluateIn, Pullback, RowFunction, Rows, as_tuple, working_dtype
from ndgrad.missing import good_samples, leave_one_out, less_baseline, reweigh
from ndgrad.sampling import contract, evaluate_samples, gaussian, sum_to_rows
from ndgrad.transforms import has_tangent, inside_transform
from ndgrad.validation import one_of, positive_float, positive_int

Baseline = str | Callable[..., Any] | None


class ScoreFunction(Estimator):
    r"""Gradient of an expectation, from samples weighted by the score of their distribution.

    .. math:: \nabla_\theta \mathbb{E}_{z \sim p(\cdot;\theta)} f(z)
              \approx \frac{1}{S} \sum_{s=1}^S \left(f(z_s) - b_s\right) \nabla_\theta \log p(z_s; \theta)

    Without a ``distribution`` p is the Gaussian of width sigma around the input; the value is ``f(x)``, and
    the draws are made when the gradient is needed. (This is then the same estimator as `EvolutionStrategy`
    with Gaussian directions without pairs.) With one, the inputs are its parameters, ``f`` receives draws,
    the value is the mean of ``f`` over them, and the backward pass uses the same draws, in training and
    evaluation alike.

    Cost: S evaluations per row: in the backward pass for the default Gaussian, in the forward pass for a
    family (``baseline="fx"`` adds one there, if a gradient can be asked for). Unbiased for the expectation; the
    variance grows with the number of parameters and, for a Gaussian, as 1/sigma^2. Take it for discrete or random
    inputs and for learned scales.

    Failed evaluations are left out, of the value of a family, too; S is then the number that a row has left, at least
    1, or 2 for ``"loo"``.

    Args:
        distribution: a callable from the differentiated inputs (B, ...) to a
            ``torch.distributions.Distribution`` with batch shape (B, ...); None for the Gaussian around the
            input. With several parameters, name them all in ``wrap(argnums=...)``.
        num_samples: S >= 1.
        sigma: sigma > 0, width of the default Gaussian in units of the input; unused with a family.
        baseline: ``"loo"`` (mean of the other samples), ``"fx"`` (``f`` at the mean of p), None, or a
            callable from the inputs to a tensor that broadcasts to each output (B, ...), or one tensor for each,
            such as a learned network.
        generator: source of the noise of the default Gaussian; None for torch's global one. Families draw
            from the global one, since ``Distribution.sample`` takes no generator.

    Raises:
        ValueError: for an argument out of range, a generator or sigma together with a family, ``"loo"`` with
            a single sample, ``"fx"`` with a family without a finite mean, a baseline that does not fit the outputs, or
            a distribution whose batch shape does not start with B.
        TypeError: if ``distribution`` does not return a Distribution.
        TooManyFailuresError: if a row has too few evaluations left.

    Example:
        >>> import torch, ndgrad
        >>> from torch.distributions import Bernoulli
        >>> _ = torch.manual_seed(0)
        >>> coin = ndgrad.wrap(
        ...     lambda z: 3.0 * z,
        ...     estimator=ndgrad.ScoreFunction(lambda p: Bernoulli(probs=p), num_samples=20000),
        ... )
        >>> p = torch.tensor([0.25], requires_grad=True)
        >>> coin(p).backward()  # E f = 3 p
        >>> p.grad.round(decimals=1)
        tensor([3.])

    Source: thesis equations 3.4 to 3.7; Williams 1992; leave-one-out baseline: Kool et al. 2019.

    """

    skips_failures = True

    def __init__(
        self,
        distribution: Callable[..., Distribution] | None = None,
        num_samples: int = 20,
        sigma: float | None = None,
        baseline: Baseline = "loo",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if distribution is not None and (generator is not None or sigma is not None):
            raise ValueError(
                "sigma and generator belong to the default Gaussian; with a distribution, give its scale there and "
                "seed it with torch.manual_seed"
            )
        self.distribution = distribution
        self.num_samples = positive_int("num_samples", num_samples)
        self.sigma = positive_float("sigma", 0.05 if sigma is None else sigma)
        self.baseline = baseline if callable(baseline) else one_of("baseline", baseline, ("loo", "fx", None))
        if baseline == "loo" and num_samples < 2:
            raise ValueError("baseline 'loo' needs num_samples >= 2; type baseline='fx'")
        self.generator = generator

    @property
    def wants_constant_inputs(self) -> bool:  # type: ignore[override]
        """A family needs all its parameters, also those that require no gradient."""
        return self.distribution is not None

    @property
    def exact_value(self) -> bool:  # type: ignore[override]
        """The value of a family is a mean over its draws."""
        return self.distribution is None

    def forward(self, f: RowFunction, *inputs: Tensor, evaluate_in: EvaluateIn = "backward") -> Tensor | Rows:
        """Return ``f(x)``, or with a family the mean of ``f`` over draws; see `Estimator.forward`."""
        if self.distribution is None:
            return attach(f, inputs, lambda x, y: self._linearize(f, x, y), evaluate_in)
        return self._expectation(f, inputs)

    def _linearize(self, f: RowFunction, inputs: Rows, outputs: Rows) -> Pullback:
        """Draw around the inputs; the pullback differentiates the log density by autograd."""
        with torch.enable_grad():
            dtype = working_dtype(*inputs)
            theta = tuple(x.detach().to(dtype).requires_grad_() for x in inputs)
            draws = [t.detach() + self.sigma * self._noise(t) for t in theta]  # (S, B, ...)
            terms = [
                sum_to_rows(Normal(t, self.sigma).log_prob(z)) for t, z in zip(theta, draws, strict=True)
            ]
            log_p = torch.stack(terms).sum(0)  # (S, B)
        values, _ = evaluate_samples(f, tuple(z.to(x.dtype) for z, x in zip(draws, inputs, strict=True)))
        weights = self._weights(values, self._good(values), inputs, lambda: outputs)

        def pullback(cotangents: Rows) -> Rows:
            grads = torch.autograd.grad(log_p, theta, weights(cotangents).to(dtype), retain_graph=True)
            return tuple(g.to(x.dtype) for g, x in zip(grads, inputs, strict=True))

        return pullback

    def _expectation(self, f: RowFunction, inputs: Rows) -> Tensor | Rows:
        """Return the mean of ``f`` over draws, attached to the log density of those draws."""
        if inside_transform():
            raise UnsupportedTransformError(
                "ScoreFunction with a distribution draws where torch.func sees it, and has no derivative there; take "
                "the gradient with backward or torch.autograd.grad, and rows in the place of torch.func.vmap"
            )
        family = self._family(inputs)
        with torch.no_grad():
            z = family.sample((self.num_samples,))  # (S, B, ...)
            values, single = evaluate_samples(f, (z,))  # (S, B, ...)
            good = self._good(values)
        means = tuple(reweigh(y, good).mean(0) for y in values)
        # summed over what one row's distribution may hold beside its row: independent components
        # a copy of z: transforms with a cache would return the constants that z was made from
        log_p = sum_to_rows(family.log_prob(z.clone()))  # (S, B)
        result = means
        if log_p.requires_grad or has_tangent(log_p):
            with torch.no_grad():
                weights = self._weights(values, good, inputs, lambda: as_tuple(f(_finite_mean(family))))
            # rows first, as everywhere: (B, S)
            result = attach(
                lambda _: means,
                (log_p.T,),
                lambda _x, _y: lambda v: (weights(v).to(log_p.dtype).T,),
                "forward",
            )
        return result[0] if single else result

    def _family(self, inputs: Rows) -> Distribution:
        assert self.distribution is not None
        B = inputs[0].shape[0]
        try:
            family = self.distribution(*inputs)
        except TypeError as error:
            shapes = ", ".join(str(tuple(x.shape)) for x in inputs)
            raise TypeError(
                f"the distribution was called with the {len(inputs)} differentiated inputs, shapes {shapes}, and "
                f"raised: {error}; name all its parameters in ndgrad.wrap(fn, argnums=(0, 1, ...)), and freeze "
                "those of ndgrad.wrap(fn, parameters=...), which it has no gradient for"
            ) from error
        if not isinstance(family, Distribution):
            raise TypeError(
                f"distribution must return a torch.distributions.Distribution, got {type(family).__name__}"
            )
        if family.batch_shape[:1] != (B,):
            raise ValueError(
                f"the distribution must have one row per input row, batch shape ({B}, ...), but has "
                f"{tuple(family.batch_shape)}; reinterpret only the dimensions after the first as event dimensions"
            )
        return family

    def _noise(self, theta: Tensor) -> Tensor:
        B, n = theta.shape[0], theta.shape[1:].numel()
        flat = gaussian(self.num_samples, theta.detach().reshape(B, n), self.generator)  # (S, B, n)
        return flat.reshape(self.num_samples, *theta.shape)

    def _good(self, values: Rows) -> Tensor | None:
        """Mark the evaluations that came back, (S, B); None where all did."""
        return good_samples(values, least=2 if self.baseline == "loo" else 1)

    def _weights(
        self, values: Rows, good: Tensor | None, inputs: Rows, at_mean: Callable[[], Rows]
    ) -> Callable[[Rows], Tensor]:
        """Return the map from cotangents to ``<v, f(z_s) - b_s> / S``, (S, B)."""
        centred = values
        if self.baseline == "fx":
            centred = less_baseline(values, at_mean(), good)
        elif callable(self.baseline):
            with torch.no_grad():
                baselines = as_tuple(self.baseline(*inputs))
            centred = _less(values, baselines * len(values) if len(baselines) == 1 else baselines)

        def weights(cotangents: Rows) -> Tensor:
            w = contract(centred, cotangents)  # (S, B)
            w = w - leave_one_out(w, good) if self.baseline == "loo" else w
            return reweigh(w, good) / self.num_samples

        return weights

    def extra_repr(self) -> str:
        """Show the settings."""
        law = f"sigma={self.sigma}" if self.distribution is None else f"distribution={self.distribution!r}"
        return f"{law}, num_samples={self.num_samples}, baseline={self.baseline!r}"


def _less(values: Rows, baselines: Rows) -> Rows:
    """Subtract a baseline, which must broadcast to (B, ...), from each of the values (S, B, ...)."""
    if len(baselines) != len(values):
        raise ValueError(
            f"the baseline must return one tensor, or one for each of the {len(values)} outputs, but returned "
            f"{len(baselines)}"
        )
    for y, b in zip(values, baselines, strict=True):
        _require_broadcast(b.shape, y.shape[1:])
    return tuple(y - b for y, b in zip(values, baselines, strict=True))


def _require_broadcast(shape: torch.Size, target: torch.Size) -> None:
    fits = len(shape) <= len(target) and all(
        b in (1, y) for b, y in zip(reversed(shape), reversed(target), strict=False)
    )
    if not fits:
        raise ValueError(
            f"the baseline must broadcast to the output, {tuple(target)}, but has shape {tuple(shape)}; one number for "
            f"each row has the shape {(*target[:1], *[1] * (len(target) - 1))}"
        )


def _finite_mean(family: Distribution) -> Tensor:
    try:
        mean = family.mean
    except NotImplementedError:
        mean = torch.tensor(torch.nan)
    if not mean.isfinite().all():
        raise ValueError(
            f"baseline 'fx' is the function at the mean of the distribution, but {type(family).__name__} has no finite "
            "mean; type baseline='loo'"
        )
    return mean
