"""A gradient against central differences, entry by entry."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ndgrad.diagnostics.directional import Functional
from ndgrad.diagnostics.gradient_check import UNDEFINED, GradientCheck, listed, not_finite, of_estimates
from ndgrad.diagnostics.wording import percent

_HIDDEN = 0.1  # of the gradient's size: errors that must be seen before an exact gradient counts as right


def compare_entries(phi: Functional, samples: Tensor, tolerance: float) -> GradientCheck:
    """Compare the mean of the gradients (T, N) with differences, in 4 N evaluations."""
    if not samples.isfinite().all():
        return not_finite("finite_difference", samples)
    T, g = len(samples), samples.mean(0)
    noise = samples.std(0) / T**0.5 if T > 1 else torch.zeros_like(g)  # (N,)
    steps = phi.rounding ** (1 / 3) * phi.scale
    right, doubt = _derivatives(phi, steps)
    errors = (g - right).abs()
    allowed = 5 * doubt + 5 * noise + (tolerance * right.abs() if T > 1 else 0)
    wrong = (errors > allowed).nonzero().flatten().tolist()  # without those where f is not finite
    size = _norm(phi, right) or _norm(phi, g)
    if size == 0:
        size, doubt = 1.0, torch.zeros_like(doubt)  # no value and no gradient moves: nothing is hidden
    error, standard_error = _norm(phi, errors) / size, _norm(phi, noise) / size
    hidden = _norm(phi, 5 * doubt + 3 * noise) / size
    lost = _norm(phi, 5 * doubt) > size  # the steps skip whole periods, or move less than rounding does
    passed = _passed(bool(wrong) and not lost, hidden <= (2 * tolerance if T > 1 else _HIDDEN))
    verdict = _undecided(hidden, T) if passed is None else _verdict(g, right, wrong, error, standard_error, T)
    return GradientCheck(
        "finite_difference", passed, verdict, math.nan, steps, errors, error, standard_error, T
    )


def _passed(wrong: bool, visible: bool) -> bool | None:
    return False if wrong else True if visible else None


def _derivatives(phi: Functional, steps: Tensor) -> tuple[Tensor, Tensor]:
    """Return central differences and how far they may be off: by truncation, as twice the step shows, and rounding."""
    fine, rounding = _differences(phi, steps)
    coarse, coarse_rounding = _differences(phi, 2 * steps)
    return fine, (fine - coarse).abs() + rounding + coarse_rounding


def _norm(phi: Functional, g: Tensor) -> float:
    """Norm of a gradient (N,) in the units of phi, whatever those of the inputs are."""
    return float((g * phi.scale).norm())


def _differences(phi: Functional, steps: Tensor) -> tuple[Tensor, Tensor]:
    """Central differences with the steps as realised in the inputs' dtype, and their rounding errors, (N,) each."""
    x, quotients, rounding = phi.x, [], []
    for index, h in enumerate(steps.tolist()):
        unit = torch.zeros_like(x)
        unit[index] = h
        upper, lower = phi.round(x + unit), phi.round(x - unit)
        rise, error = phi.rise(lower, upper)
        width = float(upper[index] - lower[index])
        quotients.append(rise / width)
        rounding.append(error / width)
    return torch.tensor(quotients, dtype=torch.float64), torch.tensor(rounding, dtype=torch.float64)


def _undecided(hidden: float, T: int) -> str:
    if not math.isfinite(hidden):
        return UNDEFINED
    cure = "more repeats" if T > 1 else "x in float64"
    return f"central differences would hide errors of up to {percent(hidden)} of the gradient; pass {cure}"


def _verdict(g: Tensor, right: Tensor, wrong: list[int], error: float, noise: float, T: int) -> str:
    of = of_estimates(T)
    if not wrong:
        spread = f" ± {noise:.1e} (standard error)" if T > 1 else ""
        return f"{of} agrees with central differences in all {len(g)} entries; relative error {error:.1e}{spread}"
    entries = f"{len(wrong)} of {len(g)} entries: {listed(wrong, g, right)}"
    return f"{of} differs from central differences in {entries}"
