"""``ndgrad.check_gradients``: is this gradient the derivative of this function?"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ndgrad.diagnostics.directional import Functional
from ndgrad.diagnostics.isolation import seeded
from ndgrad.diagnostics.taylor import Line, follow
from ndgrad.diagnostics.wording import percent
from ndgrad.validation import one_of, positive_float, positive_int

_DIRECTIONS = 4
_WIDEST = 0.1  # of the steps along a direction
_HALVINGS = 10  # of a direction that leads to where the function is not finite
_RIGHT = 0.01  # relative error of a right gradient, as curvature or rounding leave it to be seen
_SHOWN = 3
_CONSTANT = (
    "the function is constant around x, and the gradient is 0: right, but nothing to learn from; if its values move "
    "in steps, give it a gradient by ndgrad.wrap"
)
_CURVED = (
    "any gradient has it where curvature outweighs the gradient at every step above rounding, and the error may be {} "
    "of its size; pass x in float64, or an x with a larger gradient"
)
UNDEFINED = "the function is not finite at x or close to it, so there is no derivative to compare with"
Finding = tuple[bool | None, float, float, str]  # passed, relative error, its standard error, verdict


@dataclass(frozen=True)
class GradientCheck:
    """What `check_gradients` found; ``print`` shows it as a table, its truth value is that of ``passed is True``.

    Attributes:
        method: ``"taylor"`` or ``"finite_difference"``.
        passed: whether the gradient is right; None where noise, rounding or curvature hides the answer, or the function
            is not finite around x.
        verdict: the answer in words.
        slope: of log remainder against log h, the lowest of all directions: 2 if the gradient is right, 1 if not;
            infinite where the remainder vanishes, NaN where it was not measured.
        steps: the h, (K,); for finite differences the step of each entry, (N,). Empty if the gradient is not finite.
        remainders: ``|f(x + h d) - f(x) - h g.d|``, (D, K); for finite differences ``|g - difference|``, (N,).
        relative_error: of the gradient in the tested directions, as far as it can be measured, each input in units of
            its root mean square; NaN if the gradient or the function is not finite.
        standard_error: of ``relative_error``, from the repeated estimates; 0 for a deterministic gradient.
        repeats: how many estimates of the gradient were averaged.

    """

    method: str
    passed: bool | None
    verdict: str
    slope: float
    steps: Tensor
    remainders: Tensor
    relative_error: float
    standard_error: float
    repeats: int

    def __bool__(self) -> bool:
        return self.passed is True

    def __str__(self) -> str:
        word = {True: "right", False: "WRONG", None: "undecided"}[self.passed]
        lines = [f"gradient check by {self.method.replace('_', ' ')}: {word}", f"  {self.verdict}"]
        if self.method == "taylor" and len(self.steps):
            lines += ["", "         h   largest remainder"]
            worst = self.remainders.amax(0)
            lines += [
                f"  {h:8.1e}   {r:8.1e}" for h, r in zip(self.steps.tolist(), worst.tolist(), strict=True)
            ]
        return "\n".join(lines)


def check_gradients(
    module: Callable[..., Any],
    x: Any,
    method: str = "taylor",
    *,
    repeats: int = 64,
    tolerance: float = 0.05,
    seed: int = 0,
) -> GradientCheck:
    r"""Test whether the backward pass of ``module`` gives the derivative of its forward pass.

    With :math:`\varphi(x) = \langle v, f(x) \rangle` for a random v and g the gradient that backward gives,

    .. math:: R(h) = |\varphi(x + h d) - \varphi(x) - h\, g \cdot d|

    falls as :math:`h^2` if g is right and as h if it is not, along each of four random directions d: no step has to
    be chosen. Where the curvature outweighs the gradient at every step that rounding leaves, as close to an optimum in
    float32, it falls as :math:`h^2` for any g: the check is then undecided, unless the error of g, extrapolated to
    h = 0, is below 1 %. ``"finite_difference"`` compares every entry with a central difference instead, which names the
    wrong entries at 4 N evaluations; it is undecided where rounding and the change with the step would hide errors of
    10 %. A gradient that holds NaN or infinity is wrong.

    Values and gradient are computed with the same random numbers, so that dropout passes. A gradient that fails and
    depends on them is an estimate: the mean of ``repeats`` of them is tested instead, its standard error is part of
    the verdict, and smoothing counts as right up to ``tolerance``.

    Args:
        module: a `BlackBox`, any module, or any function of tensors, such as the ``apply`` of an autograd Function.
            It is called on a copy: parameters, statistics, estimators and random numbers stay as they are.
        x: a tensor (B, ...), or a tuple of all positional arguments. Every floating tensor in it is tested; float64
            resolves far smaller errors than float32.
        method: ``"taylor"`` or ``"finite_difference"``.
        repeats: estimates to average where the gradient is random, at least 2.
        tolerance: relative error that a random gradient may have, 0 < tolerance.
        seed: of v, d and the estimates.

    Raises:
        ValueError: for another method, no floating input, or an output that does not depend on the input.

    Example:
        >>> import torch, ndgrad
        >>> class Square(torch.autograd.Function):
        ...     @staticmethod
        ...     def forward(ctx, x):
        ...         ctx.save_for_backward(x)
        ...         return x**2
        ...     @staticmethod
        ...     def backward(ctx, v):
        ...         return v * ctx.saved_tensors[0]  # the factor 2 is missing
        >>> x = torch.tensor([0.3, -1.2, 0.8], dtype=torch.float64)
        >>> result = ndgrad.check_gradients(Square.apply, x)
        >>> print(result.passed, round(result.slope, 2))
        False 1.0
        >>> print(result.verdict)
        slope 1.00 instead of 2: the gradient is 0.500 times the derivative: a factor is missing or doubled

    """
    one_of("method", method, ("taylor", "finite_difference"))
    positive_int("repeats", repeats, least=2)
    positive_float("tolerance", tolerance)
    phi = Functional(module, x if isinstance(x, tuple) else (x,), seed)
    if method == "finite_difference":
        from ndgrad.diagnostics.entries import compare_entries

        return compare_entries(phi, _samples(phi, repeats), tolerance)
    return _taylor(phi, repeats, tolerance)


def not_finite(method: str, samples: Tensor) -> GradientCheck:
    """Judge estimates (T, N) of which some are NaN or infinite."""
    T, g = len(samples), samples.mean(0)
    entries = (~g.isfinite()).nonzero().flatten().tolist()
    verdict = f"{of_estimates(T)} is not finite in {len(entries)} of {len(g)} entries: {listed(entries, g)}"
    steps, remainders = torch.empty(0), torch.empty((_DIRECTIONS, 0) if method == "taylor" else 0)
    return GradientCheck(method, False, verdict, math.nan, steps, remainders, math.nan, 0.0, T)


def of_estimates(T: int) -> str:
    """Say what is judged."""
    return f"the mean of {T} estimates" if T > 1 else "the gradient"


def listed(entries: list[int], g: Tensor, right: Tensor | None = None) -> str:
    """Name the first few entries of the gradient (N,), with what they should be."""

    def shown(i: int) -> str:
        return f"[{i}]: {g[i]:.4g}" + ("" if right is None else f" instead of {right[i]:.4g}")

    more = f", and {len(entries) - _SHOWN} more" if len(entries) > _SHOWN else ""
    return ", ".join(map(shown, entries[:_SHOWN])) + more


def _samples(phi: Functional, repeats: int) -> Tensor:
    """Return independent estimates of the gradient, (T, N); T = 1 if all random numbers lead to the same."""
    first, second = phi.gradient(), phi.gradient(1)
    if torch.isclose(first, second, rtol=0, atol=0, equal_nan=True).all():
        return first.unsqueeze(0)
    return torch.stack([first, second, *(phi.gradient(draw) for draw in range(2, repeats))])


def _taylor(phi: Functional, repeats: int, tolerance: float) -> GradientCheck:
    """Check one gradient under the random numbers of the values; where that fails and they matter, the mean of many."""
    one = _check(phi, phi.gradient().unsqueeze(0), tolerance)
    if one.passed is not False:
        return one
    samples = _samples(phi, repeats)
    return _check(phi, samples, tolerance) if len(samples) > 1 else one


def _check(phi: Functional, samples: Tensor, tolerance: float) -> GradientCheck:
    if not samples.isfinite().all():
        return not_finite("taylor", samples)
    with seeded(phi.seed):
        draws = torch.randn(_DIRECTIONS, len(phi.x), dtype=torch.float64)  # (D, N)
    unit = _unit(phi, draws)
    lines = [follow(phi, samples, draw * unit) for draw in draws]
    size = max(float((samples.mean(0) * unit).norm()), max(abs(line.derivative) for line in lines))
    slope = min((line.slope for line in lines if not math.isnan(line.slope)), default=math.nan)
    finding: Finding = (True, 0.0, 0.0, _CONSTANT)
    if not all(line.remainders.isfinite().all() for line in lines):
        finding = (None, math.nan, 0.0, UNDEFINED)
    elif size > 0 and len(samples) == 1:
        finding = _exact_verdict(lines, size, slope, math.sqrt(phi.rounding))
    elif size > 0:
        finding = _mean_verdict(lines, size, slope, len(samples), tolerance)
    passed, error, noise, verdict = finding
    return GradientCheck(
        "taylor", passed, verdict, slope, lines[0].steps, torch.stack([line.remainders for line in lines]),
        error, noise, len(samples),
    )  # fmt: skip


def _unit(phi: Functional, draws: Tensor) -> Tensor:
    """Return the inputs' scale (N,), halved until the function is finite at the far ends of all lines."""
    unit = phi.scale
    for _ in range(_HALVINGS):
        if all(math.isfinite(phi.value(phi.x + _WIDEST * draw * unit)[0]) for draw in draws):
            break
        unit = unit / 2
    return unit


