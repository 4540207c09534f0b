"""State: every estimator's state dict, copy and pickle goes on as the original does, private noise included."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import ndgrad

B, n, S = 4, 7, 5  # fewer samples than inputs, so that no fit is exact

Maker = Callable[[torch.Generator | None], ndgrad.Estimator]


def bypass(g: torch.Generator | None) -> ndgrad.DiffBypass:
    return ndgrad.DiffBypass(sigma=0.3, num_samples=S, fit_steps=2, replay=2, generator=g)


def evolution(g: torch.Generator | None) -> ndgrad.EvolutionStrategy:
    return ndgrad.EvolutionStrategy(S, 0.3, generator=g)


MAKERS: dict[str, Maker] = {
    "adaptive": lambda g: ndgrad.EvolutionStrategy(S, ndgrad.AdaptiveSigma(0.2), generator=g),
    "averaged": lambda g: ndgrad.Averaged(evolution(g), repeats=2),
    "bypass": bypass,
    "control": lambda g: ndgrad.ControlVariate(sigma=0.3, num_samples=S, generator=g),
    "es": evolution,
    "guided": lambda g: ndgrad.GuidedEvolutionStrategy(sigma=0.3, num_samples=S, generator=g),
    "implicit": lambda g: ndgrad.ImplicitMLE("min", lambd="adaptive", num_samples=S, generator=g),
    "least-squares": lambda g: ndgrad.LeastSquares(S, 0.3, generator=g),
    "mixture": lambda g: ndgrad.Mixture(evolution(g), bypass(g), generator=g),
    "perturbed": lambda g: ndgrad.PerturbedOptimizer(S, 0.3, generator=g),
    "score": lambda g: ndgrad.ScoreFunction(num_samples=S, sigma=0.3, generator=g),
}


def square(x: Tensor) -> Tensor:
    return x**2


def build(name: str, seed: int | None = 0) -> nn.Sequential:
    """A network with a wrapped function in it; ``seed`` of the private generator, None for none."""
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(n, n), ndgrad.wrap(square, estimator=MAKERS[name](generator)))


def step(net: nn.Module) -> Tensor:
    x = torch.linspace(-1, 1, B * n).reshape(B, n).requires_grad_()
    (net(x) * torch.arange(1.0, n + 1)).sum().backward()
    assert x.grad is not None
    return x.grad


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("name", MAKERS)
def test_a_state_dict_holds_the_private_generator(name: str) -> None:
    original, restored = build(name), build(name, seed=99)
    for _ in range(2):
        step(original)
    restored.load_state_dict(through_a_file(original.state_dict()))
    torch.manual_seed(123)
    expected = [step(original) for _ in range(3)]
    torch.manual_seed(456)  # nothing comes from the global generator
    found = [step(restored) for _ in range(3)]
    assert_close(found, expected, rtol=0, atol=0)
    assert (expected[0] - expected[1]).abs().max() > 1e-6


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("clone", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_copies_go_on_with_the_private_noise(name: str, clone: Callable[[Any], Any]) -> None:
    original = build(name)
    step(original)
    other = clone(original)
    assert_close([step(other) for _ in range(2)], [step(original) for _ in range(2)], rtol=0, atol=0)


@pytest.mark.parametrize("name", MAKERS)
def test_a_loaded_state_is_not_shared_with_what_is_trained_on(name: str) -> None:
    """Nor is a copy of the state changed by the training that goes on."""
    original = build(name)
    step(original)
    saved = copy.deepcopy(original.state_dict())
    expected = through_a_file(saved)
    net = build(name)
    net.load_state_dict(saved)
    for _ in range(2):
        step(net)
    assert_close(through_a_file(saved), expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", MAKERS)
def test_without_a_private_generator_the_state_has_none(name: str) -> None:
    state = build(name, seed=None).state_dict()
    assert not any(key.endswith("generator") for key in state)
    net, twin = build(name, seed=5), build(name, seed=5)
    net.load_state_dict(state)  # leaves the generator as it is
    gradients = []
    for each in (net, twin):
        torch.manual_seed(2)  # from which a default network is built
        gradients.append(step(each))
    assert_close(*gradients, rtol=0, atol=0)


def test_a_generator_that_the_module_lacks_is_an_unexpected_key() -> None:
    state = build("es").state_dict()
    assert "1.estimator.generator" in state
    with pytest.raises(RuntimeError, match=r"Unexpected key.*1.estimator.generator"):
        build("es", seed=None).load_state_dict(state)
    build("es", seed=None).load_state_dict(state, strict=False)


def test_an_estimator_by_itself_is_a_module_with_state() -> None:
    one, other = (evolution(torch.Generator().manual_seed(seed)) for seed in (0, 1))
    other.load_state_dict(through_a_file(one.state_dict()))
    assert torch.equal(one.generator.get_state(), other.generator.get_state())
    loss, again = (
        ndgrad.FenchelYoungLoss(square, "max", generator=torch.Generator().manual_seed(seed))
        for seed in (0, 1)
    )
    again.load_state_dict(through_a_file(loss.state_dict()))
    theta, target = torch.ones(B, n), torch.zeros(B, n)
    assert_close(again(theta, target), loss(theta, target), rtol=0, atol=0)


def test_loading_does_not_take_the_state_dict_apart() -> None:
    state = evolution(torch.Generator()).state_dict()
    keys = list(state)
    evolution(torch.Generator()).load_state_dict(state)
    assert list(state) == keys == ["generator"]


@pytest.mark.parametrize("name", MAKERS)
def test_conversion_of_a_used_module(name: str) -> None:
    """After ``.double()`` the state follows: networks, optimisers, replay, widths."""
    net = build(name)
    step(net)
    net.double()
    x = torch.linspace(-1, 1, B * n, dtype=torch.float64).reshape(B, n).requires_grad_()
    net(x).sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.float64
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("name", MAKERS)
def test_only_what_the_function_owns_is_trainable(name: str) -> None:
    net = build(name)
    step(net)
    assert [key for key, _ in net.named_parameters()] == ["0.weight", "0.bias"]
    assert list(net.buffers()) == []
    net.requires_grad_(False)
    before = net[1].num_evaluations
    assert not net(torch.ones(B, n)).requires_grad
    per_value = S if name in ("implicit", "perturbed") else 1
    assert net[1].num_evaluations == before + B * per_value


def test_the_device_of_a_generator_is_checked_where_it_is_used() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a second device")
    box = ndgrad.wrap(square, estimator=evolution(torch.Generator()))
    x = torch.ones(B, n, device="cuda", requires_grad=True)
    with pytest.raises(RuntimeError, match="generator"):
        box(x).sum().backward()
