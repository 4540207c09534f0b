"""How good a gradient is, which estimator to take, and where a model's gradient path breaks."""

from ndgrad.diagnostics.block_diagram import draw
from ndgrad.diagnostics.candidates import CANDIDATES, Candidate
from ndgrad.diagnostics.diagnosis import Advice, Comparison, Diagnosis
from ndgrad.diagnostics.examination import diagnose
from ndgrad.diagnostics.gradient_check import GradientCheck, check_gradients
from ndgrad.diagnostics.recommendation import Recommendation, Trial, recommend
from ndgrad.diagnostics.tracing import trace

__all__ = [
    "CANDIDATES",
    "Advice",
    "Candidate",
    "Comparison",
    "Diagnosis",
    "GradientCheck",
    "Recommendation",
    "Trial",
    "check_gradients",
    "diagnose",
    "draw",
    "recommend",
    "trace",
]
