"""What the backends have in common, to the bit, and what each has of its own."""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import itertools
import os
import subprocess
import sys
from typing import Any

import pytest
import torch

from applications.lv_dp.dynamic_programming import available_backends, solve, solver, torch_backend

from .dp_backends import AVAILABLE, BACKENDS, DEVICE, solve_with
from .dp_oracles import enumeration, family

KINDS = [
    "noise", "ring", "noisy_ring", "integers", "spiral", "tied", "tenths",
    "coarse", "absorbed", "inf20", "inf50", "inf90", "nan",
]  # fmt: skip
LARGE = [
    (25, 65, 1),
    (50, 65, 2),
    (30, 40, 5),
    (9, 130, 20),
    (3, 17, 16),
    (64, 16, 1),
    (1, 65, 2),
    (2, 33, 3),
]
DTYPES = (torch.float32, torch.float64)
INTERPRETED = DEVICE["triton"] == "cpu"


def assert_equal_to_enumeration(costs: torch.Tensor, delta: int, backends: list[str]) -> None:
    contours, energies = enumeration(costs, delta)
    for backend in backends:
        found, energy = solve_with(backend, costs, delta, return_energy=True)
        torch.testing.assert_close(energy, energies, rtol=0, atol=0)
        torch.testing.assert_close(found, contours, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_ten_thousand_small_problems(kind: str, dtype: torch.dtype) -> None:
    """13 kinds, two dtypes, 49 sizes, 9 rows: 11 466 problems."""
    for case, (N, M) in enumerate(itertools.product(range(1, 8), repeat=2)):
        costs = family(kind, 9, N, M, seed=case).to(dtype)
        backends = [name for name in AVAILABLE if name != "triton" or not INTERPRETED or case % 16 == 0]
        assert_equal_to_enumeration(costs, (1, 2, 0, 9)[case % 4], backends)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("N", "M", "delta"), LARGE)
def test_larger_problems(kind: str, N: int, M: int, delta: int) -> None:
    costs = family(kind, 12, N, M, seed=N)
    quick = [name for name in AVAILABLE if name != "triton" or not INTERPRETED]
    for dtype in DTYPES:
        assert_equal_to_enumeration(costs.to(dtype), delta, quick)


@pytest.mark.skipif("triton" not in AVAILABLE, reason="triton is not installed or not interpreted")
@pytest.mark.parametrize("kind", KINDS)
def test_triton_on_larger_problems(kind: str) -> None:
    for N, M, delta in LARGE[:1] + LARGE[3:5] + LARGE[6:]:
        assert_equal_to_enumeration(family(kind, 1, N, M, seed=N), delta, ["triton"])


@pytest.mark.parametrize("backend", BACKENDS)
def test_sums_that_round_to_one_number_follow_the_rule(backend: str) -> None:
    """In float32, 2^24 + 1 is 2^24: starts 1 and 3 tie by rounding only, and the lower one is returned."""
    costs = torch.full((1, 3, 5), torch.inf)
    costs[0, :, 1], costs[0, :, 3] = torch.tensor([2.0**24, 1.0, 0.0]), torch.tensor([2.0**24, 0.0, 0.0])
    contour, energy = solve_with(backend, costs, 0, return_energy=True)
    torch.testing.assert_close(contour, torch.ones(1, 3, dtype=torch.int64))
    assert energy.item() == 2.0**24
    assert solve_with(backend, costs.double(), 0)[0, 0] == 3


@pytest.mark.parametrize("backend", BACKENDS)
def test_there_is_one_zero(backend: str) -> None:
    _, energy = solve_with(backend, torch.full((1, 3, 2), -0.0), 1, return_energy=True)
    assert not torch.signbit(energy).item()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("cost", [-torch.inf, -2e38])
