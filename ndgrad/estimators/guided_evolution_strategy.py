"""An evolution strategy that spends some of its directions where a fitted network sees the slope."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ndgrad.bypass import Bypass, network_vjp
from ndgrad.bypass_estimator import BypassEstimator, has_numbers
from ndgrad.coordinates import Setting, as_setting, columns, positive, show
from ndgrad.estimator import FlatFunction, Pullback, RowFunction, Rows, join_rows, split_rows, working_dtype
from ndgrad.fit_losses import Loss
from ndgrad.missing import good_samples, reweigh
from ndgrad.sampling import orthogonal_to
from ndgrad.validation import positive_int

_STEP = math.sqrt(3)  # of a guide, in sigma: a segment of this half length has standard deviation sigma
_SPARE_ROWS = 8  # of a sketched Jacobian, beyond the k that are wanted


class GuidedEvolutionStrategy(BypassEstimator):
    r"""Differences along the slopes of a fitted network, and along random directions orthogonal to them.

    .. math:: \hat g = \sum_{i=1}^k \frac{f(x + h u_i) - f(x - h u_i)}{2h}\, u_i
              + \frac{n - k}{S - k} \sum_{j=1}^{S-k} \frac{f(x + r q_j) - f(x - r q_j)}{2r}\, q_j,
              \qquad h = \sqrt{3}\,\sigma, \quad r = \sqrt{n}\,\sigma

    with the cotangent v contracted per row and sample. The guides :math:`u_i` are the k leading right singular vectors
    of the network's Jacobian at x, row by row: no cotangent enters, so the estimate is linear in it. The
    :math:`q_j` are random orthonormal vectors in their complement (blocks of n - k). In training, the network is
    fitted to this call's evaluations and the replayed ones *after* the estimate was made, so that guides know
    nothing of the draws that they are used with. Until there is a network, and where n = 1, there are no guides:
    this is then the `EvolutionStrategy` with orthogonal pairs.

    Cost: 2 S evaluations per row and backward pass, the fit, and min(m, k + 8) backward passes of the network for
    m outputs (for m > k + 8 its Jacobian is sketched by random cotangents). Unbiased on linear functions, whatever the
    guides are, since :math:`\sum u_i u_i^\top + (n - k) \mathbb{E} q q^\top = I`. There the guided part is exact, and
    with g the gradient and :math:`g_\perp` what the guides miss of it, the trace of the covariance is

    .. math:: \left(\frac{n - k}{S - k} - 1\right) |g_\perp|^2 \qquad\text{instead of}\qquad
              \left(\frac{n}{S} - 1\right) |g|^2

    of unguided pairs, for S <= n; where S - k is a multiple of n - k it is 0. Guides that hold the whole gradient leave
    no variance, guides that hold nothing of it cost a factor S / (S - k), and they pay as soon as they hold more
    than k / S of the squared gradient.

    Beyond linear functions it estimates, along each guide, the derivative of f averaged over the segment of half length
    h, whose standard deviation is sigma; in the complement, the gradient of f averaged over a ball of radius r. (With
    the step r along guides, too, a function of :math:`\langle w, x \rangle` with w as guide would be smoothed over a
    width of sqrt(n/3) sigma.) For x^3 that is :math:`3x^2 + 3\sigma^2` for a guided coordinate and
    :math:`3x^2 + 3\sigma^2 n/(n - k + 2)` for the others, if the guides are coordinates. Against the gradient of f the
    bias is of order sigma^2.

    Take it for many calls at related inputs with few evaluations and few outputs, or outputs that share their
    slopes. `ControlVariate` has less variance where the network has the length of the gradient right, too; here
    only its direction matters, row by row. Not for a single gradient, nor for many outputs of unrelated slopes, of
    which no k directions hold much.

    A failed evaluation takes its pair along; those S_b >= 1 pairs that a row has left, guided or not, weigh S/S_b times
    as much. No other direction sees what a failed guide would have seen, so this is unbiased only in the mean over
    failures, to which all pairs of a row must be equally exposed.

    In eval mode nothing is fitted: the guides are those of the network as it stands.

    Args:
        surrogate: network of the same inputs (R, ...), copied and hidden as in `DiffBypass`. None builds one on the
            first call: a small U-Net for one map (at least 8 x 8), else a perceptron.
        sigma: sigma > 0, the width of the smoothing, in units of the input: a number, a tensor for the coordinates or
            a tuple for the inputs, as in `EvolutionStrategy`. Guides are orthonormal in units of sigma.
        num_samples: S > k, the number of directions.
        num_guides: k >= 1, the most guides; never more than outputs, nor than n - 1.
        fit_steps: K >= 1, joint optimiser steps over all samples after each call.
        loss: ``loss(g(z), f(z))`` to a scalar, for each output; None for mean squared error.
        replay: how many earlier calls' evaluations stay in the fit.
        match: ``"difference"`` or ``"value"``, see `DiffBypass`. Only the slope of g is used.
        decode: translates g's output into that of f. None: the identity, or the expected index of class
            logits.
        optimizer: ``params -> torch.optim.Optimizer``; None for Adam with learning rate 1e-3.
        generator: source of the noise and of a default network's weights, on the input's device; None for torch's
            global one.

    ``quality`` holds a `FitQuality` after each fit, ``network`` the fitted network.

    Raises:
        ValueError: for an argument out of range, as many guides as samples, a sigma that does not fit the inputs, or
            shapes of g and f that no loss was given for.
        TooManyFailuresError: if a row has no direction left.

    Example:
        >>> import torch, ndgrad
        >>> _ = torch.manual_seed(0)
        >>> estimator = ndgrad.GuidedEvolutionStrategy(torch.nn.Linear(8, 1), sigma=0.1, num_samples=2, fit_steps=300)
        >>> f = lambda x: x[:, :1] - 2 * x[:, 1:2]
        >>> for call in range(20):
        ...     x = torch.randn(3, 8).requires_grad_()
        ...     estimator(f, x).sum().backward()
        >>> x.grad[0].round(decimals=1) + 0.0  # exact with 2 pairs in 8 dimensions: the guide is the gradient
        tensor([ 1., -2.,  0.,  0.,  0.,  0.,  0.,  0.])

    Source: Maheswaranathan et al. 2019, arXiv 1806.10230. There all directions are drawn from one normal law whose
    covariance is wider in the guiding subspace (equation 2), and differences are weighted alike, so that the mean is
    the gradient times that covariance: scaled, and turned towards the guides. Here guide and complement are separate
    parts with weights of their own, which leaves no bias and no variance within the subspace. Sketched Jacobians:
    Halko, Martinsson & Tropp 2011, algorithm 4.1.

    """

    skips_failures = True

    def __init__(
        self,
        surrogate: nn.Module | None = None,
        sigma: Setting = 0.05,
        num_samples: int = 10,
        num_guides: int = 1,
        fit_steps: int = 10,
        loss: Loss | None = None,
        replay: int = 10,
        match: str = "difference",
        decode: Callable[[Any], Tensor] | None = None,
        optimizer: Callable[[Any], torch.optim.Optimizer] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.sigma = as_setting("sigma", sigma, positive)
        self.num_guides = positive_int("num_guides", num_guides)
        self.num_samples = positive_int("num_samples", num_samples)
        if num_samples <= num_guides:
            raise ValueError(
                f"num_samples must be more than the num_guides={num_guides} directions of the network, so that the "
                f"others are seen, too; got {num_samples}"
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

    def linearize(self, f: RowFunction, inputs: Rows, outputs: Rows) -> Pullback:
        """Estimate with the network of earlier calls, then fit it; see `VJPEstimator.linearize`."""
        if not has_numbers(inputs):
            return lambda _: tuple(torch.zeros_like(x) for x in inputs)
        dtype = working_dtype(*inputs, *outputs)
        flat, x = FlatFunction(f, inputs, dtype), join_rows(inputs, dtype)  # x (B, n)
        sigma = columns(self.sigma, flat, x)  # a number, or (n,)
        guides = self._guides(inputs, outputs, x, sigma)  # (B, k, n)
        eps, weighted = self._directions(guides)  # (S, B, n)
        probes = torch.cat([x + sigma * eps, x - sigma * eps])  # (2S, B, n)
        values = flat(probes)  # (2S, B, m)
        upper, lower = values.chunk(2)
        response = (upper - lower) / 2  # (S, B, m)
        good = good_samples((response,))
        if self.training:
            self.learn_flat(inputs, outputs, probes, values)

        def pullback(cotangents: Rows) -> Rows:
            w = reweigh((response * join_rows(cotangents, dtype)).sum(-1), good)  # (S, B)
            return split_rows((w.unsqueeze(-1) * weighted).sum(0) / sigma, inputs)

        return pullback

    def _guides(self, inputs: Rows, outputs: Rows, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Return the directions, in units of sigma, in which the network is steepest at x, (B, at most k, n)."""
        k = min(self.num_guides, x.shape[1] - 1)  # a direction is left for what the network does not know
        if self.bypass.fit is None or k < 1:
            return x.unsqueeze(1)[:, :0]
        y, pull = network_vjp(self.flat_network(inputs, outputs, x.dtype), (x,))
        slopes = [pull((v,))[0] * sigma for v in self._cotangents(y, k + _SPARE_ROWS)]
        return torch.linalg.svd(torch.stack(slopes, 1), full_matrices=False).Vh[:, :k]

    def _cotangents(self, y: Tensor, most: int) -> Tensor:
        """Return cotangents of y (B, m): the m unit vectors, or ``most`` random ones if those are fewer."""
        B, m = y.shape
        if m <= most:
            return torch.eye(m, dtype=y.dtype, device=y.device).unsqueeze(1).expand(m, B, m)
        return torch.randn((most, B, m), dtype=y.dtype, device=y.device, generator=self.generator)

    def _directions(self, guides: Tensor) -> tuple[Tensor, Tensor]:
        """Return S directions, and the same weighted so that ``E sum_s weighted_s eps_s^T = I``, (S, B, n) each."""
        _, k, n = guides.shape
        along, rest = guides.transpose(0, 1), self.num_samples - k
        across = orthogonal_to(guides, rest, self.generator)  # (S - k, B, n), of norm sqrt(n)
        weight = (n - k) / (rest * max(n, 1))
        return torch.cat([_STEP * along, across]), torch.cat([along / _STEP, weight * across])

    def extra_repr(self) -> str:
        """Show the settings."""
        plan = self.bypass.plan
        settings = show(
            sigma=self.sigma,
            num_samples=self.num_samples,
            num_guides=self.num_guides,
            fit_steps=plan.steps,
            replay=self.bypass.replay,
            match=plan.match,
        )
        return f"surrogate={self.bypass.name()}, {settings}"
