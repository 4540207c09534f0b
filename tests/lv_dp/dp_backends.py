"""The dynamic program's backends as test parameters; import this before anything that may import triton.

Without a CUDA device triton's kernels run in its interpreter, which has to be asked for before the first import.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from importlib.util import find_spec
from typing import Any

import pytest
import torch

from applications.lv_dp.dynamic_programming import solve

DEVICE = {"torch": "cpu", "numba": "cpu", "triton": "cuda" if torch.cuda.is_available() else "cpu"}
if DEVICE["triton"] == "cpu" and "triton" not in sys.modules:
    os.environ["TRITON_INTERPRET"] = "1"


def _why_not(backend: str) -> str:
    if backend == "torch":
        return ""
    if find_spec(backend) is None:
        return f"{backend} is not installed"
    if backend == "triton" and DEVICE["triton"] == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        return "no CUDA device, and triton was imported without TRITON_INTERPRET=1"
    return ""


BACKENDS = [
    pytest.param(name, marks=pytest.mark.skipif(bool(_why_not(name)), reason=_why_not(name)))
    for name in ("torch", "numba", "triton")
]
AVAILABLE = [name for name in ("torch", "numba", "triton") if not _why_not(name)]


def solve_with(backend: str, costs: torch.Tensor, delta: int, **options: Any) -> Any:
    """``solve`` on the backend's device, with results on the CPU."""
    result = solve(costs.to(DEVICE[backend]), delta, backend=backend, **options)  # type: ignore[arg-type]
    return tuple(part.cpu() for part in result) if isinstance(result, tuple) else result.cpu()


def solver(backend: str) -> Any:
    return partial(solve_with, backend)
