"""One file per estimator; a new one needs an import and a line here."""

from ndgrad.estimator import Estimator
from ndgrad.estimators.diff_bypass import DiffBypass
from ndgrad.estimators.evolution_strategy import EvolutionStrategy
from ndgrad.estimators.finite_difference import FiniteDifference
from ndgrad.estimators.least_squares import LeastSquares
from ndgrad.estimators.score_function import ScoreFunction

ESTIMATORS: dict[str, type[Estimator]] = {
    "diff_bypass": DiffBypass,
    "evolution_strategy": EvolutionStrategy,
    "finite_difference": FiniteDifference,
    "least_squares": LeastSquares,
    "score_function": ScoreFunction,
}
"""Snake-case names that ``ndgrad.wrap(estimator=...)`` accepts."""

__all__ = [
    "ESTIMATORS",
    "DiffBypass",
    "EvolutionStrategy",
    "FiniteDifference",
    "LeastSquares",
    "ScoreFunction",
]
