from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import ndgrad
from ndgrad import EvolutionStrategy, FiniteDifference
from ndgrad.coordinates import as_setting, columns, per_input, positive


def probe(estimator: EvolutionStrategy, *shapes: tuple[int, ...]) -> None:
    inputs = [torch.zeros(4, *shape, requires_grad=True) for shape in shapes]
    estimator(lambda *z: z[0].flatten(1).sum(1), *inputs).sum().backward()


def test_plain_callables_have_one_input() -> None:
    setting = as_setting("sigma", torch.tensor([1, 2, 3]), positive)
    row = columns(setting, torch.sin, torch.zeros(5, 3))
    torch.testing.assert_close(row, torch.tensor([1.0, 2.0, 3.0]))
    assert columns(0.3, torch.sin, torch.zeros(5, 3)) == 0.3


def test_integers_become_floating() -> None:
    setting = as_setting("sigma", torch.tensor([1, 2]), positive)
    assert setting.parts[0].dtype == torch.float64


def test_numbers_per_input_are_repeated_over_its_row() -> None:
    setting = as_setting("sigma", (0.5, torch.tensor([[1.0], [2.0]])), positive)
    f = torch.nn.Module()
    f.row_shapes = (torch.Size([3]), torch.Size([2, 2]))
    expected = torch.tensor([0.5, 0.5, 0.5, 1.0, 1.0, 2.0, 2.0], dtype=torch.float64)
    torch.testing.assert_close(columns(setting, f, torch.zeros(1, 7, dtype=torch.float64)), expected)


def test_misfits_are_refused() -> None:
    with pytest.raises(ValueError, match=r"sigma must have one entry for each .* has 2 for 1 .* \(3,\)"):
        probe(EvolutionStrategy(2, (0.1, 0.2)), (3,))
    with pytest.raises(
        ValueError, match=r"sigma must have one entry for each .* has 1 for 2 .* \(3,\), \(2, 2\)"
    ):
        probe(EvolutionStrategy(2, (0.1,)), (3,), (2, 2))
    with pytest.raises(ValueError, match=r"broadcast to the row \(3,\) .* shape \(4,\)"):
        probe(EvolutionStrategy(2, torch.ones(4)), (3,))
    with pytest.raises(ValueError, match=r"broadcast to the row \(7,\) .* shape \(3,\); with several inputs"):
        probe(EvolutionStrategy(2, torch.ones(3)), (3,), (2, 2))


def test_inputs_must_be_inside_their_bounds() -> None:
    estimator = EvolutionStrategy(2, bounds=(torch.tensor([0.0, 0.5, -1.0]), 2.0))
    with pytest.raises(ValueError, match=r"coordinate 1 of row 0 is 0, outside \[0.5, 2\]; clamp it"):
        probe(estimator, (3,))
    with pytest.raises(ValueError, match=r"coordinate 0 of row 0 is 0, outside \[-inf, -0.5\]; clamp it"):
        probe(EvolutionStrategy(2, bounds=(-math.inf, -0.5)), (3,))
    with pytest.raises(ValueError, match="low < high in every coordinate"):
        probe(EvolutionStrategy(2, bounds=(torch.tensor([0.0, 0.5, 2.0]), 2.0)), (3,))


def test_bounds_are_those_of_the_inputs_dtype() -> None:
    """0.1 is below 0.1 in float32; an input clamped to it is on the bound, not beyond."""
    x = torch.full((2, 3), 0.7).clamp(max=0.1).requires_grad_()
    EvolutionStrategy(3, bounds=(-math.inf, 0.1))(lambda z: z.sum(1), x).sum().backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize(
    "bounds", [(0.1, 0.7), (torch.tensor([0.1, 0.1]), torch.tensor([0.7, 0.7]).double())]
)
@pytest.mark.parametrize(
    "estimator", [lambda b: EvolutionStrategy(3, bounds=b), lambda b: FiniteDifference(bounds=b)]
)
def test_inputs_clamped_to_their_bounds_lie_within(dtype: torch.dtype, bounds: Any, estimator: Any) -> None:
    """In the dtype of the input, also where the function returns a wider one; and so do the probes."""
    x = torch.tensor([[0.0, 1.0], [0.4, 0.1]], dtype=dtype).clamp(0.1, 0.7).requires_grad_()
    low, high = (torch.tensor(bound, dtype=dtype) for bound in (0.1, 0.7))

    def f(z: Tensor) -> Tensor:
        assert z.min() >= low
        assert z.max() <= high
        return z.double().sum(1)

    estimator(bounds)(f, x).sum().backward()
    assert x.grad.isfinite().all()


def test_each_input_has_bounds_in_its_own_dtype() -> None:
    x, p = (
        torch.full((2, 1), 0.7).requires_grad_(),
        torch.full((2, 1), 0.7, dtype=torch.float64).requires_grad_(),
    )
    FiniteDifference(bounds=(0.7, 1.0))(lambda x, p: x * p, x, p).sum().backward()
    torch.testing.assert_close(p.grad, x.detach().double())
    with pytest.raises(ValueError, match=r"coordinate 1 of row 0"):
        FiniteDifference(bounds=(0.7, 1.0))(lambda x, p: x * p, x, p.detach() - 1e-9).sum().backward()


def test_bounds_keep_their_dtype() -> None:
    """100.3 is 100.5 in bfloat16."""
    estimator = EvolutionStrategy(50, 1.0, bounds=(torch.tensor([0.0]), torch.tensor([100.3])))
    box = ndgrad.wrap(lambda z: (probes.append(z), z)[1], estimator=estimator).bfloat16()
    probes: list[Tensor] = []
    box(torch.full((1, 1), 100.0, requires_grad=True)).sum().backward()
    assert max(z.max() for z in probes) == torch.tensor(100.3)
    assert estimator.bounds.to("meta").high.parts[0].is_meta


def test_numbers_of_each_input_broadcast_against_its_rows() -> None:
    x, p = torch.zeros(7, 2, 3, dtype=torch.float64), torch.zeros(7)
    assert per_input(0.3, (x, p)) == (0.3, 0.3)
    first, second = per_input(as_setting("sigma", (torch.tensor([[0.1], [0.2]]), 2), positive), (x, p))
    assert first.shape == (1, 2, 3)
    torch.testing.assert_close(first[0], torch.tensor([[0.1] * 3, [0.2] * 3], dtype=torch.float64))
    torch.testing.assert_close(second, torch.tensor([2.0]))
    (row,) = per_input(as_setting("sigma", torch.tensor([0.1, 0.2, 0.4]), positive), (x,))
    torch.testing.assert_close(row, torch.tensor([[0.1, 0.2, 0.4]] * 2, dtype=torch.float64)[None])
