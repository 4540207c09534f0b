"""The graph around a black box: chains, nothing spent in vain, no second derivative."""

from __future__ import annotations

import gc
import math
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

import ndgrad

B, n, m, S = 5, 3, 2, 7

MAKERS: dict[str, Callable[[], ndgrad.Estimator]] = {
    "pairs": lambda: ndgrad.EvolutionStrategy(S, 0.3),
    "loo": lambda: ndgrad.EvolutionStrategy(S, 0.3, antithetic=False),
    "score": lambda: ndgrad.ScoreFunction(num_samples=S, sigma=0.3),
    "fd": lambda: ndgrad.FiniteDifference(eps=0.3),
    "bypass": lambda: ndgrad.DiffBypass(sigma=0.3, num_samples=S, fit_steps=2),
}
PROBES = {"pairs": 2 * S, "loo": S, "score": S, "fd": 2 * n, "bypass": S}


def rows(seed: int = 0) -> Tensor:
    return torch.randn(
        B, n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    ).requires_grad_()


def smooth(x: Tensor) -> Tensor:
    return torch.stack([x.sin().sum(1), x.prod(1)], dim=1)  # (R, 2)


def smooth_twice(y: Tensor) -> Tensor:
    return (y**2).sum(1, keepdim=True) * y.cos()  # (R, 2)


class Twin(nn.Module):
    def __init__(self, fn: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, x: Tensor) -> Tensor:
        return self.fn(x)


@pytest.mark.parametrize("evaluate_in", ["backward", "forward"])
def test_a_chain_of_two_black_boxes_has_the_gradients_of_its_twin(evaluate_in: str) -> None:
    torch.manual_seed(2)
    layers = [nn.Linear(4, n), nn.Tanh(), nn.Linear(m, m), nn.Linear(m, 1)]
    for layer in layers:
        layer.double()

    def chain(wrap: Callable[[Any], nn.Module]) -> nn.Sequential:
        return nn.Sequential(layers[0], wrap(smooth), layers[1], layers[2], wrap(smooth_twice), layers[3])

    boxed = chain(lambda fn: ndgrad.wrap(fn, estimator="finite_difference", evaluate_in=evaluate_in))
    twin = chain(Twin)
    x = torch.randn(B, 4, dtype=torch.float64, requires_grad=True)
    leaves = [x, *layers[0].parameters(), *layers[2].parameters(), *layers[3].parameters()]

    def gradients(model: nn.Module) -> tuple[Tensor, ...]:
        return torch.autograd.grad(((model(x) - 0.3) ** 2).sum(), leaves)

    found, expected = gradients(boxed), gradients(twin)
    assert all(gradient.abs().max() > 1e-4 for gradient in expected)
    assert_close(found, expected, rtol=1e-6, atol=1e-8)
    assert [box.num_evaluations for box in boxed if isinstance(box, ndgrad.BlackBox)] == [
        B + 2 * n * B,
        B + 2 * m * B,
    ]


def second(gradient: Callable[[Tensor], Tensor], x: Tensor) -> None:
    (g,) = torch.autograd.grad(gradient(x), x, create_graph=True)
    assert g.requires_grad
    with pytest.raises(ndgrad.SecondDerivativeError, match=r"second time.*detach it"):
        g.square().sum().backward()


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("evaluate_in", ["backward", "forward"])
@pytest.mark.parametrize(
    "loss",
    [lambda y: y.sum(), lambda y: (y**2).sum(), lambda y: y.exp()[:, 0].sum()],
    ids=["linear", "square", "exp"],
)
def test_a_second_derivative_raises(name: str, evaluate_in: str, loss: Callable[[Tensor], Tensor]) -> None:
    box = ndgrad.wrap(smooth, estimator=MAKERS[name](), evaluate_in=evaluate_in)
    second(lambda x: loss(box(x)), rows())


def test_a_second_derivative_raises_for_a_family_too() -> None:
    estimator = ndgrad.ScoreFunction(lambda p: torch.distributions.Normal(p, 0.3), num_samples=S)
    box = ndgrad.wrap(smooth, estimator=estimator)
    estimator.distribution = lambda p: torch.distributions.Independent(torch.distributions.Normal(p, 0.3), 1)
    second(lambda x: (box(x) ** 2).sum(), rows())


def test_a_second_derivative_raises_with_respect_to_what_is_upstream() -> None:
    """A gradient penalty reaches the estimate through a parameter, not through x."""
    weight = torch.full((n,), 1.5, dtype=torch.float64, requires_grad=True)
    x = rows()
    y = ndgrad.wrap(smooth, estimator=MAKERS["fd"]())(x * weight).sum()
    (g,) = torch.autograd.grad(y, x, create_graph=True)
    with pytest.raises(ndgrad.SecondDerivativeError):
        torch.autograd.grad(g.square().sum(), weight)


