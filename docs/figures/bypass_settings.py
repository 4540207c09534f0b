"""Error of the bypass' gradient along a descent, one setting at a time."""

import matplotlib.pyplot as plt
import torch

import ndgrad

WIDTH, STEPS, SEEDS, SHARPNESS = (
    0.5,
    40,
    3,
    0.25,
)  # of a stair; of the descent; of the runs; sigma of the truth


def stairs(x):  # (R, 4) -> (R, 1), a bowl in steps of WIDTH
    return (WIDTH * torch.round(x / WIDTH)).square().sum(1, keepdim=True)


def truth(x, pairs=4000):
    """Gradient of the function smoothed over SHARPNESS."""
    estimator = ndgrad.EvolutionStrategy(pairs, SHARPNESS, generator=torch.Generator().manual_seed(1))
    x = x.detach().requires_grad_()
    return torch.autograd.grad(estimator(stairs, x).sum(), x)[0]


def adam(parameters):
    return torch.optim.Adam(parameters, lr=0.005)


def network(width):
    return torch.nn.Sequential(torch.nn.Linear(4, width), torch.nn.Tanh(), torch.nn.Linear(width, 1))


PATH = [torch.linspace(-1.2, 1.2, 32).reshape(8, 4)]
for _ in range(STEPS - 1):
    PATH.append(PATH[-1] - 0.02 * truth(PATH[-1]))
TRUTH = [truth(x) for x in PATH]


def error(seed, width=64, **settings):
    """Error relative to the norm of the truth, over the second half of the path."""
    torch.manual_seed(seed)
    usual = {"sigma": 0.25, "num_samples": 8, "fit_steps": 20}
    estimator = ndgrad.DiffBypass(network(width), optimizer=adam, **usual | settings)
    squared = norm = 0.0
    for step, (x, g) in enumerate(zip(PATH, TRUTH, strict=True)):
        x = x.clone().requires_grad_()
        (estimate,) = torch.autograd.grad(estimator(stairs, x).sum(), x)
        if step >= STEPS // 2:
            squared += float((estimate - g).square().sum())
            norm += float(g.square().sum())
    return (squared / norm) ** 0.5


panels = {
    "sigma": (0.01, 0.03, 0.1, 0.25, 0.6, 1.5),
    "num_samples": (1, 2, 4, 8, 16, 32),
    "fit_steps": (1, 5, 20, 80),
    "width": (2, 8, 64, 512),
}
usual = {"sigma": 0.25, "num_samples": 8, "fit_steps": 20, "width": 64}
figure, axes = plt.subplots(1, 4, figsize=(11, 2.9), sharey=True)
for axis, (name, values) in zip(axes, panels.items(), strict=True):
    errors = torch.tensor([[error(seed, **{name: value}) for seed in range(SEEDS)] for value in values])
    axis.fill_between(values, errors.min(1)[0], errors.max(1)[0], alpha=0.25, color="#0072b2")
    axis.plot(values, errors.mean(1), "o-", color="#0072b2")
    axis.axhline(1, color="0.6", lw=0.8)
    axis.axvline(usual[name], color="0.6", ls="--", lw=0.8)
    axis.set(xscale="log", xlabel=name, ylim=(0, None))
axes[0].set_ylabel("relative error of the gradient")
