"""The public function: checks at the border, and the choice of a backend."""

from __future__ import annotations

import importlib
from functools import cache
from typing import Literal, Protocol, cast, overload

import torch
from torch import Tensor

Backend = Literal["auto", "torch", "numba", "triton"]

_INSTALL = {
    "numba": "type: pip install 'ndgrad[fast]' (or: pip install numba)",
    "triton": "it comes with the CUDA builds of torch for Linux; see https://pytorch.org/get-started",
}


class _Solve(Protocol):
    def __call__(self, costs: Tensor, delta: int) -> tuple[Tensor, Tensor]: ...


@overload
def solve(unary: Tensor, delta: int, *, backend: Backend = "auto") -> Tensor: ...


@overload
def solve(
    unary: Tensor, delta: int, *, backend: Backend = "auto", return_energy: Literal[True]
) -> tuple[Tensor, Tensor]: ...


def solve(
    unary: Tensor, delta: int, *, backend: Backend = "auto", return_energy: bool = False
) -> Tensor | tuple[Tensor, Tensor]:
    """Return the closed contour of least cost for every row of a batch.

        minimise  sum_n c[n, v_n]   over v_n in {0 .. M-1}
        subject to |v_n - v_{n+1 mod N}| <= delta   for n = 0 .. N-1

    An open chain is solved by one Viterbi pass. If the best open chain closes by itself, it is the answer.
    Otherwise the closing constraint between lines N-1 and 0 is met by branch and bound over intervals of the
    start index v_0: in an interval only the chain's two ends are confined, which bounds the closed optimum from
    below; where the best chain closes the bound is attained, elsewhere the interval is split.

    The energy is *defined* as the left-to-right sum from line 0 in the working precision: float64 for
    float64, else float32 (half precision is lifted). Rounding is monotone, so the minimum is exact in that
    arithmetic, and every backend returns the same bits. Among equal optima the innermost is returned: optimal
    contours are closed under pointwise minimum, hence one lies pointwise below all others, whatever line is
    called 0. Where sums are equal only by rounding, "innermost" stands for this rule, which all backends follow:
    the lowest start, the lowest end, and the lowest best predecessor on the way back; and all starts at once
    instead of the lowest one where the best open chain closes by itself.

    Args:
        unary: costs c (B, N, M), floating point, any strides. ``+inf`` and NaN forbid an entry, and so does a
            sum beyond the largest number.
        delta: largest index step between neighbouring lines, >= 0; beyond M-1 it constrains nothing.
        backend: ``"torch"`` runs everywhere; ``"numba"`` on the CPU, on one thread and without holding the
            interpreter's lock, compiled on the first call and then kept on disk; ``"triton"`` on CUDA devices.
            ``"auto"`` takes numba for CPU tensors and triton for CUDA tensors if they are installed, else torch.
        return_energy: return ``(indices, energy)`` instead of the indices.

    Returns:
        indices (B, N) int64, and energy (B,) on request. A row without any finite contour has energy
        ``+inf`` and all-zero indices.

    Raises:
        TypeError: ``unary`` is not a floating-point tensor, or delta is not an int.
        ValueError: not three dimensions, N or M is 0, delta < 0, an entry is ``-inf`` or so low that sums may
            overflow to it, ``backend`` is unknown or does not compute on the device of ``unary``.
        ImportError: ``backend`` was asked for and cannot be imported.

    Cost: one Viterbi pass, O(N M log delta), where the open chain closes by itself (nearly always on ring-shaped
    costs), about 8 on pure noise; with numba never more than about twice the M passes of trying every start. Working
    memory: a few rows with numba; with torch a copy of the input and a few times 16 MiB.

    Source: B. Appleton and C. Sun, "Circular shortest paths by branch and bound", Pattern Recognition 36
    (2003), for the bounds; N. M. Nguyen (MSc thesis, University of Alberta, 2019), chapter 4, for the problem.

    Example:
        >>> costs = torch.tensor([[[0.0, 5.0, 9.0], [9.0, 5.0, 0.0], [0.0, 5.0, 9.0]]])
        >>> solve(costs, delta=1)
        tensor([[0, 1, 0]])
        >>> solve(costs, delta=1, return_energy=True)[1]
        tensor([5.])
        >>> solve(costs, delta=2, backend="torch")
        tensor([[0, 2, 0]])
    """
    costs = _checked(unary, delta)  # (B, N, M)
    run = _load(_choose(backend, costs.device))
    with torch.no_grad():
        indices, energy = run(costs, min(delta, costs.shape[2] - 1))
    return (indices, energy + 0.0) if return_energy else indices  # -0.0 + 0.0 is 0.0: one zero for all


