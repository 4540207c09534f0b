"""Containers of arguments and results: taken apart, put together, carried through a wrapped function."""

from __future__ import annotations

from collections import OrderedDict, defaultdict, namedtuple
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import ndgrad
from ndgrad.trees import flatten

Pair = namedtuple("Pair", ["left", "right"])


@dataclass(frozen=True)
class Frozen:
    a: Any
    b: Any = None


@dataclass
class Loose:
    a: Any
    computed: Any = field(init=False, default=5)


@pytest.mark.parametrize(
    ("tree", "leaves"),
    [
        (3.5, [3.5]),
        (None, [None]),
        ("text", ["text"]),
        ({"p": 1, "q": {"r": 2}}, [1, 2]),
        ((1, (2, ("x", None))), [1, 2, "x", None]),
        ([1, 2.5, [3, True]], [[1, 2.5, [3, True]]]),  # numbers only: one leaf
        ([1, "x"], [1, "x"]),
        ([1, [2, "x"]], [1, 2, "x"]),
        (Pair(1, Pair(2, 3)), [1, 2, 3]),
        (Frozen(1, (2, 3)), [1, 2, 3]),
        (Loose("u"), ["u", 5]),
        ([], []),
        ({}, []),
        (Frozen, [Frozen]),  # the class, not an instance
    ],
)
def test_leaves_and_identity(tree: Any, leaves: list[Any]) -> None:
    found, rebuild = flatten(tree)
    assert found == leaves
    rebuilt = rebuild(found)
    assert rebuilt == tree
    assert type(rebuilt) is type(tree)


def test_rebuild_puts_each_leaf_in_its_place_and_leaves_the_original_alone() -> None:
    tree = {"z": Frozen(1, [2, "x"]), "a": Pair((3,), "y")}
    leaves, rebuild = flatten(tree)
    rebuilt = rebuild([f"{leaf}!" for leaf in leaves])
    assert rebuilt == {"z": Frozen("1!", ["2!", "x!"]), "a": Pair(("3!",), "y!")}
    assert list(rebuilt) == ["z", "a"]
    assert tree == {"z": Frozen(1, [2, "x"]), "a": Pair((3,), "y")}


def test_dict_classes_are_kept() -> None:
    default = defaultdict(lambda: -1, k=2)
    leaves, rebuild = flatten(default)
    rebuilt = rebuild([7])
    assert leaves == [2]
    assert (rebuilt["k"], rebuilt["missing"]) == (7, -1)
    ordered = flatten(OrderedDict(b=1, a=2))[1]([3, 4])
    assert isinstance(ordered, OrderedDict)
    assert list(ordered.items()) == [("b", 3), ("a", 4)]


def test_too_few_or_too_many_leaves_are_a_bug() -> None:
    _, rebuild = flatten((1, 2))
    with pytest.raises((StopIteration, RuntimeError)):
        rebuild([1])


TREES = {
    "dict": lambda a, b: {"first": a, "rest": {"second": b}},
    "tuple": lambda a, b: (a, (b,)),
    "list": lambda a, b: [a, [b]],
    "named tuple": lambda a, b: Pair(a, b),
    "dataclass": lambda a, b: Frozen(a, b),
}


@pytest.mark.parametrize("name", TREES)
def test_trees_in_and_out_carry_exact_gradients(name: str) -> None:
    """``fn`` maps a tree of (x, c) to the same kind of tree of (x², c x); the twin is differentiated by hand."""
    make, B, n = TREES[name], 3, 4

    def fn(tree: Any) -> Any:
        (x, c), _ = flatten(tree)
        assert type(tree) is type(make(x, c))
        return make(x**2, (c * x).sum(1))

    torch.manual_seed(4)
    x = torch.randn(B, n, dtype=torch.float64, requires_grad=True)
    c = torch.randn(B, n, dtype=torch.float64, requires_grad=True)
    box = ndgrad.wrap(fn, estimator=ndgrad.FiniteDifference(eps=0.25))  # exact: each entry is a quadratic
    out = box(make(x, c))
    assert type(out) is type(make(x, c))
    y, s = flatten(out)[0]
    assert_close(y.detach(), x.detach() ** 2)
    u, v = torch.randn_like(y), torch.randn_like(s)
    torch.autograd.backward((y, s), (u, v))
    assert_close(x.grad, 2 * x.detach() * u + c.detach() * v[:, None])
    assert_close(c.grad, x.detach() * v[:, None])


def test_torch_return_types_are_tuples() -> None:
    box = ndgrad.wrap(lambda x: x.max(1), estimator=ndgrad.FiniteDifference(eps=0.01))
    x = torch.tensor([[0.5, 2.0, 1.0], [3.0, -1.0, 0.0]], dtype=torch.float64, requires_grad=True)
    out = box(x)
    assert type(out) is torch.return_types.max
    assert_close(out.indices.detach(), torch.tensor([1.0, 0.0], dtype=torch.float64))
    out.values.backward(torch.tensor([0.7, -0.4], dtype=torch.float64))
    assert_close(x.grad, torch.tensor([[0.0, 0.7, 0.0], [-0.4, 0.0, 0.0]], dtype=torch.float64))


def test_an_unused_output_contributes_nothing() -> None:
    def fn(x: Tensor) -> tuple[Tensor, Tensor]:
        return x**2, 100 * x

    x = torch.tensor([[0.3], [1.7]], dtype=torch.float64, requires_grad=True)
    ndgrad.wrap(fn, estimator=ndgrad.FiniteDifference(eps=0.5))(x)[0].sum().backward()
    assert_close(x.grad, 2 * x.detach())
