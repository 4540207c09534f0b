"""
An estimator of your own
========================

An estimator is a class with one abstract method. ``ndgrad.testing.check_estimator`` runs the laws
on it that every estimator of the library obeys, and finds the mistakes that a training run hides.
"""

# %%
# The estimator
# -------------
# We take the directions in one coordinate at a time, a random one for each sample: the *random
# coordinate* estimator
#
# .. math:: \hat g = \frac{n}{S} \sum_{s=1}^S
#           \frac{\langle v, f(x + h e_{i_s}) - f(x - h e_{i_s}) \rangle}{2h}\, e_{i_s},
#           \qquad i_s \text{ uniform in } 1, \ldots, n.
#
# ``FlatEstimator`` hands its subclass all inputs as one matrix (B, n) and all outputs as one (B,
# m), so that the method reads like the formula. It probes, and returns the map from a cotangent to
# the estimate.

import torch

import ndgrad
from ndgrad.testing import check_estimator


class RandomCoordinate(ndgrad.FlatEstimator):
    """Central differences along random coordinates; 2 S evaluations per row."""

    def __init__(self, num_samples=4, h=0.01):
        super().__init__()
        self.num_samples, self.h = num_samples, h

    def linearize_flat(self, f, x, y):
        B, n = x.shape
        index = torch.randint(n, (self.num_samples, B), device=x.device)
        e = torch.nn.functional.one_hot(index, n).to(x.dtype)  # (S, B, n)
        both = f(torch.cat([x + self.h * e, x - self.h * e]))  # (2 S, B, m)
        above, below = both.chunk(2)
        slope = (above - below) / (2 * self.h)  # (S, B, m)
        scale = n / self.num_samples
        return lambda v: scale * torch.einsum("sbm,bm,sbn->bn", slope, v, e)


# %%
# It can be called on a plain function at once. ``y`` is the value at x, already paid for; this
# estimator does not need it.

x = torch.tensor([[1.0, 2.0, 3.0]], requires_grad=True)
RandomCoordinate(num_samples=300)(lambda x: x @ torch.tensor([[2.0], [0.0], [-1.0]]), x).sum().backward()
print(x.grad)

# %%
# The laws
# --------
# A constant function has gradient 0, an affine one its exact Jacobian in the mean, for two inputs
# as for one, and a quadratic one shows that it is taken at the input. The gradient is linear in the
# cotangent, rows do not influence each other, seeds reproduce, nothing is probed before its time, a
# second derivative is refused. Means are tested with as many rows as it takes to see that the
# gradient of an affine function is 10 % too long or too short, with a fixed seed, at five standard
# errors; an estimator with too much noise for that is told so.

check_estimator(RandomCoordinate(num_samples=3, h=0.05))
print("every law holds")

# %%
# What it catches
# ---------------
# The mistake of this field is a wrong factor: here, the n of the sampling law is forgotten. In
# three dimensions a training run with it looks fine, since the direction is right and the learning
# rate makes up for the rest. Measured in lengths of the true gradient, the mean is 1/n instead of 1.


class Forgotten(ndgrad.FlatEstimator):
    def __init__(self):
        super().__init__()
        self.inner = RandomCoordinate(num_samples=3, h=0.05)

    def linearize_flat(self, f, x, y):
        pull = self.inner.linearize_flat(f, x, y)
        return lambda v: pull(v) / x.shape[1]


try:
    check_estimator(Forgotten())
except AssertionError as error:
    print(str(error)[:300])

# %%
# Another: one random coordinate for the whole batch, instead of one per row. Every row has the
# right mean over many calls, yet the rows of a batch share their noise, and averaging over the
# batch does not average it. The law sees it since its 4000 estimates are rows of one batch: all
# looked along the same coordinate, and all say the same.


class Shared(ndgrad.FlatEstimator):
    def linearize_flat(self, f, x, y):
        e = torch.nn.functional.one_hot(torch.randint(x.shape[1], ()), x.shape[1]).to(x.dtype)
        slope = (f(x + 0.05 * e) - f(x - 0.05 * e)) / 0.1  # (B, m)
        return lambda v: x.shape[1] * (slope * v).sum(1, keepdim=True) * e


try:
    check_estimator(Shared())
    print("no law was broken")
except AssertionError as error:
    print(str(error)[:300])

# %%
# Use it
# ------
# An instance goes wherever a built-in estimator goes, and the diagnostics work on it.

box = ndgrad.wrap(lambda x: torch.sin(x).sum(1), estimator=RandomCoordinate(num_samples=2, h=0.01))
print(ndgrad.diagnose(box, torch.randn(8, 6), compare=False))

# %%
# To add it to the library itself: one file, one line in ``ndgrad/estimators/__init__.py`` and one
# in ``tests/registry.py`` with its variance in closed form (``CONTRIBUTING.md`` has the whole list).
# Here that is :math:`(n - 1)/S`: the squared estimate of one sample has mean
# :math:`n^2 \sum_i \frac{1}{n} g_i^2 = n |g|^2`.