def test_costs_whose_sums_overflow_downwards_are_refused(backend: str, cost: float) -> None:
    costs = family("noise", 2, 4, 5)
    costs[1, 2, 3] = cost
    with pytest.raises(ValueError, match="-inf or costs below"):
        solve_with(backend, costs, 1)
    if cost > -torch.inf:
        solve_with(backend, costs.double(), 1)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_input_is_left_alone(backend: str) -> None:
    costs = family("nan", 3, 5, 4)
    before = costs.clone()
    for given in (costs, costs.permute(2, 1, 0), costs.permute(1, 2, 0).contiguous().permute(2, 0, 1)):
        solve_with(backend, given, 1)
    torch.testing.assert_close(costs, before, equal_nan=True)


def test_auto_takes_the_fastest_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    monkeypatch.setattr(solver, "_installed", lambda name: True)
    assert (solver._choose("auto", cpu), solver._choose("auto", cuda)) == ("numba", "triton")
    assert solver._choose("auto", torch.device("meta")) == "torch"
    monkeypatch.setattr(solver, "_installed", lambda name: name == "torch")
    assert (solver._choose("auto", cpu), solver._choose("auto", cuda)) == ("torch", "torch")


@pytest.mark.parametrize("backend", ["numba", "triton"])
def test_a_missing_backend_says_what_to_type(backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solver, "_installed", lambda name: name == "torch")
    with pytest.raises(ImportError, match=rf"{backend} cannot be imported: .*backend='torch'"):
        solve(family("noise", 1, 3, 3), 1, backend=backend)


def test_a_backend_on_the_wrong_device_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solver, "_installed", lambda name: True)
    monkeypatch.setattr(solver, "_interpreted", lambda: False)
    with pytest.raises(ValueError, match=r"computes on cuda, and unary is on cpu: pass unary.to\('cuda'\)"):
        solve(family("noise", 1, 3, 3), 1, backend="triton")
    with pytest.raises(ValueError, match=r"computes on cpu, and unary is on meta: pass unary.to\('cpu'\)"):
        solve(torch.empty(1, 3, 3, device="meta"), 1, backend="numba")


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(ValueError, match="'auto', 'torch', 'numba' or 'triton', got 'cuda'"):
        solve(family("noise", 1, 3, 3), 1, backend="cuda")  # type: ignore[call-overload]


