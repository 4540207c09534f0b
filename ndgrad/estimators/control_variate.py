"""An evolution strategy with a fitted network as its control variate (LAX, RELAX)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ndgrad.bypass import Bypass, network_vjp
from ndgrad.bypass_estimator import BypassEstimator, has_numbers
from ndgrad.estimator import FlatFunction, Pullback, RowFunction, Rows, join_rows, split_rows, working_dtype
from ndgrad.fit_losses import Loss
from ndgrad.missing import good_samples, leave_one_out, reweigh
from ndgrad.sampling import DIRECTIONS
from ndgrad.validation import one_of, positive_float, positive_int

FlatMap = Callable[[Tensor], Tensor]
_MEMORY = 0.9  # what is left of earlier calls' moments of f and g at each call


class ControlVariate(BypassEstimator):
    r"""Evolution strategy of what a fitted network g does not explain, plus the network's own smoothed gradient.

    .. math:: \nabla_x \mathbb{E}_\epsilon f(x + \sigma\epsilon) \approx
              \frac{1}{S\sigma} \sum_{s=1}^S \left(\Delta_s f - c \Delta_s g\right) \epsilon_s
              + c\, \hat G, \qquad
              \hat G = \nabla g(x) + \frac{1}{T\sigma} \sum_{t=1}^T
              \left(\Delta_t g - \sigma \nabla g(x)^\top \epsilon_t\right) \epsilon_t

    with :math:`\Delta_s f = (f(x + \sigma\epsilon_s) - f(x - \sigma\epsilon_s)) / 2` for antithetic pairs; without,
    f less the mean of the other samples. :math:`\hat G` estimates :math:`\mathbb{E}[\Delta g\,\epsilon] / \sigma`
    from T draws of its own (in pairs), which cost no evaluation of f; since
    :math:`\mathbb{E}\epsilon\epsilon^\top = I`, only what is curved in g adds to its variance. Both sums draw from
    the same law of directions. (The gradient of :math:`\mathbb{E} g(x + \sigma\epsilon)` by reparameterisation
    would be biased: for any law but the Gaussian it is not the expectation of the first sum, which smooths
    with another kernel; see `EvolutionStrategy`.)

    In training, g is fitted to this call's evaluations and the replayed ones *after* the estimate was made.
    The coefficient c, one for each output, is the regression of :math:`\Delta f` on :math:`\Delta g` over earlier
    calls, each with g as it was before it saw them. Until there is one, c = 0.

    Cost: 2 S evaluations per row and backward pass with pairs, S without; 2 T evaluations of g and the fit.
    Unbiased for the smoothed function, whatever g is, in every call; the same smoothing as that of
    `EvolutionStrategy`. The variance is that of `EvolutionStrategy` applied to f - c g, plus that of
    :math:`\hat G`: where g has learned the slope of f, what remains is its steps and noise. Rows share g and c,
    but within one call they do not influence each other. Take it for many calls at related inputs with few
    evaluations each, where a biased gradient is not good enough; for a single gradient it is an
    `EvolutionStrategy`.

    A failed evaluation takes its pair along; S is then the number of directions that a row has left, at least 1, or 2
    without pairs. Network and coefficient are fitted to what came back.

    In eval mode nothing is fitted: g and c are used as they stand.

    Args:
        surrogate: network g of the same inputs (R, ...), copied and hidden as in `DiffBypass`. None builds one
            on the first call: a small U-Net for one map (at least 8 x 8), else a perceptron.
        sigma: sigma > 0, the width of the smoothing, in units of the input.
        num_samples: S >= 1, the number of directions; S >= 2 without pairs.
        surrogate_samples: T >= 1, the number of directions in which g is probed, in pairs.
        antithetic: evaluate each direction on both sides.
        directions: the law of directions, as in `EvolutionStrategy`.
        fit_steps: K >= 1, joint optimiser steps over all samples after each call.
        loss: ``loss(g(z), f(z))`` to a scalar, for each output; None for mean squared error.
        replay: how many earlier calls' evaluations stay in the fit.
        match: ``"difference"`` or ``"value"``, see `DiffBypass`. Only differences of g enter the estimate.
        decode: translates g's output into that of f. None: the identity, or the expected index of class
            logits.
        optimizer: ``params -> torch.optim.Optimizer``; None for Adam with learning rate 1e-3.
        generator: source of the noise and of a default network's weights, on the input's device; None for torch's
            global one.

    ``quality`` holds a `FitQuality` after each fit, ``network`` the fitted network, ``coefficient`` c.

    Raises:
        ValueError: for an argument out of range, a single sample without pairs, or shapes of g and f that no loss
            was given for.
        TooManyFailuresError: if a row has too few directions left.

    Example:
        >>> import torch, ndgrad
        >>> _ = torch.manual_seed(0)
        >>> estimator = ndgrad.ControlVariate(torch.nn.Linear(8, 1), sigma=0.1, num_samples=2, fit_steps=300)
        >>> f = lambda x: x[:, :1] - 2 * x[:, 1:2]
        >>> for call in range(20):
        ...     x = torch.randn(3, 8).requires_grad_()
        ...     estimator(f, x).sum().backward()
        >>> x.grad[0].round(decimals=1) + 0.0  # exact with 2 pairs in 8 dimensions: g has learned f
        tensor([ 1., -2.,  0.,  0.,  0.,  0.,  0.,  0.])

    Source: Grathwohl et al. 2018, arXiv 1711.00123, equations 5 to 8, with a network fitted to f instead of
    to the variance; orthogonal directions: Choromanski et al. 2018, arXiv 1804.02395.

    """

    skips_failures = True

    def __init__(
        self,
        surrogate: nn.Module | None = None,
        sigma: float = 0.05,
        num_samples: int = 10,
        surrogate_samples: int = 64,
        antithetic: bool = True,
        directions: str = "orthogonal",
        fit_steps: int = 10,
        loss: Loss | None = None,
        replay: int = 10,
        match: str = "difference",
        decode: Callable[[Any], Tensor] | None = None,
        optimizer: Callable[[Any], torch.optim.Optimizer] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.sigma = positive_float("sigma", sigma)
        self.num_samples = positive_int("num_samples", num_samples)
        if not antithetic and num_samples < 2:
            raise ValueError(
                f"without antithetic pairs num_samples must be at least 2, to have another sample as baseline; got "
                f"{num_samples}"
            )
        self.surrogate_samples = positive_int("surrogate_samples", surrogate_samples)
        self.antithetic = antithetic
        self.directions = one_of("directions", directions, DIRECTIONS)
        if directions == "sobol" and not antithetic:
            raise ValueError(
                "Sobol directions are not independent, so the mean of the other samples would bias the estimate; type "
                "antithetic=True, or another law of directions"
            )
        self.generator = generator
        self.bypass = Bypass.with_options(
            surrogate,
            fit_steps=fit_steps,
            loss=loss,
            replay=replay,
            match=match,
            decode=decode,
            optimizer=optimizer,
            generator=generator,
        )
        self._moments: Tensor | None = None  # of earlier calls: E[df dg] and E[dg dg], (2, m)

    @property
    def coefficient(self) -> Tensor | float:
        """The weight c of g in the next call, one for each output (m,); 0.0 before there is one."""
        if self._moments is None:
            return 0.0
        product, square = self._moments
        return torch.where(square > 0, product / square, 0.0)

    def linearize(self, f: RowFunction, inputs: Rows, outputs: Rows) -> Pullback:
        """Estimate with the network of earlier calls, then fit it; see `VJPEstimator.linearize`."""
        if not has_numbers(inputs):
            return lambda _: tuple(torch.zeros_like(x) for x in inputs)
        dtype = working_dtype(*inputs, *outputs)
        x = join_rows(inputs, dtype)  # (B, n)
        eps = self._directions(self.num_samples, x)  # (S, B, n)
        probes = self._probes(x, eps, self.antithetic)  # (2S or S, B, n)
        values = FlatFunction(f, inputs, dtype)(probes)  # (2S or S, B, m)
        good = self._good(values)
        response = self._response(values, good)  # (S, B, m)
        if self.bypass.fit is None:
            pull = self._evolution_strategy(response, good, eps)
        else:
            g = self.flat_network(inputs, outputs, dtype)
            pull = self._controlled(response, self._response(g(probes), good), good, eps, g, x)
        if self.training:
            self.learn_flat(inputs, outputs, probes, values)
        return lambda cotangents: split_rows(pull(join_rows(cotangents, dtype)), inputs)

    def _good(self, values: Tensor) -> Tensor | None:
        """Mark the samples, (S, B), of which all evaluations (2S or S, B, m) came back; None where all did."""
        if self.antithetic:
            return good_samples((_half_differences(values),))
        return good_samples((values,), least=2)

    def _response(self, values: Tensor, good: Tensor | None) -> Tensor:
        """Return half the differences of pairs, or each value less the mean of the others, (S, B, m)."""
        return _half_differences(values) if self.antithetic else values - leave_one_out(values, good)

    def _controlled(
        self, response: Tensor, response_g: Tensor, good: Tensor | None, eps: Tensor, g: FlatMap, x: Tensor
    ) -> FlatMap:
        """Return the pullback of f - c g plus that of c times the smoothed g."""
        c = torch.as_tensor(self.coefficient, dtype=x.dtype, device=x.device)  # () or (m,)
        residual = self._evolution_strategy(response - c * response_g, good, eps)
        smoothed_g = self._smoothed(g, x)
        if self.training:
            self._regress(response, response_g, good)
        return lambda v: residual(v) + smoothed_g(c * v)

    def _evolution_strategy(self, response: Tensor, good: Tensor | None, eps: Tensor) -> FlatMap:
        return lambda v: self._mean(reweigh((response * v).sum(-1), good), eps)

    def _smoothed(self, g: FlatMap, x: Tensor) -> FlatMap:
        """Return the pullback of the smoothed g: its tangent at x, and the mean of what departs from it."""
        eps = self._directions(self.surrogate_samples, x)  # (T, B, n)
        response = _half_differences(g(self._probes(x, eps, antithetic=True)))  # (T, B, m)
        _, tangent = network_vjp(g, (x,))

        def pullback(v: Tensor) -> Tensor:
            (slope,) = tangent((v,))  # (B, n)
            departure = (response * v).sum(-1) - self.sigma * (eps * slope).sum(-1)  # (T, B)
            return slope + self._mean(departure, eps)

        return pullback

    def _mean(self, w: Tensor, eps: Tensor) -> Tensor:
        """Return ``mean_s w_s eps_s / sigma`` for w (S, B), shape (B, n)."""
        return (w.unsqueeze(-1) * eps).sum(0) / (len(eps) * self.sigma)

    def _directions(self, count: int, x: Tensor) -> Tensor:
        return DIRECTIONS[self.directions](count, x, self.generator)

    def _probes(self, x: Tensor, eps: Tensor, antithetic: bool) -> Tensor:
        step = self.sigma * eps
        return torch.cat([x + step, x - step]) if antithetic else x + step

    def _regress(self, response: Tensor, response_g: Tensor, good: Tensor | None) -> None:
        """Take this call's moments into those that later calls take c from."""
        products = [reweigh(response_g * factor, good) for factor in (response, response_g)]  # (S, B, m)
        moments = torch.stack(products).mean((1, 2))  # (2, m)
        if self._moments is not None:
            moments = _MEMORY * self._moments.to(moments) + (1 - _MEMORY) * moments
        self._moments = moments

    def get_extra_state(self) -> dict[str, Any]:
        """Return network, optimiser, replay and moments as plain tensors and numbers."""
        return super().get_extra_state() | {"moments": self._moments}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore `get_extra_state`, building a default network that was not called yet."""
        self._moments = state["moments"]
        super().set_extra_state(state)

    def extra_repr(self) -> str:
        """Show the settings."""
        plan = self.bypass.plan
        return (
            f"surrogate={self.bypass.name()}, sigma={self.sigma}, num_samples={self.num_samples}, "
            f"surrogate_samples={self.surrogate_samples}, antithetic={self.antithetic}, "
            f"directions={self.directions!r}, fit_steps={plan.steps}, replay={self.bypass.replay}, match={plan.match!r}"
        )


def _half_differences(values: Tensor) -> Tensor:
    """Return half the differences of pairs (2S, B, m), shape (S, B, m)."""
    upper, lower = values.chunk(2)
    return (upper - lower) / 2