def available_backends(device: torch.device | str = "cpu") -> list[Backend]:
    """List the backends that are installed and compute on ``device``.

    Example:
        >>> available_backends("cpu")[0]
        'torch'
    """
    kind = torch.device(device).type
    names: list[Backend] = ["torch", "numba", "triton"]
    return [name for name in names if _fits(name, kind) and _installed(name)]


def _checked(unary: Tensor, delta: int) -> Tensor:
    if not isinstance(unary, Tensor) or not unary.is_floating_point():
        kind = unary.dtype if isinstance(unary, Tensor) else type(unary).__name__
        raise TypeError(f"unary must be a floating-point tensor, got {kind}; pass unary.float()")
    if isinstance(delta, bool) or not isinstance(delta, int):
        raise TypeError(f"delta must be an int, got {type(delta).__name__}; pass int(delta)")
    if unary.ndim != 3 or unary.shape[1] < 1 or unary.shape[2] < 1:
        raise ValueError(f"unary must have shape (B, N >= 1, M >= 1), got {tuple(unary.shape)}")
    if delta < 0:
        raise ValueError(f"delta must be >= 0, got {delta}")
    costs = unary.detach()
    return costs if costs.dtype == torch.float64 else costs.float()


def _choose(backend: Backend, device: torch.device) -> Backend:
    if backend == "auto":
        fast: Backend = "triton" if device.type == "cuda" else "numba"
        return fast if _fits(fast, device.type) and _installed(fast) else "torch"
    if backend not in ("torch", "numba", "triton"):
        raise ValueError(f"backend must be 'auto', 'torch', 'numba' or 'triton', got {backend!r}")
    if not _installed(backend):
        raise ImportError(
            f"backend {backend!r} was asked for, and {backend} cannot be imported: {_INSTALL[backend]}. "
            "backend='torch' computes the same without it."
        )
    if not _fits(backend, device.type):
        home = "cpu" if backend == "numba" else "cuda"
        raise ValueError(
            f"backend {backend!r} computes on {home}, and unary is on {device}: pass unary.to({home!r}), "
            "or backend='auto', which fits the device."
        )
    return backend


def _fits(backend: Backend, device_type: str) -> bool:
    if backend == "numba":
        return device_type == "cpu"
    if backend == "triton":
        return device_type == "cuda" or (device_type == "cpu" and _interpreted())
    return True


def _interpreted() -> bool:
    """Triton runs its kernels on CPU tensors, slowly, where TRITON_INTERPRET=1 was set before its import."""
    if not _installed("triton"):
        return False
    from triton import knobs

    return bool(knobs.runtime.interpret)


@cache
def _installed(backend: Backend) -> bool:
    """Whether the compiler behind ``backend`` can be imported; one that does not suit this numpy cannot."""
    try:
        importlib.import_module(backend)
    except ImportError:
        return False
    return True


def _load(backend: Backend) -> _Solve:
    """Import a backend when it is first used: numba and triton take seconds to load."""
    module = importlib.import_module(f"applications.lv_dp.dynamic_programming.{backend}_backend")
    return cast(_Solve, module.solve)
