"""The estimators that are tried beside each other at one budget; another one is one line of ``CANDIDATES``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from ndgrad.estimator import Estimator
from ndgrad.estimators import (
    ControlVariate,
    DiffBypass,
    EvolutionStrategy,
    FiniteDifference,
    GuidedEvolutionStrategy,
    ScoreFunction,
)


@dataclass(frozen=True)
class Candidate:
    """A way to spend a budget of evaluations.

    Args:
        make: ``(num_samples, sigma) -> Estimator``.
        probes_per_sample: evaluations of one draw, beside the value's own.
        probes_per_input: for estimators that need a fixed number for each input instead; 0 for all others.
        least_samples: the fewest draws that it works with.
        scaled: whether sigma matters, so that several are tried.
        learns: whether one call profits from earlier ones.

    """

    make: Callable[[int, float], Estimator]
    probes_per_sample: int = 1
    probes_per_input: int = 0
    least_samples: int = 1
    scaled: bool = True
    learns: bool = False

    def num_samples(self, evaluations: int, num_inputs: int) -> int | None:
        """Count the draws that ``evaluations`` per row pay for beside the value; None where they do not suffice."""
        if self.probes_per_input:
            return 0 if evaluations > self.probes_per_input * num_inputs else None
        S = (evaluations - 1) // self.probes_per_sample
        return S if self.least_samples <= S else None


CANDIDATES: dict[str, Candidate] = {
    "finite_difference": Candidate(lambda S, sigma: FiniteDifference(), probes_per_input=2, scaled=False),
    "finite_difference_forward": Candidate(
        lambda S, sigma: FiniteDifference("forward"), probes_per_input=1, scaled=False
    ),
    "finite_difference_wide": Candidate(lambda S, sigma: FiniteDifference(eps=sigma), probes_per_input=2),
    "evolution_strategy_pairs": Candidate(EvolutionStrategy, probes_per_sample=2),
    "evolution_strategy_single": Candidate(partial(EvolutionStrategy, antithetic=False), least_samples=2),
    "score_function": Candidate(lambda S, sigma: ScoreFunction(num_samples=S, sigma=sigma), least_samples=2),
    "control_variate": Candidate(
        lambda S, sigma: ControlVariate(num_samples=S, sigma=sigma, antithetic=False),
        least_samples=2,
        learns=True,
    ),
    "guided_evolution_strategy": Candidate(
        lambda S, sigma: GuidedEvolutionStrategy(num_samples=S, sigma=sigma, num_guides=max(1, S // 2)),
        probes_per_sample=2,
        least_samples=2,
        learns=True,
    ),
    "diff_bypass_difference": Candidate(
        lambda S, sigma: DiffBypass(
            num_samples=S, sigma=sigma, match="difference", replay=20, trust_region=1.0
        ),
        learns=True,
    ),
}
