"""
Discrete inputs: which sensors to buy
=====================================

A sensor is bought or not; half a sensor makes no sense, and there is nothing to nudge. What can be
moved smoothly is the *probability* of buying it. The score function is the gradient of a mean over
such draws.
"""

# %%
# The black box
# -------------
# Ten sensors, some of which measure nearly the same. The box receives rows of zeros and ones, fits a
# linear predictor to those that were bought, and returns its error and the price: least squares in
# NumPy, with one fit for each row.

import itertools

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch.distributions import Bernoulli

import ndgrad

COUNT, PRICE = 10, 0.04
rng = np.random.default_rng(0)
causes = rng.standard_normal((200, 4))
readings = causes @ rng.standard_normal((4, COUNT)) + 0.3 * rng.standard_normal((200, COUNT))
wanted = causes @ np.array([1.0, -0.7, 0.5, 0.3])
wanted /= wanted.std()


def cost(bought):  # (R, 10) zeros and ones -> (R,)
    result = np.empty(len(bought))
    for row, chosen in enumerate(bought.astype(bool)):
        columns = readings[:, chosen]
        weights = np.linalg.lstsq(columns, wanted, rcond=None)[0]
        result[row] = np.mean((columns @ weights - wanted) ** 2) + PRICE * chosen.sum()
    return result


# %%
# The module
# ----------
# Its input is not a purchase but ten logits. The distribution tells how to draw purchases from them;
# the value is the mean cost of S draws, and the gradient uses the same draws.


def purchases(logits):  # (B, 10) -> a distribution of batch shape (B, 10)
    return Bernoulli(logits=logits)


def make(num_samples, baseline="loo"):
    estimator = ndgrad.ScoreFunction(purchases, num_samples=num_samples, baseline=baseline)
    return ndgrad.wrap(cost, estimator=estimator)


# %%
# Is it right?
# ------------
# Ten coins have 1024 outcomes, few enough to add up the mean cost exactly and to let autograd
# differentiate the sum. No estimate is involved.

every = torch.tensor(list(itertools.product([0.0, 1.0], repeat=COUNT)), dtype=torch.float64)
every_cost = torch.from_numpy(cost(every.numpy()))


def exact_mean(logits):  # (10,) -> the mean over all outcomes
    return (purchases(logits).log_prob(every).sum(1).exp() * every_cost).sum()


torch.manual_seed(0)
logits = torch.randn(COUNT, dtype=torch.float64, requires_grad=True)
exact = torch.autograd.grad(exact_mean(logits), logits)[0]

# %%
# The estimate has no bias, whichever baseline is subtracted, but the baseline decides about the noise.
# Its standard deviation over 300 rows, each an estimate of its own, relative to the length of the exact
# gradient:

for baseline in (None, "fx", "loo"):
    rows = logits.detach().expand(300, COUNT).clone().requires_grad_()
    make(20, baseline)(rows).sum().backward()
    noise = (rows.grad - exact).square().sum(1).mean().sqrt() / exact.norm()
    offset = (rows.grad.mean(0) - exact).norm() / exact.norm()
    print(f"baseline {baseline!s:5} noise {noise:.2f}, mean of 300 is off by {offset:.3f}")

# %%
# The mean of 300 is off by its own noise, which is 17 times less than that of one. "fx" evaluates the
# box at the *mean* of the coins, ten half bought sensors; a function that takes them as bought or not
# answers something, but nothing typical. The mean of the other draws, "loo", is always in the
# language of the function, costs nothing, and is the default.

# %%
# Training
# --------
# From even odds, twenty purchases a step.

torch.manual_seed(1)
box = make(20)
logits = torch.zeros(1, COUNT, dtype=torch.float64, requires_grad=True)
optimizer = torch.optim.Adam([logits], lr=0.15)
means, odds = [], []
for _ in range(150):
    optimizer.zero_grad()
    box(logits).sum().backward()
    optimizer.step()
    with torch.no_grad():
        means.append(exact_mean(logits[0]).item())
        odds.append(logits.sigmoid()[0].clone())

chosen = (logits[0] > 0).double()
best = every[every_cost.argmin()]
print("bought:", chosen.nonzero()[:, 0].tolist(), f"at cost {cost(chosen[None].numpy()).item():.4f}")
print("best of all 1024:", best.nonzero()[:, 0].tolist(), f"at cost {every_cost.min():.4f}")
print(f"evaluations spent: {box.num_evaluations}")

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3))
left.plot(means)
left.axhline(every_cost.min(), color="#d55e00", lw=1, label="best purchase")
left.set(xlabel="step", ylabel="mean cost, exact")
left.legend(fontsize=8)
image = right.imshow(torch.stack(odds, 1), aspect="auto", vmin=0, vmax=1, cmap="Blues")
right.set(xlabel="step", ylabel="sensor", yticks=range(COUNT), title="probability of buying")
figure.colorbar(image, ax=right)
figure.tight_layout()

# %%
# What it is and what it is not
# -----------------------------
# With ten sensors one would try all 1024 purchases, as we did to check. With forty one cannot, and the
# code above stays as it is. The probabilities end near 0 or 1 at a purchase that no single change
# improves much: gradient descent on them finds a good corner, with no promise of the best one.
#
# Any family of ``torch.distributions`` with a density will do, ``Categorical`` among several choices,
# ``Poisson`` for counts, ``Normal`` with a learned scale. With several parameters, name all of
# them in ``wrap(argnums=...)``.
