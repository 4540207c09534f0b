"""What the function returned becomes tensors with rows, or an error that says what to type."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import ndgrad

B, n = 3, 2
X = torch.tensor([[0.5, -1.5], [2.25, 3.75], [-0.25, 1.0]], dtype=torch.float64)


def fd() -> ndgrad.FiniteDifference:
    return ndgrad.FiniteDifference(eps=0.5)


def value(fn: Callable[..., Any], dtype: torch.dtype = torch.float64, **options: Any) -> Any:
    return ndgrad.wrap(fn, estimator=fd(), **options)(X.to(dtype, copy=True).requires_grad_())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "fn",
    [
        lambda x: x.floor().long(),
        lambda x: x.floor().to(torch.int8),
        lambda x: np.floor(x.numpy()).astype(np.int16),
        lambda x: np.floor(x.numpy()).astype(">f8"),
        lambda x: np.floor(x.numpy()).astype(np.longdouble),
        lambda x: np.floor(x.numpy()).astype(np.float16),
        lambda x: [[math.floor(v) for v in row] for row in x.tolist()],
        lambda x: np.floor(x.numpy()).tolist(),
    ],
)
def test_any_real_result_takes_the_dtype_of_the_input(fn: Callable[..., Any], dtype: torch.dtype) -> None:
    y = value(fn, dtype, interface="torch")
    assert_close(y.detach(), X.to(dtype).floor())  # assert_close compares dtypes
    assert y.requires_grad


def test_booleans_become_zero_and_one() -> None:
    assert_close(value(lambda x: x > 0).detach(), (X > 0).double())
    assert_close(value(lambda x: np.asarray(x) > 0, interface="numpy").detach(), (X > 0).double())


def test_torch_results_keep_their_floating_dtype_and_gradients_return_in_the_inputs() -> None:
    x = X.float().requires_grad_()
    y = ndgrad.wrap(lambda x: x.double() ** 2, estimator=fd())(x)
    assert y.dtype == torch.float64
    y.sum().backward()
    assert_close(x.grad, 2 * X.float())


def test_negative_strides_are_read() -> None:
    x = X.clone().requires_grad_()
    y = ndgrad.wrap(lambda x: np.asarray(x)[:, ::-1], interface="numpy", estimator=fd())(x)
    assert_close(y.detach(), X.flip(1))
    v = torch.tensor([[0.3, -1.0], [2.0, 0.7], [0.1, 5.0]], dtype=torch.float64)
    y.backward(v)
    assert_close(x.grad, v.flip(1))


@pytest.mark.parametrize("interface", ["torch", "numpy"])
def test_a_function_that_returns_the_same_buffer_each_time(interface: str) -> None:
    buffer = torch.empty(B, n, dtype=torch.float64)

    def fn(x: Any) -> Any:
        buffer.copy_(torch.as_tensor(x) ** 2)
        return buffer if interface == "torch" else buffer.numpy()

    box = ndgrad.wrap(fn, interface=interface, estimator=fd(), chunk_size=B)
    x = X.clone().requires_grad_()
    y = box(x)
    y.sum().backward()
    assert_close(y.detach(), X**2)
    assert_close(x.grad, 2 * X)


def test_a_function_that_returns_its_input() -> None:
    x = X.clone().requires_grad_()
    y = ndgrad.wrap(lambda x: x, estimator=fd())(x)
    assert y.data_ptr() != x.data_ptr()
    y.backward(3 * X)
    assert_close(x.grad, 3 * X)


def test_results_that_carry_a_graph_of_their_own_are_cut() -> None:
    weight = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)

    def fn(x: Tensor) -> Tensor:
        with torch.enable_grad():
            return x * weight

    value(fn).sum().backward()
    assert weight.grad is None


def raises(error: type[Exception], message: str, fn: Callable[..., Any], **options: Any) -> None:
    with pytest.raises(error, match=message):
        value(fn, **options)


def test_nothing_returned() -> None:
    raises(ndgrad.OutputTypeError, "returned None; does it end without a return", lambda x: None)
    raises(ndgrad.OutputTypeError, "returned None", lambda x: (x, None))
    raises(ndgrad.OutputTypeError, "returned an empty dict", lambda x: {})
    raises(ndgrad.OutputTypeError, "returned an empty list", lambda x: [])


@pytest.mark.parametrize(
    ("fn", "named"),
    [
        (lambda x: x * 1j, r"returned Tensor of torch.complex128; return its real part"),
        (lambda x: np.asarray(x) * 1j, r"returned ndarray of complex128; return its real part"),
        (lambda x: "done", r"returned str; return a float"),
        (lambda x: [1.0 + 2j] * 3, r"returned list; return its real part"),
        (lambda x: object(), r"returned object; return a float"),
    ],
)
def test_what_is_no_real_number(fn: Callable[..., Any], named: str) -> None:
    raises(TypeError, named, fn)


def test_lists_of_unequal_length() -> None:
    raises(
        ndgrad.OutputTypeError, "list that is no array.*pad its rows", lambda x: [[1.0], [2.0, 3.0], [4.0]]
    )


@pytest.mark.parametrize(
    ("fn", "shape"),
    [
        (lambda x: x.sum(), r"\(\)"),
        (lambda x: x[:2], r"\(2, 2\)"),
        (lambda x: {"fine": x, "wrong": x.T}, r"\(2, 3\)"),
        (lambda x: 3.0, r"\(\)"),
    ],
)
def test_wrong_leading_dimension(fn: Callable[..., Any], shape: str) -> None:
    message = rf"given 3 rows and must return 3 rows.*of shape {shape}.*batched=False, vectorize=True"
    raises(ndgrad.OutputError, message, fn)


def test_shapes_that_change_between_rows_chunks_or_calls() -> None:
    def ragged(x: Tensor) -> Tensor:
        return torch.zeros(int(x[0] > 0) + 1)

    message = r"the rows of its first call\s+had the shapes \[\(2,\)\], these have \[\(1,\)\].*pad"
    raises(ValueError, message, ragged, batched=False, vectorize=True)
    calls = []

    def growing(x: Tensor) -> Any:
        calls.append(0)
        return (x,) * len(calls)

    raises(ValueError, r"\[\(2,\)\], these have \[\(2,\), \(2,\)\]", growing, chunk_size=2)
    calls.clear()
    y = value(growing)[0]
    with pytest.raises(ndgrad.OutputError, match="same outputs for every row and call"):
        y.sum().backward()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("reduce", [False, True])
@pytest.mark.parametrize("chunk_size", [None, 1, 2])
def test_the_row_that_is_not_finite_is_named(bad: float, reduce: bool, chunk_size: int | None) -> None:
    def fn(x: Tensor) -> Tensor:
        y = x.clone()
        y[y == 3.75] = bad  # row 1
        return y.sum(1) if reduce else y

    with pytest.raises(
        ndgrad.NonFiniteError, match=r"NaN or infinity for row 1; its input.*smaller sigma"
    ) as caught:
        value(fn, chunk_size=chunk_size)
    assert_close(caught.value.inputs[0], X[1])


def test_the_probe_that_is_not_finite_is_named() -> None:
    x = torch.tensor([[4.0, 4.0], [9.0, 0.25], [9.0, 9.0]], dtype=torch.float64, requires_grad=True)
    y = ndgrad.wrap(torch.sqrt, estimator=fd())(x)
    with pytest.raises(
        ndgrad.NonFiniteError, match=r"sqrt must .* for row 1 \(probe 1 around it\)"
    ) as caught:
        y.sum().backward()
    assert_close(caught.value.inputs[0], torch.tensor([9.0, -0.25], dtype=torch.float64))
    assert isinstance(caught.value, ValueError)


def test_infinity_from_a_narrower_dtype_is_refused_without_a_warning() -> None:
    with pytest.raises(ndgrad.NonFiniteError, match="row 0"):
        value(lambda x: np.full(len(x), 1e300), torch.float32)


def test_a_finite_result_whose_sum_overflows_passes() -> None:
    y = value(lambda x: torch.full((len(x), 4), 3e38), torch.float32)
    assert_close(y.detach(), torch.full((B, 4), 3e38))


@pytest.mark.parametrize("cache", [None, "memory"])
def test_containers_that_change_between_calls_are_refused(cache: str | None) -> None:
    """Their leaves have the same shapes, and would take each other's places."""
    calls = []

    def fn(x: Tensor) -> Any:
        calls.append(0)
        named = {"low": x[:, 0], "high": x[:, 1]}
        return {"all": dict(sorted(named.items(), reverse=len(calls) == 2))}

    message = r"\['all'\]\['high'\], \['all'\]\['low'\], this one as \['all'\]\['low'\]"
    with pytest.raises(ndgrad.OutputError, match=message):
        value(fn, chunk_size=2, cache=cache, cache_key="fn" if cache else None)
