"""ndgrad: gradients for functions that have none, as ``torch.nn.Module``s."""

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
    WRAPPERS,
    Averaged,
    ControlVariate,
    DiffBypass,
    EvolutionStrategy,
    FiniteDifference,
    Mixture,
    ScoreFunction,
)
from ndgrad.wrap import BlackBox, wrap

__version__ = "0.1.0.dev0"

__all__ = [
    "ESTIMATORS",
    "WRAPPERS",
    "Averaged",
    "BlackBox",
    "ControlVariate",
    "DiffBypass",
    "Estimator",
    "EvolutionStrategy",
    "FiniteDifference",
    "FlatEstimator",
    "FunctionError",
    "Mixture",
    "NdgradError",
    "NonFiniteError",
    "OutputError",
    "OutputTypeError",
    "ScoreFunction",
    "SecondDerivativeError",
    "VJPEstimator",
    "wrap",
]
