"""Noise of a batch's gradient: weights per row against one scalar for the whole batch."""

import matplotlib.pyplot as plt
import torch

import ndgrad

N, S, SIGMA, RUNS = 8, 32, 0.3, 100
torch.manual_seed(0)
weight = torch.randn(N, 1, dtype=torch.float64)
batches = (1, 2, 4, 8, 16, 32, 64)


def relative_error(B, scalar):
    """Root mean square error of the gradient of sum_b f(x_b), relative to its norm."""
    x = torch.randn(B, N, dtype=torch.float64, requires_grad=True)
    truth = weight.T.expand(B, N)
    total = 0.0
    for _ in range(RUNS):
        estimator = ndgrad.EvolutionStrategy(S, SIGMA, antithetic=False, directions="gaussian", baseline="fx")
        if scalar:  # the whole batch is one row of B n inputs, its loss one output
            loss = estimator(lambda z: (z.unflatten(1, (B, N)) @ weight).sum(1), x.reshape(1, B * N))
        else:
            loss = estimator(lambda z: z @ weight, x)
        (g,) = torch.autograd.grad(loss.sum(), x)
        total += float((g - truth).square().sum() / truth.square().sum())
    return (total / RUNS) ** 0.5


figure, axis = plt.subplots(figsize=(6.5, 3.4))
for scalar, label, colour in ((True, "one scalar", "#d55e00"), (False, "per row", "#0072b2")):
    axis.loglog(batches, [relative_error(B, scalar) for B in batches], "o", color=colour, label=label)
    formula = [(((B if scalar else 1) * N + 1) / S) ** 0.5 for B in batches]
    axis.loglog(batches, formula, color=colour, lw=1, label="√((Bn + 1)/S)" if scalar else "√((n + 1)/S)")
axis.set(xlabel="rows in the batch, B", ylabel="relative error")
axis.legend(fontsize=8)
