"""Every task is what it says: rowwise, deterministic under a seed, with the loss's gradient as cotangent."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.tasks import TASKS
from benchmarks.tasks.shortest_path import path_cells, path_cells_by_enumeration, simple_paths
from benchmarks.tasks.tandem_queue import _ARRIVALS, _LIMIT, _UNIT_SERVICE, late_shares_and_price


@pytest.fixture(params=TASKS)
def task(request):
    return TASKS[request.param]()


def test_name_and_shapes(task):
    assert TASKS[task.name]().name == task.name
    assert task.values(task.start).shape == task.cotangent.shape
    assert task.loss(task.values(task.start)).shape == (task.batch,)
    assert task.cotangent.norm() > 0


def test_rows_are_independent(task):
    torch.manual_seed(1)
    together = task.values(task.start)
    alone = torch.cat([task.values(row[None]) for row in task.start])
    if task.name.startswith("noisy"):
        assert together.shape == alone.shape
    else:
        torch.testing.assert_close(together, alone)


def test_the_same_under_a_seed(task):
    torch.manual_seed(2)
    first = task.values(task.start)
    torch.manual_seed(2)
    torch.testing.assert_close(TASKS[task.name]().values(task.start), first, rtol=0, atol=0)


def test_cotangent_is_the_gradient_of_the_loss(task):
    y = task.values(task.start).double()
    direction = torch.randn(y.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    h = 1e-5
    slope = (task.loss(y + h * direction) - task.loss(y - h * direction)).sum() / (2 * h)
    torch.testing.assert_close((task.cotangent_at(y) * direction).sum(), slope, rtol=1e-6, atol=1e-6)


def test_surrogate_fits_the_shapes(task):
    """The surrogate returns the outputs, or logits of their classes along the second dimension."""
    output, expected = task.make_surrogate()(task.start), task.cotangent
    classes = output.ndim == expected.ndim + 1
    assert (output[:, 0] if classes else output).shape == expected.shape


def test_fast_function_agrees(task):
    if task.fast_function is None:
        pytest.skip("this task has one algorithm only")
    x = task.start + 0.5 * torch.randn(task.start.shape, generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(task.values(x), task.fast_values(x))


def test_cheapest_path_of_a_wall_with_one_door():
    costs = np.zeros((1, 16))
    costs[0, 4:7] = 3.0  # cells 4, 5, 6 of the second row of four are expensive, 7 is the door
    expected = np.zeros((1, 16))
    expected[0, [0, 1, 2, 3, 7, 11, 15]] = 1
    np.testing.assert_array_equal(path_cells(costs), expected)
    np.testing.assert_array_equal(path_cells_by_enumeration(costs), expected)


def test_number_of_simple_paths_across_the_grid():
    assert len(simple_paths()) == 184  # OEIS A007764


def test_queue_against_the_waiting_time_recursion():
    log_speed = np.array([[0.1, 0.3, -0.1, 0.2, 0.4], [0.5, 0.0, 0.2, -0.2, 0.1]])
    y = late_shares_and_price(log_speed)
    for row, speed in enumerate(np.exp(log_speed)):
        arrivals = _ARRIVALS
        for j, rate in enumerate(speed):
            service = _UNIT_SERVICE[:, j] / rate
            waits = [0.0]
            for k in range(1, len(arrivals)):  # Lindley: W_k = max(0, W_{k-1} + S_{k-1} - (A_k - A_{k-1}))
                waits.append(max(0.0, waits[-1] + service[k - 1] - (arrivals[k] - arrivals[k - 1])))
            assert y[row, j] == pytest.approx(np.mean(np.array(waits) > _LIMIT))
            arrivals = arrivals + np.array(waits) + service
        assert y[row, -1] == pytest.approx(speed.mean())
