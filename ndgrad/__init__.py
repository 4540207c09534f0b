"""ndgrad: gradients for functions that have none, as ``torch.nn.Module``s."""

from ndgrad.adaptive_sigma import AdaptiveSigma
from ndgrad.errors import (
    FunctionError,
    NdgradError,
    NonFiniteError,
    OutputError,
    OutputTypeError,
    SecondDerivativeError,
)
from ndgrad.estimator import Estimator, FlatEstimator, VJPEstimator
from ndgrad.estimators import (
    ESTIMATORS,
    BlackboxInterpolation,
    DiffBypass,
    EvolutionStrategy,
    FiniteDifference,
    ImplicitMLE,
    LeastSquares,
    PerturbedOptimizer,
    ScoreFunction,
    StraightThrough,
)
from ndgrad.fenchel_young import FenchelYoungLoss
from ndgrad.wrap import BlackBox, wrap

__version__ = "0.1.0.dev0"

__all__ = [
    "ESTIMATORS",
    "AdaptiveSigma",
    "BlackBox",
    "BlackboxInterpolation",
    "DiffBypass",
    "Estimator",
    "EvolutionStrategy",
    "FenchelYoungLoss",
    "FiniteDifference",
    "FlatEstimator",
    "FunctionError",
    "ImplicitMLE",
    "LeastSquares",
    "NdgradError",
    "NonFiniteError",
    "OutputError",
    "OutputTypeError",
    "PerturbedOptimizer",
    "ScoreFunction",
    "SecondDerivativeError",
    "StraightThrough",
    "VJPEstimator",
    "wrap",
]
