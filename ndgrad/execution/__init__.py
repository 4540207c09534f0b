"""How the wrapped function's rows are evaluated: where, how often, within which limits, and what a failure means.

`ndgrad.evaluator` is the only user. An estimator sees none of it.
"""

from ndgrad.execution.options import Execution, OnError

__all__ = ["Execution", "OnError"]
