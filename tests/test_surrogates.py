"""Default networks for a map with numbers beside it."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

import ndgrad
from ndgrad.surrogates import MapSurrogate, Shapes, VectorSurrogate, build_surrogate, calibrate


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize(
    ("inputs", "kind"),
    [
        ([(9, 10)], MapSurrogate),
        ([(9, 10), ()], MapSurrogate),
        ([(), (3, 9, 10), (4,)], MapSurrogate),
        ([(9, 10), (16,)], MapSurrogate),
        ([(9, 10), (16,), ()], VectorSurrogate),
        ([(9, 10), (9, 10)], VectorSurrogate),
        ([(9, 10), (2, 3)], VectorSurrogate),
        ([(9, 7)], VectorSurrogate),
        ([(), (3,)], VectorSurrogate),
    ],
)
def test_which_network_is_built(inputs: Shapes, kind: type) -> None:
    network = build_surrogate(inputs, [(9, 10)])
    assert type(network) is kind
    assert network(*(torch.randn(5, *shape) for shape in inputs)).shape == (5, 9, 10)


def test_numbers_are_constant_channels() -> None:
    """The first layer sees channel c of row r filled with its scaled number, and the maps as they are."""
    network = MapSurrogate([(), (2, 8, 9), (3,)], [(8, 9)])
    seen: list[torch.Tensor] = []
    network.down[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    a, x, b = torch.randn(5), torch.randn(5, 2, 8, 9), torch.randn(5, 3)
    network.input_center += 0.5
    network.input_scale *= 4.0
    network(a, x, b)
    expected = torch.cat(
        [a.view(5, 1, 1, 1).expand(5, 1, 8, 9), x, b.view(5, 3, 1, 1).expand(5, 3, 8, 9)], dim=1
    )
    assert_close(seen[0], (expected - 0.5) / 4.0)


def test_the_scale_of_one_input_does_not_depend_on_the_units_of_another() -> None:
    """A coordinate that does not vary takes the typical spread of its own tensor."""
    x = 500 * torch.randn(40, 8, 8)
    x[:, 0, 0] = 3.0
    p = 0.7 + 0.01 * torch.randn(40)
    network = build_surrogate([(8, 8), ()], [(2,), ()])
    calibrate(network, (x, p), (torch.randn(40, 2), torch.full((40,), 2.0)))
    scale, center = network.input_scale, network.input_center
    assert_close(scale[-1], p.std(correction=0))
    assert_close(center[-1], p.mean())
    assert_close(scale[1:-1], x.flatten(1).std(0, correction=0)[1:])
    typical = x.flatten(1).std(0, correction=0).square().mean().sqrt()
    assert_close(scale[0], 1e-3 * typical)
    assert network.output_scale[-1] == 1.0


@pytest.mark.parametrize("size", [(10, 9), (5,)])
def test_freezing_a_parameter_under_a_default_network_is_refused(size: tuple[int, ...]) -> None:
    box = ndgrad.wrap(
        lambda x, p: x.flatten(1).sum(1) * p,
        estimator=ndgrad.DiffBypass(num_samples=2, fit_steps=1),
        parameters={"p": 0.7},
    )
    x = torch.randn(3, *size, requires_grad=True)
    box(x).sum().backward()
    assert box.p.grad.isfinite()
    box.p.requires_grad_(False)
    with pytest.raises(
        ValueError, match=r"built for inputs of the row shapes .*\(\)\], but is given.*freezing"
    ):
        box(x).sum().backward()


def test_a_default_network_learns_the_slope_along_map_and_number() -> None:
    weight = torch.linspace(-1, 1, 64).view(8, 8)
    estimator = ndgrad.DiffBypass(sigma=(0.3, 0.05), num_samples=40, fit_steps=150)
    box = ndgrad.wrap(
        lambda x, p: (x * weight).sum((1, 2)) - 30 * p, estimator=estimator, parameters={"p": 0.7}
    )
    x = torch.zeros(4, 8, 8, requires_grad=True)
    box(x).sum().backward()
    assert box.p.grad == pytest.approx(-30 * 4, rel=0.3)
    assert (x.grad - weight).norm() < 0.5 * 4**0.5 * weight.norm()


def test_a_fitted_default_network_is_restored() -> None:
    def build() -> ndgrad.BlackBox:
        return ndgrad.wrap(
            lambda x, p: x.flatten(1).sum(1) * p,
            estimator=ndgrad.DiffBypass(num_samples=2, fit_steps=1),
            parameters={"p": 0.7},
        )

    box, other = build(), build()
    x = torch.randn(3, 8, 9, requires_grad=True)
    box(x).sum().backward()
    other.load_state_dict(box.state_dict())
    grads = [torch.autograd.grad(b.eval()(x).sum(), (x, b.p)) for b in (box, other)]
    assert_close(*grads)


@pytest.mark.parametrize("size", [(8, 9), (5,)])
def test_an_empty_batch_after_a_fit(size: tuple[int, ...]) -> None:
    estimator = ndgrad.DiffBypass(num_samples=2, fit_steps=1, forward="bypass")
    box = ndgrad.wrap(lambda x, p: x.flatten(1).sum(1) * p, estimator=estimator, parameters={"p": 0.7})
    box(torch.randn(3, *size, requires_grad=True))
    empty = torch.zeros(0, *size, requires_grad=True)
    box(empty).sum().backward()
    assert empty.grad.shape == empty.shape
    assert box.p.grad == 0
