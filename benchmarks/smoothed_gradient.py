"""Brute-force gradient of a Gaussian-smoothed function, apart from the estimators under test.

``E <v, f(x + sigma e) - f(x - sigma e)> e / (2 sigma)``, ``e ~ N(0, I)`` summed in double precision with
the standard error of every entry (the symmetric oracle of Nesterov and Spokoiny, Random gradient-free
minimization, 2017).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def smoothed_gradient(
    f: Callable[[Tensor], Tensor],
    x: Tensor,
    v: Tensor,
    sigma: float,
    pairs: int,
    generator: torch.Generator,
    rows_per_call: int = 50_000,
    advance: Callable[[int], None] = lambda done: None,
) -> tuple[Tensor, Tensor]:
    """Return the gradient and its standard error, both like ``x``.

    ``x`` is (B, ...), ``v`` is (B, m); ``f`` maps rows and is called on at most about ``rows_per_call`` of
    them. ``advance`` hears how many pairs were finished.
    """
    B = x.shape[0]
    total, squares = torch.zeros((2, *x.shape), dtype=torch.float64)
    done = 0
    while done < pairs:
        draws = min(max(1, rows_per_call // B), pairs - done)
        e = torch.randn((draws, *x.shape), generator=generator)  # (S, B, ...)
        terms = _terms(f, x, v, sigma, e).double()  # (S, B, ...)
        total += terms.sum(0)
        squares += terms.square().sum(0)
        done += draws
        advance(draws)
    mean = total / pairs
    variance = (squares / pairs - mean.square()).clamp_min(0) * pairs / (pairs - 1)
    return mean.float(), (variance / pairs).sqrt().float()


def _terms(f: Callable[[Tensor], Tensor], x: Tensor, v: Tensor, sigma: float, e: Tensor) -> Tensor:
    """One unbiased term per pair: (S, B, ...)."""
    plus, minus = (f((x + sign * sigma * e).flatten(0, 1)).unflatten(0, e.shape[:2]) for sign in (1, -1))
    slope = ((plus - minus) * v).flatten(2).sum(-1) / (2 * sigma)  # (S, B)
    terms: Tensor = slope.reshape(*slope.shape, *[1] * (x.dim() - 1)) * e
    return terms
