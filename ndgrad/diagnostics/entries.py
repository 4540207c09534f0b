"""A gradient against central differences, entry by entry."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ndgrad.diagnostics.directional import Functional
from ndgrad.diagnostics.gradient_check import GradientCheck

_SHOWN = 3


def compare_entries(phi: Functional, samples: Tensor, tolerance: float) -> GradientCheck:
    """Compare the mean of the gradients (T, N) with differences, in 4 N evaluations."""
    T = len(samples)
    g = samples.mean(0)
    noise = samples.std(0) / T**0.5 if T > 1 else torch.zeros_like(g)  # (N,)
    steps = phi.rounding ** (1 / 3) * phi.scale
    fine, coarse = _differences(phi, steps), _differences(phi, 2 * steps)
    doubt = (fine - coarse).abs() + phi.rounding ** (2 / 3) * (fine.norm() + 1e-300)  # truncation, rounding
    errors = (g - fine).abs()
    allowed = 5 * doubt + 5 * noise + (tolerance * fine.abs() if T > 1 else 0)
    wrong = (errors > allowed).nonzero().flatten().tolist()
    size = float(fine.norm())
    error, standard_error = (
        (float(errors.norm()) / size, float(noise.norm()) / size) if size else (float(errors.norm()), 0.0)
    )
    verdict = _verdict(g, fine, wrong, error, standard_error, T)
    return GradientCheck(
        "finite_difference", not wrong, verdict, math.nan, steps, errors, error, standard_error, T
    )


def _differences(phi: Functional, steps: Tensor) -> Tensor:
    """Central differences with the steps as realised in the inputs' dtype, (N,)."""
    x, quotients = phi.x, []
    for index, h in enumerate(steps.tolist()):
        unit = torch.zeros_like(x)
        unit[index] = h
        upper, lower = phi.round(x + unit), phi.round(x - unit)
        rise = phi.value(upper)[0] - phi.value(lower)[0]
        quotients.append(rise / float(upper[index] - lower[index]))
    return torch.tensor(quotients, dtype=torch.float64)


def _verdict(g: Tensor, fine: Tensor, wrong: list[int], error: float, noise: float, T: int) -> str:
    of = f"the mean of {T} estimates" if T > 1 else "the gradient"
    if not wrong:
        spread = f" ± {noise:.1e} (standard error)" if T > 1 else ""
        return f"{of} agrees with central differences in all {len(g)} entries; relative error {error:.1e}{spread}"
    listed = ", ".join(f"[{i}]: {g[i]:.4g} instead of {fine[i]:.4g}" for i in wrong[:_SHOWN])
    more = f", and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
    return f"{of} differs from central differences in {len(wrong)} of {len(g)} entries: {listed}{more}"
