"""One file per estimator; a new one needs an import and a line here."""

from ndgrad.estimator import Estimator
from ndgrad.estimators.averaged import Averaged
from ndgrad.estimators.control_variate import ControlVariate
from ndgrad.estimators.diff_bypass import DiffBypass
from ndgrad.estimators.evolution_strategy import EvolutionStrategy
from ndgrad.estimators.finite_difference import FiniteDifference
from ndgrad.estimators.mixture import Mixture
from ndgrad.estimators.score_function import ScoreFunction

ESTIMATORS: dict[str, type[Estimator]] = {
    "control_variate": ControlVariate,
    "diff_bypass": DiffBypass,
    "evolution_strategy": EvolutionStrategy,
    "finite_difference": FiniteDifference,
    "score_function": ScoreFunction,
}
"""Snake-case names that ``ndgrad.wrap(estimator=...)`` accepts."""

WRAPPERS: tuple[type[Estimator], ...] = (Averaged, Mixture)
"""Estimators around others, which have no defaults and so no name."""

__all__ = [
    "ESTIMATORS",
    "WRAPPERS",
    "Averaged",
    "ControlVariate",
    "DiffBypass",
    "EvolutionStrategy",
    "FiniteDifference",
    "Mixture",
    "ScoreFunction",
]