def test_the_first_gradient_may_be_taken_with_create_graph_and_detached() -> None:
    x = rows()
    box = ndgrad.wrap(lambda x: x**2, estimator=ndgrad.FiniteDifference(eps=0.5))
    (g,) = torch.autograd.grad(box(x).sum(), x, create_graph=True)
    assert_close(g.detach(), 2 * x.detach())
    (g.detach() * x).sum().backward()
    assert_close(x.grad, 2 * x.detach())


class Witness:
    """An argument that lives exactly as long as the call does."""


class FirstOfATuple(ndgrad.VJPEstimator):
    """A forward difference along the ones."""

    def linearize(self, f: Any, inputs: Any, outputs: Any) -> Any:
        slope = (f(inputs[0] + 0.25)[0] - outputs[0]) / 0.25
        return lambda cotangents: (cotangents[0] * slope,)


def test_linearize_is_handed_a_function_with_tuples_wrapped_or_not() -> None:
    found = []
    for call in (
        ndgrad.wrap(torch.square, estimator=FirstOfATuple()),
        lambda x: FirstOfATuple()(torch.square, x),
    ):
        x = torch.tensor([[1.0], [2.0]], requires_grad=True)
        call(x).sum().backward()
        found.append(x.grad)
    torch.testing.assert_close(found[0], torch.tensor([[2.25], [4.25]]))
    torch.testing.assert_close(found[0], found[1])


class KeepsItsOutputs(ndgrad.VJPEstimator):
    """For ``y = x^2``: a pullback that holds on to everything it was given."""

    def linearize(self, f: Any, inputs: Any, outputs: Any) -> Any:
        return lambda v: (2 * v[0] * outputs[0] / inputs[0],)


LIFETIMES: dict[str, Callable[[], ndgrad.Estimator]] = MAKERS | {
    "fx": lambda: ndgrad.EvolutionStrategy(S, 0.3, antithetic=False, baseline="fx"),
    "score-fx": lambda: ndgrad.ScoreFunction(num_samples=S, sigma=0.3, baseline="fx"),
    "fd-forward": lambda: ndgrad.FiniteDifference("forward", eps=0.3),
    "perturbed": lambda: ndgrad.PerturbedOptimizer(S, 0.3),
    "perturbed-fx": lambda: ndgrad.PerturbedOptimizer(S, 0.3, baseline="fx"),
    "interpolation": lambda: ndgrad.BlackboxInterpolation("min", lambd=0.3),
    "implicit": lambda: ndgrad.ImplicitMLE("min", lambd=0.3, num_samples=S),
    "straight-through": lambda: ndgrad.StraightThrough(torch.tanh),
    "family": lambda: ndgrad.ScoreFunction(lambda p: torch.distributions.Normal(p, 0.3), num_samples=S),
    "bypass-forward": lambda: ndgrad.DiffBypass(
        sigma=0.3, num_samples=S, fit_steps=2, replay=1, forward="bypass"
    ),
    "custom": KeepsItsOutputs,
}


@pytest.mark.parametrize("name", LIFETIMES)
@pytest.mark.parametrize("evaluate_in", ["backward", "forward"])
@pytest.mark.parametrize("use", ["unused", "backward", "retain_graph", "create_graph"])
def test_nothing_outlives_the_outputs(name: str, evaluate_in: str, use: str) -> None:
    """Reference counts alone free it all: a cycle through the graph's C++ references would never be collected."""
    estimator = LIFETIMES[name]()
    if evaluate_in == "forward" and not estimator.linear:
        pytest.skip("evaluates where the cotangent leads")
    box = ndgrad.wrap(
        lambda x, witness: x.square(), estimator=estimator, evaluate_in=evaluate_in, interface="torch"
    )
    x, witness = rows(), Witness()
    alive = weakref.ref(witness)
    box(x, None).sum().backward()  # a first fit imports parts of torch, whose exceptions keep frames
    gc.disable()
    try:
        y = box(x, witness)
        if use != "unused":
            options = {} if use == "backward" else {use: True}
            torch.autograd.grad(y.sum(), x, **options)
        del y, witness
        assert alive() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("evaluate_in", ["backward", "forward"])
