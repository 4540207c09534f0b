"""``ndgrad.diagnose``: measures everything that a `Diagnosis` holds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from ndgrad.coordinates import per_input
from ndgrad.diagnostics.advice import advise
from ndgrad.diagnostics.candidates import CANDIDATES
from ndgrad.diagnostics.diagnosis import Comparison, Diagnosis, Profile
from ndgrad.diagnostics.estimates import Estimates, cosine, difference, repeat
from ndgrad.diagnostics.isolation import isolated, seeded
from ndgrad.diagnostics.landscape import Landscape, survey
from ndgrad.diagnostics.problem import Problem, neighbourhood, pose
from ndgrad.diagnostics.reference import (
    Reference,
    difference_reference,
    smoothed,
    smoothed_reference,
    smoothing_change,
)
from ndgrad.estimator import Estimator, Rows
from ndgrad.validation import positive_int
from ndgrad.wrap import BlackBox


def diagnose(
    module: BlackBox,
    *inputs: Any,
    cotangent: Any = None,
    loss: Callable[[Any], Tensor] | None = None,
    repeats: int = 32,
    reference_evaluations: int = 1000,
    compare: bool = True,
    seed: int = 0,
    **keywords: Any,
) -> Diagnosis:
    r"""Measure how good the gradient of a black box is, and say in words what would make it better.

    The gradient is that of :math:`\langle v, f(x) \rangle`. From T independent estimates g it reports

    .. math:: \mathrm{SNR} = \frac{|E g|}{\sqrt{E |g - E g|^2}}, \qquad
              \mathrm{bias}^2 = |\bar g - g_{\mathrm{ref}}|^2 - \frac{\widehat{\operatorname{var}} g}{T}
              - \operatorname{var} g_{\mathrm{ref}}

    with g (B, n), norms over the whole batch and the noise of both means subtracted. The reference is the gradient of
    f by central differences where f is continuous, does not vary at one input, and twice the step gives the same to
    10 %, else that of f smoothed over the estimator's sigma, from ``reference_evaluations``. The step follows from the
    size of the inputs.

    Nothing is changed: it works on a copy of the module (its state, its count), and puts the random numbers of torch,
    NumPy and ``random`` back. Only what the function itself remembers from call to call is out of reach. An estimator
    that learns is judged in its present state: diagnose it after some training.

    Args:
        module: made by `wrap`.
        *inputs: the arguments of one call, as for ``module(*inputs)``; keyword arguments too.
        cotangent: v, in the shapes of the output. None: standard normal, from ``seed``.
        loss: instead of v, a torch function of the output; v is its gradient at f(x).
        repeats: T >= 2.
        reference_evaluations: for the reference, per row; also for the change at half of sigma. At least 20.
        compare: whether other estimators are measured at the same evaluations and sigma. Those that learn from call to
            call are left out, since one call shows nothing of them: see `recommend`.
        seed: of everything random in the diagnosis.
        **keywords: further arguments of the call.

    Raises:
        TypeError: for a module that `wrap` did not make.
        ValueError: for both a cotangent and a loss, or a number out of range.
        NdgradError: where the function fails within some sigmas around x: the reference needs every value, also
            of a module whose ``on_error="skip"`` does without some. Let the function return a penalty there.

    Example:
        >>> import torch, ndgrad
        >>> box = ndgrad.wrap(torch.round, estimator=ndgrad.EvolutionStrategy(num_samples=8, sigma=0.01))
        >>> diagnosis = ndgrad.diagnose(box, torch.tensor([[0.2, 1.3], [0.9, -0.2]]))
        >>> print(diagnosis.advice[0].topic)
        sigma too small
        >>> print(diagnosis.advice[0].text.rpartition("; ")[2])
        they first differ at 0.32: type sigma=0.32

    """
    if not isinstance(module, BlackBox):
        raise TypeError(
            f"ndgrad.diagnose needs a black box made by ndgrad.wrap, got {type(module).__name__}; for a model that "
            "holds one, pass that submodule and its input"
        )
    positive_int("repeats", repeats, least=2)
    positive_int("reference_evaluations", reference_evaluations, least=20)
    box = isolated(module)
    assert isinstance(box, BlackBox)
    with seeded(seed):
        problem = pose(box, inputs, keywords, cotangent, loss)
        measured = _measure(problem, box.estimator, repeats, seed)
        if _value_is_f(problem, box.estimator):
            budget = reference_evaluations
            measured = _examine(problem, box.estimator, measured, budget, seed, compare)
    return dataclasses.replace(measured, spent=problem.spent, advice=advise(measured))


def _measure(problem: Problem, estimator: Estimator, repeats: int, seed: int) -> Diagnosis:
    """Look at the estimator alone."""
    before = problem.spent
    estimates, qualities = repeat(problem, estimator, repeats, seed)
    gradient_errors = [q.gradient_error for q in qualities if q.gradient_error is not None]
    return Diagnosis(
        estimator=repr(estimator),
        estimates=estimates,
        evaluations=(problem.spent - before) // repeats,
        spent=problem.spent,
        num_samples=getattr(estimator, "num_samples", None),
        sigma=_sigma(estimator, problem.inputs),
        consistent=estimator.consistent,
        value_error=mean(q.value_error for q in qualities) if qualities else None,
        gradient_error=mean(gradient_errors) if gradient_errors else None,
    )


def _examine(
    problem: Problem, estimator: Estimator, measured: Diagnosis, affordable: int, seed: int, compare: bool
) -> Diagnosis:
    """Look at the function, compare with a reference and with other estimators."""
    landscape = survey(problem, measured.sigma or neighbourhood(problem.inputs), affordable)
    if measured.sigma is None and landscape.moving_sigma is not None:
        landscape = survey(problem, landscape.moving_sigma, affordable)
    sigma = landscape.sigma
    directions = getattr(estimator, "directions", "gaussian")
    parts = smoothed(problem, sigma, directions, affordable, seed)
    reference = _reference(problem, landscape, parts)
    estimates = measured.estimates
    variance = estimates.samples.var(0) / len(estimates.samples) + reference.variance
    smoothing = None
    if measured.sigma is not None:
        smoothing = smoothing_change(parts, smoothed(problem, sigma / 2, directions, affordable, seed))
    return dataclasses.replace(
        measured,
        reference=reference,
        bias=difference(estimates.mean, reference.gradient, variance),
        smoothing=smoothing,
        landscape=landscape,
        comparisons=_compare(problem, measured, reference, sigma, seed) if compare else (),
        profile=_profile(problem, estimates.mean, reference, sigma),
    )


def _reference(problem: Problem, landscape: Landscape, parts: Tensor) -> Reference:
    """Differences of f itself where they mean something."""
    smooth = not (landscape.noisy or landscape.discontinuous or landscape.slopes is None)
    differences = difference_reference(problem, landscape) if smooth else None
    return differences or smoothed_reference(parts, landscape.sigma)


def _compare(
    problem: Problem, yours: Diagnosis, reference: Reference, sigma: float, seed: int
) -> tuple[Comparison, ...]:
    if not reference.gradient.any():
        return ()
    found = [_comparison("yours", yours.evaluations, yours.estimates, yours, reference)]
    for name, candidate in CANDIDATES.items():
        S = candidate.num_samples(yours.evaluations, problem.num_inputs)
        if S is not None and not candidate.learns:
            before, T = problem.spent, yours.repeats
            estimates, _ = repeat(problem, candidate.make(S, sigma), T, seed + 1)
            evaluations = (problem.spent - before) // T
            found.append(_comparison(name, evaluations, estimates, yours, reference))
    return tuple(found)


def _comparison(
    name: str, evaluations: int, estimates: Estimates, yours: Diagnosis, reference: Reference
) -> Comparison:
    size = float(reference.gradient.norm())
    squares = (estimates.samples - reference.gradient).square().sum((1, 2))
    error = max(float(squares.mean() - reference.variance.sum()), 0.0) ** 0.5
    return Comparison(
        name=name,
        evaluations=evaluations,
        relative_error=error / size,
        cosine=mean(cosine(g, reference.gradient) for g in estimates.samples),
        agreement=cosine(estimates.mean, yours.gradient),
    )


def _profile(problem: Problem, gradient: Tensor, reference: Reference, sigma: float) -> Profile | None:
    """Evaluate along each row's mean gradient and keep the steepest row."""
    norms = gradient.norm(dim=1)
    row = int(norms.argmax())
    if norms[row] == 0:
        return None
    direction = gradient / norms.clamp(min=torch.finfo(norms.dtype).tiny).unsqueeze(1)  # (B, n)
    distance = torch.linspace(-3 * sigma, 3 * sigma, 121, dtype=gradient.dtype)
    values = problem.responses(distance.reshape(-1, 1, 1) * direction)[:, row]  # (K,)
    slope = float(reference.gradient[row] @ direction[row])
    return Profile(row, distance, values - values[len(values) // 2], float(norms[row]), slope)


def _sigma(estimator: Estimator, inputs: Rows) -> float | None:
    """Width of the estimator's next draws; the root mean square where inputs or coordinates have their own."""
    sigma = getattr(estimator, "sigma", None)
    if sigma is None:
        return None
    rows = zip(per_input(sigma, inputs), inputs, strict=True)
    widths = [torch.as_tensor(width).expand(x[:1].shape).double().cpu().flatten() for width, x in rows]
    return float(torch.cat(widths).square().mean().sqrt())


def _value_is_f(problem: Problem, estimator: Estimator) -> bool:
    """Whether the module's value is the function's at x, rather than a mean over draws or a network's."""
    if getattr(estimator, "distribution", None) is not None:
        return False
    with torch.no_grad():
        values = problem.values(problem.inputs)
    return [y.shape for y in values] == [v.shape for v in problem.cotangent]
