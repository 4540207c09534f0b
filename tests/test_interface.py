"""What the function is handed: tensors, arrays, numbers; and how ``interface="auto"`` chooses."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import networkx as nx
import numpy as np
import pytest
import scipy.special
import torch
from torch.testing import assert_close

import ndgrad
from ndgrad.interface import resolve_interface, to_interface

WEIGHTS = np.array([[1.0, -2.0], [0.5, 3.0], [0.0, 1.5]])
GRAPH = nx.path_graph(3)
TENSOR = torch.zeros(1)
np_alias = np


def uses_numpy(x: Any) -> Any:
    return np.sin(x)


def uses_an_alias(x: Any) -> Any:
    return np_alias.cos(x)


def uses_an_array(x: Any) -> Any:
    return x @ WEIGHTS


def uses_a_graph(x: Any) -> Any:
    return x * GRAPH.number_of_nodes()


def uses_nested_code(x: Any) -> Any:
    def inner(row: Any) -> Any:
        return np.sort(row)

    return inner(x)


def imports_inside(x: Any) -> Any:
    import numpy

    return numpy.tanh(x)


def imports_a_submodule_inside(x: Any) -> Any:
    from scipy.special import expit

    return expit(x)


def uses_both(x: Any) -> Any:
    return torch.as_tensor(np.sin(x.numpy()))


def uses_a_tensor(x: Any) -> Any:
    return np.asarray(x) * TENSOR


def uses_neither(x: Any) -> Any:
    return x * 2 + math.pi


def calls_a_method_named_numpy(x: Any) -> Any:
    return x.numpy() * 2


class Callable_:  # noqa: N801
    def __call__(self, x: Any) -> Any:
        return np.sin(x)

    def method(self, x: Any) -> Any:
        return np.sin(x)

    @staticmethod
    def static(x: Any) -> Any:
        return np.sin(x)

    @classmethod
    def of_class(cls, x: Any) -> Any:
        return np.sin(x)


def closure(thing: Any) -> Callable[[Any], Any]:
    return lambda x: x * thing


def with_empty_cell() -> Callable[[Any], Any]:
    def fn(x: Any) -> Any:
        return np.sin(x) * later

    resolve_before = resolve_interface(fn, "auto")
    later = resolve_before
    return lambda x: (fn, later)


@pytest.mark.parametrize(
    ("fn", "expected"),
    [
        (uses_numpy, "numpy"),
        (uses_an_alias, "numpy"),
        (uses_an_array, "numpy"),
        (uses_a_graph, "numpy"),
        (uses_nested_code, "numpy"),
        (imports_inside, "numpy"),
        (imports_a_submodule_inside, "numpy"),
        (uses_both, "torch"),
        (uses_a_tensor, "torch"),
        (uses_neither, "torch"),
        (calls_a_method_named_numpy, "torch"),
        (Callable_(), "numpy"),
        (Callable_().method, "numpy"),
        (Callable_.static, "numpy"),
        (Callable_.of_class, "numpy"),
        (functools.partial(functools.partial(uses_numpy)), "numpy"),
        (closure(np.ones(1)), "numpy"),
        (closure(torch.ones(1)), "torch"),
        (closure(2.0), "torch"),
        (np.sin, "numpy"),
        (np.linalg.norm, "numpy"),
        (scipy.special.expit, "numpy"),
        (torch.round, "torch"),
        (torch.nn.functional.relu, "torch"),
        (torch.nn.Linear(3, 2), "torch"),
        (math.floor, "torch"),
    ],
)
def test_auto_reads_the_code(fn: Callable[..., Any], expected: str) -> None:
    assert resolve_interface(fn, "auto") == expected


def test_a_cell_not_yet_filled_is_skipped() -> None:
    inner, chosen = with_empty_cell()(0)
    assert chosen == "numpy"
    assert callable(inner)


@pytest.mark.parametrize("interface", ["torch", "numpy", "python"])
def test_an_explicit_choice_wins(interface: str) -> None:
    assert resolve_interface(uses_numpy, interface) == interface


def test_an_unknown_interface_is_refused() -> None:
    with pytest.raises(ValueError, match=r"one of 'torch', 'numpy', 'python', 'auto', got 'jax'"):
        ndgrad.wrap(uses_neither, interface="jax")


def test_conversion() -> None:
    x = torch.tensor([[1.5, 2.0]], requires_grad=True)
    array = to_interface(x, "numpy")
    assert isinstance(array, np.ndarray)
    assert array.dtype == np.float32
    assert to_interface(x, "python") == [[1.5, 2.0]]
    assert to_interface(torch.tensor(2.5), "python") == 2.5
    assert to_interface(x, "torch") is x
    assert to_interface("static", "numpy") == "static"


@pytest.mark.parametrize("interface", ["torch", "numpy", "python"])
@pytest.mark.parametrize("batched", [True, False])
def test_each_interface_gives_the_gradient_of_the_same_quadratic(interface: str, batched: bool) -> None:
    seen: list[type] = []

    def row(x: Any) -> Any:  # sum_i (i + 1) x_i²
        return sum((i + 1) * value**2 for i, value in enumerate(x))

    def fn(x: Any) -> Any:
        seen.append(type(x))
        if not batched:
            return row(x)
        values = [row(r) for r in x]
        return torch.stack(values) if interface == "torch" else values

    box = ndgrad.wrap(
        fn,
        interface=interface,
        batched=batched,
        vectorize=not batched,
        estimator=ndgrad.FiniteDifference(eps=0.5),
    )
    x = torch.tensor([[0.4, -1.0, 2.0], [1.1, 0.2, -0.6]], dtype=torch.float64, requires_grad=True)
    y = box(x)
    i = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    assert_close(y.detach(), (i * x.detach() ** 2).sum(1))
    v = torch.tensor([0.3, -1.7], dtype=torch.float64)
    y.backward(v)
    assert_close(x.grad, 2 * i * x.detach() * v[:, None])
    assert set(seen) == {{"torch": torch.Tensor, "numpy": np.ndarray, "python": list}[interface]}


def test_numpy_gradient_against_the_twin() -> None:
    torch.manual_seed(3)
    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    v = torch.randn(2, 2, dtype=torch.float64)
    y = ndgrad.wrap(uses_an_array, estimator="finite_difference")(x)
    assert y.dtype == torch.float64
    y.backward(v)
    assert_close(x.grad, v @ torch.tensor(WEIGHTS).T)


def test_plain_python_point() -> None:
    box = ndgrad.wrap(
        lambda x, power: [math.floor(2 * x) / 2, x**power],
        interface="python",
        batched=False,
        estimator=ndgrad.FiniteDifference(eps=0.5),
    )
    x = torch.tensor(1.25, dtype=torch.float64, requires_grad=True)
    y = box(x, 2)
    assert_close(y.detach(), torch.tensor([1.0, 1.5625], dtype=torch.float64))
    y.backward(torch.tensor([0.3, 0.7], dtype=torch.float64))
    assert_close(x.grad, torch.tensor(0.3 * 1.0 + 0.7 * 2.5, dtype=torch.float64))