def _exact_verdict(lines: list[Line], size: float, slope: float, resolution: float) -> Finding:
    """Judge a gradient without noise; relative errors below ``resolution`` cannot be told from rounding."""
    error = max(abs(line.deviation) for line in lines) / size
    bound = max(line.bound for line in lines) / size
    if 1.8 <= slope < math.inf and error < _RIGHT:
        return True, error, 0.0, f"slope {slope:.2f}: the gradient is right"
    if 1.8 <= slope < math.inf:
        return None, error, 0.0, f"slope {slope:.2f}, but {_CURVED.format(percent(error))}"
    if bound < resolution or (slope == math.inf and bound < _RIGHT):
        return True, error, 0.0, f"the remainder vanishes: the gradient is right to {bound:.0e} of its size"
    if not math.isfinite(slope):
        hint = "too few remainders stand out of rounding to measure a slope; pass x in float64"
        return None, error, 0.0, hint
    if error < resolution:
        limit = f"the gradient is right to {percent(error)}, as far as {resolution:.0e}, the dtype's resolution, allows"
        return True, error, 0.0, f"slope {slope:.2f}, but {limit}"
    return False, error, 0.0, f"slope {slope:.2f} instead of 2: {_name_the_fault(lines, error)}"


def _mean_verdict(lines: list[Line], size: float, slope: float, repeats: int, tolerance: float) -> Finding:
    worst = max(lines, key=lambda line: abs(line.deviation) - 3 * line.standard_error)
    error, noise = abs(worst.deviation) / size, max(line.standard_error for line in lines) / size
    found = f"the mean of {repeats} estimates is off by {percent(error)} ± {percent(noise)} (standard error)"
    if error - 3 * noise > tolerance:
        cause = (
            "if the estimator is right, its sigma is too large or its surrogate unfit: see ndgrad.diagnose"
        )
        return False, error, noise, f"{found}: {_name_the_fault(lines, error)}; {cause}"
    if error + 3 * noise > 2 * tolerance:
        needed = math.ceil(repeats * (3 * noise / tolerance) ** 2)
        return None, error, noise, f"{found}: noise hides the slope; type repeats={max(needed, 2 * repeats)}"
    seen = f"slope {slope:.2f}" if math.isfinite(slope) else "noise hides the slope"
    return True, error, noise, f"{found}: right within {percent(2 * tolerance)}; {seen}"


def _name_the_fault(lines: list[Line], error: float) -> str:
    """Say what kind of mistake turns the derivative into this gradient."""
    derivatives = torch.tensor([line.derivative for line in lines], dtype=torch.float64)
    given = torch.tensor([line.derivative - line.deviation for line in lines], dtype=torch.float64)
    factor = float((given @ derivatives) / (derivatives @ derivatives))
    if float((given - factor * derivatives).norm()) > 0.2 * abs(1 - factor) * float(derivatives.norm()):
        return (
            f"the gradient is off by {percent(error)} of its size, by no common factor; method='finite_difference' "
            "names the wrong entries"
        )
    if abs(factor + 1) < 0.05:
        return "the gradient has the wrong sign"
    if abs(factor) < 0.01:
        return "the gradient is 0 where the function is not constant"
    return f"the gradient is {factor:.3f} times the derivative: a factor is missing or doubled"
