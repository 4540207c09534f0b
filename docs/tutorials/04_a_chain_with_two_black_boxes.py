"""
A chain with two black boxes
============================

Signals pass an amplifier, a converter of 3 bits, and a network that scores five items; what counts
is the *order* of the scores. Converter and sorting have no derivative. Each is wrapped by itself,
with an estimator of its own.
"""

# %%
# The two boxes
# -------------
# The converter rounds each of 4 voltages to one of 8 levels between -1 and 1; the ranking returns
# the place of each of 5 scores.

import matplotlib.pyplot as plt
import numpy as np
import torch

import ndgrad
from ndgrad.diagnostics import draw


def convert(volts):  # (R, 4) -> (R, 4)
    return np.round(3.5 * np.clip(volts, -1, 1) + 3.5) / 3.5 - 1


def rank(scores):  # (R, 5) -> (R, 5): 0 for the least
    return np.argsort(np.argsort(scores, axis=1), axis=1)


# %%
# What each box should see
# ------------------------
# Sigma has the unit of a box's *input*. A level of the converter is 2/7 volts wide, and probes have
# to reach the next one. Scores change places when they differ by less than a probe moves them.
# The converter works on each voltage by itself, so that a slope may as well be *given*: straight
# through, 1 inside of its range and 0 outside, free of evaluations.


class Chain(torch.nn.Module):
    """Amplifier, converter, scoring network, ranking."""

    def __init__(self, converter, ranking):
        super().__init__()
        self.amplifier = torch.nn.Linear(6, 4)
        self.converter = converter
        self.scorer = torch.nn.Sequential(torch.nn.Linear(4, 32), torch.nn.ReLU(), torch.nn.Linear(32, 5))
        self.ranking = ranking

    def forward(self, signals):  # (B, 6) -> (B, 5)
        return self.ranking(self.scorer(self.converter(self.amplifier(signals))))


def make(converter, ranking):
    torch.manual_seed(0)
    return Chain(converter, ranking)


def hard_ranking():
    return ndgrad.wrap(rank, estimator=ndgrad.EvolutionStrategy(num_samples=5, sigma=0.5))


def clipped(volts):
    return volts.clamp(-1, 1)


class Bare(torch.nn.Module):
    """The converter in torch, not wrapped: autograd of a rounding is 0."""

    def forward(self, volts):
        return torch.round(3.5 * volts.clamp(-1, 1) + 3.5) / 3.5 - 1


chains = {
    "converter not wrapped": make(Bare(), hard_ranking()),
    "straight through": make(ndgrad.wrap(convert, estimator=ndgrad.StraightThrough(clipped)), hard_ranking()),
    "evolution strategy": make(
        ndgrad.wrap(convert, estimator=ndgrad.EvolutionStrategy(num_samples=4, sigma=0.2)), hard_ranking()
    ),
}

# %%
# :func:`ndgrad.trace` shows where the gradient goes. Without the first wrapping it ends at the
# converter: the scorer learns, the amplifier never does.

example = torch.randn(8, 6)
figure, axes = plt.subplots(1, 2, figsize=(9, 5.5))
for axis, name in zip(axes, ("converter not wrapped", "evolution strategy"), strict=True):
    graph = ndgrad.trace(chains[name], example)
    draw(graph, axis)
    axis.set_title(name, y=-0.06)
    print(f"{name}: {graph.graph['summary']}")
figure.tight_layout()

# %%
# Training
# --------
# The true order is that of five hidden linear functions of the signals. The loss is the squared
# distance of the ranks, for five items 20 times one minus Spearman's correlation.

torch.manual_seed(1)
hidden = torch.randn(6, 2) @ torch.randn(2, 5)  # two directions of the six matter


def batch(count):
    signals = torch.randn(count, 6)
    return signals, torch.from_numpy(rank((signals @ hidden).numpy())).float()


def correlation(chain, signals, ranks):
    with torch.no_grad():
        return 1 - (chain(signals) - ranks).square().sum(1).mean().item() / 20


unseen = batch(1000)
curves = {}
for name, chain in chains.items():
    torch.manual_seed(2)
    optimizer = torch.optim.Adam(chain.parameters(), lr=5e-3)
    curves[name] = [correlation(chain, *unseen)]
    for step in range(1, 401):
        signals, ranks = batch(64)
        optimizer.zero_grad()
        (chain(signals) - ranks).square().sum(1).mean().backward()
        optimizer.step()
        if step % 20 == 0:
            curves[name].append(correlation(chain, *unseen))
    print(f"{name:22} Spearman's correlation on unseen signals: {curves[name][-1]:.2f}")

# %%
figure, axis = plt.subplots(figsize=(6, 3.2))
for name, curve in curves.items():
    axis.plot(range(0, 401, 20), curve, label=name)
axis.set(xlabel="step", ylabel="Spearman's correlation", ylim=(None, 1))
axis.legend(fontsize=8)
figure.tight_layout()

# %%
# What a chain costs
# ------------------
# Boxes do not multiply each other's evaluations. Each is probed at the point where the forward pass
# met it, with the cotangent that arrives from behind:

chain = chains["evolution strategy"]
for box in (chain.converter, chain.ranking):
    before = box.num_evaluations
    chain(example).sum().backward()
    print(f"{(box.num_evaluations - before) / len(example):.0f} evaluations per row")

# %%
# That is 1 + 2 S for each box, and not their product. It also says what a chain cannot do: every
# box answers for itself, so the cotangent of the second is one at the *unsmoothed* value of the
# first. Where that goes wrong, because the second box is far from linear over the reach of the
# first one's probes, wrap the composition of both as one function, and pay with variance: all
# inputs of the first box are then probed through the whole of it
# (:doc:`/concepts/per_row`).
