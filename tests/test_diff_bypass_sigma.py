"""DiffBypass with a width for each input."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ndgrad
from ndgrad.replay import Replay, Samples


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
    assert "(sigma): PerInput(" in repr(estimator)


def test_diff_bypass_says_which_widths_it_wants() -> None:
    box = ndgrad.wrap(
        lambda x, p: x.sum(1) + p,
        estimator=ndgrad.DiffBypass(Sum(), sigma=(0.3,)),
        parameters={"p": 0.7},
    )
    with pytest.raises(
        ValueError, match="sigma must have one entry for each differentiated input, but has 1 for 2"
    ):
        box(torch.ones(3, 2, requires_grad=True)).sum().backward()


def test_the_trust_region_is_measured_in_widths() -> None:
    """Replayed inputs 1.4 widths away are near, 1.6 widths are not, in whichever input they differ."""
    widths = (0.3, torch.tensor([0.02, 5.0]))
    estimator = ndgrad.DiffBypass(
        nn.Linear(3, 1), sigma=widths, num_samples=2, fit_steps=1, replay=4, trust_region=1.5 / 3**0.5
    )
    plan = estimator.bypass.plan
    old = (torch.zeros(1, 1), torch.zeros(1, 2))
    replay = Replay(1)
    replay.append(Samples(old, (torch.zeros(1, 1),), old))
    for coordinate, width in enumerate((0.3, 0.02, 5.0)):
        for factor, expected in ((1.4, 1), (-1.6, 0)):
            new = torch.zeros(1, 3)
            new[0, coordinate] = factor * width
            centers = (new[:, :1], new[:, 1:])
            (near,) = replay.near(centers, plan.reach, plan.widths(centers))
            assert near.num_centers == expected
