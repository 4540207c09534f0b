"""Noise on the input of a solver, and the score of its law.

A perturbation of ``theta`` (B, ...) with width sigma is a pair of samples (S, B, ...) and of scores, the gradients of
their log density in theta, (S, B, ...). Every law is centred: the samples have mean theta.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ndgrad.sampling import gaussian

Perturbation = Callable[[int, Tensor, float, torch.Generator | None], tuple[Tensor, Tensor]]

EULER_GAMMA = 0.5772156649015329  # the mean of a standard Gumbel variable
_TERMS = 10  # of the sum of gamma variables; the paper's choice


def gumbel(num_samples: int, x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw standard Gumbel noise minus its mean, (S, B, ...) for x (B, ...)."""
    # not Tensor.exponential_, which takes fifty times as long on the CPU
    U = torch.rand((num_samples, *x.shape), dtype=x.dtype, device=x.device, generator=generator)
    U.clamp_(min=torch.finfo(x.dtype).tiny)  # U = 0 would give minus infinity
    return -torch.log(-torch.log(U)) - EULER_GAMMA


def sum_of_gamma(num_samples: int, x: Tensor, kappa: int, generator: torch.Generator | None) -> Tensor:
    r"""Draw noise of which the sum over any kappa coordinates is almost Gumbel, minus its mean, (S, B, ...).

    .. math:: \epsilon = \frac{1}{\kappa} \sum_{i=1}^{10} \frac{\kappa g_i - 1}{i}, \quad
              g_i \sim \mathrm{Gamma}(1/\kappa, 1)

    Source: Niepert et al. 2021, arXiv 2106.01798, section 3, here centred.

    """
    noise = x.new_zeros((num_samples, *x.shape))
    shape = torch.full_like(noise, 1 / kappa)
    for i in range(1, _TERMS + 1):
        # torch.distributions.Gamma takes no generator
        noise += (kappa * torch._standard_gamma(shape, generator=generator) - 1) / (kappa * i)
    return noise


def add_gaussian(
    num_samples: int, theta: Tensor, sigma: float, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Perturb by ``theta + sigma Z`` with standard normal Z."""
    Z = gaussian(num_samples, theta, generator)  # (S, B, ...)
    return theta + sigma * Z, Z / sigma


def add_gumbel(
    num_samples: int, theta: Tensor, sigma: float, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Perturb scores by ``theta + sigma Z`` with centred Gumbel Z."""
    Z = gumbel(num_samples, theta, generator)  # (S, B, ...)
    return theta + sigma * Z, (1 - torch.exp(-Z - EULER_GAMMA)) / sigma


def subtract_gumbel(
    num_samples: int, theta: Tensor, sigma: float, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Perturb costs by ``theta - sigma Z`` with centred Gumbel Z."""
    samples, score = add_gumbel(num_samples, -theta, sigma, generator)
    return -samples, -score


def multiply_lognormal(
    num_samples: int, theta: Tensor, sigma: float, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Perturb by ``theta exp(sigma Z - sigma^2 / 2)`` with standard normal Z, which keeps every sign."""
    if (theta == 0).any():
        raise ValueError(
            "noise='lognormal' multiplies, so it never moves an input of 0, and some inputs are 0; type "
            "noise='gaussian', or keep the inputs away from 0 (softplus(x) + 1e-3)"
        )
    Z = gaussian(num_samples, theta, generator)  # (S, B, ...)
    return theta * torch.exp(sigma * Z - math.pow(sigma, 2) / 2), Z / (sigma * theta)
