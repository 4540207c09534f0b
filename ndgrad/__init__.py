"""ndgrad: gradients for functions that have none, as ``torch.nn.Module``s."""

from ndgrad.adaptive_sigma import AdaptiveSigma
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
    TooManyFailuresError,
    UnsupportedTransformError,
)
from ndgrad.estimator import Estimator, FlatEstimator, VJPEstimator
from ndgrad.estimators import (
    ESTIMATORS,
    WRAPPERS,
    Averaged,
    BlackboxInterpolation,
    ControlVariate,
    DiffBypass,
    EvolutionStrategy,
    FiniteDifference,
    GuidedEvolutionStrategy,
    ImplicitMLE,
    LeastSquares,
    Mixture,
    PerturbedOptimizer,
    ScoreFunction,
    StraightThrough,
)
from ndgrad.fenchel_young import FenchelYoungLoss
from ndgrad.wrap import BlackBox, wrap

__version__ = "0.1.0.dev0"

__all__ = [
    "ESTIMATORS",
    "WRAPPERS",
    "AdaptiveSigma",
    "Averaged",
    "BlackBox",
    "BlackboxInterpolation",
    "ControlVariate",
    "Diagnosis",
    "DiffBypass",
    "Estimator",
    "EvolutionStrategy",
    "FenchelYoungLoss",
    "FiniteDifference",
    "FlatEstimator",
    "FunctionError",
    "GradientCheck",
    "GuidedEvolutionStrategy",
    "ImplicitMLE",
    "LeastSquares",
    "Mixture",
    "NdgradError",
    "NonFiniteError",
    "OutputError",
    "OutputTypeError",
    "PerturbedOptimizer",
    "Recommendation",
    "ScoreFunction",
    "SecondDerivativeError",
    "StraightThrough",
    "TooManyFailuresError",
    "UnsupportedTransformError",
    "VJPEstimator",
    "check_gradients",
    "diagnose",
    "recommend",
    "trace",
    "wrap",
]