def test_compilers_are_imported_only_when_used() -> None:
    code = (
        "import sys, torch; from applications.lv_dp.dynamic_programming import solve;"
        "solve(torch.zeros(1, 3, 3), 1, backend='torch'); assert not {'numba', 'triton'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_auto_does_without_a_compiler_that_cannot_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)  # importing it raises ImportError
    solver._installed.cache_clear()
    try:
        assert solver._choose("auto", torch.device("cpu")) == "torch"
    finally:
        solver._installed.cache_clear()


def test_available_backends_are_those_tested() -> None:
    assert available_backends("cpu") == [name for name in AVAILABLE if DEVICE[name] == "cpu"]


@pytest.mark.parametrize("module", [solver, torch_backend])
def test_examples_in_docstrings(module: Any) -> None:
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize("rounds", [0, 2, 100])
@pytest.mark.parametrize("kind", KINDS)
def test_torch_intervals_may_be_split_to_the_end(
    kind: str, rounds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_backend, "FEW_STARTS", 0)
    monkeypatch.setattr(torch_backend, "GUIDED_ROUNDS", rounds)  # 0 halves from the first round on
    for N, M, delta in [(16, 33, 3), (5, 7, 1), (30, 20, 1)]:
        assert_equal_to_enumeration(family(kind, 12, N, M), delta, ["torch"])


def test_torch_result_does_not_depend_on_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    costs = family("noise", 7, 12, 10)
    expected = solve(costs, 1, backend="torch", return_energy=True)
    monkeypatch.setattr(torch_backend, "CHUNK_ELEMENTS", 1)  # one interval at a time
    monkeypatch.setattr(torch_backend, "FEW_STARTS", 30)
    found = solve(costs, 1, backend="torch", return_energy=True)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_sliding_minimum_equals_unfold() -> None:
    values = family("noise", 1, 21, 4)[0]
    for width in range(1, 22):
        expected = values.unfold(0, width, 1).amin(-1)
        torch.testing.assert_close(torch_backend.sliding_minimum(values, width), expected)


@pytest.mark.parametrize("cap", [0, 1, 3, 1000])
@pytest.mark.parametrize("kind", ["noise", "integers", "spiral", "coarse", "absorbed"])
def test_numba_node_cap_changes_no_result(kind: str, cap: int, monkeypatch: pytest.MonkeyPatch) -> None:
    numba_backend = pytest.importorskip("applications.lv_dp.dynamic_programming.numba_backend")
    monkeypatch.setattr(numba_backend, "NODE_CAP", cap)
    for N, M, delta in [(30, 33, 1), (20, 7, 2), (16, 50, 3)]:
        assert_equal_to_enumeration(family(kind, 8, N, M), delta, ["numba"])


@pytest.mark.parametrize(("kind", "M"), [("spiral", 65), ("spiral", 9), ("noise", 65), ("absorbed", 65)])
def test_numba_never_does_much_more_than_enumeration(
    kind: str, M: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    numba_backend = pytest.importorskip("applications.lv_dp.dynamic_programming.numba_backend")
    compiled, calls = numba_backend._relax, []

    def counted(*arguments: Any) -> float:
        calls.append(arguments)
        return compiled(*arguments)

    monkeypatch.setattr(numba_backend, "_relax", counted)
    monkeypatch.setattr(numba_backend, "_solve_row", numba_backend._solve_row.py_func)
    monkeypatch.setattr(numba_backend, "_branch_and_bound", numba_backend._branch_and_bound.py_func)
    monkeypatch.setattr(numba_backend, "_solve_rows", numba_backend._solve_rows.py_func)
    costs = family(kind, 6, 40, M)
    for row in costs:
        calls.clear()
        numba_backend.solve(row[None], 1)
        assert len(calls) <= M + min(M, numba_backend.NODE_CAP) + 2
        if kind == "spiral" and M == 65:
            assert len(calls) > numba_backend.NODE_CAP  # the cap is hit


def test_numba_reads_any_strides_in_place() -> None:
    pytest.importorskip("numba")
    base = family("noise", 8, 10, 30)
    for costs in (
        base[::2, :, ::3],
        base.transpose(1, 2),
        base.flip(0)[:, 3:],
        base[:, :1].expand(-1, 6, -1),
    ):
        assert_equal_to_enumeration(costs, 2, ["numba"])


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_triton_kernels_compile_for_a_device() -> None:
    """The interpreter accepts programs that the compiler rejects; compiling needs no device."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    code = (
        "from triton.backends.compiler import GPUTarget; from triton.compiler import ASTSource, compile\n"
        "from applications.lv_dp.dynamic_programming import triton_backend as t\n"
        "def build(kernel, types, constants):\n"
        "    types = types | dict.fromkeys(constants, 'constexpr')\n"
        "    compile(ASTSource(kernel, types, constexprs=constants), target=GPUTarget('cuda', 80, 32))\n"
        "for real in ('*fp32', '*fp64'):\n"
        "    common = dict(values=real, lo='*i64', hi='*i64', done='*i1', delta='i32')\n"
        "    sizes = dict(N=9, M=20, ENTRIES=32)\n"
        "    build(t._trace_kernel, common | dict(paths='*i64'), sizes | dict(WINDOW=8))\n"
        "    strides = dict(stride_b='i32', stride_n='i32', stride_v='i32', K='i32')\n"
        "    for starts, keep in ((1, True), (32, False)):\n"
        "        build(t._sweep_kernel, common | strides | dict(costs=real, energies=real),\n"
        "              sizes | dict(STARTS=starts, WINDOW=True, DOUBLINGS=2, KEEP=keep))\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
