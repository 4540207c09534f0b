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
