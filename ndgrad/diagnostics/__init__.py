"""How good a gradient is, which estimator to take, and where a model's gradient path breaks."""

from ndgrad.diagnostics.gradient_check import GradientCheck, check_gradients

__all__ = ["GradientCheck", "check_gradients"]
