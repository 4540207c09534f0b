"""
When the bypass is wrong, and how to notice
===========================================

A bypass is a network fitted to the black box, and its gradient is the network's. A network may have
learned every *value* to within a percent, and have slopes that point the wrong way. Nothing in the
training loss says so; :func:`ndgrad.diagnose` does.
"""

# %%
# A function with a fine structure
# --------------------------------
# Its values are nearly those of a slow wave; its slope is that of a fast one.

import matplotlib.pyplot as plt
import torch

import ndgrad


def rippled(x):  # (R, 1) -> (R, 1); the ripple is 3 % of the value, and most of the slope
    return torch.sin(x) + 0.03 * torch.sin(60 * x)


torch.manual_seed(0)
x = 4 * torch.rand(64, 1) - 2

# %%
# The bypass explores far too widely for a ripple of wavelength 0.1, and learns the slow wave.

box = ndgrad.wrap(rippled, estimator=ndgrad.DiffBypass(sigma=0.3, num_samples=8, fit_steps=30))
for _ in range(30):
    z = x.clone().requires_grad_()
    box(z).sum().backward()
print(f"error of the network's values: {box.estimator.quality.value_error:.0%}")

exact = torch.cos(x) + 1.8 * torch.cos(60 * x)
error = ((z.grad - exact).norm() / exact.norm()).item()
print(f"error of its gradient against the exact one: {error:.0%}")

# %%
# Whether that is a *mistake* depends on what you want. The slope of the smoothed function is that
# of the slow wave, and to follow it is what smoothing is for. The diagnosis says what it compared
# with, and leaves the choice to you:

print(ndgrad.diagnose(box, x, compare=False))

# %%
# A network that has not learned
# ------------------------------
# Now the plain failure: a wavy staircase in 3 dimensions, few samples, few fit steps, no replay,
# few calls so far. Beside it, a bypass with more of all of them.


def stairs(x):  # (R, 3) -> (R, 1)
    return 0.25 * torch.round(4 * torch.sin(2 * x)).sum(1, keepdim=True)


poor = ndgrad.wrap(stairs, estimator=ndgrad.DiffBypass(sigma=0.2, num_samples=4, fit_steps=5))
better = ndgrad.wrap(stairs, estimator=ndgrad.DiffBypass(sigma=0.2, num_samples=4, fit_steps=30, replay=4))
batches = [torch.randn(32, 3) for _ in range(40)]
for box, calls in ((poor, 5), (better, 40)):
    for batch in batches[:calls]:
        box(batch.clone().requires_grad_()).sum().backward()

reports = {
    name: ndgrad.diagnose(b, batches[-1], repeats=8) for name, b in (("poor", poor), ("better", better))
}
print(reports["poor"])

# %%
# Three lines matter:
#
# - **surrogate's values** is the error of the network on a call's samples before it was fitted to
#   them, relative to how much values vary.
# - **surrogate's gradient** is the same for *differences* of samples around one input, of which the
#   gradient is made. 100 % is as good as a network that is constant. It has a floor that no network
#   gets below: the steps of f itself, which a smooth network does not follow, and should not.
# - **bias** compares the mean gradient with that of the smoothed function. It is what decides.
#
# The advice names the settings. With them:

print(reports["better"])

# %%
# The figure shows the same: the function along the mean gradient, each entry against the reference,
# other estimators at the same number of evaluations.

reports["better"].plot()
plt.show()

# %%
# A cheap habit
# -------------
# ``quality`` is there after every fit, and costs nothing. In a training loop, log both numbers; a
# value error that falls while the gradient error stays near 1 is a bypass that is wrong.

box = ndgrad.wrap(stairs, estimator=ndgrad.DiffBypass(sigma=0.2, num_samples=8, fit_steps=10, replay=4))
values, gradients = [], []
for _ in range(40):
    box(torch.randn(32, 3).requires_grad_()).sum().backward()
    quality = box.estimator.quality
    values.append(quality.value_error)
    gradients.append(quality.gradient_error)
figure, axis = plt.subplots(figsize=(6, 3))
axis.plot(values, label="values")
axis.plot(gradients, label="differences")
axis.set(xlabel="call", ylabel="relative error before the fit", yscale="log")
axis.legend()
figure.tight_layout()

# %%
# Where the bias cannot be borne, :class:`ndgrad.ControlVariate` uses the same network without
# trusting it.
