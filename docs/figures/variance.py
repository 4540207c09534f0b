"""Relative variance of the estimators on a linear function, beside the closed forms."""

import matplotlib.pyplot as plt
import torch

import ndgrad

N, ROWS = 16, 4000
torch.manual_seed(0)
g = torch.randn(N, 1, dtype=torch.float64)


def measured(S, **settings):
    x = torch.zeros(ROWS, N, dtype=torch.float64, requires_grad=True)  # each row is an estimate of its own
    ndgrad.EvolutionStrategy(S, 0.3, **settings)(lambda z: z @ g, x).sum().backward()
    return float((x.grad - g.T).square().sum(1).mean() / g.square().sum())


def orthogonal(S):
    r = S % N
    return (N / S) ** 2 * (r / N) * (1 - r / N) if S >= N else N / S - 1


cases = (
    (
        "Gaussian, leave-one-out",
        {"directions": "gaussian", "antithetic": False},
        lambda S: (N + 1) / (S - 1),
        "#cc79a7",
    ),
    ("Gaussian pairs", {"directions": "gaussian"}, lambda S: (N + 1) / S, "#d55e00"),
    ("sign pairs (SPSA)", {"directions": "rademacher"}, lambda S: (N - 1) / S, "#009e73"),
    ("orthogonal pairs", {"directions": "orthogonal"}, orthogonal, "#0072b2"),
)
figure, axis = plt.subplots(figsize=(6.5, 3.6))
for label, settings, formula, colour in cases:
    axis.plot(range(2, 49), [formula(S) for S in range(2, 49)], color=colour, lw=1)
    samples = (2, 3, 4, 6, 8, 11, 16, 20, 24, 32, 40, 48)
    axis.plot(samples, [measured(S, **settings) for S in samples], "o", ms=4, color=colour, label=label)
axis.set(xlabel="directions, S", ylabel="relative variance", ylim=(0, 40), xticks=range(0, 49, 8))
axis.set_yscale("symlog", linthresh=0.1)
axis.legend(fontsize=8)
