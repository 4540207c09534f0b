"""ndgrad: gradients for functions that have none, as ``torch.nn.Module``s."""

from ndgrad.diagnostics import (
    Diagnosis,
    GradientCheck,
    Recommendation,
    check_gradients,
    diagnose,
    recommend,
    trace,
)
from ndgrad.errors import (
    FunctionError,
    NdgradError,
    NonFiniteError,
    OutputError,
    OutputTypeError,
    SecondDerivativeError,
)
from ndgrad.estimator import Estimator, FlatEstimator, VJPEstimator
from ndgrad.estimators import ESTIMATORS, DiffBypass, EvolutionStrategy, FiniteDifference, ScoreFunction
from ndgrad.wrap import BlackBox, wrap

__version__ = "0.1.0.dev0"

__all__ = [
    "ESTIMATORS",
    "BlackBox",
    "Diagnosis",
    "DiffBypass",
    "Estimator",
    "EvolutionStrategy",
    "FiniteDifference",
    "FlatEstimator",
    "FunctionError",
    "GradientCheck",
    "NdgradError",
    "NonFiniteError",
    "OutputError",
    "OutputTypeError",
    "Recommendation",
    "ScoreFunction",
    "SecondDerivativeError",
    "VJPEstimator",
    "check_gradients",
    "diagnose",
    "recommend",
    "trace",
    "wrap",
]
