"""``ndgrad.recommend``: which estimator to take, by trying them on the objective itself."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any, Unpack

import torch
from torch import Tensor

from ndgrad.diagnostics.candidates import CANDIDATES, Candidate
from ndgrad.diagnostics.isolation import isolated, seeded
from ndgrad.diagnostics.problem import Problem, pose, scale_of
from ndgrad.errors import BudgetExceededError, NdgradError
from ndgrad.estimator import Estimator, unable_to_skip
from ndgrad.validation import positive_float, positive_int
from ndgrad.wrap import Options, wrap

Optimizer = Callable[[list[Tensor]], torch.optim.Optimizer]
_SIGMAS = (0.03, 0.1, 0.3, 1.0)  # times the deviation of the inputs' entries
_ROUNDS = (1, 1, 2, 4)  # descents of each candidate; after each round the better half stays
_AGAIN = 16  # values averaged for the score of a noisy function


@dataclass(frozen=True)
class Trial:
    """What one candidate did.

    Attributes:
        name: of the candidate in ``ndgrad.diagnostics.CANDIDATES``.
        sigma: its sigma or step; None where it has none to choose.
        evaluations: that it uses, per row and gradient, the value's own included.
        reductions: of the objective, one for each descent; empty if it failed.
        failure: the error that ended it.
        make: builds a fresh estimator.

    """

    name: str
    sigma: float | None
    evaluations: int
    make: Callable[[], Estimator]
    reductions: tuple[float, ...] = ()
    failure: str | None = None

    @property
    def reduction(self) -> float:
        """Mean over the descents; minus infinity after a failure."""
        return mean(self.reductions) if self.reductions else -math.inf

    @property
    def standard_error(self) -> float:
        """Of the mean over the descents; NaN after a single one."""
        values = torch.tensor(self.reductions, dtype=torch.float64)
        return float(values.std() / len(values) ** 0.5) if len(values) > 1 else math.nan


@dataclass(frozen=True)
class Recommendation:
    """The candidates, best first; ``print`` shows them and says why.

    Attributes:
        ranking: every candidate that the budget allows; those that stayed longer in the race come first.
        estimator: a fresh instance of the best, ready for `wrap`.
        objective: at the input, before any step, over all rows.
        evaluations: the budget, per row and gradient.
        steps: of one descent.
        spent: evaluations of the recommendation itself, per row.

    """

    ranking: tuple[Trial, ...]
    estimator: Estimator
    objective: float
    evaluations: int
    steps: int
    spent: int

    @property
    def best(self) -> Trial:
        """The first of the ranking."""
        return self.ranking[0]

    @property
    def reason(self) -> str:
        """Why the first was chosen, in one sentence."""
        best = self.best
        if best.reduction <= 0:
            return (
                f"no candidate lowered the objective of {self.objective:.4g} in {self.steps} steps; pass wider "
                "sigmas=, more evaluations, or another optimizer="
            )
        others = [t for t in self.ranking if t.name != best.name and t.reductions]
        beside = f"; the next other kind, {others[0].name}, by {others[0].reduction:.4g}" if others else ""
        return (
            f"{len(best.reductions)} descents of {self.steps} steps lowered the objective of {self.objective:.4g} by "
            f"{best.reduction:.4g}{_spread(best)} on average{beside}"
        )

    def __str__(self) -> str:
        lines = [f"take {self.estimator!r}", f"  {self.reason}", ""]
        lines.append("  reduction    ± error  descents  evaluations  estimator")
        for t in self.ranking:
            sigma = "" if t.sigma is None else f", sigma = {t.sigma:.3g}"
            if t.failure is not None:
                lines.append(
                    f"     failed                         {t.evaluations:11d}  {t.name}{sigma}: {t.failure}"
                )
                continue
            error = "" if math.isnan(t.standard_error) else f"{t.standard_error:.2g}"
            lines.append(
                f"{t.reduction:11.4g} {error:>10} {len(t.reductions):9d} {t.evaluations:12d}  {t.name}{sigma}"
            )
        return "\n".join([*lines, "", f"  {self.spent} evaluations per row were spent on this"])


def recommend(
    fn: Callable[..., Any],
    x: Any,
    evaluations: int,
    *,
    loss: Callable[[Any], Tensor] | None = None,
    cotangent: Any = None,
    optimizer: Optimizer | None = None,
    steps: int = 20,
    sigmas: Sequence[float] | None = None,
    candidates: Mapping[str, Candidate] | None = None,
    seed: int = 0,
    **options: Unpack[Options],
) -> Recommendation:
    """Try the estimators that a budget allows on the objective itself, and say which to take.

    No true gradient is needed: every candidate optimises the inputs for some steps from x, and what is compared is how
    far the objective ``L(f(x))`` fell after the same number of evaluations per gradient. All candidates run once, the
    better half again, the better quarter twice more, the better eighth four times more, each descent with random
    numbers of its own. An estimator with little noise, one with little bias and one that learns from step to step are
    so judged by the same measure, the one that matters.

    Cost: with C candidates, about ``2.5 C steps evaluations`` per row, where every sigma of a kind counts; give
    fewer ``sigmas`` or ``candidates`` to an expensive function.

    Args:
        fn: the function, as for `wrap`.
        x: a tensor (B, ...), or a tuple of all positional arguments; where the descents start. Take inputs that the
            function will see: all rows together decide.
        evaluations: budget of one gradient, per row, the value's own included; at least 2.
        loss: a torch function of the output, to one number, or one per row, which are summed; it is minimised. None:
            ``<v, f(x)>``.
        cotangent: v, in the shapes of the output. None: standard normal, from ``seed``.
        optimizer: ``params -> torch.optim.Optimizer``, best the one you will use. None: Adam with a learning rate of
            0.05 times the deviation of the entries of x.
        steps: of one descent; as long as your patience: estimators that learn need some calls to get going.
        sigmas: widths to try, in units of the input. None: 0.03, 0.1, 0.3 and 1 times the deviation of the entries
            of x.
        candidates: what to try; None for ``ndgrad.diagnostics.CANDIDATES``. With ``on_error="skip"`` those that need
            every evaluation are left out.
        seed: of everything random; the global random state is put back.
        **options: further keywords of `wrap` (``interface``, ``batched``, ``in_dims``, ...), except ``estimator``.

    Raises:
        BudgetExceededError: (a RuntimeError) where ``budget=``, of all evaluations together, is not enough.
        ValueError: for a number out of range, a budget that no candidate can work with, a loss that is no torch
            function, or if every candidate fails.
        TypeError: for the keyword ``estimator``.

    Example:
        >>> import torch, ndgrad
        >>> x = torch.tensor([[1.3, -0.6, 0.4], [-0.9, 1.1, 0.2]])
        >>> advice = ndgrad.recommend(
        ...     torch.round, x, evaluations=9, loss=lambda y: y.square().sum(-1), sigmas=[0.01, 0.5], steps=8
        ... )
        >>> advice.best.sigma  # narrow draws and small steps see a staircase as flat
        0.5
        >>> box = ndgrad.wrap(torch.round, estimator=advice.estimator)

    """
    if "estimator" in options:
        raise TypeError("ndgrad.recommend chooses the estimator; leave estimator= out")
    positive_int("evaluations", evaluations, least=2)
    positive_int("steps", steps)
    args = x if isinstance(x, tuple) else (x,)
    with seeded(seed):
        problem = pose(wrap(isolated(fn), **options), args, {}, cotangent, loss)
    scale = scale_of(problem.inputs)
    widths = [float(f"{scale * share:.2g}") for share in _SIGMAS] if sigmas is None else sigmas
    widths = [positive_float("sigma", width) for width in widths]
    trials = list(_trials(CANDIDATES if candidates is None else candidates, evaluations, problem, widths))
    if not trials:
        raise ValueError(
            f"no candidate can work with {evaluations} evaluations per row for {problem.num_inputs} inputs; give more "
            "(and where failures are skipped, candidates that can do without those that fail)"
        )
    optimizer = optimizer or functools.partial(torch.optim.Adam, lr=0.05 * scale)
    trials, objective = _race(problem, trials, optimizer, steps, seed)
    return Recommendation(tuple(trials), trials[0].make(), objective, evaluations, steps, problem.spent)


def _trials(
    candidates: Mapping[str, Candidate], evaluations: int, problem: Problem, sigmas: Sequence[float]
) -> Iterator[Trial]:
    """List what the budget allows, with every sigma; where failures are skipped, what can do without them."""
    skips = problem.evaluator.execution.on_error == "skip"
    for name, candidate in candidates.items():
        S = candidate.num_samples(evaluations, problem.num_inputs)
        if S is None:
            continue
        probes = candidate.probes_per_input * problem.num_inputs or candidate.probes_per_sample * S
        for sigma in sigmas if candidate.scaled else [math.nan]:
            make = functools.partial(candidate.make, S, sigma)
            if not (skips and unable_to_skip(make())):
                yield Trial(name, sigma if candidate.scaled else None, 1 + probes, make)


def _race(
    problem: Problem, trials: list[Trial], optimizer: Optimizer, steps: int, seed: int
) -> tuple[list[Trial], float]:
    """Run rounds of more descents for fewer candidates; return them best first, and the objective at the start."""
    again = _AGAIN if _is_noisy(problem, seed) else 1
    start = _score(problem, problem.inputs, again, seed)
    draws = itertools.count(seed)
    running = len(trials)
    for descents in _ROUNDS:
        for index, _ in itertools.product(range(running), range(descents)):
            trials[index] = _run(problem, trials[index], optimizer, steps, start, again, next(draws))
        # those left behind stay there: a single lucky descent must not beat the mean of many
        still = sorted(trials[:running], key=lambda trial: trial.reduction, reverse=True)
        trials = still + trials[running:]
        running = math.ceil(running / 2)
    if not trials[0].reductions:
        raise ValueError(f"every candidate failed, {trials[0].name} with: {trials[0].failure}")
    return trials, start


def _run(
    problem: Problem, trial: Trial, optimizer: Optimizer, steps: int, start: float, again: int, seed: int
) -> Trial:
    """Descend once more with this candidate."""
    if trial.failure is not None:
        return trial
    try:
        with seeded(seed):
            x = _descend(problem, trial.make(), optimizer, steps)
        reduction = start - _score(problem, x, again, seed)
    except BudgetExceededError:  # says nothing about this candidate
        raise
    except (
        NdgradError,
        ValueError,
    ) as error:  # a probe outside the domain of f, a step lost beside a large input
        return dataclasses.replace(trial, reductions=(), failure=str(error).splitlines()[0])
    reduction = reduction if math.isfinite(reduction) else -math.inf
    return dataclasses.replace(trial, reductions=(*trial.reductions, reduction))


def _descend(problem: Problem, estimator: Estimator, optimizer: Optimizer, steps: int) -> tuple[Tensor, ...]:
    x = [t.clone().requires_grad_() for t in problem.inputs]
    descent = optimizer(x)
    for _ in range(steps):
        descent.zero_grad()
        problem.objective(problem.outputs(estimator, tuple(x))).backward()
        descent.step()
    return tuple(t.detach() for t in x)


def _score(problem: Problem, x: tuple[Tensor, ...], again: int, seed: int) -> float:
    with seeded(seed), torch.no_grad():
        return mean(float(problem.objective(problem.values(x))) for _ in range(again))


def _is_noisy(problem: Problem, seed: int) -> bool:
    with seeded(seed), torch.no_grad():
        first, second = (problem.values(problem.inputs) for _ in range(2))
    return any(not torch.equal(a, b) for a, b in zip(first, second, strict=True))


def _spread(trial: Trial) -> str:
    return "" if math.isnan(trial.standard_error) else f" ± {trial.standard_error:.2g}"
