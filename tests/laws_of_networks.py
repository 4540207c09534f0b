"""What every estimator with a fitted network is held to, beside the laws of `ndgrad.testing`."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable

import torch
from torch import Tensor

from ndgrad import Estimator
from ndgrad.bypass_estimator import BypassEstimator
from ndgrad.estimator import RowFunction
from ndgrad.testing import estimate


def assert_state_continues(build: Callable[[], Estimator], f: RowFunction, x: Tensor, v: Tensor) -> None:
    """A state dict, loaded into a fresh estimator that was not called yet, goes on as the original does.

    Noise from the global generator is drawn alike for both.
    """
    original, restored, file = build(), build(), io.BytesIO()
    for _ in range(3):
        estimate(original, f, x, v)
    torch.save(original.state_dict(), file)
    file.seek(0)
    restored.load_state_dict(torch.load(file, weights_only=True))
    for _ in range(2):
        grads = []
        for each in (restored, original):
            torch.manual_seed(3)
            grads.append(estimate(each, f, x, v))
        torch.testing.assert_close(*grads, rtol=0, atol=0)


def assert_calls_keep_their_network(estimator: Estimator, f: RowFunction, x: Tensor, v: Tensor) -> None:
    """With two calls before two backward passes, the first one's pullback does not see what the second one fitted."""
    grads = []
    for interleaved in (False, True):
        each = copy.deepcopy(estimator)
        torch.manual_seed(7)
        z = x.clone().requires_grad_()
        first = each(f, z, evaluate_in="forward")
        if not interleaved:
            grads.append(torch.autograd.grad(first, z, v)[0])
        second = each(f, z, evaluate_in="forward")
        if interleaved:
            grads.append(torch.autograd.grad(first, z, v)[0])
        grads.append(torch.autograd.grad(second, z, v)[0])
    torch.testing.assert_close(grads[:2], grads[2:], rtol=0, atol=0)
    assert (grads[0] - grads[1]).abs().max() > 1e-9, "the two calls do not differ, so nothing was tested"


def assert_nothing_to_differentiate_is_zeros(build: Callable[[], BypassEstimator]) -> None:
    """Without a row, or without a coordinate, the gradient has the input's shape and no network is built."""
    for shape in ((4, 0), (0, 3)):
        estimator = build()
        x = torch.zeros(shape, requires_grad=True)
        (grad,) = torch.autograd.grad(estimator(lambda z: z.sum(1), x).sum(), x)
        assert grad.shape == shape
        assert estimator.network is None
