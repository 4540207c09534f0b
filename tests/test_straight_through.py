from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ndgrad
from ndgrad import StraightThrough
from ndgrad.testing import estimate


def case() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(5, 3, generator=generator), torch.randn(5, 3, generator=generator)


def test_the_identity_passes_the_cotangent() -> None:
    x, v = case()
    torch.testing.assert_close(estimate(StraightThrough(), torch.sign, x, v), v, rtol=0, atol=0)


def test_the_gradient_of_a_given_function() -> None:
    x, v = case()
    box = ndgrad.wrap(
        lambda x: (x > 0.5).float(),
        estimator=StraightThrough(lambda x: torch.sigmoid(3 * x)),
        interface="torch",
    )
    x.requires_grad_()
    y = box(x)
    torch.testing.assert_close(y.detach(), (x.detach() > 0.5).float())
    (grad,) = torch.autograd.grad(y, x, v)
    p = torch.sigmoid(3 * x.detach())
    torch.testing.assert_close(grad, 3 * p * (1 - p) * v)
    assert box.num_evaluations == 5, "the black box is evaluated for its value alone"


@pytest.mark.parametrize("evaluate_in", ["backward", "forward"])
def test_several_inputs_and_other_output_shapes(evaluate_in: str) -> None:
    """A matrix product of two inputs, with a third that does not matter to it."""
    torch.manual_seed(2)
    a, b, c = (torch.randn(4, *shape, requires_grad=True) for shape in ((2, 3), (3,), ()))
    v = torch.randn(4, 2)

    def g(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        return torch.einsum("bij,bj->bi", a, b)

    box = ndgrad.wrap(
        lambda a, b, c: g(a, b, c).round(), estimator=StraightThrough(g), evaluate_in=evaluate_in
    )
    y = box(a, b, c)
    for _ in range(2):
        found = torch.autograd.grad(y, (a, b, c), v, retain_graph=True)
        torch.testing.assert_close(found[0], v.unsqueeze(2) * b.detach().unsqueeze(1))
        torch.testing.assert_close(found[1], torch.einsum("bij,bi->bj", a.detach(), v))
        assert (found[2] == 0).all()


def test_the_identity_of_several_inputs() -> None:
    a, b = torch.randn(4, 2, requires_grad=True), torch.randn(4, requires_grad=True)
    y = ndgrad.wrap(lambda a, b: (a.round(), b.sign()), estimator=StraightThrough())(a, b)
    found = torch.autograd.grad(y, (a, b), (torch.full((4, 2), 0.3), torch.full((4,), -1.7)))
    torch.testing.assert_close(found, (torch.full((4, 2), 0.3), torch.full((4,), -1.7)))


def test_parameters_of_a_module_receive_no_gradient() -> None:
    x, v = case()
    module = nn.Linear(3, 3)
    estimator = StraightThrough(module)
    assert [*estimator.state_dict()] == ["backward.weight", "backward.bias"]
    torch.testing.assert_close(estimate(estimator, torch.round, x, v), v @ module.weight.detach())
    estimator(torch.round, x.requires_grad_()).backward(v)
    assert module.weight.grad is None
    assert "Linear" in repr(estimator)


def test_mixed_dtypes() -> None:
    x = torch.randn(4, 3, dtype=torch.float64)
    grad = estimate(StraightThrough(), lambda z: z.round().float(), x, torch.full((4, 3), 0.5))
    torch.testing.assert_close(grad, torch.full_like(x, 0.5))


@pytest.mark.parametrize(
    ("backward", "fn", "message"),
    [
        (None, lambda x: x.argmax(1), r"the identity must return.*\[\(5,\)\], but returned \[\(5, 3\)\]"),
        (None, lambda x: (x, x), r"but returned \[\(5, 3\)\]; type StraightThrough\(backward=g\)"),
        (torch.sum, torch.round, r"backward must return.*\[\(5, 3\)\], but returned \[\(\)\]"),
        (lambda x: x.detach(), torch.round, "backward must have a derivative"),
        (lambda x: {"a": 1.5}, torch.round, "backward must have a derivative"),
    ],
)
def test_other_shapes_are_refused(backward: Any, fn: Any, message: str) -> None:
    x, _ = case()
    y = ndgrad.wrap(fn, estimator=StraightThrough(backward))(x.requires_grad_())
    with pytest.raises(ValueError, match=message):
        (y[0] if isinstance(y, tuple) else y).sum().backward()


def test_containers() -> None:
    x, v = case()
    box = ndgrad.wrap(
        lambda x: {"a": x.round(), "b": (x.sum(1).round(), [x.sign()])},
        estimator=StraightThrough(lambda x: {"a": 2 * x, "b": (3 * x.sum(1), [5 * x])}),
    )
    y = box(x.requires_grad_())
    (y["a"] * v).sum().backward(retain_graph=True)
    torch.testing.assert_close(x.grad, 2 * v)
    (grad,) = torch.autograd.grad((y["b"][0] * v[:, 0]).sum() + (y["b"][1][0] * v).sum(), x)
    torch.testing.assert_close(grad, 3 * v[:, :1] + 5 * v)


def test_bad_arguments() -> None:
    with pytest.raises(TypeError, match=r"backward must be a function or module.*got 'tanh'"):
        StraightThrough("tanh")


def test_repr() -> None:
    assert repr(StraightThrough()) == "StraightThrough(backward=None)"
