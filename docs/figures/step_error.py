"""Error of difference quotients against the step, in two precisions."""

import math

import matplotlib.pyplot as plt
import numpy as np
import torch

import ndgrad


def f(x):
    return torch.exp(torch.sin(3 * x))


x0 = 0.7
formulas = (("forward", 1, "#0072b2"), ("central", 2, "#d55e00"), ("central", 4, "#009e73"))
figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), sharey=True)
for axis, dtype in zip(axes, (torch.float64, torch.float32), strict=True):
    at = float(torch.tensor(x0, dtype=dtype))
    truth = 3 * math.cos(3 * at) * math.exp(math.sin(3 * at))

    def error(method, order, h, dtype=dtype, truth=truth):
        x = torch.tensor([[x0]], dtype=dtype, requires_grad=True)
        ndgrad.FiniteDifference(method, eps=h, order=order)(f, x).sum().backward()
        return max(abs(x.grad.item() - truth), 1e-17)

    machine = torch.finfo(dtype).eps
    steps = np.logspace(math.log10(machine) + 2, -0.3, 90)
    for method, order, colour in formulas:
        axis.loglog(
            steps,
            [error(method, order, h) for h in steps],
            color=colour,
            lw=1,
            label=f"{method}, order {order}",
        )
        default = machine ** (1 / (order + 1))
        axis.loglog(default, error(method, order, None), "o", color=colour)
    axis.set(title=str(dtype).removeprefix("torch."), xlabel="step h")
axes[0].set_ylabel("absolute error")
axes[0].legend(fontsize=8)
