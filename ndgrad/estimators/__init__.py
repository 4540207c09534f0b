"""One file per estimator; a new one needs an import and a line here."""

from ndgrad.estimator import Estimator
from ndgrad.estimators.averaged import Averaged
from ndgrad.estimators.blackbox_interpolation import BlackboxInterpolation
from ndgrad.estimators.control_variate import ControlVariate
from ndgrad.estimators.diff_bypass import DiffBypass
from ndgrad.estimators.evolution_strategy import EvolutionStrategy
from ndgrad.estimators.finite_difference import FiniteDifference
from ndgrad.estimators.guided_evolution_strategy import GuidedEvolutionStrategy
from ndgrad.estimators.implicit_mle import ImplicitMLE
from ndgrad.estimators.least_squares import LeastSquares
from ndgrad.estimators.mixture import Mixture
from ndgrad.estimators.perturbed_optimizer import PerturbedOptimizer
from ndgrad.estimators.score_function import ScoreFunction
from ndgrad.estimators.straight_through import StraightThrough

ESTIMATORS: dict[str, type[Estimator]] = {
    "blackbox_interpolation": BlackboxInterpolation,
    "control_variate": ControlVariate,
    "diff_bypass": DiffBypass,
    "evolution_strategy": EvolutionStrategy,
    "finite_difference": FiniteDifference,
    "guided_evolution_strategy": GuidedEvolutionStrategy,
    "implicit_mle": ImplicitMLE,
    "least_squares": LeastSquares,
    "perturbed_optimizer": PerturbedOptimizer,
    "score_function": ScoreFunction,
    "straight_through": StraightThrough,
}
"""Snake-case names that ``ndgrad.wrap(estimator=...)`` accepts, where every argument has a default."""

WRAPPERS: tuple[type[Estimator], ...] = (Averaged, Mixture)
"""Estimators around others, which have no defaults and so no name."""

__all__ = [
    "ESTIMATORS",
    "WRAPPERS",
    "Averaged",
    "BlackboxInterpolation",
    "ControlVariate",
    "DiffBypass",
    "EvolutionStrategy",
    "FiniteDifference",
    "GuidedEvolutionStrategy",
    "ImplicitMLE",
    "LeastSquares",
    "Mixture",
    "PerturbedOptimizer",
    "ScoreFunction",
    "StraightThrough",
]
