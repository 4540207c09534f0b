from __future__ import annotations

import itertools

import pytest
import torch

from ndgrad.stencils import Stencil, extrapolation_weights
from ndgrad.step_ladder import StepTable, ladder


def test_textbook_formulas() -> None:
    """(f1 - f-1) 4/3 / 2h - (f2 - f-2) / 3 / 4h, and (-3 f0 + 4 f1 - f2) / 2h."""
    assert extrapolation_weights([1]) == [1.0]
    assert extrapolation_weights([1, 4]) == pytest.approx([4 / 3, -1 / 3])
    assert extrapolation_weights([1, 4, 9]) == pytest.approx([3 / 2, -3 / 5, 1 / 10])
    assert extrapolation_weights([1, 2]) == [2.0, -1.0]


@pytest.mark.parametrize(
    ("order", "central"), [(2, True), (4, True), (8, True), (1, False), (2, False), (5, False)]
)
def test_exact_on_polynomials_of_their_order(order: int, central: bool) -> None:
    """Degree p is exact, degree p + 1 is not: the order is what it is called."""
    x = torch.tensor([[0.7, -1.3]], dtype=torch.float64)
    h = torch.tensor([[0.2, 0.35]], dtype=torch.float64)
    stencil = Stencil(order, central)
    points = stencil.points(x, h)
    assert len(points) == order
    for degree in range(order + 2):
        values = [(z**degree).T.unsqueeze(-1) for z in points]  # (n, B, 1)
        y = x.T.unsqueeze(-1) ** degree
        columns = [
            stencil.derivative(slice(k, k + 1), x, y[k], points, [value[k : k + 1] for value in values])
            for k in range(2)
        ]
        error = torch.cat(columns)[..., 0].T - degree * x ** (degree - 1)
        assert (error.abs().max() < 1e-10) == (degree <= order)


def test_ladder_is_geometric_and_grows_with_the_input() -> None:
    steps = ladder(torch.tensor([[0.5, -40.0]]))
    assert len(steps) == 6
    for wide, narrow in itertools.pairwise(steps):
        torch.testing.assert_close(wide, 4 * narrow)
    torch.testing.assert_close(steps[0][0, 1], 40 * steps[0][0, 0])


def test_table_removes_one_power_for_each_column() -> None:
    """Levels g + a h^2 + b h^4 + c h^6 are extrapolated to g, those with powers 1, 2, 3 by the other stride."""
    x = torch.zeros(1, 1, dtype=torch.float64)
    steps = [torch.full_like(x, 0.8 * 4.0**-k) for k in range(5)]
    for order, central in ((2, True), (1, False)):
        powers = [2, 4, 6] if central else [1, 2, 3]
        levels = [1.7 + sum(c * h**p for c, p in zip((0.9, -2.0, 3.0), powers, strict=True)) for h in steps]
        table = StepTable(steps, Stencil(order, central), x, x)
        best = table.extrapolate(slice(None), [level.unsqueeze(-1) for level in levels])
        torch.testing.assert_close(best, torch.full((1, 1, 1), 1.7, dtype=torch.float64), rtol=1e-12, atol=0)
        assert table.quality().step.item() == steps[-1].item()
        assert table.quality().error.item() < 1e-10


def test_table_knows_the_side_of_each_input() -> None:
    """At the same order 2, pairs have powers 2, 4, 6 and one-sided quotients 2, 3, 4: both are extrapolated to g."""
    x = torch.zeros(1, 2, dtype=torch.float64)
    steps = [torch.full_like(x, 0.8 * 4.0**-k) for k in range(5)]
    powers = torch.tensor([[[2, 4, 6]], [[2, 3, 4]]])  # (n, B, powers)
    series = torch.tensor([0.9, -2.0, 3.0], dtype=torch.float64)
    levels = [1.7 + (series * h[0, 0] ** powers).sum(-1, keepdim=True) for h in steps]  # (n, B, 1)
    table = StepTable(steps, Stencil(2, True, side=torch.tensor([[0.0, 1.0]])), x, x[:, :1])
    best = table.extrapolate(slice(None), levels)
    torch.testing.assert_close(best, torch.full((2, 1, 1), 1.7, dtype=torch.float64), rtol=1e-12, atol=0)


def test_of_equal_derivatives_the_widest_steps_win() -> None:
    """Where all levels agree, rounding of the values, 8, and of the inputs, 3 times the derivatives 5, decides."""
    x = torch.full((2, 3), -3.0, dtype=torch.float64)
    steps = ladder(x)
    y = torch.full((2, 1), 8.0, dtype=torch.float64)
    table = StepTable(steps, Stencil(2, True), x, y)
    table.extrapolate(slice(0, 3), [torch.full((3, 2, 1), 5.0, dtype=torch.float64)] * 6)
    torch.testing.assert_close(table.quality().step, steps[1])
    expected = torch.finfo(torch.float64).eps * (8.0 + 15.0) / steps[1]
    torch.testing.assert_close(table.quality().error, expected, rtol=1e-9, atol=0)