def test_nothing_is_spent_where_no_gradient_is_needed(name: str, evaluate_in: str) -> None:
    box = ndgrad.wrap(smooth, estimator=MAKERS[name](), evaluate_in=evaluate_in)
    x = rows()
    with torch.no_grad():
        y = box(x)
    assert not y.requires_grad
    assert box.num_evaluations == B
    with torch.inference_mode():
        box(x)
    assert box.num_evaluations == 2 * B
    y = box(x.detach())
    assert not y.requires_grad
    assert box.num_evaluations == 3 * B
    assert_close(y, smooth(x.detach()))
    y = box(x)
    assert y.requires_grad
    assert box.num_evaluations == 4 * B + (PROBES[name] * B if evaluate_in == "forward" else 0)


@pytest.mark.parametrize("name", MAKERS)
def test_forward_probes_serve_every_backward_pass(name: str) -> None:
    torch.manual_seed(6)
    box = ndgrad.wrap(smooth, estimator=MAKERS[name](), evaluate_in="forward")
    x = rows()
    y = box(x)
    spent = B * (1 + PROBES[name])
    assert box.num_evaluations == spent
    u = torch.randn(B, m, dtype=torch.float64)
    v = torch.randn(B, m, dtype=torch.float64)
    along_u, again = (torch.autograd.grad(y, x, u, retain_graph=True)[0] for _ in range(2))
    (along_v,) = torch.autograd.grad(y, x, v, retain_graph=True)
    (both,) = torch.autograd.grad(y, x, 0.7 * u - 2.5 * v)
    assert box.num_evaluations == spent
    assert_close(along_u, again, rtol=0, atol=0)
    assert_close(both, 0.7 * along_u - 2.5 * along_v)
    assert along_u.abs().max() > 0


def test_backward_probes_are_drawn_again_for_every_backward_pass() -> None:
    torch.manual_seed(6)
    box = ndgrad.wrap(smooth, estimator=MAKERS["loo"]())
    x = rows()
    y = box(x).sum()
    first, other = (torch.autograd.grad(y, x, retain_graph=True)[0] for _ in range(2))
    assert box.num_evaluations == B * (1 + 2 * S)
    assert (first - other).abs().min() > 0


def test_eager_and_lazy_probes_agree() -> None:
    def gradient(evaluate_in: str) -> Tensor:
        torch.manual_seed(6)
        x = rows()
        ndgrad.wrap(smooth, estimator=MAKERS["score"](), evaluate_in=evaluate_in)(x).sum().backward()
        assert x.grad is not None
        return x.grad

    assert_close(gradient("forward"), gradient("backward"))


def test_one_input_of_two_may_be_constant() -> None:
    x, c = rows(), rows(1).detach()
    box = ndgrad.wrap(lambda x, c: x * c, estimator=ndgrad.FiniteDifference(eps=0.5), in_dims=(0, 0))
    box(x, c).sum().backward()
    assert_close(x.grad, c)
    estimator = ndgrad.FiniteDifference(eps=0.5)
    x.grad = None
    estimator(lambda x, c: x * c, x, c).sum().backward()  # without wrap: both are inputs
    assert_close(x.grad, c)


def test_changing_the_input_between_value_and_gradient_is_noticed() -> None:
    x = rows()
    z = x * 2
    y = ndgrad.wrap(smooth, estimator=MAKERS["fd"]())(z)
    with torch.no_grad():
        z.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_activation_checkpointing_gives_the_same_gradient() -> None:
    box = ndgrad.wrap(smooth, estimator="finite_difference")
    x = rows()
    checkpoint(lambda z: box(z.sin()), x, use_reentrant=False).sum().backward()
    found, x.grad = x.grad, None
    smooth(x.sin()).sum().backward()
    assert_close(found, x.grad, rtol=1e-6, atol=1e-8)


def test_torch_func_grad() -> None:
    box = ndgrad.wrap(smooth, estimator="finite_difference")
    x = rows().detach()
    found = torch.func.grad(lambda z: (box(z) ** 2).sum())(x)
    assert_close(found, torch.func.grad(lambda z: (smooth(z) ** 2).sum())(x), rtol=1e-6, atol=1e-8)


def test_training_descends_a_staircase() -> None:
    """Rounded distances have gradient 0 almost everywhere; the smoothed ones lead to the target."""
    torch.manual_seed(1)
    target = torch.tensor([1.0, -2.0, 0.5])
    box = ndgrad.wrap(
        lambda x: torch.round((x - target).abs() / 0.1) * 0.1, estimator=ndgrad.EvolutionStrategy(S, 0.3)
    )
    x = torch.zeros(1, n, requires_grad=True)
    optimizer = torch.optim.Adam([x], lr=0.1)
    for _ in range(60):
        optimizer.zero_grad()
        box(x).sum().backward()
        optimizer.step()
    assert (x.detach() - target).abs().max() < 0.2
    assert box.num_evaluations == 60 * (1 + 2 * S)
    assert math.isfinite(x.sum().item())
