"""
What each estimator sees on a step function
===========================================

One function with steps, one with noise, and the general estimators at the same inputs. What they
return differs because they estimate *different things*; noise comes on top.
"""

# %%
# The function is a hill of stairs: its value has steps of width 0.5, and no slope anywhere.

import matplotlib.pyplot as plt
import torch

import ndgrad

SIGMA = 0.3


def hill(x):  # (R, 1) -> (R, 1)
    return torch.exp(-((0.5 * torch.round(2 * x)) ** 2))


x = torch.linspace(-2.5, 2.5, 300, dtype=torch.float64)[:, None]

# %%
# What is there to see? Smoothed over a width sigma, the hill has a slope, which we compute by
# adding up what each step contributes: a step of height a at c has the slope ``a phi((x - c) /
# sigma) / sigma``.

edges = torch.arange(-6, 6, dtype=torch.float64) / 2 + 0.25
heights = hill(edges[:, None] + 0.1)[:, 0] - hill(edges[:, None] - 0.1)[:, 0]
phi = torch.exp(-(((x - edges) / SIGMA) ** 2) / 2) / (2 * torch.pi) ** 0.5  # (300, 12)
smoothed_slope = (phi * heights / SIGMA).sum(1)

# %%
# Each estimator gets the same 300 inputs as one batch. Rows do not influence each other, so that
# each point of a curve is one estimate of its own. (Those of the two that learn share their network.
# They are called 25 times, and the last call is drawn.)

estimators = {
    "finite_difference": ndgrad.FiniteDifference(),
    "finite_difference, eps=0.3": ndgrad.FiniteDifference(eps=SIGMA),
    "evolution_strategy, 8 pairs": ndgrad.EvolutionStrategy(8, SIGMA, directions="gaussian"),
    "score_function, 16": ndgrad.ScoreFunction(num_samples=16, sigma=SIGMA),
    "straight_through, own slope": ndgrad.StraightThrough(lambda x: torch.exp(-(x**2))),
    "diff_bypass, 4 samples": ndgrad.DiffBypass(sigma=SIGMA, num_samples=4),
    "control_variate, 2 pairs": ndgrad.ControlVariate(sigma=SIGMA, num_samples=2),
}
calls = {"diff_bypass, 4 samples": 25, "control_variate, 2 pairs": 25}


def gradient(estimator, calls=1):
    box = ndgrad.wrap(hill, estimator=estimator)
    for _ in range(calls):
        z = x.clone().requires_grad_()
        box(z).sum().backward()
    return z.grad[:, 0], box.num_evaluations / len(x) / calls


figure, axes = plt.subplots(4, 2, figsize=(9, 10), sharex=True, sharey=True)
axes[0, 0].plot(x, hill(x), color="0.4", label="value")
axes[0, 0].plot(x, smoothed_slope, color="#d55e00", label="slope of the smoothed value")
axes[0, 0].legend(fontsize=8)
print(f"{'estimator':30} error  evaluations per row")
for axis, (name, estimator) in zip(axes.flat[1:], estimators.items(), strict=True):
    slope, evaluations = gradient(estimator, calls.get(name, 1))
    axis.plot(x, smoothed_slope, color="#d55e00", lw=1)
    axis.plot(x, slope, ".", ms=2.5, color="#0072b2")
    axis.set_title(name, fontsize=9)
    axis.set_ylim(-2, 2)
    error = ((slope - smoothed_slope).norm() / smoothed_slope.norm()).item()
    print(f"{name:30} {error:5.2f}  {evaluations:.0f}")
figure.tight_layout()

# %%
# Read from the top left:
#
# - **Finite differences** with their default step return 0 everywhere but where a step happens to
#   lie between the two probes: nothing to train with. With a step as wide as the structure they see
#   the mean slope over 0.6, a box instead of a Gaussian.
# - **Evolution strategy** scatters about the slope of the smoothed function: no bias, noise that
#   falls with the number of pairs.
# - The **score function** with its default Gaussian is the same estimator without pairs, and a
#   leave-one-out baseline instead. At equal evaluations, 2 S draws against S pairs, it has about half
#   the variance of Gaussian pairs where f is nearly linear, (n + 1)/(2S - 1) against (n + 1)/S. Pairs
#   are better where much of f is even about x, since they cancel it. In more dimensions orthogonal
#   directions take noise off both; n orthogonal pairs are exact on a linear function.
# - **Straight-through** returns the slope that it was given, without any evaluation. Here that was
#   a good guess; it knows nothing of the function.
# - The **bypass** is smooth, since it is the slope of a network; where it lies beside the curve is
#   its bias. It has learned from all 300 rows and 25 calls.
# - The **control variate** uses such a network too, but only to take noise off an unbiased
#   estimate.
#
# Derivations of these, and of the estimators that are not drawn here:
# :doc:`/concepts/bias_and_variance`.

# %%
# Noise of the function
# ---------------------
# Now the function is smooth, but each value has noise of 0.05. Differences divide it by their step.


def noisy(x):
    return torch.exp(-(x**2)) + 0.05 * torch.randn_like(x)


truth = (-2 * x * torch.exp(-(x**2)))[:, 0]
figure, axes = plt.subplots(1, 3, figsize=(10, 3), sharey=True)
for axis, (name, estimator) in zip(
    axes,
    {
        "finite_difference, eps=0.02": ndgrad.FiniteDifference(eps=0.02),
        "finite_difference, eps=0.3": ndgrad.FiniteDifference(eps=0.3),
        "evolution_strategy, 8 pairs": ndgrad.EvolutionStrategy(8, SIGMA),
    }.items(),
    strict=True,
):
    z = x.clone().requires_grad_()
    ndgrad.wrap(noisy, estimator=estimator)(z).sum().backward()
    axis.plot(x, z.grad, ".", ms=2.5, color="#0072b2")
    axis.plot(x, truth, color="#d55e00", lw=1)
    axis.set_title(name, fontsize=9)
    axis.set_ylim(-4, 4)
figure.tight_layout()
