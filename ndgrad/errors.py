"""The exceptions of ndgrad; each is also the builtin that a caller would expect."""

from __future__ import annotations


class NdgradError(Exception):
    """Base class of every error that ndgrad raises by its own name."""


class FunctionError(NdgradError, RuntimeError):
    """The wrapped function raised; the original exception is chained as ``__cause__``.

    ``inputs`` holds the positional arguments of the failing call.
    """

    def __init__(self, message: str, inputs: tuple[object, ...] = ()) -> None:
        super().__init__(message)
        self.inputs = inputs


class EvaluationTimeoutError(TimeoutError, FunctionError):
    """An evaluation took longer than ``timeout``; ``inputs`` holds its arguments."""

    def __init__(self, message: str, inputs: tuple[object, ...] = ()) -> None:
        # TimeoutError comes first for its __new__, without which no unpickler can make one; its arguments are others
        FunctionError.__init__(self, message, inputs)


class WorkerDiedError(FunctionError):
    """A worker process died twice of the same rows; ``inputs`` holds them."""


class ExecutorError(NdgradError, RuntimeError):
    """An executor could not be used, or could not carry the function to where it runs."""


class BudgetExceededError(NdgradError, RuntimeError):
    """More evaluations were asked for than the budget has left; none of them was made.

    ``budget``, ``spent`` and ``asked`` hold the three numbers.
    """

    def __init__(self, message: str, budget: int = 0, spent: int = 0, asked: int = 0) -> None:
        super().__init__(message)
        self.budget, self.spent, self.asked = budget, spent, asked


class DependentFailureWarning(UserWarning):
    """Failures depend on where the function was probed, so that an estimate without them is biased."""


class OutputError(NdgradError, ValueError):
    """The wrapped function returned values of the wrong shape or structure."""


class OutputTypeError(NdgradError, TypeError):
    """The wrapped function returned something that is not real numbers."""


class NonFiniteError(OutputError):
    """The wrapped function returned NaN or infinity; ``inputs`` holds the offending row."""

    def __init__(self, message: str, inputs: tuple[object, ...] = ()) -> None:
        super().__init__(message)
        self.inputs = inputs


class SecondDerivativeError(NdgradError, RuntimeError):
    """An estimated gradient was differentiated again."""


class TooManyFailuresError(NdgradError, RuntimeError):
    """So many evaluations of a row failed that there is no estimate for it."""


class UnsupportedTransformError(NdgradError, NotImplementedError):
    """A transform of ``torch.func``, or forward-mode differentiation, of something that does not support it."""
