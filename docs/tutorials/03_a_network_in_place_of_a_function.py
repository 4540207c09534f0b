"""
A network in place of a function
================================

The bypass stands on one idea: a network can imitate a function, and a network has a slope. How well
does the *slope* of an imitation fit, and does the network have to know the whole function? On
``x sin 4x - cos sqrt(15 |x|)``, the example of :doc:`the thesis </index>` (section 2.2.3).
"""

# %%
# The function
# ------------
# It is smooth but for a corner at 0, where its slope jumps from -7.5 to 7.5.

import matplotlib.pyplot as plt
import torch

import ndgrad


def f(x):
    return x * (4 * x).sin() - (15 * x.abs()).sqrt().cos()


def slope(x):
    root = (15 * x.abs()).sqrt()
    return (4 * x).sin() + 4 * x * (4 * x).cos() + 7.5 * x.sign() * root.sin() / root.clamp(min=1e-6)


# %%
# Imitating all of it
# -------------------
# One hidden layer, 200 points, 2000 steps of Adam.


def network(hidden):
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(1, hidden), torch.nn.Tanh(), torch.nn.Linear(hidden, 1))


def fit(net, x, steps=2000, lr=0.02):
    optimizer = torch.optim.Adam(net.parameters(), lr=lr)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        (net(x) - f(x)).square().mean().backward()
        optimizer.step()
        decay.step()
    return net


def relative(estimate, truth):
    return ((estimate - truth).norm() / truth.norm()).item()


x = torch.linspace(-1, 1, 200)[:, None]
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4))
left.plot(x, f(x), color="0.6", lw=4, label="function")
right.plot(x, slope(x), color="0.6", lw=4)
print("hidden units  error of values  error of slopes")
for hidden in (5, 20, 100):
    net = fit(network(hidden), x)
    z = x.clone().requires_grad_()
    values = net(z)
    slopes = torch.autograd.grad(values.sum(), z)[0]
    print(f"{hidden:12}  {relative(values.detach(), f(x)):15.1%}  {relative(slopes, slope(x)):15.1%}")
    left.plot(x, values.detach(), lw=1.2, label=f"{hidden} hidden units")
    right.plot(x, slopes, lw=1.2)
left.set(title="value", xlabel="x")
right.set(title="slope", xlabel="x")
left.legend(fontsize=8)
figure.tight_layout()

# %%
# The slope is always worse than the value: differentiation multiplies what is wrong at a small scale.
# Nothing in the loss of the fit asked for slopes. At the corner no network is right, and there is
# no right answer.

# %%
# Imitating it where we are
# -------------------------
# For one step of training only the slope *here* is wanted. The bypass keeps one network and fits it, at
# every call, to a few points around the input of that call, and to those of some calls before. From 0.5
# we walk down to the corner with 4 new points a step. (It is one input alone, so that all learning has to
# come from these few points; hence more steps of the fit, and larger ones, than the defaults.)

box = ndgrad.wrap(
    f,
    estimator=ndgrad.DiffBypass(
        network(20),
        sigma=0.1,
        num_samples=4,
        fit_steps=40,
        replay=5,
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=0.02),
    ),
)
position = torch.tensor([[0.5]], requires_grad=True)
optimizer = torch.optim.SGD([position], lr=0.01)
walk = []
for _ in range(40):
    optimizer.zero_grad()
    box(position).sum().backward()
    walk.append((position.item(), position.grad.item()))
    optimizer.step()
print(f"from 0.5 to {position.item():z.3f} in 40 steps, {box.num_evaluations} evaluations")

# %%
figure, axis = plt.subplots(figsize=(6, 3.4))
axis.plot(x, slope(x), color="0.6", lw=4, label="slope of the function")
axis.scatter(*zip(*walk, strict=True), c=range(40), s=14, zorder=3, label="slope of the bypass, step by step")
axis.set(xlim=(-0.3, 0.7), xlabel="x")
axis.legend(fontsize=8)
figure.tight_layout()

# %%
# At first the network knows nothing and its slope is wrong; after some steps it follows, although it
# has never seen most of the function. Around the corner its slope passes through 0 instead of jumping:
# that of the function averaged over the width of the draws, which is what lets the walk come
# to rest there.
#
# How wide, how many samples, how many steps of the fit: :doc:`/start/recommendations`. When the imitation
# is wrong, and how to notice: :doc:`/generated/tutorials/08_when_the_bypass_is_wrong`.
