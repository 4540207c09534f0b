"""Widths of exploration: one for all inputs, or one for each."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import ndgrad
from ndgrad.scales import read_scales, scales_of

X, P = torch.zeros(7, 2, 3, dtype=torch.float64), torch.zeros(7)


def test_one_scale_is_that_of_every_input() -> None:
    assert scales_of("sigma", read_scales("sigma", 0.3), (X, P)) == (0.3, 0.3)
    row = torch.tensor([0.1, 0.2, 0.4])
    (scale,) = scales_of("sigma", read_scales("sigma", row), (X,))
    assert_close(scale, row.double())


@pytest.mark.parametrize("container", [tuple, list])
def test_one_scale_for_each_input(container: Any) -> None:
    scales = read_scales("sigma", container([torch.tensor([[0.1], [0.2]]), 2]))
    first, second = scales_of("sigma", scales, (X, P))
    assert_close(first, torch.tensor([[0.1], [0.2]]).double())
    assert second == 2.0


def test_scales_are_copied() -> None:
    given = torch.tensor([0.1, 0.2, 0.3])
    kept = read_scales("sigma", given)
    given.zero_()
    assert_close(kept, torch.tensor([0.1, 0.2, 0.3]))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (0.0, r"sigma must be a positive finite number, got 0.0"),
        ((0.1, -1.0), r"sigma\[1\] must be a positive finite number, got -1.0"),
        ((0.1, "a"), r"sigma\[1\] must be"),
        (torch.tensor([0.1, 0.0]), r"sigma must hold positive finite numbers only"),
        (torch.tensor([0.1, float("inf")]), r"positive finite"),
        ((0.1, torch.tensor([1, 2])), r"sigma\[1\] must hold positive finite numbers only"),
    ],
)
def test_what_is_refused(value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_scales("sigma", value)


def test_a_tensor_alone_is_for_a_single_input() -> None:
    with pytest.raises(ValueError, match="sigma holds 1 scales, but 2 inputs"):
        scales_of("sigma", read_scales("sigma", torch.tensor(0.3)), (X, P))


@pytest.mark.parametrize("scales", [(0.1,), (0.1, 0.2, 0.3), ()])
def test_another_number_than_of_inputs_is_refused(scales: tuple[float, ...]) -> None:
    with pytest.raises(
        ValueError, match=rf"holds {len(scales)} scales, but 2 inputs.*\(7, 2, 3\), \(7,\).*param"
    ):
        scales_of("sigma", scales, (X, P))


@pytest.mark.parametrize("shape", [(2,), (7, 2, 3), (1, 1, 2, 3)])
def test_a_tensor_must_suit_one_row(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"one row of its input, which has the shape \(2, 3\)"):
        scales_of("sigma", torch.ones(shape), (X,))


class Sum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor, p: Tensor) -> Tensor:
        return self.weight * (x.sum(1) + p)


@pytest.mark.parametrize("widths", [(0.3, 0.02), (torch.tensor([0.3, 0.1]), torch.tensor(2.0))])
def test_diff_bypass_explores_each_input_by_its_own_width(widths: tuple[Any, Any]) -> None:
    """Arguments first, then parameters: mean and standard deviation of S B draws for each coordinate."""
    seen: list[tuple[Tensor, Tensor]] = []

    def fn(x: Tensor, p: Tensor) -> Tensor:
        seen.append((x, p))
        return x.sum(1) + p

    torch.manual_seed(0)
    S, B = 40, 50
    estimator = ndgrad.DiffBypass(Sum(), sigma=widths, num_samples=S, fit_steps=1)
    box = ndgrad.wrap(fn, estimator=estimator, parameters={"p": 0.7})
    x = torch.linspace(-1, 1, 2 * B).reshape(B, 2).requires_grad_()
    box(x).sum().backward()
    (_, (points, values)) = seen
    steps = torch.cat([(points - x.repeat(S, 1)).detach(), values[:, None] - 0.7], dim=1)  # (S B, 3)
    sigma = torch.cat([torch.as_tensor(widths[0]).expand(2), torch.as_tensor(widths[1]).expand(1)])
    assert (steps.mean(0).abs() < 5 * sigma / (S * B) ** 0.5).all()
    assert ((steps.std(0) - sigma).abs() < 5 * sigma / (2 * S * B) ** 0.5).all()
    assert "sigma=(" in repr(estimator)


def test_diff_bypass_says_which_widths_it_wants() -> None:
    box = ndgrad.wrap(
        lambda x, p: x.sum(1) + p,
        estimator=ndgrad.DiffBypass(Sum(), sigma=(0.3,)),
        parameters={"p": 0.7},
    )
    with pytest.raises(ValueError, match="sigma holds 1 scales, but 2 inputs"):
        box(torch.ones(3, 2, requires_grad=True)).sum().backward()
